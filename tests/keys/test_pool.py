"""What the pool promises, one promise a test, on a clock that the tests move."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import pickle
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Limits
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.pool import KeyPool
from hfs_providers.keys.state import CREDIT_PROBATION, DEFAULT_COOLDOWN, PROBATION, PROBE_RETRY
from hfs_providers.keys.windows import MOST_TOKENS
from tests import warm

# 2026-01-15 12:00 UTC.
NOON = 1_768_478_400.0


class Clock:
    """Monotonic and wall seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1024.0
        self.epoch = NOON - self.now

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.epoch + self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Dreams:
    """Sleeping that moves the clock at once. `naps` tells how long and how often."""

    def __init__(self, clock: Clock, during: Callable[[], object] | None = None) -> None:
        self.clock = clock
        self.naps: list[float] = []
        self.during = during

    def _pass(self, seconds: float, done: Callable[[], bool]) -> None:
        self.naps.append(seconds)
        assert len(self.naps) < 1000, "it polls"
        if self.during is not None:
            during, self.during = self.during, None
            during()
        if not done():
            self.clock.advance(seconds)

    def wait(self, event: threading.Event, seconds: float) -> None:
        self._pass(seconds, event.is_set)

    async def wait_async(self, future: asyncio.Future[None], seconds: float) -> None:
        self._pass(seconds, future.done)
        await asyncio.sleep(0)


class Asleep:
    """Sleeping, of tasks, until somebody else ends it; no time passes."""

    def __init__(self) -> None:
        self.naps: list[float] = []

    async def wait_async(self, future: asyncio.Future[None], seconds: float) -> None:
        self.naps.append(seconds)
        await future


def keys(count: int, accounts: Sequence[str] = ()) -> list[Credential]:
    """Credentials `p#1` and so on, each with the account at its place, if any."""
    return [
        Credential(f"p#{n}", Secret(f"sk-test-{n}-secret"), {"account": accounts[n - 1]} if accounts else {})
        for n in range(1, count + 1)
    ]


def make(count: int = 1, limits: Limits | None = None, *, accounts: Sequence[str] = (), **options: Any) -> KeyPool:
    """A pool on a clock of its own, unless one is given; `pool._clock` and `pool._waits` are a `Clock` and `Dreams`."""
    clock = options.pop("clock", None) or Clock()
    options.setdefault("waits", Dreams(clock))
    resolver = options.pop("resolver", lambda model_id, key_id: limits)
    return KeyPool("p", keys(count, accounts), limits=resolver, clock=clock, wall=clock.wall, **options)


def naps(pool: KeyPool) -> list[float]:
    """How long the pool's waiters slept."""
    waits = pool._waits
    assert isinstance(waits, Dreams)
    return waits.naps


def spread(seconds: float, key_id: str = "p#1") -> float:
    """What is left of a probation after the key's own share of the spread."""
    return make(int(key_id[2:]))._keyring.keys[key_id].spread(seconds)


def free_in(pool: KeyPool, **wish: Any) -> float | None:
    """What the pool says when it refuses to lease now."""
    with pytest.raises(PoolExhaustedError) as caught:
        pool.acquire("m", wish.pop("tokens", 10), 0, **wish)
    return caught.value.free_in


def passes(pool: KeyPool, seconds: float) -> None:
    clock = pool._clock
    assert isinstance(clock, Clock)
    clock.advance(seconds)


class TestLease:
    def test_it_ends_once_and_the_first_outcome_counts(self) -> None:
        pool = make(limits=Limits(rpm=5))
        lease = pool.acquire("m")
        lease.release()
        lease.dead("too late")
        assert pool.counts("m").ready == 1

    def test_a_block_that_raises_leaves_nothing_reserved(self) -> None:
        pool = make(limits=Limits(rpm=1, tpm=1000))
        with pytest.raises(RuntimeError), pool.acquire("m"):
            raise RuntimeError
        counts = pool.counts("m")
        assert (counts.in_flight, counts.reserved_tokens, counts.ready) == (0, 0, 1)

    def test_128_calls_that_fail_before_they_are_sent_use_up_nothing(self) -> None:
        pool = make(16, Limits(rpm=30, tpm=6000))
        for _ in range(128):
            with pool.acquire("m", timeout=0):
                pass
        assert pool.counts("m").ready == 16

    @pytest.mark.parametrize(("estimate", "reserved"), [(7, 7), (7.9, 7), (-5, 0)])
    def test_it_reserves_whole_tokens(self, estimate: Any, reserved: int) -> None:
        pool = make()
        assert [pool.acquire("m", estimate).reserved for _ in range(2)] == [reserved] * 2
        pinned = [pool.acquire("m", estimate, key_id="p#1"), asyncio.run(pool.aacquire("m", estimate, key_id="p#1"))]
        assert [lease.reserved for lease in pinned] == [reserved] * 2

    def test_a_free_key_is_leased_the_short_way_once_its_model_is_known(self) -> None:
        pool = make()
        pool.acquire("m").release()
        assert pool.acquire_nowait("m") is not None

    def test_one_that_is_dropped_is_released_when_it_is_collected(self) -> None:
        pool = make(limits=Limits(rpm=1))
        lease = pool.acquire("m")
        del lease
        gc.collect()
        assert pool.counts("m").in_flight == 0
        assert pool.next_free("m") == 0.0

    def test_one_collected_while_the_lock_is_held_is_released_afterwards(self) -> None:
        pool = make(limits=Limits(rpm=1))
        lease = pool.acquire("m")
        with pool._lending.lock:
            del lease
            gc.collect()
        pool.acquire("m", timeout=0).release()
        assert pool.counts("m").in_flight == 0

    def test_what_was_sent_counts_and_what_was_not_does_not(self) -> None:
        pool = make(limits=Limits(rpm=3))
        pool.acquire("m").commit(1)
        pool.acquire("m").failed()
        pool.acquire("m").release()
        pool.acquire("m").rate_limited(0)
        assert free_in(pool) == 60.0

    def test_neither_lease_nor_pool_nor_error_shows_a_key(self) -> None:
        pool = make(limits=Limits(rpm=1))
        lease = pool.acquire("m")
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m", timeout=0)
        shown = f"{pool!r} {lease!r} {caught.value!r} {pool.statuses()!r} {pool.credentials!r} {pool.dump()!r}"
        assert "-secret" not in shown

    def test_the_error_survives_pickling(self) -> None:
        pool = make()
        pool.retire("p#1", "out")
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m")
        assert pickle.loads(pickle.dumps(caught.value)).dead == 1


