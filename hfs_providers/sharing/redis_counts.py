"""One process's part in the counts that the Redis server keeps.

All counts are tagged with the host that used them. A process publishes what its host has used within the windows when
it joins, and after counts were lost: the generation has changed, or counts are gone that this process had published.
Publishing sets and never adds, so any number of processes may do it at any time. After a loss all wait until it is
done (`SETTLE`).

    invariant: the script that ends a request also counts what it cost.
    invariant: `in_flight` is what this process has in flight on the server, as of the last script that was answered.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from hfs_providers.contract.instants import DAY, HOUR, next_midnight, zone_of
from hfs_providers.contract.records import KEYLESS, Event
from hfs_providers.keys.ledger import Ledger, Refusal, Reservation
from hfs_providers.keys.pool import KeyPool
from hfs_providers.sharing.history import Used, from_pool, from_store
from hfs_providers.sharing.redis_budgets import RedisBudgets
from hfs_providers.sharing.redis_connection import RedisConnection, ScriptCall
from hfs_providers.sharing.redis_messages import Announce, CountedScope, Message, Release, Reserve, told_key
from hfs_providers.usage.database import Store

BEAT_INTERVAL = 1.0
"""Seconds between two checks that the counts exist; every fifth time, what is in flight is confirmed."""

SETTLE = 3.0
"""Seconds after a loss of counts in which nothing is granted, so that every host can publish what it has used."""

SOON = 0.05
"""Seconds until it is worth asking again while counts are being published."""

# Seconds that rows may take to be in the file before they are published.
_FLUSHED = 0.1

# Seconds for which the server surely keeps counts after their last change: an hour less than `KEPT` of the scripts.
_SURELY_KEPT = 25 * HOUR

_GENERATION = "hfs:generation"

_log = logging.getLogger("hfs_providers")


class Counts:
    """One process's part in the counts. For one thread at a time, except `settled_at` and `announcement`.

    Args:
        store: the local file, where all processes of the host write their usage; None if there is none.
        flush: writes what was recorded to the file, within the seconds that it is given.
        send: takes a release that is sent next.
        budgets: those that are shared by the same server, or None.
    """

    def __init__(
        self,
        pools: Mapping[str, KeyPool],
        store: Store | None,
        wall: Callable[[], float],
        flush: Callable[[float], object] | None,
        send: Callable[[Release], object],
        budgets: RedisBudgets | None = None,
    ) -> None:
        self._pools = pools
        self._store = store
        self._wall = wall
        self._flush = flush
        self._send = send
        self._budgets = budgets
        self._holder = uuid.uuid4().hex
        self._host = store.source if store is not None else self._holder
        # By provider and account: the names of its keys, also of those that have left.
        self._names: dict[tuple[str, str], set[str]] = {}
        self._generation = ""
        # Seconds by which the server's clock is ahead of this host's.
        self._offset = 0.0
        self.settled_at = 0.0
        """When all hosts have published what was lost, by this host's clock: until then nothing is granted."""
        self.in_flight: dict[CountedScope, tuple[int, int]] = {}
        # When the server last had the counts of a scope, by the monotonic clock.
        self._published: dict[CountedScope, float] = {}
        # When any key was last revived, by the server's clock, and whether this process has not acted on it yet.
        self._revived_at, self._revival_is_new = 0, False
        # Provider and id of keys that are being revived because others have revived them.
        self._reviving: set[tuple[str, str | None]] = set()
        self._ids = 0
        self._beats = 0
        self._beat_at = 0.0

    def announcement(self, event: Event) -> Announce | None:
        """The announcement for an event; None if it is not about a key's state."""
        pool = self._pools.get(event.provider)
        credential = pool.credential(event.key_id or "") if pool is not None else None
        if credential is None:
            return None
        account, name = credential.account, credential.name
        milliseconds = int(min(event.seconds or 0.0, DAY) * 1000)
        of = event.provider, account
        if event.kind == "key_dead":
            return Announce(*of, f"d:{name}", milliseconds, event.reason or "refused")
        if event.kind == "key_cooling":
            return Announce(*of, f"c:{event.model or ''}", milliseconds, event.reason or "rate limited")
        if event.kind == "key_revived" and (event.provider, event.key_id) not in self._reviving:
            return Announce(*of, f"d:{name}", None, "")
        return None

    # Joining, and counting again.

    def join(self, server: RedisConnection, ledger: Ledger) -> None:
        """Have the pools ask `ledger`, and send the server all that it must know of them."""
        self._register(server)
        self.in_flight.clear()
        self._forget()
        for provider, pool in self._pools.items():
            for held in pool.join(ledger):
                self.in_flight[CountedScope(provider, held.account, held.scope)] = (held.requests, held.tokens)
        self._publish_all(server)
        self._announce_all(server)

    def _register(self, server: RedisConnection, lost: str = "") -> bool:
        """Learn the generation, or begin one. Returns whether counts were lost."""
        args: list[str | int] = [self._generation, uuid.uuid4().hex, int(SETTLE * 1000), lost]
        asked = self._wall()
        generation, settled, now, revived = server.run([ScriptCall("register", [_GENERATION], args)])[0]
        answered = self._wall()
        # If the clock was set meanwhile, the difference means nothing.
        if 0 <= answered - asked < 1:
            self._offset = int(now) / 1000 - (asked + answered) / 2
        self._revival_is_new = self._revival_is_new or int(revived) != self._revived_at
        self._revived_at = int(revived)
        changed = bool(self._generation) and generation != self._generation
        self._generation = generation
        self.settled_at = int(settled) / 1000 - self._offset
        if changed:
            _log.warning("Redis at %s has lost counts: all who share the keys are counting again", server.name)
            self._forget()
        return changed

    def _forget(self) -> None:
        """The server may have no counts at all."""
        self._published = dict.fromkeys(self._published, -math.inf)

    def _renew(self, server: RedisConnection, scopes: Iterable[CountedScope]) -> None:
        """Publish scopes that the server does not know, and all scopes if it should have known one of them."""
        fresh = time.monotonic() - _SURELY_KEPT
        changed = self._register(server)
        if not changed and any(self._published.get(scope, -math.inf) > fresh for scope in scopes):
            changed = self._register(server, lost=self._generation)
        if changed:
            self._publish_all(server, scopes)
        else:
            self._publish(server, scopes)

    def _publish_all(self, server: RedisConnection, scopes: Iterable[CountedScope] = ()) -> None:
        self._publish(server, self._scopes() | set(scopes))
        if self._budgets is not None:
            self._budgets.publish(server, self._generation, joining=True)

    def _scopes(self) -> set[CountedScope]:
        """All that this process knows to be in use."""
        scopes = {*self._published, *self.in_flight}
        for provider, pool in self._pools.items():
            scopes |= {CountedScope(provider, each.account, each.scope) for each in pool.spent() if each.entries}
        return scopes

    def _publish(self, server: RedisConnection, scopes: Iterable[CountedScope]) -> None:
        if self._flush is not None:
            self._flush(_FLUSHED)
        scopes = list(scopes)
        now = time.monotonic()
        calls = []
        for scope, used in zip(scopes, self._used(scopes), strict=True):
            entries = [number for at, tokens in used.minute for number in (int(at * 1000) + 1, tokens)]
            buckets: list[str | int] = []
            for kind, counts in (("h", used.hours), ("d", used.days)):
                for number, (requests, tokens) in counts.items():
                    buckets += [f"{kind}:{number}", requests, tokens]
            held = self.in_flight.get(scope, (0, 0))
            about: list[str | int] = [*self._identity(), *held, len(used.minute), len(buckets) // 3]
            calls.append(ScriptCall("publish", scope.keys, [*about, *entries, *buckets]))
        server.run(calls)
        self._published.update(dict.fromkeys(scopes, now))

    def _used(self, scopes: Sequence[CountedScope]) -> list[Used]:
        wall = self._wall()
        for provider, pool in self._pools.items():
            for credential in pool.credentials:
                self._names.setdefault((provider, credential.account), set()).add(credential.name)
        if self._store is not None:
            # The usage log, which writes to the file, says what is wrong with it.
            with suppress(sqlite3.Error, OSError), closing(self._store.connect()) as connection:
                return [
                    from_store(connection, scope.provider, self._of(scope), scope.model, wall, self._offset)
                    for scope in scopes
                ]
        spent = {name: pool.spent() for name, pool in self._pools.items()}
        return [from_pool(spent.get(scope.provider, ()), scope.account, scope.model, self._offset) for scope in scopes]

    def _of(self, scope: CountedScope) -> set[str]:
        return self._names.get((scope.provider, scope.account), set())

    def _announce_all(self, server: RedisConnection) -> None:
        """Announce which keys this process knows to be dead or cooling, and revive those that others have revived
        since."""
        announced: list[tuple[Announce, str]] = []
        wall = self._wall()
        for provider, pool in self._pools.items():
            for about in pool.dump()["accounts"]:
                first = about["keys"][0]["id"]
                known = pool.credential(first)
                if known is None:
                    # It has left just now.
                    continue
                of = provider, known.account
                for cooldown in about["cooling"]:
                    left = int((cooldown["until"] - wall) * 1000)
                    field = f"c:{cooldown['model'] or ''}"
                    announced.append((Announce(*of, field, left, cooldown["reason"], 0), first))
                for key in about["keys"]:
                    dead, known = key.get("dead"), pool.credential(key["id"])
                    if dead is not None and known is not None:
                        left = int((dead["retry_at"] - wall) * 1000)
                        field = f"d:{known.name}"
                        age = max(0, int((wall - dead.get("since", wall)) * 1000))
                        announced.append((Announce(*of, field, left, dead["reason"], age), key["id"]))
        announced = [each for each in announced if (each[0].milliseconds or 0) > 0]
        answers = server.run([announce.call() for announce, _ in announced])
        self._revival_is_new = False
        for answer, (announce, key_id) in zip(answers, announced, strict=True):
            provider = announce.provider
            if answer == "revived":
                self._reviving.add((provider, key_id))
                try:
                    with suppress(KeyError):
                        self._pools[provider].revive(key_id)
                finally:
                    self._reviving.discard((provider, key_id))

    def _identity(self) -> list[str]:
        self._ids += 1
        return [self._generation, self._host, self._holder, f"{self._holder}.{self._ids}"]

    # Serving.

    def serve(self, server: RedisConnection, work: Sequence[Message]) -> None:
        """Send all messages (if there are none, a sign of life), in one round trip if no counts were lost."""
        ended: dict[CountedScope, list[Release]] = {}
        for each in work:
            if isinstance(each, Release):
                ended.setdefault(CountedScope.of(each.reservation), []).append(each)
        calls = [self._release_call(scope, ends) for scope, ends in ended.items()]
        announced = [each for each in work if isinstance(each, Announce)]
        calls += [each.call() for each in announced]
        if any(each.milliseconds is None for each in announced):
            calls.append(ScriptCall("revived", [_GENERATION], []))
        reserves = [each for each in work if isinstance(each, Reserve) and not each.ticket.locked()]
        answers = server.run([*calls, *(self._reserve_call(each.reservation) for each in reserves)])
        lost = {scope for scope, answer in zip(ended, answers, strict=False) if answer == "new"}
        for scope in ended:
            if scope not in lost:
                self._published[scope] = time.monotonic()
        unknown = self._answer(reserves, answers[len(calls) :])
        lost.update(CountedScope.of(reserve.reservation) for reserve in unknown)
        if lost:
            self._renew(server, lost)
            if self.settled_at <= self._wall():
                unknown = self._answer(unknown, server.run([self._reserve_call(each.reservation) for each in unknown]))
            for reserve in unknown:
                again = max(self.settled_at, self._wall() + SOON)
                reserve.settle(Refusal("limited", again, "the shared use is being counted again", "key"))
        self._serve_budgets(server, work)
        if not work or time.monotonic() >= self._beat_at:
            self._beat(server)

    def _serve_budgets(self, server: RedisConnection, work: Sequence[Message]) -> None:
        if self._budgets is None:
            return
        settled = self.settled_at <= self._wall()
        if not self._budgets.serve(server, work, self._generation, settled=settled):
            if not self._register(server):
                self._register(server, lost=self._generation)
            self._publish_all(server)

    def _answer(self, reserves: Sequence[Reserve], answers: Sequence[Any]) -> list[Reserve]:
        """Pass the answers on. Returns the reservations in scopes that the server does not know."""
        unknown = []
        for reserve, (word, _, *why) in zip(reserves, answers, strict=True):
            if word == "new":
                unknown.append(reserve)
            elif word == "yes":
                self._count(CountedScope.of(reserve.reservation), 1, reserve.reservation.tokens)
                if not reserve.settle(None):
                    self._send(Release(reserve.reservation, None))
            else:
                until, reason, scope = why
                reason = f"all who share it have used up its {reason}" if word == "limited" else reason
                reserve.settle(Refusal(word, int(until) / 1000 - self._offset, reason, scope))
        return unknown

    def _count(self, scope: CountedScope, requests: int, tokens: int) -> None:
        held = self.in_flight.get(scope, (0, 0))
        if held[0] + requests > 0:
            self.in_flight[scope] = (held[0] + requests, max(0, held[1] + tokens))
        else:
            self.in_flight.pop(scope, None)

    def _beat(self, server: RedisConnection) -> None:
        self._beat_at = time.monotonic() + BEAT_INTERVAL
        self._beats += 1
        if self._register(server) or self.settled_at > self._wall():
            # Repeated until all is settled: rows may have come late to the file.
            self._publish_all(server)
            self._announce_all(server)
            return
        if self._budgets is not None:
            self._budgets.publish(server, self._generation, joining=False)
        if self._revival_is_new:
            self._announce_all(server)
        if self._beats % 5 == 0:
            held = self.in_flight.items()
            server.run([ScriptCall("heartbeat", [scope.keys[2]], [self._holder, *counts]) for scope, counts in held])

    def _release_call(self, scope: CountedScope, ends: Sequence[Release]) -> ScriptCall:
        args: list[str | int] = [*self._identity()]
        for reservation, charged in ends:
            self._count(scope, -1, -reservation.tokens)
            args += [reservation.tokens, "" if charged is None else charged]
        return ScriptCall("release", scope.keys, args)

    def _reserve_call(self, reservation: Reservation) -> ScriptCall:
        limits = reservation.limits
        most: list[int | None] = [None] * 6
        day: tuple[str | int, str | int] = ("", "")
        if limits is not None:
            most = [limits.rpm, limits.tpm, limits.rph, limits.tph, limits.rpd, limits.tpd]
            zone = zone_of(limits.day_zone) if limits.day_zone else None
            if zone is not None:
                ends = next_midnight(zone, self._wall() + self._offset)
                day = (int(next_midnight(zone, ends - 1.5 * DAY) * 1000), int(ends * 1000))
        name = reservation.account if reservation.fingerprint == KEYLESS else reservation.fingerprint
        said = ["" if each is None else max(0, each) for each in most]
        keys = [told_key(reservation.provider, reservation.account), *CountedScope.of(reservation).keys[:3]]
        return ScriptCall(
            "reserve",
            keys,
            [self._generation, self._holder, name, reservation.model_id, reservation.tokens, *said, *day],
        )
