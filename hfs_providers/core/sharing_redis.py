"""Several hosts share key state through Redis: `RedisLedger`.

One thread of the process speaks with the server: it takes claims and ends in the order in which they come, as many as
there are in one round trip. A caller waits for its claim, and never longer than `PATIENCE`: then the ledger is away,
its pools part and go on alone on what they know, and the thread looks for the server, ever more seldom, until they
can join again.

What is counted is tagged with the host that used it. Whoever joins, and everybody after counts were lost (`generation`
has changed, or counts are gone that this process had published), publishes what its host has used within the windows;
that sets and never adds, so it may be done at any time by any number of processes. While it is done after a loss, all
wait (`SETTLE`).

    invariant: a claim is given back in the very script that counts what it cost.
    invariant: `_in_flight` is what this process has in flight there, as of the last script that was answered; only the
               thread touches it.
"""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import quote

from hfs_providers.core import forking as _forking  # noqa: F401  the pools are made fit for a child before the ledgers
from hfs_providers.core.contract import Event, Problem
from hfs_providers.core.pool import KeyPool
from hfs_providers.core.redis_link import PATIENCE, Call, Link
from hfs_providers.core.redis_scripts import KEPT
from hfs_providers.core.sharing import Claim, Refusal, account_name, key_name
from hfs_providers.core.sharing_history import Used, from_dump, from_store, names_of, windows_of
from hfs_providers.core.store import Store
from hfs_providers.core.windows import DAY, next_midnight, zone_of

HEARTBEAT = 1.0
"""Seconds between two looks whether the counts are still there; every fifth is a sign of life of what is in flight."""

SETTLE = 3.0
"""Seconds after a loss of counts in which nothing is granted, so that every host can publish what it has used."""

STARTING = 1.0
"""Seconds that `start` waits for the server at most."""

_BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
_SOON = 0.05
_FLUSHED = 0.1
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


class _Ask:
    """A claim that a caller waits for. Whoever takes the `ticket` says what became of it."""

    __slots__ = ("answer", "claim", "done", "ticket")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.done = threading.Event()
        self.ticket = threading.Lock()
        self.answer: Refusal | None = None

    def settle(self, answer: Refusal | None) -> bool:
        """Answer the caller; False if it has given up."""
        if not self.ticket.acquire(blocking=False):
            return False
        self.answer = answer
        self.done.set()
        return True


class _End(NamedTuple):
    claim: Claim
    charged: int | None


class _Tell(NamedTuple):
    keys: tuple[str, str]
    """Provider and account."""
    field: str
    milliseconds: int | None
    reason: str


_Work: TypeAlias = "_Ask | _End | _Tell | None"
_Mode = Literal["away", "joining", "here", "closed"]