class TestWindows:
    def test_a_minute_is_counted_from_the_end_of_the_call(self) -> None:
        pool = make(limits=Limits(rpm=1))
        lease = pool.acquire("m")
        passes(pool, 50)
        lease.commit(1)
        assert free_in(pool) == 60.0

    def test_calls_in_flight_count_as_requests(self) -> None:
        pool = make(limits=Limits(rpm=2))
        leases = [pool.acquire("m"), pool.acquire("m")]
        assert free_in(pool) is None
        assert len(leases) == 2

    def test_calls_in_flight_reserve_their_estimate(self) -> None:
        pool = make(limits=Limits(tpm=1000))
        lease = pool.acquire("m", 600)
        assert free_in(pool, tokens=500) is None
        lease.commit(100)
        pool.acquire("m", 500, 0).release()

    def test_an_estimate_beyond_the_limit_is_let_through_when_the_window_is_empty(self) -> None:
        pool = make(limits=Limits(tpm=1000))
        pool.acquire("m", 5000, 0).commit(10)
        assert free_in(pool, tokens=5000) == 60.0
        passes(pool, 60)
        pool.acquire("m", 5000, 0).release()

    def test_a_request_without_tokens_fits_into_a_full_window_of_tokens(self) -> None:
        pool = make(limits=Limits(tpm=1000))
        pool.acquire("m").commit(1000)
        assert (pool.next_free("m", 0), pool.next_free("m", 1)) == (0.0, 60.0)

    def test_counts_are_for_a_request_of_one_token(self) -> None:
        pool = make(limits=Limits(tpm=1000))
        pool.acquire("m").commit(999)
        assert (pool.counts("m").ready, pool.counts("m").free_in) == (1, 0.0)
        pool.acquire("m", 1).commit(1)
        assert (pool.counts("m").limited, pool.counts("m").free_in) == (1, 60.0)

    def test_a_limit_of_nothing_admits_nothing(self) -> None:
        assert free_in(make(limits=Limits(rpd=0))) is None
        assert free_in(make(limits=Limits(tpm=0))) is None

    @pytest.mark.parametrize(("limits", "span", "grain"), [(Limits(rph=1), 3600, 60), (Limits(rpd=1), 86_400, 900)])
    def test_a_bucketed_window_is_late_by_a_bucket_at_most_and_never_early(
        self, limits: Limits, span: float, grain: float
    ) -> None:
        pool = make(limits=limits)
        passes(pool, 7.3)
        pool.acquire("m").commit(1)
        wait = free_in(pool)
        assert wait is not None
        assert span <= wait <= span + grain
        passes(pool, wait)
        pool.acquire("m", timeout=0).release()

    def test_each_model_has_its_own_allowance(self) -> None:
        pool = make(limits=Limits(rpm=1))
        pool.acquire("a").commit(1)
        assert pool.next_free("b") == 0.0

    def test_a_shared_allowance_is_one_for_all_models(self) -> None:
        pool = make(limits=Limits(rpm=1, shared=True))
        pool.acquire("a").commit(1)
        assert pool.next_free("b") == 60.0

    def test_keys_of_one_account_share_an_allowance(self) -> None:
        pool = make(3, Limits(rpm=1), accounts=("x", "x", "y"))
        leases = [pool.acquire("m", timeout=0) for _ in range(2)]
        assert [lease.key_id for lease in leases] == ["p#1", "p#3"]
        pool = make(2, Limits(rpm=1), accounts=("x", "x"))
        pool.acquire("m").commit(1)
        assert free_in(pool) == 60.0

    def test_the_strictest_limits_hold_for_an_account_whose_keys_differ(self) -> None:
        said = {"p#1": Limits(rpm=5, tpm=100), "p#2": Limits(rpm=1)}
        pool = make(2, accounts=("x", "x"), resolver=lambda model_id, key_id: said[key_id])
        pool.acquire("m", 1).commit(1)
        assert free_in(pool) == 60.0

    def test_memory_is_flat_in_history(self) -> None:
        pool = make(limits=Limits(rpm=100, rph=10_000, rpd=100_000, tpm=10_000))
        for _ in range(30_000):
            pool.acquire("m", 1, 0).commit(1)
            passes(pool, 1.0)
        meter = pool._keyring.accounts[0].meters["m"]
        sizes = {kind: len(window.entries()) for kind, window in meter.windows.items()}
        assert sizes["minute"] <= 100
        assert sizes["hour"] <= 61
        assert sizes["day"] <= 97

    def test_so_it_is_of_a_window_that_only_another_model_needs(self) -> None:
        limits = {"m": Limits(rph=10_000, shared=True), "other": Limits(rpm=100, shared=True)}
        pool = make(resolver=lambda model_id, _: limits[model_id])
        pool.acquire("other", 1, 0).commit(1)
        for _ in range(500):
            passes(pool, 1.0)
            pool.acquire("m", 1, 0).commit(1)
        meter = pool._keyring.accounts[0].meters[None]
        assert len(meter.windows["minute"].entries()) == 60

    @pytest.mark.parametrize(("charged", "counted"), [(-5, 0), (7.9, 7), (MOST_TOKENS + 1, MOST_TOKENS)])
    def test_a_charge_that_none_can_be_is_brought_into_range(self, charged: Any, counted: int) -> None:
        pool = make(limits=Limits(tpm=100))
        pool.acquire("m", 1, 0).commit(charged)
        assert [use.used for use in pool.used("m")["p#1"]] == [counted]

    def test_a_request_without_tokens_takes_no_room_where_only_tokens_are_limited(self) -> None:
        pool = make(limits=Limits(tpm=100))
        for _ in range(1000):
            pool.acquire("m", 0, 0).commit(0)
            passes(pool, 0.01)
        assert not pool._keyring.accounts[0].meters["m"].windows["minute"].entries()

    def test_a_smaller_request_is_not_held_up_by_a_larger_one_that_found_no_room(self) -> None:
        pool = make(2, Limits(tpm=1000))
        for _ in range(2):
            pool.acquire("m", 300).commit(300)
        assert free_in(pool, tokens=1000) == 60.0
        assert pool.next_free("m", 600) == 0.0

    def test_a_larger_request_is_told_its_own_instant_after_a_smaller_one(self) -> None:
        pool = make(limits=Limits(tpm=1000))
        pool.acquire("m", 300).commit(300)
        passes(pool, 20)
        pool.acquire("m", 200).commit(200)
        assert free_in(pool, tokens=600) == 40.0
        assert free_in(pool, tokens=1000) == 60.0

    def test_a_request_is_told_of_a_smaller_one_that_was_leased_since(self) -> None:
        pool = make(limits=Limits(tpm=1000))
        pool.acquire("m", 10).commit(10)
        assert free_in(pool, tokens=1000) == 60.0
        lease = pool.acquire("m", 1)
        assert free_in(pool, tokens=1000) is None
        lease.release()
        assert free_in(pool, tokens=1000) == 60.0

    def test_an_unknown_zone_counts_a_sliding_day(self) -> None:
        pool = make(limits=Limits(rpd=1, day_zone="No/Where"))
        pool.acquire("m").commit(1)
        wait = free_in(pool)
        assert wait is not None
        assert wait >= 86_400


