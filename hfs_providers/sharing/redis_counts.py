"""What a process says to the Redis server of the counts that it shares, and what it hears.

What is counted is tagged with the host that used it. Whoever joins, and everybody after counts were lost (`generation`
has changed, or counts are gone that this process had published), publishes what its host has used within the windows;
that sets and never adds, so it may be done at any time by any number of processes. While it is done after a loss, all
wait (`SETTLE`).

    invariant: a claim is given back in the very script that counts what it cost.
    invariant: `in_flight` is what this process has in flight there, as of the last script that was answered.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import quote

from hfs_providers.contract.instants import DAY, next_midnight, zone_of
from hfs_providers.contract.records import Event
from hfs_providers.keys.ledger import Ledger, Refusal, Reservation, account_name, key_name
from hfs_providers.keys.pool import KeyPool
from hfs_providers.sharing.history import Used, from_pool, from_store
from hfs_providers.sharing.redis_connection import Call, Link
from hfs_providers.sharing.redis_scripts import KEPT
from hfs_providers.usage.database import Store

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

HEARTBEAT = 1.0
"""Seconds between two looks whether the counts are still there; every fifth is a sign of life of what is in flight."""

SETTLE = 3.0
"""Seconds after a loss of counts in which nothing is granted, so that every host can publish what it has used."""

SOON = 0.05
"""Seconds until it is worth asking again where counts are being published."""

# Seconds that rows may take to be in the file before they are published.
_FLUSHED = 0.1

# Milliseconds by which others may try a dead key early: who found it dead must not come before they may.
_EARLY = 500

_GENERATION = "hfs:generation"

_log = logging.getLogger("hfs_providers")


class Scope(NamedTuple):
    """What is counted together: an account's requests for one model or (empty) for all."""

    provider: str
    account: str
    model: str

    def _key(self, kind: str) -> str:
        return f"{_tag(self.provider, self.account)}:{kind}:{self.model}"

    @property
    def keys(self) -> list[str]:
        """Of `END` and `PUBLISH`, in their order."""
        return [self._key(kind) for kind in ("used", "minute", "flying", "shares")]


class Reserve:
    """A claim that a caller waits for. Whoever takes the `ticket` says what became of it.

    Args:
        claim: what is asked for.
        loop, wake: the event loop of a task that waits, and what wakes the task there; None for a thread.
    """

    __slots__ = ("_loop", "_wake", "answer", "done", "reservation", "ticket")

    def __init__(
        self, reservation: Reservation, loop: AbstractEventLoop | None = None, wake: Callable[[], object] | None = None
    ) -> None:
        self.reservation = reservation
        self.done = threading.Event()
        self.ticket = threading.Lock()
        self.answer: Refusal | None = None
        self._loop = loop
        self._wake = wake

    def settle(self, answer: Refusal | None) -> bool:
        """Answer the caller; False if it has given up."""
        loop = self._loop
        if (loop is not None and loop.is_closed()) or not self.ticket.acquire(blocking=False):
            return False
        self.answer = answer
        self.done.set()
        if loop is not None and self._wake is not None:
            # A loop that was closed this very moment: its task gives back what it was granted when it is collected.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake)
        return True


class Release(NamedTuple):
    reservation: Reservation
    charged: int | None


class Announce(NamedTuple):
    keys: tuple[str, str]
    """Provider and account."""
    field: str
    milliseconds: int | None
    """For which it holds; None where the key was revived."""
    reason: str
    age: int | None = None
    """Milliseconds since it was learned; None where it is news."""


Work: TypeAlias = "Reserve | Release | Announce | None"