class RedisLedger:
    """The `Ledger` of processes that use the same Redis server.

    Args:
        url: `redis://`, `rediss://` or `unix://`; a password in it is shown nowhere.
        store: the local file, where the usage of all processes of the host is written; None where there is none.
        wall: seconds since the epoch.
        flush: has what was recorded written to the file, within the seconds that it is given.
    """

    def __init__(
        self,
        url: str,
        store: Store | None = None,
        *,
        wall: Callable[[], float] = time.time,
        flush: Callable[[float], object] | None = None,
    ) -> None:
        self.problem: Problem | None = None
        """Why keys are not shared at the moment, for `status`."""
        self.name = "?"
        """Host, port and database."""
        self._link: Link | None = None
        self._store = store
        self._wall = wall
        self._flush = flush
        self._pools: Mapping[str, KeyPool] = {}
        self._keys: dict[tuple[str, str], tuple[str, str]] = {}
        self._names: dict[tuple[str, str], set[str]] = {}
        self._begin()
        try:
            self._link = Link(url)
            self.name = self._link.name
        except ImportError:
            self._say(Problem("HFS_REDIS_URL needs redis-py", "Run: pip install 'hfs-providers[redis]'", "error"))
        except ValueError as error:
            self._say(Problem(f"HFS_REDIS_URL: {error}", "Set HFS_REDIS_URL to redis://host:port/0", "error"))
        _ledgers.add(self)

    def __repr__(self) -> str:
        return f"RedisLedger({self.name}, {self._mode})"

    def _begin(self) -> None:
        """As a process that nobody knows yet."""
        self._mode: _Mode = "away"
        self._holder = uuid.uuid4().hex
        self._host = self._store.source if self._store is not None else self._holder
        self._generation = ""
        self._settled_at = 0.0
        self._offset = 0.0
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._launching = threading.Lock()
        self._looked = threading.Event()
        self._published: dict[Scope, float] = {}
        self._in_flight: dict[Scope, tuple[int, int]] = {}
        self._ids = 0
        self._parted = True
        self._beats = 0

    # What pools and the manager call.

    def start(self, pools: Mapping[str, KeyPool]) -> None:
        """Share the keys of these pools from now on.

        Returns when they are joined, or the server is known to be away: after a second at most.

        Args:
            pools: by provider.
        """
        self._pools = dict(pools)
        for provider, pool in pools.items():
            for credential in pool.credentials:
                account = account_name(credential)
                self._keys[provider, credential.id] = (account, key_name(credential))
                self._names.setdefault((provider, account), set()).add(key_name(credential))
        self._launch(STARTING)

    def reserve(self, claim: Claim) -> Refusal | None:
        """See `Ledger.reserve`."""
        if self._thread is None:
            self._launch(PATIENCE)  # in a child after `fork`
        if self._mode not in ("here", "joining"):
            return None
        rest = self._settled_at - self._wall()
        if rest > 0:
            return Refusal("limited", self._settled_at, "what all have used is being counted anew", "key")
        ask = _Ask(claim)
        self._work.put(ask)
        try:
            if ask.done.wait(PATIENCE):
                return ask.answer
        except BaseException:
            if not ask.ticket.acquire(blocking=False):
                ask.done.wait()
                if ask.answer is None:
                    self.end(claim, None)
            raise
        if not ask.ticket.acquire(blocking=False):
            ask.done.wait()
            return ask.answer
        if self._mode == "joining":
            return Refusal("limited", self._wall() + _SOON, "what all have used is being counted", "key")
        self._away(TimeoutError())
        return None

    def end(self, claim: Claim, charged: int | None) -> None:
        """See `Ledger.end`."""
        # A queue that may be put to from a finaliser, which may run in the midst of anything.
        if self._mode in ("here", "joining"):
            self._work.put(_End(claim, charged))

    def observe(self, event: Event) -> None:
        """Tell the others of a key that cools, died or was revived.

        Args:
            event: of any kind.
        """
        known = self._keys.get((event.provider, event.key_id or ""))
        if known is None or self._mode not in ("here", "joining"):
            return
        account, name = known
        milliseconds = int((event.seconds or 0.0) * 1000)
        of = (event.provider, account)
        if event.kind == "key_dead":
            self._work.put(_Tell(of, f"d:{name}", milliseconds, event.reason or "refused"))
        elif event.kind == "key_cooling":
            self._work.put(_Tell(of, f"c:{event.model or ''}", milliseconds, event.reason or "rate limited"))
        elif event.kind == "key_revived":
            self._work.put(_Tell(of, f"d:{name}", None, ""))

    def close(self) -> None:
        """Count what ended, and leave. Safe to call twice."""
        self._mode = "closed"
        self._work.put(None)
        if self._thread is not None:
            self._thread.join(4 * PATIENCE)

    # The thread.

    def _launch(self, seconds: float) -> None:
        with self._launching:
            if self._thread is None and self._mode != "closed" and self._link is not None:
                self._thread = threading.Thread(target=self._run, args=(self._link,), name="hfs-redis", daemon=True)
                self._thread.start()
        if self._thread is not None:
            self._looked.wait(seconds)

    def _run(self, link: Link) -> None:
        failures = 0
        try:
            while True:
                if self._mode == "away":
                    if self._try(link, self._join):
                        failures = 0
                        continue
                    pause = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
                    failures += 1
                    if not self._idle(pause):
                        return
                    continue
                work = self._take()
                if not self._try(link, partial(self._serve, work=work)):
                    self._dismiss(work)
                if None in work:
                    return
        finally:
            self._mode = "closed"
            self._part()
            link.close()

    def _try(self, link: Link, do: Callable[[Link], object]) -> bool:
        try:
            do(link)
        except Exception as error:
            # Whatever it is, calls go on: this thread is all that can bring the ledger back.
            if not isinstance(error, link.errors):
                _log.exception("sharing by Redis failed")
            self._away(error)
        if self._mode == "away":
            self._part()
            link.close()
            self._drain()
        self._looked.set()
        return self._mode != "away"

    def _take(self) -> list[_Work]:
        """What there is to do, in the order in which it came; after a heartbeat at most."""
        work: list[_Work] = []
        try:
            work.append(self._work.get(timeout=HEARTBEAT))
            while len(work) < 1000:
                work.append(self._work.get_nowait())
        except queue.Empty:
            pass
        return work

    def _idle(self, seconds: float) -> bool:
        """Wait without a server; False if this is the end."""
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            try:
                work = self._work.get(timeout=rest)
            except queue.Empty:
                break
            if work is None:
                return False
            self._dismiss([work])
        return True

    def _drain(self) -> None:
        """Drop what was to be told to the server: it is published anew when it is back."""
        work = []
        with suppress(queue.Empty):
            while True:
                work.append(self._work.get_nowait())
        self._dismiss(work)
        if None in work:
            self._work.put(None)

    def _dismiss(self, work: Iterable[_Work]) -> None:
        """Nobody can be asked: who waits goes on alone."""
        for each in work:
            if isinstance(each, _Ask):
                each.settle(None)

    def _away(self, error: BaseException) -> None:
        """The server does not serve. In any thread."""
        if self._mode != "closed":
            self._mode = "away"
            assert self._link is not None
            self._say(self._link.problem(error))

    def _say(self, problem: Problem | None) -> None:
        known, self.problem = self.problem, problem
        if problem is None and known is not None:
            _log.warning("Redis at %s is back: keys are shared again", self.name)
        elif problem is not None and (known is None or known.message != problem.message):
            _log.warning("%s. %s", problem.message, problem.remedy)

    def _part(self) -> None:
        if not self._parted:
            self._parted = True
            for pool in self._pools.values():
                pool.part()

    # Joining, and counting anew.

    def _join(self, link: Link) -> None:
        link.open()
        self._register(link)
        self._in_flight.clear()
        self._published.clear()
        self._parted = False
        self._mode = "joining"
        for provider, pool in self._pools.items():
            for held in pool.join(self):
                self._in_flight[Scope(provider, held.account, held.scope)] = (held.requests, held.tokens)
        self._publish(link, self._scopes())
        self._retell(link)
        self._mode = "here"
        self._say(None)

    def _register(self, link: Link, lost: str = "") -> bool:
        """Learn of the generation, or begin one; whether counts were lost."""
        args: list[str | int] = [self._generation, uuid.uuid4().hex, int(SETTLE * 1000), lost]
        asked = self._wall()
        generation, settled, now = link.run([Call("register", [_GENERATION], args)])[0]
        self._offset = int(now) / 1000 - (asked + self._wall()) / 2
        changed = bool(self._generation) and generation != self._generation
        self._generation = generation
        self._settled_at = int(settled) / 1000 - self._offset
        if changed:
            _log.warning("Redis at %s has lost counts: all who share the keys count anew", self.name)
            self._published.clear()
        return changed

    def _renew(self, link: Link, scopes: Iterable[Scope]) -> None:
        """Publish scopes that the server does not know, and all if it should have known one of them."""
        fresh = time.monotonic() - KEPT / 1000 + 3600
        changed = self._register(link)
        if not changed and any(self._published.get(scope, -KEPT) > fresh for scope in scopes):
            changed = self._register(link, lost=self._generation)
        self._publish(link, self._scopes() | set(scopes) if changed else scopes)

    def _scopes(self) -> set[Scope]:
        """All that this process knows to be in use."""
        scopes = {*self._published, *self._in_flight}
        for provider, pool in self._pools.items():
            accounts = {
                name: account for (of, account), names in self._names.items() if of == provider for name in names
            }
            for account, window in windows_of(pool.dump()):
                name = next((accounts[each] for each in names_of(account) if each in accounts), None)
                if name is not None:
                    scopes.add(Scope(provider, name, window["model"] or ""))
        return scopes

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
            held = self._in_flight.get(scope, (0, 0))
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
        dumps = {name: pool.dump() for name, pool in self._pools.items()}
        return [
            from_dump(dumps[scope.provider], self._of(scope), scope.model, self._offset)
            if scope.provider in dumps
            else Used()
            for scope in scopes
        ]

    def _of(self, scope: Scope) -> set[str]:
        return self._names.get((scope.provider, scope.account), set())

    def _retell(self, link: Link) -> None:
        """What this process knows of keys that are dead or cool."""
        calls = []
        for provider, pool in self._pools.items():
            accounts: Any = pool.dump()["accounts"]
            for about in accounts:
                account = self._keys[provider, about["keys"][0]["id"]][0]
                said = [(f"c:{rest['model'] or ''}", rest["until"], rest["reason"]) for rest in about["cooling"]]
                for key in about["keys"]:
                    if "dead" in key:
                        name = self._keys[provider, key["id"]][1]
                        said.append((f"d:{name}", key["dead"]["retry_at"], key["dead"]["reason"]))
                for field, until, reason in said:
                    left = int((until - self._wall()) * 1000)
                    if left > 0:
                        calls.append(_telling(_Tell((provider, account), field, left, reason)))
        link.run(calls)

    def _who(self) -> list[str]:
        self._ids += 1
        return [self._generation, self._host, self._holder, f"{self._holder}.{self._ids}"]

    # Serving.

    def _serve(self, link: Link, work: Sequence[_Work]) -> None:
        ended: dict[Scope, list[_End]] = {}
        for each in work:
            if isinstance(each, _End):
                ended.setdefault(_scope(each.claim), []).append(each)
        calls = [self._ending(scope, ends) for scope, ends in ended.items()]
        calls += [_telling(each) for each in work if isinstance(each, _Tell)]
        asks = [each for each in work if isinstance(each, _Ask) and not each.ticket.locked()]
        answers = link.run([*calls, *(self._asking(each.claim) for each in asks)])
        lost = {scope for scope, answer in zip(ended, answers, strict=False) if answer == "new"}
        for scope in ended:
            if scope not in lost:
                self._published[scope] = time.monotonic()
        unknown = self._answer(asks, answers[len(calls) :])
        lost.update(_scope(ask.claim) for ask in unknown)
        if lost:
            self._renew(link, lost)
            unknown = self._answer(unknown, link.run([self._asking(ask.claim) for ask in unknown]))
            for ask in unknown:
                ask.settle(Refusal("limited", self._wall() + _SOON, "what all have used is being counted anew", "key"))
        if not work or time.monotonic() >= self._beat_at:
            self._beat(link)

    def _answer(self, asks: Sequence[_Ask], answers: Sequence[Any]) -> list[_Ask]:
        """Pass the answers on; the claims of scopes that the server does not know."""
        unknown = []
        for ask, (word, _, *why) in zip(asks, answers, strict=True):
            if word == "new":
                unknown.append(ask)
            elif word == "yes":
                self._count(_scope(ask.claim), 1, ask.claim.tokens)
                if not ask.settle(None):
                    self._work.put(_End(ask.claim, None))
            else:
                until, reason, scope = why
                reason = f"all who share it have used up its {reason}" if word == "limited" else reason
                ask.settle(Refusal(word, int(until) / 1000 - self._offset, reason, scope))
        return unknown

    def _count(self, scope: Scope, requests: int, tokens: int) -> None:
        held = self._in_flight.get(scope, (0, 0))
        if held[0] + requests > 0:
            self._in_flight[scope] = (held[0] + requests, max(0, held[1] + tokens))
        else:
            self._in_flight.pop(scope, None)

    def _beat(self, link: Link) -> None:
        self._beat_at = time.monotonic() + HEARTBEAT
        self._beats += 1
        if self._register(link):
            self._publish(link, self._scopes())
            self._retell(link)
        elif self._beats % 5 == 0:
            held = self._in_flight.items()
            link.run([Call("beat", [scope.keys[2]], [self._holder, *counts]) for scope, counts in held])

    _beat_at = 0.0

    def _ending(self, scope: Scope, ends: Sequence[_End]) -> Call:
        args: list[str | int] = [*self._who()]
        for claim, charged in ends:
            self._count(scope, -1, -claim.tokens)
            args += [claim.tokens, "" if charged is None else charged]
        return Call("end", scope.keys, args)

    def _asking(self, claim: Claim) -> Call:
        limits = claim.limits
        most: list[int | None] = [None] * 6
        day: tuple[str | int, str | int] = ("", "")
        if limits is not None:
            most = [limits.rpm, limits.tpm, limits.rph, limits.tph, limits.rpd, limits.tpd]
            zone = zone_of(limits.day_zone) if limits.day_zone else None
            if zone is not None:
                ends = next_midnight(zone, self._wall() + self._offset)
                day = (int(next_midnight(zone, ends - 1.5 * DAY) * 1000), int(ends * 1000))
        name = claim.account if claim.fingerprint == "keyless" else claim.fingerprint
        said = ["" if each is None else max(0, each) for each in most]
        keys = [_told((claim.provider, claim.account)), *_scope(claim).keys[:3]]
        return Call("reserve", keys, [self._generation, self._holder, name, claim.model_id, claim.tokens, *said, *day])


def _scope(claim: Claim) -> Scope:
    return Scope(claim.provider, claim.account, claim.scope)


def _tag(provider: str, account: str) -> str:
    # In braces: what a cluster hashes, so that all of an account is in one place.
    return f"hfs:{{{quote(provider, safe='')}/{quote(account, safe='')}}}"


def _told(of: tuple[str, str]) -> str:
    return f"{_tag(*of)}:told"


def _telling(tell: _Tell) -> Call:
    ms = "" if tell.milliseconds is None else tell.milliseconds
    return Call("tell", [_told(tell.keys)], [tell.field, ms, tell.reason[:200]])


_ledgers: weakref.WeakSet[RedisLedger] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for ledger in list(_ledgers):
        if ledger._link is not None:
            ledger._link.forget()
        if ledger._mode != "closed":
            ledger._begin()
            for pool in ledger._pools.values():
                pool.join(ledger)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
