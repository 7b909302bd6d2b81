"""The parts of the pool one by one: sums of windows, counts of leases, sleeping slots, leases that were lost."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from zoneinfo import ZoneInfo

import pytest

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Limits
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.clocks import Clocks
from hfs_providers.keys.leases import Lease
from hfs_providers.keys.limits import Allowance, Meter, Readiness, strictest
from hfs_providers.keys.pool import KeyPool
from hfs_providers.keys.windows import SlidingWindow, ZonedDay

NOON = 1_768_478_400.0
"""2026-01-15 12:00 UTC."""


class Clock:
    """Monotonic seconds that pass when told to; `during` is called once, in the next look at it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.during: Callable[[], object] | None = None

    def __call__(self) -> float:
        during, self.during = self.during, None
        if during is not None:
            during()
        return self.now

    def wall(self) -> float:
        return NOON + self.now


def make(count: int = 1, limits: Limits | None = None, account: str | None = None) -> tuple[KeyPool, Clock]:
    clock = Clock()
    params = {"account": account} if account else {}
    credentials = [Credential(f"p#{n}", Secret(f"sk-test-{n}-secret"), params) for n in range(1, count + 1)]
    return KeyPool("p", credentials, limits=lambda *_: limits, clock=clock, wall=clock.wall), clock


class TestSlidingWindow:
    def test_its_sums_are_those_of_what_has_not_left(self) -> None:
        window = SlidingWindow(60.0)
        for now, tokens in ((0.0, 10), (10.0, 20), (20.0, 40)):
            window.add(now, tokens)
        assert (window.requests, window.tokens, window.expires) == (3, 70, 60.0)
        window.prune(60.0)
        assert (window.requests, window.tokens, window.expires) == (2, 60, 70.0)
        window.add(61.0, 5)
        assert (window.requests, window.tokens) == (3, 65)
        assert window.entries() == [(10.0, 1, 20), (20.0, 1, 40), (61.0, 1, 5)]
        window.prune(121.0)
        assert (window.requests, window.tokens, window.entries()) == (0, 0, [])

    def test_its_sums_are_right_after_a_long_history_was_dropped(self) -> None:
        window = SlidingWindow(60.0)
        for second in range(200):
            window.prune(float(second))
            window.add(float(second), second)
        assert (window.requests, window.tokens) == (60, sum(range(140, 200)))
        assert window.freed_at(199.0, 1, 0) == 200.0
        assert window.freed_at(199.0, 3, 0) == 202.0
        assert window.freed_at(199.0, 0, 140) == 200.0
        assert window.freed_at(199.0, 0, 141) == 201.0
        assert window.freed_at(199.0, 61, 0) == float("inf")
        assert window.freed_at(199.0, 0, 0) == 199.0

    def test_a_bucket_counts_until_all_of_it_has_left(self) -> None:
        window = SlidingWindow(3600.0, 60.0)
        window.add(0.0, 10)
        window.add(59.0, 20)
        window.add(60.0, 40)
        assert window.entries() == [(60.0, 2, 30), (120.0, 1, 40)]
        window.prune(3659.0)
        assert (window.requests, window.tokens) == (3, 70)
        window.prune(3660.0)
        assert (window.requests, window.tokens) == (1, 40)

    def test_what_is_restored_is_summed(self) -> None:
        window = SlidingWindow(60.0)
        window.add(0.0, 1)
        window.restore(100.0, [(30.0, 9, 900), (50.0, 2, 20), (120.0, 3, 40)])
        assert (window.requests, window.tokens) == (5, 60)
        assert window.entries() == [(50.0, 2, 20), (100.0, 3, 40)]

    def test_a_bucket_that_is_restored_counts_until_its_end_at_most(self) -> None:
        window = SlidingWindow(3600.0, 60.0)
        window.restore(100.0, [(120.0, 1, 10), (500.0, 2, 20)])
        assert window.entries() == [(120.0, 1, 10), (160.0, 2, 20)]

    def test_requests_without_tokens_are_kept_only_if_requests_are_limited(self) -> None:
        window = SlidingWindow(60.0)
        window.add(0.0, 0)
        assert window.entries() == []
        window.counts_requests = True
        window.add(0.0, 0)
        assert window.entries() == [(0.0, 1, 0)]


