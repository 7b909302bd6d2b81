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

import heapq
import json
import logging
import os
import sqlite3
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from hfs_providers.core import forking as _forking  # noqa: F401  the pools are made fit for a child before the ledgers
from hfs_providers.core import processes
from hfs_providers.core.contract import Problem
from hfs_providers.core.errors import StoreError
from hfs_providers.core.hydrate import apply, changes, pool_state
from hfs_providers.core.pool import KeyPool
from hfs_providers.core.processes import Process
from hfs_providers.core.sharing import Claim, Held, Refusal
from hfs_providers.core.store import QUARTER, Store, StoreConnection, transaction
from hfs_providers.core.usage import UsageLog
from hfs_providers.core.windows import DAY, HOUR, MINUTE, next_midnight, zone_of

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

# Until a request in flight may have ended: only then more is known.
_SOON = 0.25

_log = logging.getLogger("hfs_providers")
_BROKEN = (OSError, sqlite3.Error, StoreError)


class _Rule(NamedTuple):
    """One window of a claim: since when it counts, for how long, and the most that it may hold."""

    since: float
    until: Callable[[float], float]
    requests: int | None
    tokens: int | None


class FileLedger:
    """The `Ledger` of processes that use the same local file.

    Args:
        log: of usage; its file is what is shared.
        wall: seconds since the epoch.
        clock: monotonic seconds.
        tick: seconds between two looks at who else is there.
        process: who this is; by default the process that it is made in.
    """

    def __init__(
        self,
        log: UsageLog,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        tick: float = TICK,
        process: Process | None = None,
    ) -> None:
        self._log = log
        self._store: Store = log.store
        self._wall = wall
        self._clock = clock
        self._tick = tick
        self._process = process
        self._connection = StoreConnection(self._store, durable=False, patience=0.0)
        self._pools: Mapping[str, KeyPool] = {}
        self.problem: Problem | None = None
        """Why the others are not asked at the moment."""
        self._reset()
        _ledgers.add(self)

    def _reset(self) -> None:
        self._id = uuid.uuid4().hex
        self._me = self._process or processes.this()
        self._lock = threading.Lock()
        self._registered_at: float | None = None
        self._acknowledged = False
        self.shared = False
        """Whether other processes are there."""
        self._uncounted: Counter[Claim] = Counter()
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
            pool.part()
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

    def reserve(self, claim: Claim) -> Refusal | None:
        """See `Ledger.reserve`."""
        if self._registered_at is None:
            self._enter()
        if not self._acknowledged:
            self._await_the_others()
        try:
            refusal = self._reserve(claim)
            if refusal is not None and refusal.state != "limited" and self._log.flush(PATIENCE):
                # What this process itself learned a moment ago, a revival say, may still have been under way.
                refusal = self._reserve(claim)
        except _BROKEN as error:
            if self._clock() >= self._skip_until:
                self._failed(error)
            self._alone(claim)
            return None
        return refusal

    def end(self, claim: Claim, charged: int | None) -> None:
        """See `Ledger.end`; what it cost is in its row."""
        if self._uncounted:
            with self._lock:
                if self._uncounted[claim] > 0:
                    self._uncounted[claim] -= 1
                    self._uncounted += Counter()
                    return
        self._log.defer(partial(_add, self._id, claim.provider, claim.account, claim.scope, -1, -claim.tokens))

    def _alone(self, claim: Claim) -> None:
        with self._lock:
            self._uncounted[claim] += 1

    def _reserve(self, claim: Claim) -> Refusal | None:
        if self._clock() < self._skip_until:
            raise sqlite3.OperationalError("it could not be asked a moment ago")
        with self._connection.use(PATIENCE) as connection:
            wall = self._wall()
            told = _told(connection, claim, wall)
            if told is not None:
                return told
            if not _limited(claim):
                self._alone(claim)
                return None
            with transaction(connection, PATIENCE):
                row = connection.execute("SELECT shared FROM processes WHERE id = ?", (self._id,)).fetchone()
                if row is None or row[0] == ALONE:
                    # The pool parts just now, or was joined for nothing: its end will not be told.
                    return None
                refusal = _judge(connection, claim, wall)
                if refusal is None:
                    _add(self._id, claim.provider, claim.account, claim.scope, 1, claim.tokens, connection)
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
                pool.part()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._tick):
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
            apply(pool, news, self._wall())

    def _part(self) -> None:
        with self._connection.use(PATIENCE) as connection, transaction(connection, PATIENCE):
            if self._company(connection):
                return
            connection.execute("UPDATE processes SET shared = ? WHERE id = ?", (ALONE, self._id))
        for name, pool in self._pools.items():
            pool.part(partial(self._used, name, pool))
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
            if shared != DEAD and processes.alive(Process(pid, born, place), seen, wall):
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

    def _after_fork(self) -> None:
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


# What is judged.


def _told(connection: sqlite3.Connection, claim: Claim, wall: float) -> Refusal | None:
    """What any process was told of the key: that it is dead, or must rest."""
    key = claim.account if claim.fingerprint == "keyless" else claim.fingerprint
    query = (
        "SELECT kind, body FROM state WHERE provider = ?"
        " AND ((kind = 'key' AND name = ?) OR (kind = 'rest' AND name = ?))"
    )
    found: Refusal | None = None
    for kind, text in connection.execute(query, (claim.provider, key, claim.account)):
        for refusal in _refusals(claim, kind, text):
            if refusal.until > max(wall, found.until if found is not None else 0.0):
                found = refusal
    return found if found is None else replace(found, until=min(found.until, wall + DAY))


