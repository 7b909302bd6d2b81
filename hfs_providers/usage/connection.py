"""A connection that a process keeps to the usage file, and what happens to it at a fork."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.usage.database import Store
from hfs_providers.usage.transaction import BUSY, corrupt


class StoreConnection:
    """One connection for repeated use, opened when it is first needed, for one thread at a time.

    It follows the file: if that was deleted or put aside, the next use makes and opens a new one. It is closed
    while the process forks, because what SQLite knows about a file's locks is wrong in a child.

    Args:
        durable, patience: as for `Store.connect`.
    """

    def __init__(self, store: Store, *, durable: bool = True, patience: float = BUSY) -> None:
        self._store = store
        self._durable = durable
        self._patience = patience
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self.opened = 0
        """How often it was opened. What a caller remembers about the file is valid only while this number stays the
        same."""
        at_fork(
            ForkPhase.CONNECTIONS,
            before=self._before_fork,
            parent=self._after_fork_in_parent,
            child=self._after_fork_in_child,
        )

    @contextmanager
    def use(self, wait: float = BUSY) -> Iterator[sqlite3.Connection]:
        """The connection, for the calling thread, until the block ends; waits up to `wait` seconds for other threads.

        Raises:
            StoreError, OSError, sqlite3.Error: the file cannot be used.
        """
        if not self._lock.acquire(timeout=wait):
            raise sqlite3.OperationalError("the connection is in use")
        lock = self._lock
        try:
            yield self._current()
        except sqlite3.DatabaseError as error:
            if corrupt(error):
                self._close()
                self._store.set_aside(self._identity)
            raise
        finally:
            lock.release()

    def close(self) -> None:
        """Close it until it is used again."""
        with self._lock:
            self._close()

    def _current(self) -> sqlite3.Connection:
        identity = self._store.identity()
        if self._connection is not None and identity is not None and identity == self._identity:
            return self._connection
        self._close()
        if identity is None or identity != self._identity:
            self._store.prepare()
        self._connection = self._store.connect(durable=self._durable, patience=self._patience)
        self._identity = self._store.identity()
        self.opened += 1
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _before_fork(self) -> None:
        # Whether it is held for the fork under way.
        self._quiet = self._lock.acquire(timeout=_FORK_PATIENCE)
        if self._quiet:
            with suppress(sqlite3.Error):
                self._close()

    def _after_fork_in_parent(self) -> None:
        if self._quiet:
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        if self._connection is not None:
            _left_alone.append(self._connection)
            self._connection = None


# Seconds for which a fork waits for a connection in use. A child never closes one that the parent had in use.
_FORK_PATIENCE = 1.0

_left_alone: list[sqlite3.Connection] = []
