"""Processes of one machine share key state through the local file.

Each process with a manager is registered in `processes`. One that is alone shares nothing, and its calls do not know of
this room. When another one comes, all that were there join their pools to the ledger, write down what they have in
flight, and say so (`shared`); the newcomer waits for that before its first request. When the last other one has gone,
and what it may have had in flight no longer counts, they part.

    invariant: a process that is `shared` has all its requests in `usage` or in `in_flight`, but for rows of the last
               moment, which are in `in_flight` until they are in `usage`.
    invariant: whoever parts has seen in one transaction that nobody else is there, and no request in flight is known
               but its own; it takes over what all have used while it can lease no key.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from hfs_providers.contract.errors import StoreError
from hfs_providers.contract.forks import Phase, at_fork
from hfs_providers.contract.instants import MINUTE
from hfs_providers.contract.records import Problem
from hfs_providers.keys.ledger import Held, Refusal, Reservation
from hfs_providers.keys.pool import KeyPool
from hfs_providers.sharing import file_admission, presence
from hfs_providers.sharing.key_state import pool_state
from hfs_providers.sharing.presence import Process
from hfs_providers.sharing.state_log import apply, changes
from hfs_providers.usage.connection import StoreConnection
from hfs_providers.usage.database import Store
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.transaction import transaction

TICK = 0.1
"""Seconds between two looks at who else is there."""

HEARTBEAT = 5.0
"""Seconds between two signs of life."""

LOOK = 1.0
"""Seconds between two looks whether the others still live."""

ACKNOWLEDGED = 0.5
"""Seconds for which a newcomer waits until those who were there share."""

PATIENCE = 0.25
"""Seconds for which a claim waits for the file at most."""

UNASKED = 1.0
"""Seconds for which the file is not asked again that could not be."""

LINGER = 60.0
"""Seconds for which a dead process's requests in flight still count."""

DEAD, ALONE, SHARED, JOINING = -1, 0, 1, 2
"""What `processes.shared` says. Who is joining counts what is granted, and has not written down what was in flight."""

_log = logging.getLogger("hfs_providers")
_BROKEN = (OSError, sqlite3.Error, StoreError)