def _refusals(claim: Claim, kind: str, text: str) -> list[Refusal]:
    try:
        body = json.loads(text)
        if kind == "key":
            return [Refusal("dead", float(body["retry_at"]), str(body.get("reason")), "key")]
        rests = {"key": body.get(""), "model": body.get(claim.model_id)}
        return [
            Refusal("cooling", float(rest["until"]), str(rest.get("reason")), "key" if scope == "key" else "model")
            for scope, rest in rests.items()
            if rest
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        # Not ours: as if nothing was said.
        return []


def _limited(claim: Claim) -> bool:
    limits = claim.limits
    return limits is not None and any(
        each is not None for each in (limits.rpm, limits.rph, limits.rpd, limits.tpm, limits.tph, limits.tpd)
    )


def _judge(connection: sqlite3.Connection, claim: Claim, wall: float) -> Refusal | None:
    """Whether the claim fits into all its windows, together with what everybody has in flight."""
    in_flight, reserved = connection.execute(
        "SELECT COALESCE(SUM(MAX(requests, 0)), 0), COALESCE(SUM(MAX(tokens, 0)), 0) FROM in_flight"
        " WHERE provider = ? AND account = ? AND scope = ?",
        (claim.provider, claim.account, claim.scope),
    ).fetchone()
    series = _series(connection, claim)
    until = 0.0
    for rule in _rules(claim, wall):
        used, charged = _used(connection, series, rule.since, wall)
        over = used + in_flight + 1 - rule.requests if rule.requests is not None else 0
        excess = 0
        if rule.tokens is not None:
            # An estimate beyond the limit itself would never fit: it may go when the window is empty.
            excess = charged + reserved + min(claim.tokens, rule.tokens) - rule.tokens
        if (rule.requests is not None and rule.requests <= 0) or (rule.tokens is not None and rule.tokens <= 0):
            until = wall + DAY
        elif over > in_flight or excess > reserved:
            leaves = _leaves(connection, series, rule.since, over - in_flight, excess - reserved)
            until = max(until, rule.until(leaves))
        elif over > 0 or excess > 0:
            # It would fit but for what is in flight: that may end without counting, cost less than was reserved, or be
            # in a row already.
            until = max(until, wall + _SOON)
    return Refusal("limited", until, "other processes have used its allowance up") if until else None


def _rules(claim: Claim, wall: float) -> list[_Rule]:
    limits = claim.limits
    assert limits is not None
    rules = [
        _Rule(wall - MINUTE, lambda at: at + MINUTE, limits.rpm, limits.tpm),
        _Rule(wall - HOUR, lambda at: at + HOUR, limits.rph, limits.tph),
    ]
    zone = zone_of(limits.day_zone) if limits.day_zone else None
    if zone is None:
        rules.append(_Rule(wall - DAY, lambda at: at + DAY, limits.rpd, limits.tpd))
    else:
        midnight = next_midnight(zone, wall)
        rules.append(_Rule(next_midnight(zone, midnight - 1.5 * DAY), lambda _: midnight, limits.rpd, limits.tpd))
    return [rule for rule in rules if rule.requests is not None or rule.tokens is not None]


def _series(connection: sqlite3.Connection, claim: Claim) -> list[int]:
    """The numbers under which rows of the account, and of the model unless all count together, are written."""
    query = "SELECT id, key_id, fingerprint FROM series WHERE provider = ?"
    values = [claim.provider]
    if claim.scope:
        query += " AND model = ?"
        values.append(claim.scope)
    return [
        number
        for number, key_id, fingerprint in connection.execute(query, values)
        # Endpoints without keys are told apart by their ids.
        if fingerprint in claim.fingerprints and (fingerprint != "keyless" or key_id == claim.account)
    ]


def _used(connection: sqlite3.Connection, series: Sequence[int], since: float, wall: float) -> tuple[int, int]:
    """Requests and tokens after `since`: whole quarters of an hour from their sums, the edges from the rows."""
    requests = tokens = 0
    whole = (since // QUARTER + 1) * QUARTER
    for number in series:
        if whole + QUARTER < wall:
            found = connection.execute(
                "SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(charged), 0) FROM quarter"
                " WHERE series = ? AND start >= ?",
                (number, whole),
            ).fetchone()
            requests, tokens = requests + found[0], tokens + found[1]
            edge = "SELECT COUNT(*), COALESCE(SUM(charged), 0) FROM usage WHERE series = ? AND at > ? AND at < ?"
            found = connection.execute(edge, (number, since, whole)).fetchone()
        else:
            rows = "SELECT COUNT(*), COALESCE(SUM(charged), 0) FROM usage WHERE series = ? AND at > ?"
            found = connection.execute(rows, (number, since)).fetchone()
        requests, tokens = requests + found[0], tokens + found[1]
    return requests, tokens


def _leaves(connection: sqlite3.Connection, series: Sequence[int], since: float, requests: int, tokens: int) -> float:
    """The instant of the row with which that many requests and tokens will have left the window."""
    rows = "SELECT at, charged FROM usage WHERE series = ? AND at > ? ORDER BY at"
    leaves = since
    for at, charged in heapq.merge(*(connection.execute(rows, (number, since)) for number in series)):
        leaves = at
        requests -= 1
        tokens -= charged
        if requests <= 0 and tokens <= 0:
            break
    return leaves


_ledgers: weakref.WeakSet[FileLedger] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for ledger in list(_ledgers):
        ledger._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
