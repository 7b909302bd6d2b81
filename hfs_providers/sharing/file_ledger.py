"""Processes of one machine share key state through the local file.

Each process with a manager is registered in the file (see `presence`). A process that is alone shares nothing, and its
calls never come here. When another process comes, all others join their pools to the ledger, write down what
they have in flight, and say so; the newcomer waits for that before its first request. When the last other process has
gone, and what it may have had in flight no longer counts, the pools leave the ledger.

    invariant: all requests of a process that is `SHARED` are in `usage` or in `in_flight`, and rows of the last moment
               in `in_flight` until they are in `usage`.
    invariant: a process whose pools leave has seen in one transaction that nobody else is there, and that no request
               is in flight but its own. It takes over what all have used while none of its keys can be leased.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from hfs_providers.contract.errors import StoreError
from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.contract.instants import MINUTE
from hfs_providers.contract.records import Problem
from hfs_providers.keys.ledger import InFlight, Refusal, Reservation, reserve_in_thread
from hfs_providers.keys.pool import KeyPool
from hfs_providers.keys.snapshot import PoolSnapshot
from hfs_providers.sharing import file_admission, presence
from hfs_providers.sharing.key_state import pool_state
from hfs_providers.sharing.presence import Presence, Process
from hfs_providers.sharing.state_log import apply, changes
from hfs_providers.usage.connection import StoreConnection
from hfs_providers.usage.database import Store
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.transaction import transaction

FILE_TIMEOUT = 0.25
"""The longest time that a reservation waits for the file, in seconds."""

# Seconds between two reads of the file for changes by others.
_TICK = 0.1

# Seconds between two checks that the others still live.
_LOOK = 1.0

# Seconds between two signs of life.
_HEARTBEAT = 5.0

# Seconds for which a newcomer waits until all others share.
_NEWCOMER_WAIT = 0.5

# Seconds for which the file is not used after an error.
_PAUSE = 1.0

_log = logging.getLogger("hfs_providers")
_BROKEN = (OSError, sqlite3.Error, StoreError)


class FileLedger:
    """The `Ledger` of processes that use the same local file.

    Args:
        tick: seconds after which the file is read again for changes by others.
        mark: identifies this process's own changes to the state of keys.
    """

    def __init__(
        self,
        log: UsageLog,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        tick: float = _TICK,
        process: Process | None = None,
        mark: Callable[[], str] = str,
    ) -> None:
        self._log = log
        self._store: Store = log.store
        self._wall = wall
        self._clock = clock
        self._tick = tick
        self._process = process
        self._mark = mark
        self._connection = StoreConnection(self._store, durable=False, patience=0.0)
        self._pools: Mapping[str, KeyPool] = {}
        self.problem: Problem | None = None
        """Why keys are not shared at the moment."""
        self._reset()
        at_fork(ForkPhase.LEDGERS, child=self._after_fork_in_child)

    def _reset(self) -> None:
        self._presence = Presence(self._process, self._wall, FILE_TIMEOUT)
        # Reentrant: a lease that is collected ends at any moment, maybe in a thread that holds the lock.
        self._lock = threading.RLock()
        self._registered_at: float | None = None
        # Whether the file could not be used when this process registered: its content is not known here yet.
        self._unread = False
        self._acknowledged = False
        self.shared = False
        """Whether other processes use the same keys."""
        self._uncounted: Counter[Reservation] = Counter()
        self._paused_until = 0.0
        # Changes to the state of keys are known here up to this stamp. Those of the last minute are read once more.
        self._known_until = self._wall() - MINUTE
        self._seen_version: tuple[int, int] | None = None
        self._look_at = self._beat_at = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"FileLedger({str(self._store.path)!r}, shared={self.shared})"

    # For the manager.

    def start(self, pools: Mapping[str, KeyPool]) -> None:
        """Register this process, and share `pools` while other processes use them."""
        self._pools = dict(pools)
        if self._pools:
            self._enter()

    def close(self) -> None:
        """Leave. Safe to call twice."""
        with self._lock:
            thread, self._thread = self._thread, None
            registered, self._registered_at = self._registered_at, None
            self._stop.set()
        if thread is not None:
            thread.join(5.0)
        for pool in self._pools.values():
            pool.leave()
        if registered is not None:
            self._log.defer(self._presence.leave)
            self._log.flush()
        self._connection.close()

    def look(self) -> None:
        """Read which other processes there are, and what has changed about keys. A thread of the ledger calls it again
        and again."""
        try:
            with self._connection.use(FILE_TIMEOUT) as connection:
                now = self._clock()
                version = (self._connection.opened, connection.execute("PRAGMA data_version").fetchone()[0])
                if version == self._seen_version and now < self._look_at:
                    return
                self._look_at = now + _LOOK
                if now >= self._beat_at or self._seen_version is None or version[0] != self._seen_version[0]:
                    self._beat_at = now + _HEARTBEAT
                    self._presence.confirm(self.shared, connection)
                self._seen_version = version
                company = self._presence.company(connection)
                news = changes(connection, self._known_until)
            if self._unread:
                self._unread = False
                for name, pool in self._pools.items():
                    pool.leave(partial(self._used, name, pool))
            if news:
                self._take_over()
            if company and not self.shared:
                self._join()
            elif self.shared and not company:
                self._leave()
            self._recovered()
        except _BROKEN as error:
            self._failed(error)

    # For pools.

    def reserve(self, reservation: Reservation) -> Refusal | None:
        """See `Ledger.reserve`."""
        if self._registered_at is None:
            self._enter()
        if not self._acknowledged:
            self._await_the_others()
        try:
            refusal = self._reserve(reservation)
            if refusal is not None and refusal.state != "limited" and self._log.flush(FILE_TIMEOUT):
                # What this process itself learned a moment ago, such as a revival, may not have been in the file.
                refusal = self._reserve(reservation)
        except _BROKEN as error:
            if self._clock() >= self._paused_until:
                self._failed(error)
            self._grant_uncounted(reservation)
            return None
        return refusal

    async def reserve_async(self, reservation: Reservation) -> Refusal | None:
        """See `Ledger.reserve_async`."""
        return await reserve_in_thread(self, reservation)

    def end(self, reservation: Reservation, charged: int | None) -> None:
        """See `Ledger.end`. The cost of the request is in its row."""
        if self._uncounted:
            with self._lock:
                if self._uncounted[reservation] > 0:
                    self._uncounted[reservation] -= 1
                    self._uncounted += Counter()
                    return
        self._log.defer(partial(self._presence.add_in_flight, *_scope(reservation), -1, -reservation.tokens))

    def _grant_uncounted(self, reservation: Reservation) -> None:
        with self._lock:
            self._uncounted[reservation] += 1

    def _reserve(self, reservation: Reservation) -> Refusal | None:
        if self._clock() < self._paused_until:
            raise sqlite3.OperationalError("it could not be used a moment ago")
        with self._connection.use(FILE_TIMEOUT) as connection:
            wall = self._wall()
            found = file_admission.known_refusal(connection, reservation, wall)
            if found is not None:
                return found
            if not file_admission.limited(reservation):
                self._grant_uncounted(reservation)
                return None
            with transaction(connection, FILE_TIMEOUT):
                if not self._presence.shares(connection):
                    # The pool is leaving the ledger, and will not say when the request ends.
                    return None
                refusal = file_admission.limit_refusal(connection, reservation, wall)
                if refusal is None:
                    self._presence.add_in_flight(*_scope(reservation), 1, reservation.tokens, connection)
                return refusal

    # Joining and leaving.

    def _enter(self) -> None:
        """Register this process, and start to look for others."""
        with self._lock:
            if self._registered_at is not None:
                return
            self._registered_at = self._clock()
            company = False
            try:
                with self._connection.use(FILE_TIMEOUT) as connection:
                    company = self._presence.register(connection)
                self._beat_at = self._registered_at + _HEARTBEAT
            except _BROKEN as error:
                self._unread = True
                self._failed(error)
            self.shared = company
            self._acknowledged = not company
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._stop,), name="hfs-sharing", daemon=True)
            self._thread.start()
        for pool in self._pools.values():
            if company:
                self._publish(pool.join(self), pool.provider)
            else:
                pool.leave()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._tick):
            if self._clock() >= self._paused_until:
                self.look()

    def _join(self) -> None:
        self._uncounted.clear()
        with self._connection.use(FILE_TIMEOUT) as connection, transaction(connection, FILE_TIMEOUT):
            # From here on what is granted is counted; what is in flight already is not yet.
            self._presence.become(presence.JOINING, connection)
        for pool in self._pools.values():
            self._publish(pool.join(self), pool.provider)
        self._log.defer(partial(self._presence.become, presence.SHARED))
        # After the rows that were recorded before, but at once: the newcomer waits for it.
        if self._log.flush(1.0):
            self.shared = True

    def _publish(self, held: Sequence[InFlight], provider: str) -> None:
        for account, scope, requests, tokens in held:
            self._log.defer(partial(self._presence.add_in_flight, provider, account, scope, requests, tokens))

    def _take_over(self) -> None:
        """Apply to the pools what any process has changed about the state of their keys."""
        # This process's own changes are written first: a key that it has just revived must not become dead again.
        self._log.flush(FILE_TIMEOUT)
        with self._connection.use(FILE_TIMEOUT) as connection:
            news = changes(connection, self._known_until)
        self._known_until = max((change.at for change in news), default=self._known_until)
        for pool in self._pools.values():
            apply(pool, news, self._wall(), self._mark())

    def _leave(self) -> None:
        with self._connection.use(FILE_TIMEOUT) as connection, transaction(connection, FILE_TIMEOUT):
            if self._presence.company(connection):
                return
            self._presence.become(presence.ALONE, connection)
        for name, pool in self._pools.items():
            pool.leave(partial(self._used, name, pool))
        self.shared = False
        self._uncounted.clear()
        self._log.defer(self._presence.clear_in_flight)

    def _used(self, provider: str, pool: KeyPool) -> PoolSnapshot | None:
        """What all processes have used of a pool's keys until now; None if that is not known."""
        self._log.flush(FILE_TIMEOUT)
        try:
            with self._connection.use(FILE_TIMEOUT) as connection:
                return pool_state(connection, provider, pool.credentials, self._wall())
        except _BROKEN as error:
            self._failed(error)
            return None

    def _await_the_others(self) -> None:
        began = self._registered_at
        while began is not None and self._clock() < began + _NEWCOMER_WAIT:
            try:
                with self._connection.use(FILE_TIMEOUT) as connection:
                    if self._presence.all_share(connection):
                        break
            except _BROKEN as error:
                self._failed(error)
                break
            time.sleep(0.005)
        self._acknowledged = True

    def _failed(self, error: Exception) -> None:
        self._paused_until = self._clock() + _PAUSE
        if self.problem is None:
            _log.warning("keys are not shared with other processes at the moment: %s", error)
        self.problem = Problem(
            f"keys are not shared with other processes at the moment: {error}",
            f"Make {self._store.path} writable",
        )

    def _recovered(self) -> None:
        if self.problem is not None:
            _log.warning("keys are shared with other processes again")
            self.problem = None

    def _after_fork_in_child(self) -> None:
        """A child is another process. It registers when it first asks for a key."""
        registered = self._registered_at is not None
        self._reset()
        if registered:
            for pool in self._pools.values():
                pool.join(self)


def _scope(reservation: Reservation) -> tuple[str, str, str]:
    return reservation.provider, reservation.account, reservation.scope
