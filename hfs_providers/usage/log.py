"""The durable usage log: one row for each request that was sent.

Calls queue their rows and never wait for the write; a thread writes what has gathered, many rows in one transaction.

    invariant: what was put into the queue is committed in that order, each exactly once, or is still in memory, or is
               counted as dropped.
    invariant: a row is in the file at most `GROUP` seconds and one transaction after `record`, while the file can be
               written.
"""

from __future__ import annotations

import atexit
import logging
import sqlite3
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from hfs_providers.contract.errors import StoreError
from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.contract.records import Problem
from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.usage.connection import StoreConnection
from hfs_providers.usage.database import Store
from hfs_providers.usage.row_writer import AT_ONCE, Series, write_rows
from hfs_providers.usage.transaction import patiently, transaction

__all__ = ["UsageLog", "Work", "write_rows"]

GROUP = 0.06
"""Seconds for which rows gather before they are written together."""

RETRY = 1.0
"""Seconds after which a file that could not be written is tried again."""

KEPT = 100_000
"""Rows that are kept in memory while the file cannot be written; beyond, the oldest are dropped."""

# Rows of one transaction, which others wait for.
_BATCH = 5_000

# Seconds to wait for the transaction of another process.
_LOCKED = 2.0

_log = logging.getLogger("hfs_providers")

Work: TypeAlias = Callable[[sqlite3.Connection], object]
"""Something to be done in the writer's transaction."""