class TestZonedDay:
    ZONE = "America/Los_Angeles"

    def pool_at(self, moment: str, limits: Limits) -> KeyPool:
        clock = Clock()
        clock.epoch = datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo(self.ZONE)).timestamp() - clock.now
        return make(limits=limits, clock=clock)

    @pytest.mark.parametrize(
        ("moment", "hours"),
        [
            ("2026-01-15T18:00", 6),
            ("2026-03-08T00:00", 23),  # clocks go forward at 2:00
            ("2026-11-01T00:00", 25),  # and back
        ],
    )
    def test_it_is_over_at_the_zones_midnight(self, moment: str, hours: int) -> None:
        pool = self.pool_at(moment, Limits(rpd=1, day_zone=self.ZONE))
        pool.acquire("m").commit(1)
        wait = free_in(pool)
        assert wait == pytest.approx(hours * 3600, abs=1e-3)
        assert wait is not None
        passes(pool, wait - 0.01)
        assert free_in(pool)
        passes(pool, 0.01)
        pool.acquire("m", timeout=0).release()

    def test_a_host_that_slept_past_midnight_notices(self) -> None:
        pool = self.pool_at("2026-01-15T18:00", Limits(rpd=1, day_zone=self.ZONE))
        pool.acquire("m").commit(1)
        assert free_in(pool)
        clock = pool._clock
        assert isinstance(clock, Clock)
        clock.epoch += 7 * 3600  # the monotonic clock did not run
        assert pool.next_free("m") == 0.0

    def test_calls_in_flight_count_in_the_day_in_which_they_end(self) -> None:
        pool = self.pool_at("2026-01-15T23:59", Limits(rpd=1, day_zone=self.ZONE))
        lease = pool.acquire("m")
        passes(pool, 120)
        lease.commit(1)
        assert free_in(pool) == pytest.approx(86_400 - 60, abs=1e-3)


class TestLimits:
    def test_the_resolver_is_asked_once_for_each_key_and_model(self) -> None:
        asked: list[tuple[str, str]] = []
        pool = make(2, resolver=lambda *pair: asked.append(pair))
        for _ in range(5):
            pool.acquire("m").commit(1)
        assert asked == [("m", "p#1"), ("m", "p#2")]

    @pytest.mark.parametrize(
        "ask",
        [
            KeyPool.acquire,
            KeyPool.next_free,
            KeyPool.counts,
            KeyPool.statuses,
            KeyPool.used,
            KeyPool.limits,
            KeyPool.rooms,
            KeyPool.load,
        ],
    )
    def test_the_resolver_is_asked_outside_the_lock(self, ask: Callable[..., object]) -> None:
        used = make(limits=Limits(rpm=5))
        used.acquire("m").commit(1)
        held: list[bool] = []
        pool: KeyPool = make(resolver=lambda *_: held.append(pool._lending.lock.locked()))
        ask(pool, *{KeyPool.limits: ("m", "p#1"), KeyPool.load: (used.dump(),)}.get(ask, ("m",)))
        assert held == [False]

    def test_so_it_is_for_a_key_that_joins(self) -> None:
        held: list[bool] = []
        pool: KeyPool = make(resolver=lambda *_: held.append(pool._lending.lock.locked()))
        pool.acquire("m").release()
        pool.change_keys(keys(2)[1:])
        assert held == [False, False]

    def test_new_limits_hold_at_once_and_what_was_used_stays_counted(self) -> None:
        pool = make()
        pool.learn("m", "p#1", Limits(rpm=5))
        pool.acquire("m").commit(1)
        pool.learn("m", "p#1", Limits(rpm=1))
        assert free_in(pool) == 60.0

    def test_learned_limits_hold_where_none_are_known(self) -> None:
        pool = make()
        pool.learn("m", "p#1", Limits(rpm=1))
        pool.acquire("m").commit(1)
        assert free_in(pool) == 60.0

    def test_those_of_a_key_that_has_left_are_not_learned(self) -> None:
        pool = make()
        pool.learn("m", "p#2", Limits(rpm=1))
        assert pool.statuses("m")[0].state == "ready"

    def test_the_request_that_showed_a_limit_counts(self) -> None:
        pool = make(resolver=lambda *_: None)
        lease = pool.acquire("m")
        pool.learn("m", "p#1", Limits(rpm=3))
        lease.commit(1)
        for _ in range(2):
            pool.acquire("m", timeout=0).commit(1)
        assert free_in(pool) == 60.0

    def test_requests_that_were_in_flight_when_a_limit_was_shown_count(self) -> None:
        pool = make(resolver=lambda *_: None)
        leases = [pool.acquire("m") for _ in range(3)]
        pool.learn("m", "p#1", Limits(rpm=3))
        for lease in leases:
            lease.commit(1)
        assert free_in(pool) == 60.0

    def test_so_does_one_that_filled_up_the_limits_of_a_plugin(self) -> None:
        pool = make(resolver=lambda *_: Limits(rpd=100), merge=lambda known, shown: replace(known, rpm=shown.rpm))
        lease = pool.acquire("m")
        pool.learn("m", "p#1", Limits(rpm=3))
        lease.commit(1)
        for _ in range(2):
            pool.acquire("m", timeout=0).commit(1)
        assert free_in(pool) == 60.0

    def test_learned_limits_do_not_replace_known_ones(self) -> None:
        pool = make(limits=Limits(rpm=2))
        pool.learn("m", "p#1", Limits(rpm=1))
        pool.acquire("m").commit(1)
        assert pool.next_free("m") == 0.0

    def test_a_lease_from_before_the_limits_changed_ends_as_any(self) -> None:
        pool = make()
        lease = pool.acquire("m")
        pool.learn("m", "p#1", Limits(rpm=1, shared=True))
        lease.commit(1)
        assert pool.counts("m").in_flight == 0