class TestZonedDay:
    def test_it_sums_what_lies_within_the_day(self) -> None:
        clock = Clock()
        day = ZonedDay(ZoneInfo("UTC"), clock.wall)
        assert (day.requests, day.tokens) == (0, 0)
        day.restore(0.0, [(-43_201.0, 4, 400), (-43_200.0, 2, 70), (0.0, 1, 30)])
        assert (day.requests, day.tokens) == (3, 100)
        day.add(0.0, 11)
        assert (day.requests, day.tokens) == (4, 111)
        assert day.freed_at(0.0, 4, 111) == pytest.approx(43_200.0)
        clock.now = 43_199.5
        assert day.freed_at(10.0, 4, 111) == pytest.approx(10.5)
        clock.now = 0.0
        assert day.freed_at(0.0, 5, 0) == float("inf")
        assert day.freed_at(0.0, 0, 112) == float("inf")
        clock.now = 43_200.0
        day.add(clock.now, 7)
        assert (day.requests, day.tokens, day.entries()) == (1, 7, [(0.0, 1, 7)])
        clock.now += 86_400.0
        assert day.entries() == []

    def test_what_is_restored_is_that_of_the_day_by_the_wall_clock(self) -> None:
        clock = Clock()
        clock.now = 600.0
        day = ZonedDay(ZoneInfo("UTC"), clock.wall)
        day.restore(5000.0, [(5000.0 - 43_801.0, 4, 400), (5000.0 - 43_800.0, 2, 70), (5000.0, 1, 30)])
        assert day.entries() == [(0.0, 3, 100)]


class TestAllowance:
    def test_it_counts_what_is_used_in_flight_and_reserved(self) -> None:
        meter = Meter(lambda: NOON)
        allowance = Allowance(meter, Limits(rpm=3, tpm=1000))
        meter.record(0.0, 400)
        meter.in_flight, meter.reserved = 1, 300
        assert allowance.fits(300, 0.0)
        assert not allowance.fits(301, 0.0)
        assert allowance.ready(301, 0.0) == Readiness(0.0, 60.0)
        assert allowance.ready(600, 0.0, idle=True) == Readiness(0.0, 0.0)
        meter.in_flight = 2
        assert not allowance.fits(1, 0.0)
        assert allowance.ready(1, 0.0) == Readiness(60.0, 0.0)

    def test_the_strictest_of_several_limits_holds(self) -> None:
        some, others = Limits(rpm=5, tpm=100, rpd=7), Limits(rpm=3, tpm=200, day_zone="UTC", shared=True)
        assert strictest([some, None, others]) == Limits(rpm=3, tpm=100, rpd=7, day_zone="UTC", shared=True)
        assert strictest([some, some]) is some
        assert strictest([None, None]) is None


class TestClocks:
    @pytest.mark.parametrize(("apart", "moved"), [(0.1, True), (0.11, False)])
    def test_readings_that_do_not_belong_together_are_not_compared(self, apart: float, moved: bool) -> None:
        readings = iter([0.0, 0.0, apart])
        wall = NOON
        clocks = Clocks(lambda: next(readings), lambda: wall)
        wall += 5
        assert clocks.moved(0.0) == moved

    def test_an_instant_that_was_taken_a_while_ago_moves_no_clock(self) -> None:
        assert not Clocks(lambda: 5.0, lambda: NOON).moved(0.0)


class TestForks:
    """What a child forgets when it begins, told to a pool of this process."""

    @staticmethod
    def child(pool: KeyPool) -> tuple[int, int]:
        """What is counted as in flight when it begins."""
        pool._lending._after_fork_in_child()
        counts = pool.counts("m")
        return counts.in_flight, counts.reserved_tokens

    def test_what_the_parent_has_in_flight_is_not_counted(self) -> None:
        pool, _ = make(1, Limits(rpm=1, tpm=1000))
        lease = pool.acquire("m", 1000)
        with pytest.raises(PoolExhaustedError):
            pool.acquire("m", 1000, 0)
        assert self.child(pool) == (0, 0)
        pool.acquire("m", 1000, 0).release()
        lease.commit(1)
        assert [use.used for use in pool.used("m")["p#1"]] == [0, 0]

    def test_a_lease_of_the_parent_that_is_collected_here_is_not_taken_back(self) -> None:
        pool, _ = make()
        lease = [pool.acquire("m", 70)]
        assert self.child(pool) == (0, 0)
        lease.clear()
        assert (pool.counts("m").in_flight, pool.counts("m").reserved_tokens) == (0, 0)