class _Bell:
    """Wakes one thread. Unlike an `Event`, a finalizer may ring it even in the thread that waits for it."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        # A bell that was rung and not heard yet stays rung.
        with suppress(RuntimeError):
            self._lock.release()

    def wait(self, timeout: float = -1) -> None:
        """Wait until it is rung, or was rung since the last wait; at most `timeout` seconds."""
        self._lock.acquire(timeout=timeout)


class _Mark:
    """Stands in the queue after everything that a `flush` waits for."""

    def __init__(self) -> None:
        self.passed = threading.Event()
        self.kept = False

    def tell(self, kept: bool) -> None:
        self.kept = kept
        self.passed.set()


class UsageLog:
    """Writes rows into the store, and other data that must be written after them.

    The thread starts with the first row. After `fork`, the child begins with an empty queue: its parent writes what it
    recorded before.

    Args:
        on_commit: called by the writer's thread after rows were committed.
        price: gives the cost of a request in nano-USD, or None if it is not known; called by the writer's thread.
        group: seconds for which rows gather.
        retry: seconds between tries while the file cannot be written.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_commit: Callable[[], object] | None = None,
        price: Callable[[UsageRow], int | None] = lambda _: None,
        group: float = GROUP,
        retry: float = RETRY,
        kept: int = KEPT,
    ) -> None:
        self.store = store
        self.on_commit = on_commit
        self._price = price
        self._group = group
        self._retry = retry
        self._most = kept
        self._connection = StoreConnection(store, patience=0.0)
        self._known: dict[Series, int] = {}
        self._known_for = 0
        self._error: str | None = None
        self._remedy = ""
        self.dropped = 0
        """The number of rows that were dropped because the file could not be written for too long."""
        self._reset()
        if store.unusable is not None:
            self._fail(store.unusable)
        at_fork(ForkPhase.LOGS, child=self._reset)

    def _reset(self) -> None:
        self._queue: deque[UsageRow | Work | _Mark] = deque()
        self._pending: deque[UsageRow | Work | _Mark] = deque()
        self._idle = True
        self._stop = False
        self._wake = _Bell()
        self._hurry = _Bell()
        self._starting = threading.Lock()
        self._at_end: Any = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"UsageLog({str(self.store.path)!r})"

    def record(self, row: UsageRow) -> None:
        """Have a row written. Never blocks, never raises."""
        self._queue.append(row)
        if self._idle:
            self._rouse()

    def defer(self, work: Work) -> None:
        """Have `work` done in the writer's transaction, after the rows that were recorded before.

        If the transaction fails, it is done again. Never blocks, never raises.
        """
        self._queue.append(work)
        if self._idle:
            self._rouse()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait up to `timeout` seconds until everything recorded before is in the file.

        Returns whether it is; False at once if the file cannot be written.
        """
        if not self._queue and not self._pending and self._idle:
            return True
        mark = _Mark()
        self._queue.append(mark)
        self._hurry.ring()
        self._rouse()
        return mark.passed.wait(timeout) and mark.kept

    def close(self, timeout: float = 5.0) -> None:
        """Flush, and stop the thread, for up to `timeout` seconds. Safe to call twice; a row that is recorded later
        starts it again.
        """
        kept = self.flush(timeout)
        thread = self._thread
        if thread is not None:
            atexit.unregister(self.close)
            if self._at_end is not None:
                self._at_end.cancel()
            self._stop = True
            self._hurry.ring()
            self._wake.ring()
            thread.join(timeout)
        if not kept and (waiting := self.waiting):
            _log.warning("%d rows of usage are lost: %s", waiting, self._error)
        self._connection.close()

    @property
    def waiting(self) -> int:
        """Rows that are not in the file yet."""
        return sum(isinstance(each, UsageRow) for each in [*self._pending, *self._queue])

    @property
    def failing(self) -> bool:
        """Whether the file could not be written when it was tried last."""
        return self._error is not None

    @property
    def problem(self) -> Problem | None:
        """Why rows are not written at the moment, or what happened to a corrupt file; None if all is well."""
        if self._error is not None:
            dropped = f", {self.dropped} were dropped" if self.dropped else ""
            return Problem(f"{self._error} ({self.waiting} rows wait in memory{dropped})", self._remedy)
        if self.store.moved is not None:
            return Problem(
                f"{self.store.path} was corrupt; a new one was begun, and the old one is {self.store.moved}",
                f"Try: sqlite3 {self.store.moved} .recover",
            )
        return None

    # The writer's thread.

    def _rouse(self) -> None:
        self._idle = False
        if self._thread is None:
            self._start()
        self._wake.ring()

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None:
                return
            self._stop = False
            thread = threading.Thread(target=self._run, name="hfs-usage", daemon=True)
            try:
                self._thread = thread
                thread.start()
            except RuntimeError:
                # The interpreter is ending and starts no threads any more.
                self._thread = None
                self._idle = True
                self._write_pending()
                return
        atexit.register(self.close)
        # Children of multiprocessing do not run atexit functions.
        multiprocessing = sys.modules.get("multiprocessing.util")
        if multiprocessing is not None:
            self._at_end = multiprocessing.Finalize(None, self.close, exitpriority=0)

    def _run(self) -> None:
        while True:
            if not self._pending:
                self._idle = True
                if not self._queue:
                    self._wake.wait()
                self._idle = False
            self._hurry.wait(self._retry if self._pending else self._group)
            if self._write_pending() and self.on_commit is not None:
                self.on_commit()
            if self._stop and not self._queue:
                # From here on `record` starts another thread; a row that came a moment earlier did not.
                self._thread = None
                self._idle = True
                if self._queue:
                    self._rouse()
                return

    def _write_pending(self) -> bool:
        """Write the queued rows, or keep them for the next try. Returns whether rows were written."""
        wrote = False
        while True:
            while self._queue and len(self._pending) < self._most + _BATCH:
                self._pending.append(self._queue.popleft())
            batch = [self._pending[place] for place in range(min(len(self._pending), _BATCH))]
            if not batch:
                return wrote
            rows = [self._priced(each) for each in batch if isinstance(each, UsageRow)]
            works = [each for each in batch if not isinstance(each, (UsageRow, _Mark))]
            try:
                if rows or works:
                    self._commit(rows, works)
            except (OSError, sqlite3.Error, StoreError) as error:
                self._fail(error)
                return wrote
            for _ in batch:
                self._pending.popleft()
            for each in batch:
                if isinstance(each, _Mark):
                    each.tell(self._error is None)
            wrote = wrote or bool(rows)

    def _priced(self, row: UsageRow) -> UsageRow:
        if row.cost_nanousd is not None:
            return row
        try:
            return row._replace(cost_nanousd=self._price(row))
        except Exception:
            # A value in it that is not a number.
            _log.debug("a row of %s/%s has no price", row.provider, row.model, exc_info=True)
            return row

    def _commit(self, rows: Sequence[UsageRow], works: Sequence[Work]) -> None:
        try:
            with self._connection.use() as connection:
                if self._connection.opened != self._known_for:
                    self._known.clear()
                    self._known_for = self._connection.opened
                if works or len(rows) > AT_ONCE:
                    with transaction(connection, _LOCKED):
                        self.store.check(connection)
                        write_rows(connection, rows, self._known)
                        for work in works:
                            self._do(work, connection)
                else:
                    patiently(lambda: self._write(connection, rows), _LOCKED)
        except BaseException:
            # Series that were numbered in this transaction are undone with it.
            self._known.clear()
            raise
        if self._error is not None:
            _log.warning("usage is kept in %s again", self.store.path)
            self._error = None

    def _write(self, connection: sqlite3.Connection, rows: Sequence[UsageRow]) -> None:
        if write_rows(connection, rows, self._known) < len(rows):
            self.store.check(connection)

    def _do(self, work: Work, connection: sqlite3.Connection) -> None:
        try:
            work(connection)
        except (OSError, sqlite3.OperationalError):
            raise
        except Exception:
            _log.warning("deferred work on the usage file could not be done", exc_info=True)

    def _fail(self, error: Exception) -> None:
        # The next try begins with a new connection.
        with suppress(sqlite3.Error):
            self._connection.close()
        words = error.reason if isinstance(error, StoreError) else str(error)
        if self._error is None:
            _log.warning("usage cannot be kept in %s: %s; it is tried again", self.store.path, words)
        self._error = f"usage cannot be kept in {self.store.path}: {words}"
        self._remedy = error.remedy if isinstance(error, StoreError) else _remedy(self.store.path)
        marks = [each for each in self._pending if isinstance(each, _Mark)]
        kept = [each for each in self._pending if not isinstance(each, _Mark)]
        over = max(0, len(kept) - self._most)
        self.dropped += sum(isinstance(each, UsageRow) for each in kept[:over])
        self._pending = deque(kept[over:])
        for mark in marks:
            mark.tell(False)


def _remedy(path: Path) -> str:
    return f"Free space on the disk and make {path} writable, or set HFS_USAGE_DB to another path or to off"
