"""The pool against a naive model of it that sums whole histories, over histories that Hypothesis makes up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Limits
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.leases import Lease
from hfs_providers.keys.pool import KeyPool
from hfs_providers.keys.state import CREDIT_PROBATION, DEFAULT_COOLDOWN, PROBATION, PROBE_RETRY
from tests.long import LONGEST

MODELS = ("a", "b")
IDS = tuple(f"p#{n}" for n in range(1, 5))
NEVER = float("inf")
NEVER_USED = 1_000_000
LIMITS = (
    None,
    Limits(rpm=2),
    Limits(tpm=1000),
    Limits(rpm=3, tpm=1500, rph=4, rpd=6),
    Limits(rpm=2, rph=3, tph=2500, shared=True),
    Limits(tpm=800, tpd=3000, shared=True),
)
# Everything is a multiple of a sixteenth, so that sums of seconds are exact in floats.
TICK = 1 / 16
SPANS = (("rpm", "tpm", 60.0, 0.0), ("rph", "tph", 3600.0, 60.0), ("rpd", "tpd", 86_400.0, 900.0))

seconds = st.one_of(
    st.integers(0, 16 * 20).map(lambda n: n * TICK),
    st.integers(1, 80).map(lambda n: n * TICK),
    st.sampled_from([30.0, 60.0, 61.0, 600.0, 3600.0, 3660.0, 7200.0, 86_400.0, 90_000.0]),
)
tokens = st.sampled_from([0, 1, 100, 400, 500, 600, 1000, 3000])
models = st.sampled_from(MODELS)
excludes = st.sets(st.sampled_from(IDS), max_size=3)


class Clock:
    """Monotonic and wall seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1024.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_768_478_400.0

    def advance(self, seconds: float) -> None:
        self.now += seconds


def credential(id_: str, account: str) -> Credential:
    return Credential(id_, Secret(f"sk-test-{id_[2:]}-secret"), {"account": account})


def make(limits: Limits | None, clock: Clock, accounts: tuple[str, ...], **options: Any) -> KeyPool:
    credentials = [credential(f"p#{n}", account) for n, account in enumerate(accounts, start=1)]
    return KeyPool("p", credentials, limits=lambda *_: limits, clock=clock, wall=clock.wall, **options)


@dataclass
class NaiveKey:
    id: str
    account: str
    used: int
    dead: str | None = None
    retry_at: float = 0.0
    probation: float = 0.0
    probe: Lease | None = None


