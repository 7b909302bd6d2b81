"""Sends the usage rows of the local file to a database of the user's choice: the file is the outbox.

    invariant: the cursor in `targets` moves after the database has committed, never before, so no row is left out; and
               a row has one primary key there, so none is counted twice, however often and by which process it is
               sent.
    invariant: calls never wait for the database: a thread of the forwarder reads the rows from the file.

Of the processes that share the file, one forwards at a time. That saves the database work; the rows would be right
without it.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hfs_providers.contract.errors import ForwardingError, StoreError
from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.contract.records import Problem
from hfs_providers.contract.secret import fingerprint
from hfs_providers.usage.connection import StoreConnection
from hfs_providers.usage.database import Store
from hfs_providers.usage.forwarding.process_lock import try_lock
from hfs_providers.usage.forwarding.target import Target, fitted
from hfs_providers.usage.forwarding.url import DatabaseUrl
from hfs_providers.usage.row_writer import COLUMNS, SELECT

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How rows are sent. All values are in seconds, except `batch`.

    Args:
        batch: rows that are sent in one transaction.
        linger: from the first new row to the statement that sends it, so that others come with it.
        idle: until an unused connection is closed. TiDB Cloud drops it after 300.
        first, longest: the pause after the first failure, doubled with each until the longest. Up to half of it is
            random, so that processes do not come back all at once.
        taken: between two checks whether another process is still forwarding.
    """

    batch: int = 500
    linger: float = 1.0
    idle: float = 240.0
    first: float = 0.5
    longest: float = 30.0
    taken: float = 0.5

    def pause(self, failures: int, chance: float) -> float:
        """Seconds to wait after that many failures in a row; `chance` is from 0 to 1."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 30)) * (1 - chance / 2)


@dataclass(frozen=True, slots=True)
class Behind:
    """How far a database is behind the local file.

    Args:
        name: of the database; it holds no password.
        rows: how many it does not have yet.
        oldest: wall-clock time of the oldest of them.
        at: wall-clock time of the last try to send rows, or None if there was none.
        error: why the last try failed, or None if it succeeded.
        refused: rows that it refuses for good. They are only in the local file.
        refusal: why it refused the last of them.
        lacking: the columns that its table does not have, with commas. They are not sent.
    """

    name: str
    rows: int
    oldest: float | None = None
    at: float | None = None
    error: str | None = None
    refused: int = 0
    refusal: str | None = None
    lacking: str = ""

    @property
    def trouble(self) -> str | None:
        """What is wrong, in words, or None."""
        refused = f"refused {self.refused} rows for good, the last because of {self.refusal}" if self.refused else None
        return "; ".join(filter(None, (self.error, refused))) or None


def behind(store: Store, *names: str) -> list[Behind]:
    """Each database that rows of `store` were ever forwarded to, and those of `names` that got none yet.

    Raises:
        OSError, sqlite3.Error: the local file cannot be read.
    """
    with contextlib.closing(store.connect()) as local:
        rows = local.execute(
            "SELECT targets.name, forwarded, at, error, refused, refusal, coalesce(value, '') FROM targets"
            " LEFT JOIN meta ON meta.name = 'lacking ' || targets.name ORDER BY targets.name"
        )
        known = {row[0]: row[1:] for row in rows}
        unknown = {name: (0, None, None, 0, None, "") for name in names if name not in known}
        return [
            Behind(name, *_left(local, forwarded), *about) for name, (forwarded, *about) in {**known, **unknown}.items()
        ]


class Forwarder:
    """Sends the rows of a local file to a database, in batches, from a daemon thread that the first `wake` starts.

    Args:
        store: the local file.
        url: of the database, as SQLAlchemy reads it.
        chance: random numbers from 0 to 1.

    Raises:
        ForwardingError: the URL cannot be read, or its driver is not installed.
    """

    def __init__(
        self,
        store: Store,
        url: str,
        *,
        pace: Pace | None = None,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._url = DatabaseUrl(url)
        self.name = self._url.name
        """Of the database; it holds no password."""
        self.problem: Problem | None = None
        """Why rows do not arrive at the moment."""
        self._store = store
        self._pace = pace or Pace()
        self._wall = wall
        self._chance = chance
        self._local = StoreConnection(store)
        self._lock = f"{store.path}.{fingerprint(self.name)}"
        self._source = store.source
        self._cursor = 0
        self._stop = False
        self._begin()
        at_fork(ForkPhase.FORWARDERS, child=self._after_fork_in_child)

    def _begin(self) -> None:
        """Set all that a child process must not inherit."""
        self._turn = threading.Condition()
        self._thread: threading.Thread | None = None
        self._target = Target(self._url)
        self._next: float | None = None  # when to send, by the monotonic clock; None: nothing is to be sent
        self._hurry = False
        self._begun = self._ended = 0  # rounds
        self._failures = 0  # in a row

    def __repr__(self) -> str:
        return f"Forwarder({self.name!r})"

    def wake(self) -> None:
        """Note that rows were committed to the local file. Never waits and never raises."""
        with self._turn:
            if self._next is None:
                self._next = time.monotonic() + self._pace.linger
                self._start()

    def flush(self, timeout: float = 5.0) -> bool:
        """Send what is in the local file now, for up to `timeout` seconds. Returns whether the database has it all.

        A database that is known to fail is tried once.
        """
        try:
            with self._local.use() as local:
                self._catch_up(local)
                goal = int(local.execute("SELECT coalesce(max(id), 0) FROM usage").fetchone()[0])
        except (OSError, sqlite3.Error, StoreError):
            return False
        with self._turn:
            if self._cursor < goal and not self._stop:
                self._hurry = True
                self._start()
                mine = self._begun + 1
                self._turn.wait_for(
                    lambda: self._cursor >= goal or self._stop or (self._ended >= mine and self._failures), timeout
                )
            return self._cursor >= goal

    def close(self, timeout: float = 5.0) -> None:
        """Send what is in the local file, unless the database is known to fail, and stop. Safe to call twice.

        What is not sent within `timeout` seconds stays in the file, for the next forwarder.
        """
        until = time.monotonic() + timeout
        if not self._failures:
            self.flush(timeout)
        with self._turn:
            self._stop = True
            self._turn.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self._target.cut()

    def _start(self) -> None:
        self._turn.notify_all()
        if self._thread is None and not self._stop:
            self._thread = threading.Thread(target=self._run, name="hfs-forwarder", daemon=True)
            # A program that is ending starts no threads: its next run sends the rows.
            with contextlib.suppress(RuntimeError):
                self._thread.start()

    def _run(self) -> None:
        while (duty := self._rest()) != "stop":
            if duty == "hang up":
                self._target.close()
            else:
                self._try_round()
        self._target.close()
        self._local.close()

    def _try_round(self) -> None:
        try:
            pause = None if self._round() else self._pace.taken
        except Exception as error:  # whatever a driver raises
            pause = self._failed(error)
        with self._turn:
            self._ended = self._begun
            if pause is not None:
                self._next = time.monotonic() + pause
            self._turn.notify_all()

    def _rest(self) -> Literal["send", "hang up", "stop"]:
        """Sleep until there is something to do."""
        with self._turn:
            while not self._stop:
                left = None if self._next is None else self._next - time.monotonic()
                if self._hurry or (left is not None and left <= 0):
                    self._hurry, self._next = False, None
                    self._begun += 1
                    return "send"
                if left is None and self._target.connected:
                    if not self._turn.wait(self._pace.idle):
                        return "hang up"
                else:
                    self._turn.wait(left)
        return "stop"

    def _round(self) -> bool:
        """Send all rows. Returns False if another process is sending them."""
        with self._local.use() as local:
            self._catch_up(local)
            rows, _ = _left(local, self._cursor)
        if rows:
            with try_lock(self._lock) as mine:
                if not mine:
                    return False
                while True:
                    source, batch = self._read()
                    if not batch:
                        break
                    if self._stop:
                        return True
                    self._send(source, batch)
        self._recovered()
        return True

    def _read(self) -> tuple[str, list[dict[str, Any]]]:
        with self._local.use() as local:
            self._catch_up(local)
            return self._source, [
                dict(zip(_COLUMNS, row, strict=True)) for row in local.execute(_ROWS, (self._cursor, self._pace.batch))
            ]

    def _catch_up(self, local: sqlite3.Connection) -> None:
        """Read how far other processes have come. A cursor that could not be written is known only here."""
        if self._source != self._store.source:  # the file was deleted or put aside, and a new one begun
            self._source = self._store.source
            self._cursor = 0
        row = local.execute("SELECT forwarded FROM targets WHERE name = ?", (self.name,)).fetchone()
        self._cursor = max(self._cursor, row[0] if row else 0)

    def _send(self, source: str, batch: Sequence[Mapping[str, Any]]) -> None:
        good: list[dict[str, Any]] = []
        refused: dict[int, str] = {}
        for row in batch:
            try:
                good.append(fitted(source, row))
            except (TypeError, ValueError, OverflowError) as error:
                refused[row["id"]] = f"{type(error).__name__}: {error}"
        if good:
            refused |= self._target.send(good)
        self._recovered()
        self._advance(source, batch[-1]["id"], refused)

    def _advance(self, source: str, last: int, refused: Mapping[int, str]) -> None:
        refusal = next(iter(refused.values()), None)
        if refused:
            logger.warning(
                "%s refuses %d rows of usage for good (%s): %s. They are kept only in %s",
                self.name,
                len(refused),
                ", ".join(map(str, sorted(refused)[:5])) + (", ..." if len(refused) > 5 else ""),
                refusal,
                self._store.path,
            )
        try:
            with self._local.use() as local:
                if self._store.source == source:
                    local.execute(_SENT, (self.name, last, self._wall(), len(refused), refusal))
                    # Known from then on without asking the server.
                    local.execute(_IS, (f"lacking {self.name}", ", ".join(sorted(self._target.lacking))))
                    if self._target.product is not None:
                        local.execute(_IS, (f"product {self.name}", self._target.product))
        finally:
            with self._turn:
                if self._source == source:
                    self._cursor = max(self._cursor, last)
                self._turn.notify_all()

    def _recovered(self) -> None:
        if self._failures:
            logger.info("usage reaches %s again", self.name)
        self._failures = 0
        self.problem = None

    def _failed(self, error: Exception) -> float:
        """Note a failure. Returns the seconds until the next try."""
        words = self._target.words(error)
        remedy = error.remedy if isinstance(error, ForwardingError) else "Rows are sent when it answers"
        message = f"usage does not reach {self.name}: {words}. Rows are kept in {self._store.path} meanwhile"
        if not self._failures:
            logger.warning("%s", message)
        self._failures += 1
        self.problem = Problem(message, remedy)
        self._target.close()
        with contextlib.suppress(OSError, sqlite3.Error, StoreError), self._local.use() as local:
            local.execute(_FAILED, (self.name, self._wall(), words))
        return self._pace.pause(self._failures, self._chance())

    def _after_fork_in_child(self) -> None:
        # The connection is the parent's: the child must neither use it nor disconnect.
        _orphans.append(self._target)
        self._begin()


_COLUMNS = ("id", *COLUMNS)
_ROWS = f"{SELECT} WHERE usage.id > ? ORDER BY usage.id LIMIT ?"
_SENT = """
    INSERT INTO targets (name, forwarded, at, error, refused, refusal) VALUES (?, ?, ?, NULL, ?, ?)
    ON CONFLICT (name) DO UPDATE SET forwarded = max(forwarded, excluded.forwarded), at = excluded.at,
    error = NULL, refused = refused + excluded.refused, refusal = coalesce(excluded.refusal, refusal)
"""
_IS = """
    INSERT INTO meta (name, value) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE value <> excluded.value
"""
_FAILED = """
    INSERT INTO targets (name, forwarded, at, error) VALUES (?, 0, ?, ?)
    ON CONFLICT (name) DO UPDATE SET at = excluded.at, error = excluded.error
"""


def _left(local: sqlite3.Connection, cursor: int) -> tuple[int, float | None]:
    """How many rows come after `cursor`, and the time of the first. Ids have no gaps, so nothing is counted."""
    last = local.execute("SELECT max(id) FROM usage").fetchone()[0]
    first = local.execute("SELECT id, at FROM usage WHERE id > ? ORDER BY id LIMIT 1", (cursor,)).fetchone()
    return (last - first[0] + 1, first[1]) if first else (0, None)


_orphans: list[object] = []