class TestChoice:
    def test_keys_take_turns(self) -> None:
        pool = make(3)
        assert [pool.acquire("m").key_id for _ in range(4)] == ["p#1", "p#2", "p#3", "p#1"]

    def test_turns_are_the_keys_own_whichever_the_model(self) -> None:
        pool = make(3)
        assert [pool.acquire(model).key_id for model in ("a", "b", "a", "b")] == ["p#1", "p#2", "p#3", "p#1"]

    def test_the_turn_of_an_account_is_that_of_its_next_key(self) -> None:
        pool = make(4, accounts=["us", "us", "eu", "eu"])
        assert [pool.acquire("m").key_id for _ in range(5)] == ["p#1", "p#2", "p#3", "p#4", "p#1"]

    def test_an_account_that_was_dead_has_the_turn_of_the_key_that_is_back(self) -> None:
        pool = make(3, accounts=["us", "us", "eu"])
        for key_id in ("p#2", "p#3", "p#1"):
            pool.acquire("m", 1, key_id=key_id).release()
        for key_id in ("p#2", "p#1"):
            pool.retire(key_id, "out")
        assert pool.counts("m").dead == 2
        pool.retire("p#1", "still out")
        pool.revive("p#2")
        assert pool.acquire("m", 1).key_id == "p#2"

    def test_a_key_that_is_back_keeps_its_turn_within_its_account(self) -> None:
        pool = make(3, accounts=["us"] * 3)
        for _ in range(4):
            pool.acquire("m").release()
        pool.retire("p#2", "out")
        pool.revive("p#2")
        assert [pool.acquire("m").key_id for _ in range(3)] == ["p#2", "p#3", "p#1"]

    def test_excluded_keys_are_passed_over_and_keep_their_turn(self) -> None:
        pool = make(3)
        assert pool.acquire("m", exclude={"p#1"}).key_id == "p#2"
        assert pool.acquire("m").key_id == "p#1"

    def test_excluding_all_says_how_many_were_tried(self) -> None:
        pool = make(2)
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m", exclude={"p#1", "p#2", "p#9"})
        assert (caught.value.tried, caught.value.free_in) == (2, 0.0)

    def test_a_pinned_key_is_the_one_that_is_leased(self) -> None:
        pool = make(3)
        assert pool.acquire("m", key_id="p#3").key_id == "p#3"
        assert pool.acquire("m").key_id == "p#1"

    def test_an_unknown_pinned_key_fails_at_once(self) -> None:
        assert free_in(make(1), key_id="p#9") is None

    def test_a_pool_without_keys_fails_at_once(self) -> None:
        with pytest.raises(PoolExhaustedError, match="has no keys"):
            make(0).acquire("m")

    def test_two_credentials_with_one_id_are_refused(self) -> None:
        with pytest.raises(ValueError, match="two credentials"):
            KeyPool("p", [*keys(1), *keys(1)])


class TestCooling:
    def test_a_key_that_a_waiting_call_excludes_is_back_for_others(self) -> None:
        pool = make(2)
        pool.acquire("m", key_id="p#1").rate_limited(30)
        pool.acquire("m", key_id="p#2").rate_limited(50)
        assert pool.acquire("m", timeout=60, exclude={"p#1"}).key_id == "p#2"
        assert sorted(pool.acquire("m", timeout=0).key_id for _ in range(2)) == ["p#1", "p#2"]

    def test_its_end_is_not_forgotten_while_others_are_limited_again_and_again(self) -> None:
        pool = make(2)
        pool.acquire("m", key_id="p#1").rate_limited(30)
        for seconds in range(60, 260):
            pool.pause("p#2", "m", seconds, "busy")
            assert free_in(pool) == 30.0

    def test_a_limited_key_rests_as_long_as_the_provider_said(self) -> None:
        pool = make()
        pool.acquire("m").rate_limited(12.5)
        assert free_in(pool) == 12.5
        passes(pool, 12.5)
        pool.acquire("m", timeout=0).release()

    def test_it_rests_half_a_minute_where_the_provider_did_not_say(self) -> None:
        pool = make()
        pool.acquire("m").rate_limited()
        assert free_in(pool) == DEFAULT_COOLDOWN

    def test_another_model_is_not_concerned_unless_the_key_is(self) -> None:
        pool = make()
        pool.acquire("a").rate_limited(10)
        pool.acquire("b", timeout=0).rate_limited(20, "key")
        assert (pool.next_free("b"), pool.next_free("c")) == (20.0, 20.0)

    def test_a_shorter_rest_does_not_end_a_longer_one(self) -> None:
        pool = make()
        first, second = pool.acquire("m"), pool.acquire("m")
        first.rate_limited(100)
        second.rate_limited(5)
        assert free_in(pool) == 100.0

    def test_one_that_is_as_long_keeps_its_reason(self) -> None:
        pool = make()
        for reason in ("first", "second"):
            pool.pause("p#1", "m", 100, reason)
        assert pool.statuses("m")[0].reason == "first"

    def test_it_is_over_at_its_last_instant(self) -> None:
        pool = make()
        pool.acquire("m").rate_limited(5)
        passes(pool, 5)
        assert (pool.statuses()[0].state, pool.statuses("m")[0].state) == ("ready", "ready")

    def test_keys_of_one_account_rest_together(self) -> None:
        pool = make(2, accounts=("x", "x"))
        pool.acquire("m").rate_limited(10, "key")
        assert free_in(pool) == 10.0

    def test_a_key_that_has_cooled_off_without_room_counts_as_limited(self) -> None:
        pool = make(limits=Limits(rpm=1))
        pool.acquire("m").rate_limited(5)
        for seconds, cooling, limited in ((0, 1, 0), (5, 0, 1)):
            passes(pool, seconds)
            with pytest.raises(PoolExhaustedError) as caught:
                pool.acquire("m", timeout=0)
            assert (caught.value.cooling, caught.value.limited) == (cooling, limited)

    def test_a_rest_without_end_is_said_to_have_none(self) -> None:
        pool = make()
        pool.acquire("m").rate_limited(float("inf"))
        assert free_in(pool) is None
        json.dumps(pool.dump(), allow_nan=False)