class TestCounts:
    def test_every_lease_counts_for_its_key_and_for_the_pool(self) -> None:
        pool, _ = make(2)
        leases = [pool.acquire("m", 100) for _ in range(3)] + [pool.acquire("other", 50)]
        assert [status.in_flight for status in pool.statuses()] == [2, 2]
        assert (pool.counts("m").in_flight, pool.counts("m").reserved_tokens) == (4, 350)
        for number, lease in enumerate(leases, 1):
            lease.commit(1)
            assert pool.counts("m").in_flight == 4 - number
        assert [status.in_flight for status in pool.statuses()] == [0, 0]
        assert pool.counts("m").reserved_tokens == 0

    def test_what_is_in_flight_counts_against_the_limits(self) -> None:
        pool, _ = make(1, Limits(rpm=3, tpm=1000))
        leases = [pool.acquire("m", 100, 0) for _ in range(3)]
        assert [(use.unit, use.used) for use in pool.used("m")["p#1"]] == [("requests", 3), ("tokens", 300)]
        with pytest.raises(PoolExhaustedError):
            pool.acquire("m", 100, 0)
        leases.pop().release()
        assert [(use.unit, use.used) for use in pool.used("m")["p#1"]] == [("requests", 2), ("tokens", 200)]
        assert pool.acquire("m", 100, 0).key_id == "p#1"

    def test_dead_keys_are_counted_as_they_die_and_return(self) -> None:
        pool, clock = make(3)
        for key_id in ("p#1", "p#2"):
            pool.acquire("m", key_id=key_id).dead("refused")
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m", timeout=0, exclude={"p#3"})
        assert (caught.value.total, caught.value.dead, caught.value.tried) == (3, 2, 1)
        pool.revive("p#1")
        pool.retire("p#3", "withdrawn")
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m", timeout=0, exclude={"p#1"})
        assert (caught.value.dead, caught.value.tried) == (2, 1)
        clock.now = 3600.0
        with pool.acquire("m", timeout=0, exclude={"p#1"}) as lease:
            assert lease.probe
            lease.commit(1)
        assert pool.counts("m").dead == 1


class TestAccountsThatWereNotLookedAt:
    def test_they_cost_nothing(self) -> None:
        pool, _ = make(1000, Limits(rpm=1))
        pool.acquire("m", 1000, 0).commit()
        pool.acquire("m", 10, 0).commit()
        assert sum(len(account.allowances) for account in pool._keyring.accounts) == 2
        assert [len(queue.slots) for queue in pool._keyring.ready_queues.values()] == [1, 1]

    def test_they_are_counted(self) -> None:
        pool, _ = make(3, Limits(rpm=1))
        pool.acquire("m", 1, 0, key_id="p#2").commit()
        pool.pause("p#3", "m", 5.0, "by hand")
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m", 1000, 0, exclude=["p#1"])
        assert (caught.value.limited, caught.value.cooling, caught.value.tried) == (1, 1, 1)

    def test_their_windows_count_the_use_of_models_that_share_them(self) -> None:
        limits = {"a": Limits(rpm=9, shared=True), "b": Limits(rpd=1, shared=True)}
        first, second, third = (Credential(f"p#{n}", Secret(f"sk-test-{n}-secret")) for n in (1, 2, 3))
        pool = KeyPool("p", [first, second], limits=lambda model, _: limits[model])
        pool.acquire("b", 1, 0, key_id=first.id).commit()
        pool.change_keys([third])
        for each in (second, third):
            pool.acquire("a", 1, 0, key_id=each.id).commit()
            with pytest.raises(PoolExhaustedError):
                pool.acquire("b", 1, 0, key_id=each.id)


