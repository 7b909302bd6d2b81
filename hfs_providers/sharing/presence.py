"""Which processes use the file: each has a row in the table `processes`, and what it has in flight in `in_flight`.

A process is identified by its number, the time of its start, and the place (machine or container) whose number it is.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import uuid
from collections.abc import Callable
from typing import NamedTuple

from hfs_providers.usage.transaction import transaction

STALE = 20.0
"""Seconds without a sign of life after which a process of another place (a container that shares the file) is dead."""

LINGER = 60.0
"""Seconds for which the requests that a dead process had in flight still count."""

DEAD, ALONE, SHARED, JOINING = -1, 0, 1, 2
"""What `processes.shared` says. A joining process counts what is granted, but what was in flight before is not yet
written down."""


class Process(NamedTuple):
    """The identity of a process.

    Args:
        born: when it started, in ticks since the start of the machine; 0 if the system does not report it.
        place: the machine, its run, and the namespace of process numbers.
    """

    pid: int
    born: float
    place: str


class Presence:
    """A process that uses the file: what it tells the others, and what it knows about them.

    Each method takes a connection to the file, and raises `sqlite3.Error` if the file cannot be used.

    Args:
        patience: seconds to wait for other writers.
    """

    def __init__(self, process: Process | None, wall: Callable[[], float], patience: float) -> None:
        self.id = uuid.uuid4().hex
        self._process = process or this()
        self._wall = wall
        self._patience = patience

    # This process.

    def register(self, connection: sqlite3.Connection) -> bool:
        """Add it to the table. Returns whether there are others that it shares keys with."""
        with transaction(connection, self._patience):
            company = self.company(connection)
            row = (self.id, *self._process, self._wall(), SHARED if company else ALONE)
            connection.execute("INSERT INTO processes VALUES (?, ?, ?, ?, ?, ?)", row)
        return company

    def confirm(self, shared: bool, connection: sqlite3.Connection) -> None:
        """Give a sign of life. The file may be a new one that does not know the process."""
        row = (self.id, *self._process, self._wall(), SHARED if shared else ALONE)
        with transaction(connection, self._patience):
            connection.execute(
                "INSERT INTO processes VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen,"
                " shared = max(shared, 0)",
                row,
            )

    def shares(self, connection: sqlite3.Connection) -> bool:
        """Whether the file says that it shares its keys, or is about to."""
        row = connection.execute("SELECT shared FROM processes WHERE id = ?", (self.id,)).fetchone()
        return row is not None and row[0] != ALONE

    def become(self, shared: int, connection: sqlite3.Connection) -> None:
        """Say that it is `ALONE`, `SHARED` or `JOINING`."""
        connection.execute("UPDATE processes SET shared = ? WHERE id = ?", (shared, self.id))

    def add_in_flight(
        self, provider: str, account: str, scope: str, requests: int, tokens: int, connection: sqlite3.Connection
    ) -> None:
        """Add to what it has in flight; negative numbers if requests have ended."""
        connection.execute(
            "INSERT INTO in_flight (process, provider, account, scope, requests, tokens) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (provider, account, scope, process) DO UPDATE SET"
            " requests = requests + excluded.requests, tokens = tokens + excluded.tokens",
            (self.id, provider, account, scope, requests, tokens),
        )

    def clear_in_flight(self, connection: sqlite3.Connection) -> None:
        """Forget what it has in flight."""
        connection.execute("DELETE FROM in_flight WHERE process = ?", (self.id,))

    def leave(self, connection: sqlite3.Connection) -> None:
        """Remove everything about it from the file."""
        _forget(connection, self.id)

    # The others.

    def company(self, connection: sqlite3.Connection) -> bool:
        """Whether others are alive, or died less than a minute ago with requests in flight. Marks the dead ones."""
        wall = self._wall()
        company = False
        for name, *process, seen, shared in connection.execute(
            "SELECT id, pid, born, place, seen, shared FROM processes WHERE id <> ?", (self.id,)
        ).fetchall():
            if shared != DEAD and alive(Process(*process), seen, wall):
                company = True
            elif shared != DEAD:
                with transaction(connection, self._patience):
                    connection.execute("UPDATE processes SET shared = ?, seen = ? WHERE id = ?", (DEAD, wall, name))
                    connection.execute("DELETE FROM in_flight WHERE process = ? AND requests <= 0", (name,))
                company = company or _in_flight(connection, name)
            elif abs(wall - seen) < LINGER and _in_flight(connection, name):
                company = True
            else:
                with transaction(connection, self._patience):
                    _forget(connection, name)
        return company

    def all_share(self, connection: sqlite3.Connection) -> bool:
        """Whether all others have written down what they have in flight."""
        query = "SELECT COUNT(*) FROM processes WHERE shared IN (?, ?) AND id <> ?"
        return not connection.execute(query, (ALONE, JOINING, self.id)).fetchone()[0]


def running_processes(connection: sqlite3.Connection, wall: float) -> int:
    """How many processes use the file."""
    rows = connection.execute("SELECT pid, born, place, seen FROM processes WHERE shared <> ?", (DEAD,)).fetchall()
    return sum(alive(Process(*process), seen, wall) for *process, seen in rows)


def _in_flight(connection: sqlite3.Connection, process: str) -> bool:
    query = "SELECT 1 FROM in_flight WHERE process = ? AND requests > 0"
    return connection.execute(query, (process,)).fetchone() is not None


def _forget(connection: sqlite3.Connection, process: str) -> None:
    connection.execute("DELETE FROM in_flight WHERE process = ?", (process,))
    connection.execute("DELETE FROM processes WHERE id = ?", (process,))


def this() -> Process:
    """The process that calls this."""
    pid = os.getpid()
    return Process(pid, _born(pid) or 0.0, _place())


def alive(process: Process, seen: float, wall: float) -> bool:
    """Whether a process that was last `seen` then is alive. A later process with the same number does not count."""
    if process.place != _place():
        return abs(wall - seen) < STALE
    if process.born:
        return _born(process.pid) == process.born
    return _exists(process.pid) and abs(wall - seen) < STALE


def _born(pid: int) -> float | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the program's name in parentheses, which may hold anything; a zombie has ended.
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else float(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _exists(pid: int) -> bool:
    if os.name == "nt":
        # On Windows, signal 0 would end the process.
        return True
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


@functools.cache
def _place() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        import platform

        return platform.node()