class TestDead:
    def probe(self, pool: KeyPool) -> Any:
        passes(pool, PROBATION)
        lease = pool.acquire("m", timeout=0)
        assert lease.probe
        return lease

    def dead_pool(self, **options: Any) -> KeyPool:
        pool = make(**options)
        pool.acquire("m").dead("401")
        return pool

    def test_it_is_out_until_its_probation_is_over(self) -> None:
        pool = self.dead_pool()
        assert free_in(pool) == spread(PROBATION)
        assert pool.statuses()[0].reason == "401"
        passes(pool, spread(PROBATION))
        assert pool.acquire("m", timeout=0, key_id="p#1").probe

    def test_without_credits_probation_is_a_day(self) -> None:
        pool = make()
        pool.acquire("m").dead("402", credits=True)
        assert free_in(pool) == spread(CREDIT_PROBATION)

    def test_one_call_alone_may_try_it(self) -> None:
        pool = self.dead_pool()
        lease = self.probe(pool)
        assert free_in(pool) is None
        lease.release()
        assert pool.acquire("m", timeout=0).probe

    def test_an_answer_revives_it(self) -> None:
        pool = self.dead_pool()
        self.probe(pool).commit(1)
        assert not pool.acquire("m", timeout=0).probe

    def test_a_refusal_doubles_its_probation_up_to_a_day(self) -> None:
        pool = self.dead_pool()
        waits = []
        for _ in range(6):
            passes(pool, pool.next_free("m") or 0)
            pool.acquire("m", timeout=0).dead("401")
            waits.append(pool.next_free("m"))
        assert waits == [spread(each) for each in (7200, 14_400, 28_800, 57_600, 86_400, 86_400)]

    def test_refusals_of_calls_that_were_in_flight_together_count_once(self) -> None:
        pool = make()
        leases = [pool.acquire("m") for _ in range(5)]
        for lease in leases:
            lease.dead("401")
        assert free_in(pool) == spread(PROBATION)

    def test_an_answer_to_a_call_from_before_does_not_revive_it(self) -> None:
        pool = make()
        early, refused = pool.acquire("m"), pool.acquire("m")
        refused.dead("401")
        early.commit(1)
        assert pool.counts("m").dead == 1

    def test_a_failure_that_is_not_the_keys_leaves_it_dead_and_due_soon(self) -> None:
        pool = self.dead_pool()
        self.probe(pool).failed()
        assert pool.counts("m").dead == 1
        assert free_in(pool) == PROBE_RETRY

    def test_being_told_to_wait_shows_that_it_lives(self) -> None:
        told: list[Any] = []
        pool = self.dead_pool(on_change=lambda *change: told.append(change[0]))
        self.probe(pool).rate_limited(7)
        assert pool.statuses("m")[0].state == "cooling"
        assert free_in(pool) == 7.0
        assert told == ["key_dead", "key_revived", "key_cooling"]

    def test_a_trial_that_outlives_a_revival_does_not_tell_of_it_again(self) -> None:
        told: list[Any] = []
        pool = self.dead_pool(on_change=lambda *change: told.append(change[0]))
        lease = self.probe(pool)
        pool.revive("p#1")
        lease.commit(1)
        assert told == ["key_dead", "key_revived"]

    def test_a_trial_that_outlives_a_retirement_does_not_revive_the_key(self) -> None:
        pool = self.dead_pool()
        lease = self.probe(pool)
        pool.retire("p#1", "by hand")
        lease.commit(1)
        assert pool.statuses()[0].reason == "by hand"

    def test_other_keys_of_the_account_go_on(self) -> None:
        pool = self.dead_pool(count=2, accounts=("x", "x"))
        assert {pool.acquire("m").key_id for _ in range(3)} == {"p#2"}

    def test_all_dead_fails_at_once(self) -> None:
        pool = self.dead_pool()
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m", timeout=60)
        assert (caught.value.dead, caught.value.free_in) == (1, spread(PROBATION))
        assert not naps(pool)

    def test_revive_puts_it_back(self) -> None:
        pool = self.dead_pool()
        pool.revive("p#1")
        assert pool.acquire("m", timeout=0).key_id == "p#1"
        assert [len(account["keys"]) for account in pool.dump()["accounts"]] == [1]

    def test_a_key_that_was_revived_is_refused_like_a_new_one(self) -> None:
        pool = make()
        pool.acquire("m").dead("402", credits=True)
        pool.revive("p#1")
        pool.acquire("m").dead("401")
        assert free_in(pool) == spread(PROBATION)


class TestTrials:
    """Of dead keys, beside live ones."""

    def pool(self, dead: int, live: int, limits: Limits | None = None) -> KeyPool:
        """The first keys died together, long enough ago to be tried."""
        pool = make(dead + live, limits)
        for lease in [pool.acquire("m") for _ in range(dead)]:
            lease.dead("401")
        passes(pool, PROBATION)
        for lease in [pool.acquire("m") for _ in range(live)]:
            lease.release()
        return pool

    def test_there_is_none_while_a_live_key_is_ready(self) -> None:
        pool = self.pool(3, 1)
        assert [pool.acquire("m", timeout=0).key_id for _ in range(5)] == ["p#4"] * 5

    def test_there_is_none_where_a_live_key_is_ready_in_time(self) -> None:
        pool = self.pool(3, 1)
        pool.acquire("m").rate_limited(5)
        assert pool.acquire("m", timeout=10).key_id == "p#4"
        assert naps(pool) == [5.0]

    def test_there_is_one_at_once_where_no_live_key_is_ready_in_time(self) -> None:
        pool = self.pool(3, 1)
        pool.acquire("m").rate_limited(50)
        assert pool.acquire("m", timeout=10).probe
        assert asyncio.run(pool.aacquire("m", timeout=10)).probe
        assert not naps(pool)

    def test_there_is_one_at_the_end_of_a_wait_for_a_busy_key_in_vain(self) -> None:
        pool = self.pool(1, 1, Limits(rpm=1))
        busy = pool.acquire("m")
        lease = pool.acquire("m", timeout=10)
        assert (busy.key_id, lease.key_id, lease.probe) == ("p#2", "p#1", True)
        assert naps(pool) == [10.0]

    def test_there_is_one_as_soon_as_the_busy_key_turns_out_to_be_limited(self) -> None:
        pool = self.pool(1, 1, Limits(rpm=1))
        busy = pool.acquire("m")
        pool._waits.during = busy.commit  # type: ignore[attr-defined]
        assert pool.acquire("m", timeout=10).probe
        assert pool._clock() == 1024.0 + PROBATION

    def test_it_ends_the_wait_though_another_dead_key_is_due_in_time(self) -> None:
        pool = make(3, Limits(rpm=1))
        pool.retire("p#1", "out")
        passes(pool, 1000)
        pool.retire("p#3", "out")
        passes(pool, PROBATION - 1000)
        busy = pool.acquire("m")
        pool._waits.during = lambda: busy.dead("out")  # type: ignore[attr-defined]
        lease = pool.acquire("m", timeout=1000)
        assert (busy.key_id, lease.key_id, pool._dispatcher.wait_queues) == ("p#2", "p#1", {})

    def test_a_call_waits_for_one_that_is_due_in_time(self) -> None:
        pool = make()
        pool.acquire("m").dead("401")
        passes(pool, spread(PROBATION) - 4)
        assert pool.acquire("m", timeout=10).probe
        assert naps(pool) == [4.0]

    def test_a_call_that_had_its_one_has_no_other(self) -> None:
        pool = self.pool(3, 0)
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m", timeout=10, trial=False)
        assert (caught.value.dead, caught.value.free_in) == (3, 0.0)

    def test_one_of_an_account_is_tried_by_a_call_that_has_had_its_live_ones(self) -> None:
        pool = make(3, accounts=["us"] * 3)
        pool.retire("p#2", "out")
        passes(pool, PROBATION)
        lease = pool.acquire("m", timeout=0, exclude={"p#1", "p#3"})
        assert (lease.key_id, lease.probe) == ("p#2", True)
        lease.commit(1)
        assert [pool.acquire("m").key_id for _ in range(3)] == ["p#1", "p#3", "p#2"]

    def test_the_one_that_was_due_first_is_tried_first(self) -> None:
        pool = self.pool(9, 0)
        order = sorted((spread(PROBATION, f"p#{n}"), f"p#{n}") for n in range(1, 10))
        leases = [pool.acquire("m", timeout=0) for _ in range(9)]
        assert [lease.key_id for lease in leases] == [key_id for _, key_id in order]

    def test_keys_that_died_together_are_not_due_together(self) -> None:
        pool = make(30)
        for lease in [pool.acquire("m") for _ in range(30)]:
            lease.dead("401")
        due = sorted(status.free_in or 0.0 for status in pool.statuses())
        assert len(set(due)) == 30
        assert 0.75 * PROBATION <= due[0] < due[9] < due[19] < due[29] <= PROBATION

    def test_they_are_spread_alike_in_every_process(self) -> None:
        first, second = make(5), make(5)
        for pool in (first, second):
            for n in range(1, 6):
                pool.retire(f"p#{n}", "out")
        assert first.statuses() == second.statuses()


