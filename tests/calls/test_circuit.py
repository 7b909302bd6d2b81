"""The circuit breaker by itself, at a time of its own."""

from __future__ import annotations

from typing import Any

import pytest

from hfs_providers.calls.circuit import FAILURES, MAX_OPEN_SECONDS, OPEN_SECONDS, Circuit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.changes: list[tuple[str, float]] = []
        self.circuit = self.new()

    def new(self) -> Circuit:
        return Circuit(lambda: self.now, lambda *change: self.changes.append(change), lambda: self.now + 1e9)

    @property
    def wall(self) -> float:
        return self.now + 1e9

    def fail(self, times: int = FAILURES, **options: Any) -> None:
        for _ in range(times):
            self.circuit.fail(**options)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestOpening:
    def test_takes_three_failures_in_a_row(self, clock: Clock) -> None:
        clock.fail(2)
        clock.circuit.succeed()
        clock.fail(2)
        assert (clock.circuit.is_open, clock.circuit.cooldown(), clock.circuit.enter()) == (False, 0.0, True)
        assert clock.changes == []
        assert repr(clock.circuit) == "Circuit(closed, failures=2)"
        clock.fail(1)
        assert (clock.circuit.is_open, clock.circuit.cooldown(), clock.circuit.enter()) == (True, 60.0, False)
        assert clock.changes == [("opened", 60.0)]
        assert repr(clock.circuit) == "Circuit(open, failures=3)"

    def test_happens_once_for_calls_that_fail_together(self, clock: Clock) -> None:
        clock.fail(10)
        assert clock.changes == [("opened", 60.0)]
        assert clock.circuit.cooldown() == 60.0

    def test_lasts_as_long_as_the_provider_says_up_to_four_hours(self, clock: Clock) -> None:
        clock.fail(reset=600.0)
        assert clock.circuit.cooldown() == 600.0
        clock.circuit = clock.new()
        clock.fail(reset=1.0)
        assert clock.circuit.cooldown() == OPEN_SECONDS
        clock.circuit = clock.new()
        clock.fail(reset=1e9)
        assert clock.circuit.cooldown() == MAX_OPEN_SECONDS == 4 * 3600.0

    def test_doubles_with_each_probe_that_fails(self, clock: Clock) -> None:
        clock.fail()
        for _ in range(9):
            clock.now += clock.circuit.cooldown()
            assert clock.circuit.enter()
            clock.circuit.fail()
        assert [seconds for _, seconds in clock.changes] == [
            *(60.0 * 2**times for times in range(8)),
            MAX_OPEN_SECONDS,
            MAX_OPEN_SECONDS,
        ]

    def test_begins_at_a_minute_again_after_an_answer(self, clock: Clock) -> None:
        clock.fail()
        clock.now += 60.0
        clock.circuit.enter()
        clock.circuit.fail()
        clock.circuit.succeed()
        clock.fail()
        assert [seconds for _, seconds in clock.changes] == [60.0, 120.0, 0.0, 60.0]


class TestTheProbe:
    def test_is_one_call(self, clock: Clock) -> None:
        clock.fail()
        clock.now += 59.9
        assert not clock.circuit.enter()
        clock.now += 0.1
        assert (clock.circuit.enter(), clock.circuit.enter()) == (True, False)
        assert clock.circuit.cooldown() == float("inf")

    def test_is_given_back(self, clock: Clock) -> None:
        clock.fail()
        clock.now += 60.0
        clock.circuit.enter()
        clock.circuit.leave()
        assert (clock.circuit.cooldown(), clock.circuit.enter()) == (0.0, True)

    def test_closes_the_circuit_with_an_answer(self, clock: Clock) -> None:
        clock.fail()
        clock.now += 60.0
        clock.circuit.enter()
        clock.circuit.succeed()
        assert (clock.circuit.is_open, clock.circuit.enter(), clock.circuit.enter()) == (False, True, True)
        assert clock.changes[1:] == [("closed", 0.0)]
        clock.circuit.succeed()
        assert len(clock.changes) == 2


@pytest.mark.parametrize(
    ("monotonic", "wall", "left"),
    [(0.0, 1.0, 60.0), (0.0, 1.5, 58.5), (0.0, 90.0, 0.0), (90.0, 0.0, 0.0), (10.0, -3600.0, 50.0)],
)
def test_a_cooldown_ends_by_whichever_clock_is_clearly_ahead(monotonic: float, wall: float, left: float) -> None:
    now = [0.0, 0.0]
    circuit = Circuit(lambda: now[0], wall=lambda: now[1])
    for _ in range(3):
        circuit.fail()
    now[:] = monotonic, wall
    assert circuit.cooldown() == left


def test_an_outage_begins_once_and_ends_with_an_answer(clock: Clock) -> None:
    assert not clock.circuit.succeed()
    assert (clock.circuit.pass_over(), clock.circuit.pass_over()) == (True, False)
    assert (clock.circuit.succeed(), clock.circuit.succeed()) == (True, False)
    assert clock.circuit.pass_over()


class TestWhatOutlivesTheProcess:
    def test_is_an_open_circuit(self, clock: Clock) -> None:
        assert clock.circuit.dump(clock.wall) is None
        clock.fail()
        clock.now += 10.0
        state = clock.circuit.dump(clock.wall)
        assert state == {"until": clock.wall + 50.0, "cooldown": 60.0, "failures": 3}
        clock.now += 10.0
        again = clock.new()
        again.load(state, clock.wall)
        assert (again.cooldown(), again.is_open, repr(again)) == (40.0, True, "Circuit(open, failures=3)")
        clock.now += 40.0
        assert again.enter()
        again.fail()
        assert again.cooldown() == 120.0

    def test_does_not_change_a_circuit_that_is_open(self, clock: Clock) -> None:
        clock.fail()
        clock.circuit.load({"until": clock.wall + 500.0, "cooldown": 60.0, "failures": 3}, clock.wall)
        assert clock.circuit.cooldown() == 60.0

    @pytest.mark.parametrize("name", ["until", "cooldown", "failures"])
    @pytest.mark.parametrize("value", [None, "60", True, float("inf"), float("nan")])
    def test_is_ignored_where_it_cannot_be_read(self, clock: Clock, name: str, value: object) -> None:
        state: dict[str, object] = {"until": clock.wall + 50.0, "cooldown": 60.0, "failures": 3}
        clock.circuit.load({**state, name: value}, clock.wall)
        assert not clock.circuit.is_open

    def test_is_kept_within_the_bounds(self, clock: Clock) -> None:
        clock.circuit.load({"until": clock.wall + 1e9, "cooldown": 1.0, "failures": 1}, clock.wall)
        assert clock.circuit.cooldown() == MAX_OPEN_SECONDS
        assert repr(clock.circuit) == "Circuit(open, failures=3)"
        clock.now += MAX_OPEN_SECONDS
        clock.circuit.enter()
        clock.circuit.fail()
        assert clock.circuit.cooldown() == 120.0
        other = clock.new()
        other.load({"until": clock.wall, "cooldown": 1e9, "failures": 7}, clock.wall)
        assert (other.enter(), repr(other)) == (True, "Circuit(open, failures=7)")
        other.fail()
        assert other.cooldown() == MAX_OPEN_SECONDS