class Counts:
    """One process's part in the counts. For one thread at a time, but for `settled_at` and `telling`.

    Args:
        pools: by provider.
        store: the local file, where the usage of all processes of the host is written; None where there is none.
        wall: seconds since the epoch.
        flush: has what was recorded written to the file, within the seconds that it is given.
        more: takes what is to be said next.
    """

    def __init__(
        self,
        pools: Mapping[str, KeyPool],
        store: Store | None,
        wall: Callable[[], float],
        flush: Callable[[float], object] | None,
        more: Callable[[Release], object],
    ) -> None:
        self._pools = pools
        self._store = store
        self._wall = wall
        self._flush = flush
        self._more = more
        self._holder = uuid.uuid4().hex
        self._host = store.source if store is not None else self._holder
        # By provider and id of a key: what its account is called, and the key itself.
        self._keys: dict[tuple[str, str], tuple[str, str]] = {}
        # By provider and account: what its keys are called.
        self._names: dict[tuple[str, str], set[str]] = {}
        for provider, pool in pools.items():
            for credential in pool.credentials:
                account, name = account_name(credential), key_name(credential)
                self._keys[provider, credential.id] = (account, name)
                self._names.setdefault((provider, account), set()).add(name)
        self._generation = ""
        # Seconds by which the server's clock is ahead of this host's.
        self._offset = 0.0
        self.settled_at = 0.0
        """When all have published what was lost, by this host's clock: until then nothing is granted."""
        self.in_flight: dict[Scope, tuple[int, int]] = {}
        # When the server last had the counts of a scope, by the monotonic clock.
        self._published: dict[Scope, float] = {}
        # When any key was revived last, by the server's clock, and whether that is new here.
        self._revived, self._news = 0, False
        # Provider and id of keys that are being revived here because others have revived them.
        self._hearsay: set[tuple[str, str | None]] = set()
        self._ids = 0
        self._beats = 0
        self._beat_at = 0.0

    def telling(self, event: Event) -> Announce | None:
        """What an event says of a key; None where it says nothing."""
        known = self._keys.get((event.provider, event.key_id or ""))
        if known is None:
            return None
        account, name = known
        milliseconds = int(min(event.seconds or 0.0, DAY) * 1000)
        of = (event.provider, account)
        if event.kind == "key_dead":
            return Announce(of, f"d:{name}", milliseconds, event.reason or "refused")
        if event.kind == "key_cooling":
            return Announce(of, f"c:{event.model or ''}", milliseconds, event.reason or "rate limited")
        if event.kind == "key_revived" and (event.provider, event.key_id) not in self._hearsay:
            return Announce(of, f"d:{name}", None, "")
        return None

    # Joining, and counting anew.

    def join(self, link: Link, ledger: Ledger) -> None:
        """Have the pools ask `ledger`, and tell the server all that it must know of them."""
        self._register(link)
        self.in_flight.clear()
        self._forget()
        for provider, pool in self._pools.items():
            for held in pool.join(ledger):
                self.in_flight[Scope(provider, held.account, held.scope)] = (held.requests, held.tokens)
        self._publish(link, self._scopes())
        self._retell(link)

    def _register(self, link: Link, lost: str = "") -> bool:
        """Learn of the generation, or begin one; whether counts were lost."""
        args: list[str | int] = [self._generation, uuid.uuid4().hex, int(SETTLE * 1000), lost]
        asked = self._wall()
        generation, settled, now, revived = link.run([Call("register", [_GENERATION], args)])[0]
        answered = self._wall()
        # A clock that was set meanwhile tells nothing.
        if 0 <= answered - asked < 1:
            self._offset = int(now) / 1000 - (asked + answered) / 2
        self._news = self._news or int(revived) != self._revived
        self._revived = int(revived)
        changed = bool(self._generation) and generation != self._generation
        self._generation = generation
        self.settled_at = int(settled) / 1000 - self._offset
        if changed:
            _log.warning("Redis at %s has lost counts: all who share the keys count anew", link.name)
            self._forget()
        return changed

    def _forget(self) -> None:
        """The server need not have any counts."""
        self._published = dict.fromkeys(self._published, -math.inf)

    def _renew(self, link: Link, scopes: Iterable[Scope]) -> None:
        """Publish scopes that the server does not know, and all if it should have known one of them."""
        fresh = time.monotonic() - KEPT / 1000 + 3600
        changed = self._register(link)
        if not changed and any(self._published.get(scope, -math.inf) > fresh for scope in scopes):
            changed = self._register(link, lost=self._generation)
        self._publish(link, self._scopes() | set(scopes) if changed else scopes)

    def _scopes(self) -> set[Scope]:
        """All that this process knows to be in use."""
        spent = ((provider, each) for provider, pool in self._pools.items() for each in pool.spent() if each.entries)
        return {*self._published, *self.in_flight, *(Scope(name, each.account, each.scope) for name, each in spent)}

    def _publish(self, link: Link, scopes: Iterable[Scope]) -> None:
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
            about: list[str | int] = [*self._who(), *held, len(used.minute), len(buckets) // 3]
            calls.append(Call("publish", scope.keys, [*about, *entries, *buckets]))
        link.run(calls)
        self._published.update(dict.fromkeys(scopes, now))

    def _used(self, scopes: Sequence[Scope]) -> list[Used]:
        wall = self._wall()
        if self._store is not None:
            # What is wrong with the file is said by the usage log, which writes there.
            with suppress(sqlite3.Error, OSError), closing(self._store.connect()) as connection:
                return [
                    from_store(connection, scope.provider, self._of(scope), scope.model, wall, self._offset)
                    for scope in scopes
                ]
        spent = {name: pool.spent() for name, pool in self._pools.items()}
        return [from_pool(spent.get(scope.provider, ()), scope.account, scope.model, self._offset) for scope in scopes]

    def _of(self, scope: Scope) -> set[str]:
        return self._names.get((scope.provider, scope.account), set())

    def _retell(self, link: Link) -> None:
        """Tell what this process knows of dead and resting keys, and revive those that others have revived since."""
        tells: list[tuple[Announce, str, str]] = []
        wall = self._wall()
        for provider, pool in self._pools.items():
            accounts: Any = pool.dump()["accounts"]
            for about in accounts:
                first = about["keys"][0]["id"]
                of = (provider, self._keys[provider, first][0])
                for cooldown in about["cooling"]:
                    left = int((cooldown["until"] - wall) * 1000)
                    tells.append(
                        (Announce(of, f"c:{cooldown['model'] or ''}", left, cooldown["reason"], 0), provider, first)
                    )
                for key in about["keys"]:
                    if "dead" in key:
                        dead = key["dead"]
                        left = int((dead["retry_at"] - wall) * 1000)
                        field = f"d:{self._keys[provider, key['id']][1]}"
                        age = max(0, int((wall - dead["since"]) * 1000))
                        tells.append((Announce(of, field, left, dead["reason"], age), provider, key["id"]))
        tells = [each for each in tells if (each[0].milliseconds or 0) > 0]
        answers = link.run([_telling(tell) for tell, *_ in tells])
        self._news = False
        for answer, (_, provider, key_id) in zip(answers, tells, strict=True):
            if answer == "revived":
                self._hearsay.add((provider, key_id))
                try:
                    self._pools[provider].revive(key_id)
                finally:
                    self._hearsay.discard((provider, key_id))

    def _who(self) -> list[str]:
        self._ids += 1
        return [self._generation, self._host, self._holder, f"{self._holder}.{self._ids}"]

    # Serving.

    def serve(self, link: Link, work: Sequence[Work]) -> None:
        """Say what has come up, in one round trip where nothing was lost; with nothing, that this process lives."""
        ended: dict[Scope, list[Release]] = {}
        for each in work:
            if isinstance(each, Release):
                ended.setdefault(_scope(each.reservation), []).append(each)
        calls = [self._ending(scope, ends) for scope, ends in ended.items()]
        tells = [each for each in work if isinstance(each, Announce)]
        calls += [_telling(each) for each in tells]
        if any(each.milliseconds is None for each in tells):
            calls.append(Call("revived", [_GENERATION], []))
        asks = [each for each in work if isinstance(each, Reserve) and not each.ticket.locked()]
        answers = link.run([*calls, *(self._asking(each.reservation) for each in asks)])
        lost = {scope for scope, answer in zip(ended, answers, strict=False) if answer == "new"}
        for scope in ended:
            if scope not in lost:
                self._published[scope] = time.monotonic()
        unknown = self._answer(asks, answers[len(calls) :])
        lost.update(_scope(ask.reservation) for ask in unknown)
        if lost:
            self._renew(link, lost)
            if self.settled_at <= self._wall():
                unknown = self._answer(unknown, link.run([self._asking(ask.reservation) for ask in unknown]))
            for ask in unknown:
                again = max(self.settled_at, self._wall() + SOON)
                ask.settle(Refusal("limited", again, "what all have used is being counted anew", "key"))
        if not work or time.monotonic() >= self._beat_at:
            self._beat(link)

    def _answer(self, asks: Sequence[Reserve], answers: Sequence[Any]) -> list[Reserve]:
        """Pass the answers on; the claims of scopes that the server does not know."""
        unknown = []
        for ask, (word, _, *why) in zip(asks, answers, strict=True):
            if word == "new":
                unknown.append(ask)
            elif word == "yes":
                self._count(_scope(ask.reservation), 1, ask.reservation.tokens)
                if not ask.settle(None):
                    self._more(Release(ask.reservation, None))
            else:
                until, reason, scope = why
                reason = f"all who share it have used up its {reason}" if word == "limited" else reason
                ask.settle(Refusal(word, int(until) / 1000 - self._offset, reason, scope))
        return unknown

    def _count(self, scope: Scope, requests: int, tokens: int) -> None:
        held = self.in_flight.get(scope, (0, 0))
        if held[0] + requests > 0:
            self.in_flight[scope] = (held[0] + requests, max(0, held[1] + tokens))
        else:
            self.in_flight.pop(scope, None)

    def _beat(self, link: Link) -> None:
        self._beat_at = time.monotonic() + HEARTBEAT
        self._beats += 1
        if self._register(link) or self.settled_at > self._wall():
            # Again until all is settled: rows may have come late to the file.
            self._publish(link, self._scopes())
            self._retell(link)
            return
        if self._news:
            self._retell(link)
        if self._beats % 5 == 0:
            held = self.in_flight.items()
            link.run([Call("beat", [scope.keys[2]], [self._holder, *counts]) for scope, counts in held])

    def _ending(self, scope: Scope, ends: Sequence[Release]) -> Call:
        args: list[str | int] = [*self._who()]
        for reservation, charged in ends:
            self._count(scope, -1, -reservation.tokens)
            args += [reservation.tokens, "" if charged is None else charged]
        return Call("end", scope.keys, args)

    def _asking(self, reservation: Reservation) -> Call:
        limits = reservation.limits
        most: list[int | None] = [None] * 6
        day: tuple[str | int, str | int] = ("", "")
        if limits is not None:
            most = [limits.rpm, limits.tpm, limits.rph, limits.tph, limits.rpd, limits.tpd]
            zone = zone_of(limits.day_zone) if limits.day_zone else None
            if zone is not None:
                ends = next_midnight(zone, self._wall() + self._offset)
                day = (int(next_midnight(zone, ends - 1.5 * DAY) * 1000), int(ends * 1000))
        name = reservation.account if reservation.fingerprint == "keyless" else reservation.fingerprint
        said = ["" if each is None else max(0, each) for each in most]
        keys = [told_key(reservation.provider, reservation.account), *_scope(reservation).keys[:3]]
        return Call(
            "reserve",
            keys,
            [self._generation, self._holder, name, reservation.model_id, reservation.tokens, *said, *day],
        )


def _scope(reservation: Reservation) -> Scope:
    return Scope(reservation.provider, reservation.account, reservation.scope)


def _tag(provider: str, account: str) -> str:
    # In braces: what a cluster hashes, so that all of an account is in one place.
    return f"hfs:{{{quote(provider, safe='')}/{quote(account, safe='')}}}"


def told_key(provider: str, account: str) -> str:
    """Where the server keeps what anybody was told of an account and its keys."""
    return f"{_tag(provider, account)}:told"


def _telling(tell: Announce) -> Call:
    ms = tell.milliseconds
    if ms is not None and tell.field.startswith("d:"):
        ms -= _EARLY
    return Call(
        "tell",
        [told_key(*tell.keys)],
        [tell.field, "" if ms is None else ms, tell.reason[:200], "" if tell.age is None else tell.age],
    )