class TestSuspension:
    """The wall clock goes on while the monotonic one stands still."""

    def sleep(self, pool: KeyPool, seconds: float) -> None:
        clock = pool._clock
        assert isinstance(clock, Clock)
        clock.epoch += seconds

    def test_ends_a_cooldown(self) -> None:
        pool = make()
        pool.acquire("m").rate_limited(80_000)
        self.sleep(pool, 25 * 3600)
        assert pool.next_free("m") == 0.0
        pool.acquire("m", timeout=0).release()

    def test_shortens_one_that_is_longer(self) -> None:
        pool = make()
        pool.acquire("m").rate_limited(80_000)
        self.sleep(pool, 3600)
        assert pool.statuses("m")[0].free_in == 80_000 - 3600

    def test_ends_a_probation(self) -> None:
        pool = make()
        pool.acquire("m").dead("401")
        self.sleep(pool, PROBATION)
        assert pool.acquire("m", timeout=0).probe

    @pytest.mark.parametrize("limits", [Limits(rpm=1), Limits(rph=1), Limits(rpd=1), Limits(tpd=1)])
    def test_frees_an_allowance(self, limits: Limits) -> None:
        pool = make(limits=limits)
        pool.acquire("m", 1).commit(1)
        assert free_in(pool)
        self.sleep(pool, 25 * 3600)
        pool.acquire("m", timeout=0).release()

    def test_is_noticed_beside_another_key_that_is_ready(self) -> None:
        pool = make(2)
        pool.acquire("m").rate_limited(80_000)
        assert [pool.acquire("m", timeout=0).key_id for _ in range(3)] == ["p#2"] * 3
        self.sleep(pool, 25 * 3600)
        passes(pool, 1)
        assert {pool.acquire("m", timeout=0).key_id for _ in range(2)} == {"p#1", "p#2"}

    def test_is_noticed_by_who_waits_for_a_key(self) -> None:
        pool = make()
        pool.acquire("m").rate_limited(80_000)
        # Whatever ends the nap before the monotonic clock does.
        pool._waits.during = lambda: (
            self.sleep(pool, 25 * 3600),
            pool._dispatcher.wait_queues["m"].most_pressed().signal.ring(),
        )  # type: ignore[attr-defined, union-attr]
        pool.acquire("m", timeout=90_000).release()
        assert pool._clock() == 1024.0

    def test_that_has_passed_does_not_shorten_what_the_provider_says_afterwards(self) -> None:
        pool = make()
        lease = pool.acquire("m")
        self.sleep(pool, 25 * 3600)
        lease.rate_limited(40)
        assert free_in(pool) == 40.0

    def test_is_looked_for_once_a_second_and_not_by_each_call(self) -> None:
        looks: list[None] = []
        clock = Clock()
        wall = clock.wall
        clock.wall = lambda: looks.append(None) or wall()  # type: ignore[method-assign,func-returns-value]
        pool = make(2, clock=clock)
        pool.acquire("m").rate_limited(100)
        pool.acquire("m").release()
        looks.clear()
        for _ in range(10):
            pool.acquire("m", timeout=0).release()
        assert len(looks) == 1

    def test_a_wall_clock_that_is_set_back_lengthens_nothing(self) -> None:
        pool = make(limits=Limits(rpm=1))
        pool.acquire("other").rate_limited(100)
        pool.acquire("m").commit(1)
        self.sleep(pool, -7200)
        passes(pool, 39)
        assert (pool.next_free("other"), pool.next_free("m")) == (61.0, 21.0)

    def test_a_wall_clock_that_is_set_back_and_forward_again_shortens_nothing(self) -> None:
        pool = make(limits=Limits(rpm=1))
        pool.acquire("other").rate_limited(100)
        pool.acquire("m").commit(1)
        for seconds in (-7200, 7200):
            self.sleep(pool, seconds)
            assert (pool.next_free("other"), pool.next_free("m")) == (100.0, 60.0)