class TestSleepingSlots:
    def test_a_lease_through_another_queue_makes_an_instant_later(self) -> None:
        pool, clock = make(1, Limits(tpm=1000))
        for at, tokens in ((0.0, 600), (30.0, 300)):
            clock.now = at
            pool.acquire("m", 1, 0).commit(tokens)
        clock.now = 40.0
        assert pool.next_free("m", 700) == 20.0
        first = pool.acquire("m", 30, 0)
        assert pool.next_free("m", 700) == 50.0
        assert pool.next_free("m", 680) == 50.0
        assert pool.next_free("m", 670) == 20.0
        second = pool.acquire("m", 20, 0)
        assert pool.next_free("m", 670) == 50.0
        assert pool.next_free("m", 650) == 20.0
        first.release()
        second.release()
        assert pool.next_free("m", 700) == 20.0

    def test_an_instant_that_was_replaced_by_a_later_one_is_forgotten(self) -> None:
        pool, clock = make(1)
        for seconds in (30, 100, 300):
            pool.pause("p#1", "m", seconds, "busy")
            assert pool.next_free("m") == seconds
        clock.now = 100.0
        assert pool.next_free("m") == 200.0
        with pytest.raises(PoolExhaustedError) as caught:
            pool.acquire("m", timeout=0)
        assert (caught.value.cooling, caught.value.limited) == (1, 0)

    def test_the_next_instant_is_found_among_many_that_are_void(self) -> None:
        pool, _ = make(20)
        ends = {f"p#{n}": float(n) for n in range(1, 21)}
        for key_id, seconds in ends.items():
            pool.pause(key_id, "m", seconds, "busy")
        numbers = Random(1)
        for number in range(1200):
            # While the first entry stands, those behind it become void one by one.
            first, *others = sorted(ends, key=lambda each: ends[each])
            key_id = numbers.choice(others) if number % 400 < 300 else first
            ends[key_id] += numbers.uniform(1, 100)
            pool.pause(key_id, "m", ends[key_id], "busy")
            assert pool.next_free("m") == min(ends.values())

    def test_a_smaller_request_is_served_while_a_larger_one_has_to_wait(self) -> None:
        pool, _ = make(1, Limits(tpm=1000))
        pool.acquire("m", 1, 0).commit(400)
        assert pool.next_free("m", 1000) == 60.0
        assert pool.next_free("m", 700) == 60.0
        assert pool.next_free("m", 601) == 60.0
        assert pool.next_free("m", 600) == 0.0
        assert pool.acquire("m", 520, 0).key_id == "p#1"

    def test_a_slot_without_room_for_several_sizes_is_counted_once(self) -> None:
        pool, _ = make(1, Limits(tpm=1000))
        pool.acquire("m", 1, 0).commit(600)
        for tokens in (520, 900, 1000, 520):
            with pytest.raises(PoolExhaustedError) as caught:
                pool.acquire("m", tokens, 0)
            assert (caught.value.limited, caught.value.free_in) == (1, 60.0)

    def test_limits_that_change_leave_no_slot_of_the_old_ones(self) -> None:
        pool, _ = make(2, None, "shared")
        pool.learn("m", "p#1", Limits(rpm=1))
        pool.acquire("m", 1, 0).commit(1)
        assert pool.next_free("m", 1) == 60.0
        (account,) = pool._keyring.accounts
        before = account.meters["m"]
        pool.learn("m", "p#1", Limits(rpm=1, shared=True))
        assert not before.sleepers
        assert pool.next_free("m", 1) == 0.0


class TestLostLeases:
    """A lease that is collected while its pool's lock is held is released by the holder of the lock, afterwards."""

    @staticmethod
    def losing(limits: Limits) -> tuple[KeyPool, Clock, Lease]:
        """A pool with two leases, of which one is lost in the next look at the clock; and the other."""
        pool, clock = make(1, limits)
        kept, lost = pool.acquire("m", 1, 0), [pool.acquire("m", 1, 0)]
        clock.during = lost.clear
        return pool, clock, kept

    @staticmethod
    def in_flight(pool: KeyPool) -> int:
        """Without taking the lock, which would release what was lost."""
        return sum(key.in_flight for key in pool._keyring.keys.values())

    def test_by_a_lease_that_ends(self) -> None:
        pool, clock, kept = self.losing(Limits(rpm=9))
        kept.commit(1)
        assert clock.during is None
        assert (self.in_flight(pool), len(pool._lending.orphans)) == (0, 0)

    def test_by_a_call_that_gets_a_key(self) -> None:
        pool, clock, kept = self.losing(Limits(rpm=9))
        clock.during, during = None, clock.during
        pool.next_free("m", 50)
        clock.during = during
        leased = pool.acquire("m", 50, 0, key_id="p#1")
        assert (self.in_flight(pool), len(pool._lending.orphans)) == (2, 0)
        assert (kept.ended, leased.ended) == (False, False)

    def test_by_a_call_that_gets_none(self) -> None:
        pool, _, kept = self.losing(Limits(rpm=2))
        with pytest.raises(PoolExhaustedError):
            pool.acquire("m", 1, 0, key_id="p#1")
        assert (self.in_flight(pool), len(pool._lending.orphans)) == (1, 0)
        assert pool.acquire("m", 1, 0).key_id == kept.key_id

    def test_by_a_look_at_the_keys(self) -> None:
        pool, _, kept = self.losing(Limits(rpm=2))
        assert pool.statuses("m")[0].in_flight == 2
        assert (self.in_flight(pool), kept.ended) == (1, False)

    def test_by_the_next_call(self) -> None:
        pool, _ = make(2)
        lost = [pool.acquire("m")]
        with pool._lending.lock:
            lost.clear()
        assert self.in_flight(pool) == 1
        assert pool.acquire_nowait("m") is None
        kept = pool.acquire("m")
        assert (self.in_flight(pool), len(pool._lending.orphans), kept.ended) == (1, 0, False)
