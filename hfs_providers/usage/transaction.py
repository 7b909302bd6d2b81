"""Transactions on a file that other processes write to as well."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

BUSY = 5.0
"""Seconds that a connection waits for another process's transaction."""


_FIRST_PAUSE, _LONGEST_PAUSE = 0.0001, 0.002


def corrupt(error: BaseException) -> bool:
    """Whether SQLite says that the file is not a database, or a broken one."""
    return isinstance(error, sqlite3.DatabaseError) and _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: sqlite3.Error) -> int:
    # The low byte is the primary code; errors that Python's module raises by itself have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def begin(connection: sqlite3.Connection, seconds: float = BUSY) -> None:
    """Begin a transaction that writes, on a connection of patience 0. Waits in steps of a tenth of a millisecond.

    SQLite's own waiting sleeps for up to 100 ms at a time, while others get the file many times.

    Raises:
        sqlite3.OperationalError: it is locked for longer than `seconds`.
    """
    patiently(lambda: connection.execute("BEGIN IMMEDIATE"), seconds)


def patiently(action: Callable[[], object], seconds: float) -> None:
    """Run a function as soon as no process locks the file: a statement that writes, on a connection of patience 0.

    Raises:
        sqlite3.OperationalError: the file is locked for longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  so that those who wait do not march in step
        pause = min(pause * 1.5, _LONGEST_PAUSE)


@contextmanager
def transaction(connection: sqlite3.Connection, seconds: float = BUSY) -> Iterator[None]:
    """All or nothing, after waiting for others for up to `seconds`; part of the transaction under way, if one is."""
    if connection.in_transaction:
        yield
        return
    begin(connection, seconds)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