@dataclass
class Naive:
    """The rules of the pool, written without any thought for their cost."""

    limits: Limits | None
    keys: dict[str, NaiveKey]
    spread: Callable[[str, float], float]
    ended: list[tuple[str, str, float, int]] = field(default_factory=list)
    open: list[Lease] = field(default_factory=list)
    key_of: dict[Lease, NaiveKey] = field(default_factory=dict)
    cooling: dict[tuple[str, str | None], float] = field(default_factory=dict)
    turn: int = 0

    def _mine(self, key: NaiveKey, model: str, other_account: str, other_model: str) -> bool:
        shared = self.limits is not None and self.limits.shared
        return key.account == other_account and (shared or model == other_model)

    def has_room(self, key: NaiveKey, model: str, estimate: int, now: float) -> bool:
        if self.limits is None:
            return True
        flying = [lease for lease in self.open if self._mine(key, model, self.key_of[lease].account, lease.model_id)]
        for requests_name, tokens_name, span, grain in SPANS:
            past = []
            for account, other, at, count in self.ended:
                stamp = (at // grain + 1) * grain if grain else at
                if self._mine(key, model, account, other) and stamp + span > now:
                    past.append(count)
            most, most_tokens = getattr(self.limits, requests_name), getattr(self.limits, tokens_name)
            if most is not None and len(past) + len(flying) + 1 > most:
                return False
            reserved = sum(lease.reserved for lease in flying)
            if most_tokens is not None and sum(past) + reserved + min(estimate, most_tokens) > most_tokens:
                return False
        return True

    def cools(self, key: NaiveKey, model: str, now: float) -> bool:
        return any(self.cooling.get((key.account, scope), now) > now for scope in (model, None))

    def is_ready(self, key: NaiveKey, model: str, estimate: int, now: float) -> bool:
        if key.dead is not None and (key.probe is not None or key.retry_at > now):
            return False
        return not self.cools(key, model, now) and self.has_room(key, model, estimate, now)

    def ready(self, model: str, estimate: int, now: float, exclude: set[str], pin: str | None) -> list[NaiveKey]:
        return [
            key
            for key in self.keys.values()
            if key.id not in exclude and pin in (None, key.id) and self.is_ready(key, model, estimate, now)
        ]

    def instants(self, now: float) -> Iterator[float]:
        """Every instant at which something may change by itself."""
        yield now
        for _, _, at, _ in self.ended:
            for _, _, span, grain in SPANS:
                yield ((at // grain + 1) * grain if grain else at) + span
        yield from self.cooling.values()
        yield from (key.retry_at for key in self.keys.values())

    def free_at(self, model: str, estimate: int, now: float) -> float | None:
        for instant in sorted(self.instants(now)):
            if instant >= now and self.ready(model, estimate, instant, set(), None):
                return instant
        return None

    def state(self, key: NaiveKey, model: str, estimate: int, now: float) -> str:
        if key.dead is not None:
            return "dead"
        if self.cools(key, model, now):
            return "cooling"
        return "ready" if self.has_room(key, model, estimate, now) else "limited"

    def take(self, lease: Lease) -> None:
        self.turn += 1
        key = self.keys[lease.key_id]
        key.used = self.turn
        self.open.append(lease)
        self.key_of[lease] = key
        if key.dead is not None:
            key.probe = lease

    def end(self, lease: Lease, outcome: str, count: int, now: float, *, wide: bool, wait: float | None) -> None:
        key = self.key_of[lease]
        self.open.remove(lease)
        if outcome != "release":
            self.ended.append((key.account, lease.model_id, now, count))
        probed = key.probe is lease
        if probed:
            key.probe = None
        if outcome in ("commit", "rate_limited") and probed:
            key.dead, key.probation = None, 0.0
        if outcome == "failed" and probed:
            key.retry_at = now + PROBE_RETRY
        if outcome == "rate_limited":
            scope = (key.account, None if wide else lease.model_id)
            until = now + (DEFAULT_COOLDOWN if wait is None else wait)
            self.cooling[scope] = max(until, self.cooling.get(scope, 0.0))
        if outcome == "dead" and self.keys.get(key.id) is key:
            self.mark_dead(key, CREDIT_PROBATION if wide else PROBATION, now, probed=probed)

    def mark_dead(self, key: NaiveKey, base: float, now: float, *, probed: bool) -> None:
        earlier = key.retry_at if key.dead is not None else now
        if probed:
            base = max(base, 2 * key.probation)
        elif key.dead is not None:
            base = max(base, key.probation)
        key.probation = min(CREDIT_PROBATION, base)
        key.retry_at = max(earlier, now + self.spread(key.id, key.probation))
        key.dead, key.probe = "dead", None

    def forget_those_who_left(self) -> None:
        here = {key.account for key in self.keys.values()} | {self.key_of[lease].account for lease in self.open}
        self.ended = [entry for entry in self.ended if entry[0] in here]
        self.cooling = {scope: until for scope, until in self.cooling.items() if scope[0] in here}


class PoolMachine(RuleBasedStateMachine):
    @initialize(limits=st.sampled_from(LIMITS), accounts=st.sampled_from([(), ("x", "x", "y", "z")]))
    def begin(self, limits: Limits | None, accounts: tuple[str, ...]) -> None:
        self.clock = Clock()
        self.pool = make(limits, self.clock, accounts or IDS)
        self.exact_turns = not accounts
        self.account_of = dict(zip(IDS, accounts or IDS, strict=True))
        self.joined = 4
        self.naive = Naive(
            limits,
            {id_: NaiveKey(id_, self.account_of[id_], n - NEVER_USED) for n, id_ in enumerate(IDS)},
            lambda id_, seconds: self.pool._keyring.keys[id_].spread(seconds),
        )

    @rule(model=models, estimate=tokens, exclude=excludes, pin=st.one_of(st.none(), st.sampled_from(IDS)))
    def acquire(self, model: str, estimate: int, exclude: set[str], pin: str | None) -> None:
        self._acquire(model, estimate, exclude, pin)

    @rule(model=models, estimate=tokens, times=st.integers(2, 8))
    def acquire_several(self, model: str, estimate: int, times: int) -> None:
        for _ in range(times):
            self._acquire(model, estimate, set(), None)

    def _acquire(self, model: str, estimate: int, exclude: set[str], pin: str | None) -> None:
        now = self.clock.now
        ready = self.naive.ready(model, estimate, now, exclude, pin)
        try:
            lease = self.pool.acquire(model, estimate, 0, exclude=exclude, key_id=pin)
        except PoolExhaustedError as error:
            assert not ready
            if pin is None:
                self._check_counts(error, model, estimate, exclude)
            return
        live = [key for key in ready if key.dead is None]
        assert lease.key_id in [key.id for key in live or ready]
        assert lease.probe == (not live)
        if lease.probe:
            assert lease.key_id == min(ready, key=lambda key: key.retry_at).id
        elif self.exact_turns:
            assert lease.key_id == min(live, key=lambda key: key.used).id
        self.naive.take(lease)

    def _check_counts(self, error: PoolExhaustedError, model: str, estimate: int, exclude: set[str]) -> None:
        now = self.clock.now
        by_key = {key.id: self.naive.state(key, model, estimate, now) for key in self.naive.keys.values()}
        states = list(by_key.values())
        assert error.tried == sum(1 for each in exclude if by_key.get(each) == "ready")
        assert (error.limited, error.cooling, error.dead) == tuple(
            states.count(each) for each in ("limited", "cooling", "dead")
        )
        assert error.total == len(by_key)

    @precondition(lambda self: self.naive.open)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["commit", "commit", "failed", "release", "rate_limited", "dead"]),
        count=tokens,
        wide=st.booleans(),
        wait=st.one_of(st.none(), st.sampled_from([0.0, 5.0, 60.0, 4000.0])),
    )
    def end(self, data: st.DataObject, outcome: str, count: int, wide: bool, wait: float | None) -> None:
        lease = self.naive.open[data.draw(st.integers(0, len(self.naive.open) - 1))]
        if outcome in ("rate_limited", "dead"):
            count = 0
        self.naive.end(lease, outcome, count, self.clock.now, wide=wide, wait=wait)
        if outcome == "rate_limited":
            lease.rate_limited(wait, "key" if wide else "model")
        elif outcome == "dead":
            lease.dead("refused", credits=wide)
        elif outcome == "release":
            lease.release()
        else:
            getattr(lease, outcome)(count)
        # What comes later does nothing.
        lease.dead("too late")
        lease.commit(10_000)

    @rule(passed=seconds)
    def advance(self, passed: float) -> None:
        self.clock.advance(passed)

    @rule(leaving=st.sets(st.sampled_from(IDS)), joining=st.sets(st.sampled_from(IDS)))
    def keys_leave_and_join(self, leaving: set[str], joining: set[str]) -> None:
        for id_ in leaving & self.naive.keys.keys():
            del self.naive.keys[id_]
        new = sorted(joining - self.naive.keys.keys())
        for id_ in new:
            self.naive.keys[id_] = NaiveKey(id_, self.account_of[id_], self.joined - NEVER_USED)
            self.joined += 1
        self.naive.forget_those_who_left()
        self.pool.change_keys([credential(id_, self.account_of[id_]) for id_ in new], leaving)

    @rule(id_=st.sampled_from(IDS))
    def revive(self, id_: str) -> None:
        if id_ not in self.naive.keys:
            return
        key = self.naive.keys[id_]
        key.dead, key.probe, key.probation = None, None, 0.0
        for scope in [scope for scope in self.naive.cooling if scope[0] == key.account]:
            del self.naive.cooling[scope]
        self.pool.revive(id_)

    @rule(id_=st.sampled_from(IDS))
    def retire(self, id_: str) -> None:
        if id_ in self.naive.keys:
            self.naive.mark_dead(self.naive.keys[id_], PROBATION, self.clock.now, probed=False)
            self.pool.retire(id_, "out")

    @rule(model=models, estimate=tokens)
    def next_free_admits_then_and_not_before(self, model: str, estimate: int) -> None:
        free_in = self.pool.next_free(model, estimate)
        expected = self.naive.free_at(model, estimate, self.clock.now)
        assert free_in == (None if expected is None else expected - self.clock.now)
        if free_in is None:
            return
        if free_in:
            self.clock.advance(free_in - TICK)
            with pytest.raises(PoolExhaustedError):
                self.pool.acquire(model, estimate, 0)
            self.clock.advance(TICK)
        lease = self.pool.acquire(model, estimate, 0)
        self.naive.take(lease)

    @invariant()
    def counts_are_true(self) -> None:
        if not hasattr(self, "pool"):
            return
        for model in MODELS:
            counts = self.pool.counts(model)
            states = [self.naive.state(key, model, 1, self.clock.now) for key in self.naive.keys.values()]
            assert [counts.ready, counts.limited, counts.cooling, counts.dead] == [
                states.count(each) for each in ("ready", "limited", "cooling", "dead")
            ]
            assert counts.in_flight == len(self.naive.open)
            assert counts.reserved_tokens == sum(lease.reserved for lease in self.naive.open)

    @invariant()
    def no_limit_is_passed(self) -> None:
        # True sliding windows, however the pool counts them; a lone request beyond a limit of tokens is let through.
        if not hasattr(self, "pool") or self.naive.limits is None or self.naive.limits.rpm is None:
            return
        limits, now = self.naive.limits, self.clock.now
        groups = {
            (key.account, None if limits.shared else model) for key in self.naive.keys.values() for model in MODELS
        }
        for account, model in groups:
            flying = [
                lease
                for lease in self.naive.open
                if self.naive.key_of[lease].account == account and model in (None, lease.model_id)
            ]
            for name, _, span, _ in SPANS:
                most = getattr(limits, name)
                past = [e for e in self.naive.ended if e[0] == account and model in (None, e[1]) and now - span < e[2]]
                assert most is None or len(past) + len(flying) <= most

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for lease in self.naive.open:
                lease.release()
            counts = self.pool.counts("a")
            assert (counts.in_flight, counts.reserved_tokens) == (0, 0)


class Bells:
    """Naps that end when the test says so: what was rung, or whose time has come."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.naps: list[tuple[float, asyncio.Future[None]]] = []

    def wait(self, event: threading.Event, seconds: float) -> None:
        raise AssertionError("no threads here")

    async def wait_async(self, future: asyncio.Future[None], seconds: float) -> None:
        self.naps.append((self.clock.now + seconds, future))
        await future

    def ring_due(self) -> None:
        due = [future for until, future in self.naps if until <= self.clock.now]
        self.naps = [nap for nap in self.naps if nap[1] not in due]
        for future in due:
            if not future.done():
                future.set_result(None)


@dataclass
class Call:
    model: str
    estimate: int
    exclude: set[str]
    deadline: float
    task: asyncio.Task[Lease]


class WaitingMachine(RuleBasedStateMachine):
    """Tasks that wait: served in order, never asleep beside a key that they could have, never past their time."""

    @initialize(limits=st.sampled_from(LIMITS[1:]))
    def begin(self, limits: Limits) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.bells = Bells(self.clock)
        self.pool: KeyPool = make(limits, self.clock, IDS[:2], waits=self.bells)
        self.waiting: list[Call] = []
        self.open: list[Lease] = []

    def _run(self) -> None:
        async def spin() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(spin())

    def _settle(self) -> None:
        for _ in range(8):
            self._run()
            self.bells.ring_due()
        self._run()
        self._collect()

    def _collect(self) -> None:
        for model in MODELS:
            unserved_plain: list[Call] = []
            for call in [call for call in self.waiting if call.model == model]:
                if not call.task.done():
                    if not call.exclude:
                        unserved_plain.append(call)
                elif call.task.exception() is None:
                    # Nobody who would have taken any key stands before one who got one.
                    assert not unserved_plain or call.task.result().probe
                    self.open.append(call.task.result())
                else:
                    assert isinstance(call.task.exception(), PoolExhaustedError)
        self.waiting = [call for call in self.waiting if not call.task.done()]

    @rule(
        model=models,
        estimate=tokens,
        exclude=st.sets(st.sampled_from(IDS[:2]), max_size=1),
        timeout=st.sampled_from([1.0, 30.0, 100.0]),
        times=st.integers(1, 5),
    )
    def call(self, model: str, estimate: int, exclude: set[str], timeout: float, times: int) -> None:
        for _ in range(times):
            task = self.loop.create_task(self.pool.aacquire(model, estimate, timeout, exclude=exclude))
            self.waiting.append(Call(model, estimate, exclude, self.clock.now + timeout, task))
        self._settle()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), outcome=st.sampled_from(["commit", "release", "rate_limited", "dead", "failed"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        lease = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if outcome == "rate_limited":
            lease.rate_limited(10.0)
        elif outcome == "dead":
            lease.dead("refused")
        elif outcome in ("commit", "failed"):
            getattr(lease, outcome)(100)
        elif outcome == "release":
            lease.release()
        self._settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), handed=st.booleans())
    def cancel(self, data: st.DataObject, handed: bool) -> None:
        call = self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))]
        # Maybe in the very moment in which it is given a key.
        if handed and self.open:
            self.open.pop().release()
        call.task.cancel()
        self._run()
        with contextlib.suppress(asyncio.CancelledError):
            if call.task.done() and not call.task.cancelled() and call.task.exception() is None:
                call.task.result().release()
        self.waiting.remove(call)
        self._settle()

    @rule(passed=st.one_of(st.integers(1, 16 * 8).map(lambda n: n * TICK), st.sampled_from([30.0, 60.0, 3660.0])))
    def advance(self, passed: float) -> None:
        self.clock.advance(passed)
        self._settle()

    @rule()
    def revive(self) -> None:
        for id_ in IDS[:2]:
            self.pool.revive(id_)
        self._settle()

    @invariant()
    def nothing_leaks(self) -> None:
        if hasattr(self, "pool"):
            assert self.pool.counts("a").in_flight == len(self.open)

    @invariant()
    def nobody_sleeps_beside_a_free_key(self) -> None:
        if not hasattr(self, "pool"):
            return
        for model in MODELS:
            line = [call for call in self.waiting if call.model == model]
            if line:
                for id_ in {*IDS[:2]} - line[0].exclude:
                    with pytest.raises(PoolExhaustedError):
                        self.pool.acquire(model, line[0].estimate, 0, key_id=id_, trial=False)
            assert all(call.deadline > self.clock.now for call in line)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for call in self.waiting:
            call.task.cancel()
        self._run()
        for lease in self.open:
            lease.release()
        assert self.pool.counts("a").in_flight == 0
        assert not self.pool._dispatcher.wait_queues
        self.loop.close()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=300 if LONGEST else 60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestWaiting = WaitingMachine.TestCase
TestWaiting.settings = settings(
    max_examples=250 if LONGEST else 50, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
