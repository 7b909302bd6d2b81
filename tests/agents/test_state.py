"""Errors, restarts and rests, on a clock that the test turns."""

from __future__ import annotations

import pytest

from hfs_providers.agents.contract import Idle, WorkResult
from hfs_providers.agents.state import Record, Restarts
from tests.conftest import FakeTime


@pytest.fixture
def record(fake_time: FakeTime) -> Record:
    return Record(fake_time.monotonic)


def worked(success: bool, duration: float = 1.0, error: str | None = None) -> WorkResult:
    return WorkResult(item_id="1", success=success, duration=duration, error=error)


class TestWork:
    def test_knows_no_rate_before_the_first(self, record: Record) -> None:
        health = record.health(True, Idle())
        assert (health.success_rate, health.mean_duration) == (None, None)

    def test_gives_the_share_that_succeeded_and_the_mean_duration(self, record: Record) -> None:
        for success, duration in ((True, 1.0), (True, 2.0), (True, 3.0), (False, 6.0)):
            record.note(worked(success, duration))
        health = record.health(True, Idle())
        assert (health.succeeded, health.failed, health.success_rate, health.mean_duration) == (3, 1, 0.75, 3.0)

    def test_that_was_cancelled_is_not_counted(self, record: Record) -> None:
        record.note(worked(False, error="cancelled"))
        assert record.health(True, Idle()).failed == 0


class TestErrors:
    def test_degrade_an_agent_at_the_third(self, record: Record) -> None:
        assert [record.error("e") for _ in range(5)] == [False, False, True, False, False]
        assert not record.health(True, Idle()).is_healthy

    def test_ask_for_a_restart_at_the_fifth(self, record: Record) -> None:
        asked = []
        for _ in range(5):
            record.error("e")
            asked.append(record.ask_for_restart)
        assert asked == [False, False, False, False, True]

    def test_ask_for_none_where_five_take_more_than_a_minute(self, record: Record, fake_time: FakeTime) -> None:
        for _ in range(20):
            record.error("e")
            fake_time.now += 15.1
        assert not record.ask_for_restart
        assert record.errors == 20

    def test_are_forgotten_after_a_success_but_for_the_last(self, record: Record) -> None:
        for number in range(4):
            record.error(f"e{number}")
        record.note(worked(True))
        record.error("e4")
        health = record.health(True, Idle())
        assert (health.error_count, health.is_healthy, health.last_error) == (1, True, "e4")
        assert not record.ask_for_restart


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
