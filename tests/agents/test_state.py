"""Errors, restarts and rests, on a clock that the test turns."""

from __future__ import annotations

import pytest

from hfs_providers.agents.state import Errors, Restarts, Tally
from tests.conftest import FakeTime


class TestTheTally:
    def test_knows_no_rate_before_the_first_work(self) -> None:
        tally = Tally()
        assert (tally.success_rate, tally.mean_duration) == (None, None)

    def test_gives_the_share_that_succeeded_and_the_mean_duration(self) -> None:
        tally = Tally()
        for success, duration in ((True, 1.0), (True, 2.0), (True, 3.0), (False, 6.0)):
            tally.count(success, duration)
        assert (tally.succeeded, tally.failed, tally.success_rate, tally.mean_duration) == (3, 1, 0.75, 3.0)


class TestErrors:
    @pytest.fixture
    def errors(self, fake_time: FakeTime) -> Errors:
        return Errors(fake_time.monotonic)

    def test_degrade_an_agent_at_the_third(self, errors: Errors) -> None:
        assert [errors.record("e") for _ in range(5)] == [False, False, True, False, False]
        assert errors.degraded

    def test_ask_for_a_restart_at_the_fifth(self, errors: Errors) -> None:
        asked = []
        for _ in range(5):
            errors.record("e")
            asked.append(errors.ask_for_restart)
        assert asked == [False, False, False, False, True]

    def test_ask_for_none_where_five_take_more_than_a_minute(self, errors: Errors, fake_time: FakeTime) -> None:
        for _ in range(20):
            errors.record("e")
            fake_time.now += 15.1
        assert not errors.ask_for_restart
        assert errors.count == 20

    def test_are_forgotten_after_a_success_but_for_the_last(self, errors: Errors) -> None:
        for number in range(4):
            errors.record(f"e{number}")
        errors.clear()
        errors.record("e4")
        assert (errors.count, errors.degraded, errors.ask_for_restart, errors.last) == (1, False, False, "e4")


class TestRestarts:
    @pytest.fixture
    def restarts(self, fake_time: FakeTime) -> Restarts:
        return Restarts(fake_time.monotonic)

    def test_are_three_within_a_minute(self, restarts: Restarts) -> None:
        assert [restarts.allow() for _ in range(4)] == [True, True, True, False]

    def test_are_more_where_they_take_longer(self, restarts: Restarts, fake_time: FakeTime) -> None:
        for _ in range(10):
            assert restarts.allow()
            fake_time.now += 20.1

    def test_rest_after_giving_up_twice_as_long_each_time_up_to_an_hour(
        self, restarts: Restarts, fake_time: FakeTime
    ) -> None:
        rests = []
        for _ in range(8):
            restarts.give_up()
            began = fake_time.now
            while restarts.given_up:
                fake_time.now += 30
            rests.append(fake_time.now - began)
        assert rests == [60, 120, 240, 480, 960, 1920, 3600, 3600]

    def test_begin_with_a_short_rest_again_after_a_success(self, restarts: Restarts, fake_time: FakeTime) -> None:
        restarts.give_up()
        restarts.worked()
        assert not restarts.given_up
        restarts.give_up()
        fake_time.now += 60
        assert not restarts.given_up
