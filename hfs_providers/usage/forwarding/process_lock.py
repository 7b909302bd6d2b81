"""A lock that one process of a machine holds at a time, and that is released however its holder ends.

It is a lock of SQLite on an empty file of its own, so it works wherever the store does.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from hfs_providers.contract.forks import ForkPhase, at_fork


@contextlib.contextmanager
def try_lock(path: str) -> Iterator[bool]:
    """Try to hold the lock as long as the block lasts: True, or False if another process holds it. Never waits.

    Its file stays there, empty. Raises sqlite3.Error if it cannot be made.
    """
    lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    _held.add(lock)
    try:
        try:
            lock.execute("PRAGMA journal_mode = OFF")
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            yield False
        else:
            yield True
    finally:
        _held.discard(lock)
        lock.close()


_held: set[sqlite3.Connection] = set()
_left_alone: list[sqlite3.Connection] = []


def _after_fork_in_child() -> None:
    # They are the parent's: a SQLite connection must not be closed in a child, not even by the collector.
    _left_alone.extend(_held)
    _held.clear()


at_fork(ForkPhase.FORWARDERS, child=_after_fork_in_child)
