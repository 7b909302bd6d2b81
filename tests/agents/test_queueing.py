"""Which work is next."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from hfs_providers.agents import ROLES, Role, WorkItem
from hfs_providers.agents.queueing import FairQueue, Job
from tests.agents.workers import item
from tests.conftest import FakeTime


class Waiting:
    """A queue with jobs that are named by their items."""

    def __init__(self, time: FakeTime) -> None:
        self.queue = FairQueue(time.monotonic)
        self._loop = asyncio.new_event_loop()

    def put(self, name: str, role: Role = "executor", priority: int = 5) -> Job:
        job = Job(role, WorkItem.read(item(name, priority=priority)), self._loop.create_future())
        self.queue.put(job)
        return job

    def take(self, *roles: Role) -> str | None:
        job = self.queue.take(roles or ROLES)
        return job and job.item.id

    def take_all(self) -> str:
        return " ".join(iter(lambda: self.take() or "", ""))

    def close(self) -> None:
        self._loop.close()


@pytest.fixture
def waiting(fake_time: FakeTime) -> Iterator[Waiting]:
    waiting = Waiting(fake_time)
    yield waiting
    waiting.close()


def test_first_come_first_served(waiting: Waiting) -> None:
    for name in "abc":
        waiting.put(name)
    assert waiting.take_all() == "a b c"


def test_the_more_urgent_goes_first(waiting: Waiting) -> None:
    for name, priority in (("low", 0), ("high", 10), ("mid", 5), ("high2", 10)):
        waiting.put(name, priority=priority)
    assert waiting.take_all() == "high high2 mid low"


def test_what_is_least_urgent_is_not_starved_by_a_stream_of_what_is_most(waiting: Waiting, fake_time: FakeTime) -> None:
    waiting.put("low", priority=0)
    taken = []
    for number in range(200):
        waiting.put(f"high{number}", priority=10)
        taken.append(waiting.take())
        fake_time.now += 1
    assert taken.index("low") == 100  # ten steps of priority at ten seconds each


def test_roles_take_turns(waiting: Waiting) -> None:
    for number in range(3):
        waiting.put(f"e{number}", "executor", priority=10)
    waiting.put("r0", "reviewer", priority=0)
    waiting.put("r1", "reviewer", priority=0)
    assert waiting.take_all() == "e0 r0 e1 r1 e2"


def test_only_roles_that_can_work_are_asked(waiting: Waiting) -> None:
    waiting.put("e")
    assert waiting.take("reviewer") is None
    assert waiting.take("reviewer", "executor") == "e"


def test_what_is_tried_again_goes_first(waiting: Waiting) -> None:
    again = waiting.put("again", priority=0)
    assert waiting.take() == "again"
    waiting.put("new", priority=10)
    again.retried = True
    waiting.queue.put(again)
    assert waiting.take_all() == "again new"


def test_what_nobody_waits_for_is_passed_over(waiting: Waiting) -> None:
    waiting.put("a").answer.cancel()
    assert not waiting.queue.waiting("executor")
    waiting.put("b")
    assert waiting.take_all() == "b"


def test_clearing_gives_every_job_of_a_role_in_order(waiting: Waiting) -> None:
    for name in "abc":
        waiting.put(name)
    waiting.put("r", "reviewer")
    assert [job.item.id for job in waiting.queue.clear("executor")] == ["a", "b", "c"]
    assert waiting.take_all() == "r"