class TestWaiting:
    def test_a_waiter_sleeps_once_until_the_earliest_instant(self) -> None:
        pool = make(2, Limits(rpm=1))
        pool.acquire("m").commit(1)
        passes(pool, 5)
        pool.acquire("m").commit(1)
        assert pool.acquire("m", timeout=100).key_id == "p#1"
        assert naps(pool) == [55.0]

    def test_an_async_waiter_as_well(self) -> None:
        pool = make(1, Limits(rpm=1))
        pool.acquire("m").commit(1)
        assert asyncio.run(pool.aacquire("m", timeout=100)).key_id == "p#1"
        assert naps(pool) == [60.0]

    def test_it_fails_at_once_where_the_instant_lies_past_the_timeout(self) -> None:
        pool = make(1, Limits(rpm=1))
        pool.acquire("m").commit(1)
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m", timeout=59)
        assert caught.value.free_in == 60.0
        assert not naps(pool)

    def test_for_a_busy_key_it_waits_until_the_timeout(self) -> None:
        pool = make(1, Limits(rpm=1))
        lease = pool.acquire("m")
        with pytest.raises(PoolExhaustedError):
            pool.acquire("m", timeout=8)
        assert naps(pool) == [8.0]
        lease.release()

    def test_it_is_woken_when_the_busy_key_is_released(self) -> None:
        pool = make(1, Limits(rpm=1))
        lease = pool.acquire("m")
        pool._waits.during = lease.release  # type: ignore[attr-defined]
        assert pool.acquire("m", timeout=8).key_id == "p#1"
        assert pool._clock() == 1024.0

    def test_a_busy_key_helps_a_request_without_tokens_where_all_tokens_are_used(self) -> None:
        pool = make(1, Limits(rpm=2, tpm=1000))
        pool.acquire("m").commit(1000)
        lease = pool.acquire("m", 0)
        pool._waits.during = lease.release  # type: ignore[attr-defined]
        assert pool.acquire("m", 0, 10).key_id == "p#1"

    def test_any_lease_that_ends_serves_it_at_once(self) -> None:
        pool = make(1, Limits(rpm=1))
        pool.acquire("m").commit(1)
        in_flight: list[int] = []

        # It still sleeps when another call finds that its key has become free.
        def end() -> None:
            passes(pool, 61)
            pool.acquire("other").release()
            in_flight.append(pool.counts("m").in_flight)

        pool._waits.during = end  # type: ignore[attr-defined]
        pool.acquire("m", timeout=100).release()
        assert in_flight == [1]

    @pytest.mark.parametrize("way", ["acquire", "aacquire"])
    def test_it_does_so_for_ten_seconds_unless_told_otherwise(self, way: str) -> None:
        pool = make(1, Limits(rpm=1))
        lease = pool.acquire("m")
        with pytest.raises(PoolExhaustedError):
            asyncio.run(pool.aacquire("m")) if way == "aacquire" else pool.acquire("m")
        assert naps(pool) == [10.0]
        lease.release()

    def test_it_gives_up_as_soon_as_the_busy_key_turns_out_to_be_limited(self) -> None:
        pool = make(1, Limits(rpm=1))
        lease = pool.acquire("m")
        pool._waits.during = lease.commit  # type: ignore[attr-defined]
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m", timeout=8)
        assert caught.value.free_in == 60.0
        assert pool._clock() == 1024.0

    def test_it_thinks_again_when_a_key_is_freed_earlier_than_it_slept_for(self) -> None:
        pool = make(1)
        pool.acquire("m").rate_limited(50)
        pool._waits.during = lambda: pool.revive("p#1")  # type: ignore[attr-defined]
        pool.acquire("m", timeout=60).release()
        assert pool._clock() == 1024.0

    def test_a_keeper_is_woken_to_set_its_alarm_earlier(self) -> None:
        pool = make(2, Limits(rpm=1))
        pool.acquire("m").rate_limited(500)
        lease = pool.acquire("m")

        # Sleeping until its timeout for the busy key, it learns when that key will be free.
        def end() -> None:
            passes(pool, 1)
            lease.commit(1)

        pool._waits.during = end  # type: ignore[attr-defined]
        assert pool.acquire("m", timeout=100).key_id == "p#2"
        assert pool._clock() == 1024.0 + 61

    def test_a_keeper_whose_loop_was_closed_leaves_when_it_should_be_woken(self) -> None:
        pool = make(2, Limits(rpm=1), waits=Asleep())
        pool.acquire("m").rate_limited(500)
        lease = pool.acquire("m")
        loop = asyncio.new_event_loop()
        call = pool.aacquire("m", timeout=100)
        task = loop.create_task(call)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()  # without cancelling its task
        passes(pool, 1)
        lease.commit(1)
        assert pool._dispatcher.wait_queues == {}
        call.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    def test_the_first_of_an_event_loop_alone_wakes_for_a_key(self) -> None:
        asleep = Asleep()
        pool = make(waits=asleep)
        pool.acquire("m").rate_limited(5)

        async def scenario() -> None:
            calls = [asyncio.create_task(pool.aacquire("m", timeout=20)) for _ in range(3)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)

        asyncio.run(scenario())
        assert asleep.naps == [5.0, 20.0, 20.0]


class TestObserver:
    def test_it_is_told_outside_the_lock(self) -> None:
        held: list[bool] = []
        pool: KeyPool = make(on_change=lambda *_: held.append(pool._lending.lock.locked()))
        pool.acquire("m").rate_limited(1)
        pool.retire("p#1", "out")
        pool.revive("p#1")
        assert held == [False, False, False]

    def test_one_that_raises_breaks_nothing(self) -> None:
        def observe(*_: object) -> None:
            raise RuntimeError("broken observer")

        pool = make(on_change=observe)
        pool.acquire("m").rate_limited(1)
        assert pool.counts("m").cooling == 1