class FileLedger:
    """The `Ledger` of processes that use the same local file.

    Args:
        log: of usage; its file is what is shared.
        wall: seconds since the epoch.
        clock: monotonic seconds.
        tick: seconds between two looks at who else is there.
        process: who this is; by default the process that it is made in.
        mark: what this process's own words on keys are known by.
    """

    def __init__(
        self,
        log: UsageLog,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        tick: float = TICK,
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
        """Why the others are not asked at the moment."""
        self._reset()
        at_fork(Phase.LEDGERS, child=self._after_fork_in_child)

    def _reset(self) -> None:
        self._id = uuid.uuid4().hex
        self._me = self._process or presence.this()
        # A lease that is collected ends at any moment, maybe in a thread that holds it.
        self._lock = threading.RLock()
        self._registered_at: float | None = None
        # Whether the file could not be used when this process came: what is in it is not known here yet.
        self._unread = False
        self._acknowledged = False
        self.shared = False
        """Whether other processes are there."""
        self._uncounted: Counter[Reservation] = Counter()
        self._skip_until = 0.0
        # Of what was said of keys, up to when it is known here; what was known at the start is heard once more.
        self._heard = self._wall() - MINUTE
        self._seen_version: tuple[int, int] | None = None
        self._look_at = self._beat_at = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"FileLedger({str(self._store.path)!r}, shared={self.shared})"

    # As manager and processes see it.

    def start(self, pools: Mapping[str, KeyPool]) -> None:
        """Be there, and share `pools` while others are.

        Args:
            pools: by provider.
        """
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
            self._log.defer(partial(_forget, self._id))
            self._log.flush()
        self._connection.close()

    def look(self) -> None:
        """See who else is there and what was said of keys; done again and again by a thread of the ledger's own."""
        try:
            with self._connection.use(PATIENCE) as connection:
                now = self._clock()
                version = (self._connection.opened, connection.execute("PRAGMA data_version").fetchone()[0])
                if version == self._seen_version and now < self._look_at:
                    return
                self._look_at = now + LOOK
                if now >= self._beat_at or self._seen_version is None or version[0] != self._seen_version[0]:
                    self._beat_at = now + HEARTBEAT
                    self._beat(connection)
                self._seen_version = version
                company = self._company(connection)
                news = changes(connection, self._heard)
            if self._unread:
                self._unread = False
                for name, pool in self._pools.items():
                    pool.leave(partial(self._used, name, pool))
            if news:
                self._hear()
            if company and not self.shared:
                self._join()
            elif self.shared and not company:
                self._part()
            self._recovered()
        except _BROKEN as error:
            self._failed(error)

    # As pools see it.

    def reserve(self, reservation: Reservation) -> Refusal | None:
        """See `Ledger.reserve`."""
        if self._registered_at is None:
            self._enter()
        if not self._acknowledged:
            self._await_the_others()
        try:
            refusal = self._reserve(reservation)
            if refusal is not None and refusal.state != "limited" and self._log.flush(PATIENCE):
                # What this process itself learned a moment ago, a revival say, may still have been under way.
                refusal = self._reserve(reservation)
        except _BROKEN as error:
            if self._clock() >= self._skip_until:
                self._failed(error)
            self._alone(reservation)
            return None
        return refusal

    def end(self, reservation: Reservation, charged: int | None) -> None:
        """See `Ledger.end`; what it cost is in its row."""
        if self._uncounted:
            with self._lock:
                if self._uncounted[reservation] > 0:
                    self._uncounted[reservation] -= 1
                    self._uncounted += Counter()
                    return
        self._log.defer(
            partial(
                _add, self._id, reservation.provider, reservation.account, reservation.scope, -1, -reservation.tokens
            )
        )

    def _alone(self, reservation: Reservation) -> None:
        with self._lock:
            self._uncounted[reservation] += 1

    def _reserve(self, reservation: Reservation) -> Refusal | None:
        if self._clock() < self._skip_until:
            raise sqlite3.OperationalError("it could not be asked a moment ago")
        with self._connection.use(PATIENCE) as connection:
            wall = self._wall()
            found = file_admission.told(connection, reservation, wall)
            if found is not None:
                return found
            if not file_admission.limited(reservation):
                self._alone(reservation)
                return None
            with transaction(connection, PATIENCE):
                row = connection.execute("SELECT shared FROM processes WHERE id = ?", (self._id,)).fetchone()
                if row is None or row[0] == ALONE:
                    # The pool parts just now, or was joined for nothing: its end will not be told.
                    return None
                refusal = file_admission.judge(connection, reservation, wall)
                if refusal is None:
                    _add(
                        self._id,
                        reservation.provider,
                        reservation.account,
                        reservation.scope,
                        1,
                        reservation.tokens,
                        connection,
                    )
                return refusal

    # Coming and going.

    def _enter(self) -> None:
        """Register this process, and begin to look for others."""
        with self._lock:
            if self._registered_at is not None:
                return
            self._registered_at = self._clock()
            company = False
            try:
                with self._connection.use(PATIENCE) as connection, transaction(connection, PATIENCE):
                    company = self._company(connection)
                    me = (self._id, *self._me, self._wall(), SHARED if company else ALONE)
                    connection.execute("INSERT INTO processes VALUES (?, ?, ?, ?, ?, ?)", me)
                self._beat_at = self._registered_at + HEARTBEAT
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
            if self._clock() >= self._skip_until:
                self.look()

    def _join(self) -> None:
        self._uncounted.clear()
        with self._connection.use(PATIENCE) as connection, transaction(connection, PATIENCE):
            # From here on what is granted is counted; what is in flight already is not yet.
            connection.execute("UPDATE processes SET shared = ? WHERE id = ?", (JOINING, self._id))
        for pool in self._pools.values():
            self._publish(pool.join(self), pool.provider)
        self._log.defer(partial(_share, self._id))
        # Behind the rows that were recorded before, and at once: the newcomer waits for it.
        if self._log.flush(1.0):
            self.shared = True

    def _publish(self, held: Sequence[Held], provider: str) -> None:
        for account, scope, requests, tokens in held:
            self._log.defer(partial(_add, self._id, provider, account, scope, requests, tokens))

    def _hear(self) -> None:
        """Tell the pools what was said of their keys, by this or another process or by the owner."""
        # What this process has to say itself comes first: a key that it has just revived is not to die again.
        self._log.flush(PATIENCE)
        with self._connection.use(PATIENCE) as connection:
            news = changes(connection, self._heard)
        self._heard = max((change.at for change in news), default=self._heard)
        for pool in self._pools.values():
            apply(pool, news, self._wall(), self._mark())

    def _part(self) -> None:
        with self._connection.use(PATIENCE) as connection, transaction(connection, PATIENCE):
            if self._company(connection):
                return
            connection.execute("UPDATE processes SET shared = ? WHERE id = ?", (ALONE, self._id))
        for name, pool in self._pools.items():
            pool.leave(partial(self._used, name, pool))
        self.shared = False
        self._uncounted.clear()
        self._log.defer(lambda connection: connection.execute("DELETE FROM in_flight WHERE process = ?", (self._id,)))

    def _used(self, provider: str, pool: KeyPool) -> dict[str, object] | None:
        """What all have used of a pool's keys until now; None where that is not known."""
        self._log.flush(PATIENCE)
        try:
            with self._connection.use(PATIENCE) as connection:
                return pool_state(connection, provider, pool.credentials, self._wall())
        except _BROKEN as error:
            self._failed(error)
            return None

    def _company(self, connection: sqlite3.Connection) -> bool:
        """Whether others are there, or were a minute ago with requests in flight. Buries the dead."""
        wall = self._wall()
        company = False
        for name, pid, born, place, seen, shared in connection.execute(
            "SELECT id, pid, born, place, seen, shared FROM processes WHERE id <> ?", (self._id,)
        ).fetchall():
            if shared != DEAD and presence.alive(Process(pid, born, place), seen, wall):
                company = True
            elif shared != DEAD:
                with transaction(connection, PATIENCE):
                    connection.execute("UPDATE processes SET shared = ?, seen = ? WHERE id = ?", (DEAD, wall, name))
                    _tidy(connection, name)
                company = company or _in_flight(connection, name)
            elif abs(wall - seen) < LINGER and _in_flight(connection, name):
                company = True
            else:
                with transaction(connection, PATIENCE):
                    _forget(name, connection)
        return company

    def _beat(self, connection: sqlite3.Connection) -> None:
        """Say that this process lives; the file may be a new one that does not know it."""
        me = (self._id, *self._me, self._wall(), SHARED if self.shared else ALONE)
        with transaction(connection, PATIENCE):
            connection.execute(
                "INSERT INTO processes VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen,"
                " shared = max(shared, 0)",
                me,
            )

    def _await_the_others(self) -> None:
        began = self._registered_at
        waiting = "SELECT COUNT(*) FROM processes WHERE shared IN (?, ?) AND id <> ?"
        while began is not None and self._clock() < began + ACKNOWLEDGED:
            try:
                with self._connection.use(PATIENCE) as connection:
                    if not connection.execute(waiting, (ALONE, JOINING, self._id)).fetchone()[0]:
                        break
            except _BROKEN as error:
                self._failed(error)
                break
            time.sleep(0.005)
        self._acknowledged = True

    def _failed(self, error: Exception) -> None:
        self._skip_until = self._clock() + UNASKED
        if self.problem is None:
            _log.warning("keys are not shared with other processes at the moment: %s", error)
        self.problem = Problem(
            f"keys are not shared with other processes at the moment: {error}",
            f"See that {self._store.path} can be written",
        )

    def _recovered(self) -> None:
        if self.problem is not None:
            _log.warning("keys are shared with other processes again")
            self.problem = None

    def _after_fork_in_child(self) -> None:
        """A child is another process. It is registered when it first asks for a key."""
        registered = self._registered_at is not None
        self._reset()
        if registered:
            for pool in self._pools.values():
                pool.join(self)


# What is written.


def _add(
    process: str, provider: str, account: str, scope: str, requests: int, tokens: int, connection: sqlite3.Connection
) -> None:
    connection.execute(
        "INSERT INTO in_flight (process, provider, account, scope, requests, tokens) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (provider, account, scope, process) DO UPDATE SET"
        " requests = requests + excluded.requests, tokens = tokens + excluded.tokens",
        (process, provider, account, scope, requests, tokens),
    )


def _share(process: str, connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE processes SET shared = ? WHERE id = ?", (SHARED, process))


def _tidy(connection: sqlite3.Connection, process: str) -> None:
    connection.execute("DELETE FROM in_flight WHERE process = ? AND requests <= 0", (process,))


def _in_flight(connection: sqlite3.Connection, process: str) -> bool:
    query = "SELECT 1 FROM in_flight WHERE process = ? AND requests > 0"
    return connection.execute(query, (process,)).fetchone() is not None


def _forget(process: str, connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM in_flight WHERE process = ?", (process,))
    connection.execute("DELETE FROM processes WHERE id = ?", (process,))