class TestSnapshot:
    LIMITS = Limits(rpm=2, rph=50, rpd=100, tpm=5000)

    def again(self, pool: KeyPool, later: float = 0.0, **options: Any) -> KeyPool:
        """A pool of a new process, whose monotonic clock began elsewhere, that loads the old one's state."""
        old = pool._clock
        assert isinstance(old, Clock)
        clock = Clock()
        clock.now = 5.0
        clock.epoch = old.wall() + later - clock.now
        new = make(options.pop("count", 1), options.pop("limits", self.LIMITS), clock=clock, **options)
        new.load(json.loads(json.dumps(pool.dump())))
        return new

    def test_windows_survive(self) -> None:
        pool = make(limits=self.LIMITS)
        pool.acquire("m").commit(10)
        passes(pool, 10)
        pool.acquire("m").commit(10)
        assert free_in(self.again(pool, later=5)) == pytest.approx(45, abs=1e-3)

    def test_cooldowns_survive(self) -> None:
        pool = make()
        pool.acquire("m").rate_limited(100, reason="slow down")
        status = self.again(pool, later=60).statuses("m")[0]
        assert (status.state, status.reason) == ("cooling", "slow down")
        assert status.free_in == pytest.approx(40, abs=1e-3)

    def test_one_that_is_over_is_not_part_of_it(self) -> None:
        pool = make()
        pool.acquire("m").rate_limited(5)
        passes(pool, 5)
        accounts: Any = pool.dump()["accounts"]
        assert accounts[0]["cooling"] == []

    def test_dead_keys_survive_with_their_probation(self) -> None:
        pool = make()
        pool.acquire("m").dead("401")
        new = self.again(pool, later=1800)
        assert free_in(new) == pytest.approx(spread(PROBATION) - 1800, abs=1e-3)
        passes(new, 1801)
        new.acquire("m", timeout=0).dead("401")
        assert free_in(new) == pytest.approx(spread(2 * PROBATION))

    def test_a_key_that_was_revived_here_is_due_when_the_state_says(self) -> None:
        pool = make()
        pool.retire("p#1", "out")
        state = pool.dump()
        passes(pool, 1000)
        pool.retire("p#1", "out")
        pool.revive("p#1")
        pool.load(state)
        assert free_in(pool) == pytest.approx(spread(PROBATION) - 1000)

    def test_when_a_key_died_survives(self) -> None:
        pool = make()
        pool.acquire("m").dead("401")
        died = pool._wall()
        for each in (pool, self.again(pool, later=1800)):
            accounts: Any = each.dump()["accounts"]
            assert accounts[0]["keys"][0]["dead"]["since"] == died

    def test_a_state_that_does_not_say_when_a_key_died_says_when_it_may_be_tried(self) -> None:
        pool = make()
        pool.acquire("m").dead("401")
        state: Any = pool.dump()
        dead = state["accounts"][0]["keys"][0]["dead"]
        del dead["since"]
        new = make()
        new.load(state)
        accounts: Any = new.dump()["accounts"]
        assert accounts[0]["keys"][0]["dead"]["since"] == dead["retry_at"] - PROBATION

    def test_a_zoned_day_survives_until_its_midnight(self) -> None:
        limits = Limits(rpd=1, day_zone="America/Los_Angeles")
        pool = make(limits=limits)
        pool.acquire("m").commit(1)
        assert free_in(self.again(pool, limits=limits)) == pytest.approx(20 * 3600, abs=1e-3)
        assert self.again(pool, later=21 * 3600, limits=limits).next_free("m") == 0.0

    def test_what_lies_too_far_ahead_is_clamped_to_a_day(self) -> None:
        pool = make()
        pool.acquire("m").rate_limited(100 * 86_400)
        assert free_in(self.again(pool)) == pytest.approx(86_400)

    def test_a_wall_clock_that_went_back_means_that_no_time_passed(self) -> None:
        pool = make(limits=self.LIMITS)
        for _ in range(2):
            pool.acquire("m").commit(1)
        pool.acquire("other").rate_limited(100)
        new = self.again(pool, later=-7200)
        assert free_in(new) == pytest.approx(60, abs=1e-3)
        assert new.next_free("other") == pytest.approx(100, abs=1e-3)

    def test_a_key_that_was_replaced_starts_afresh(self) -> None:
        pool = make()
        pool.acquire("m").dead("401")
        state = json.loads(json.dumps(pool.dump()).replace(keys(1)[0].fingerprint, "00000000"))
        new = make()
        new.load(state)
        assert new.next_free("m") == 0.0

    def test_the_version_is_that_of_the_files_that_there_are(self) -> None:
        assert make().dump()["version"] == 1

    def test_another_version_is_not_read(self) -> None:
        pool = make()
        pool.retire("p#1", "out")
        state = pool.dump()
        for version, dead in ((2, 0), (1, 1)):
            new = make()
            new.load({**state, "version": version})
            assert new.counts("m").dead == dead

    def test_tokens_without_a_request_leave_the_window_in_time(self) -> None:
        pool = make(limits=Limits(tpm=10))
        pool.acquire("m").commit(10)
        state = json.loads(json.dumps(pool.dump()).replace(", 1, 10]", ", 0, 10]"))
        new = make(limits=Limits(tpm=10))
        new.load(state)
        assert free_in(new) == pytest.approx(60)

    def test_an_entry_among_garbage_counts(self) -> None:
        pool = make(limits=Limits(rpm=1))
        pool.acquire("m").commit(10)
        state: Any = pool.dump()
        entries = state["accounts"][0]["windows"][0]["entries"]
        entries[:] = [[1], *entries, None]
        new = make(limits=Limits(rpm=1))
        new.load(state)
        assert free_in(new) == pytest.approx(60)

    @pytest.mark.parametrize("tokens", [-3, -3.5, 0.5])
    def test_a_count_that_none_can_be_is_brought_into_range(self, tokens: float) -> None:
        pool = make(limits=self.LIMITS)
        pool.acquire("m").commit(10)
        state = json.loads(json.dumps(pool.dump()).replace(", 1, 10]", f", 1, {tokens}]"))
        new = make(limits=self.LIMITS)
        new.load(state)
        counted = [entries for _, _, _, entries in new.spent()]
        assert [(requests, used) for entries in counted for _, requests, used in entries] == [(1, 0)] * len(counted)

    def test_unknown_keys_are_left_out(self) -> None:
        pool = make(2)
        pool.retire("p#2", "out")
        assert self.again(pool).counts("m").dead == 0

    @pytest.mark.parametrize(
        "state",
        [
            {},
            {"version": 99},
            {"version": 1, "at": "noon"},
            {"version": 1, "at": 1.0, "accounts": [None, 3, {"keys": "p#1"}]},
            {"version": 1, "at": float("nan"), "accounts": []},
            {"version": 1, "at": 1e9, "accounts": [{"keys": [{"id": "p#1", "fingerprint": keys(1)[0].fingerprint,
                "dead": {"retry_at": "x"}, "limits": {"m": 5}}], "cooling": [{"model": 3, "until": 1}, {"until": True}],
                "windows": [{"kind": "week"}, {"kind": "minute", "models": ["m"], "entries": [[1], "abc", [None, 1, 1],
                    None, ["1e9", "9", "9"], [1e9, 10**400, 9], [1e9, float("nan"), 9], [1e9, 9, {}]]},
                    {"kind": "minute", "models": ["m"], "entries": 5},
                    {"kind": "minute", "models": ["m"], "entries": "5"}]}]},
        ],
    )  # fmt: skip
    def test_garbage_is_left_out(self, state: dict[str, object]) -> None:
        pool = make(limits=self.LIMITS)
        pool.load(state)
        assert pool.next_free("m") == 0.0

    def test_it_holds_no_key(self) -> None:
        pool = make(2, self.LIMITS)
        pool.acquire("m").commit(1)
        pool.retire("p#2", "out")
        assert "-secret" not in json.dumps(pool.dump(), allow_nan=False)


def test_the_naive_way_leaks_until_idle_keys_are_exhausted(tmp_path: Path) -> None:
    # keycycle reserves at `get_key` and gives back at `record_usage` alone: a call that is never made stays counted.
    if importlib.util.find_spec("keycycle") is None:
        pytest.skip("keycycle is not installed")
    program = """
from keycycle.config.dataclasses import RateLimits
from keycycle.config.enums import RateLimitStrategy
from keycycle.key_rotation.rotation_manager import RotatingKeyManager
manager = RotatingKeyManager([f"key-{n:04}" for n in range(16)], "p", RateLimitStrategy.PER_MODEL)
limits = RateLimits(30, 1000, 14400, 8000)
print([manager.get_key("m", limits) is not None for _ in range(129)].index(False), "given")
manager.stop()
"""
    # In a process and a directory of its own: importing it sets up logging and makes a file where it stands.
    done = subprocess.run([warm.python(), "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "128 given" in done.stdout, done.stderr
