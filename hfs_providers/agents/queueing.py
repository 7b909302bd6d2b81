"""Which work is next: roles take turns, and within a role more urgent work goes first without starving the rest."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from hfs_providers import SettingsError
from hfs_providers.agents.contract import Role, WorkItem, WorkResult
from hfs_providers.agents.state import Clock
from hfs_providers.contract.environment import AGENTS_AT_ONCE

MAX_CONCURRENT_AGENTS: Final = 4
"""The default number of items that all agents together work on at once."""
SECONDS_PER_PRIORITY: Final = 10.0
"""The additional seconds of waiting that count as much as one step of priority: so nothing waits for ever behind more
urgent work."""


def max_concurrent_agents(env: Mapping[str, str], given: int | None = None) -> int:
    """How many items may be worked on at once: `given`, else `HFS_MAX_CONCURRENT_AGENTS`.

    Raises:
        SettingsError: the variable is not a number of at least 1.
    """
    text = env.get(AGENTS_AT_ONCE, "").strip()
    if given is not None or not text:
        return given or MAX_CONCURRENT_AGENTS
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) >= 1):
        raise SettingsError(f"{AGENTS_AT_ONCE} is not a number from 1 to 9999")
    return int(text)


@dataclass(slots=True, eq=False)
class Job:
    """An item that waits or is being worked on.

    Args:
        answer: gets the result, once.
        retried: whether a worker that died had it before.
        given_out: whether an agent has it.
    """

    role: Role
    item: WorkItem
    answer: asyncio.Future[WorkResult]
    retried: bool = False
    given_out: bool = False

    def finish(self, result: WorkResult) -> None:
        """Give the answer, unless the caller has gone."""
        if not self.answer.done():
            self.answer.set_result(result)


@dataclass(slots=True)
class _Line:
    jobs: list[tuple[float, int, Job]] = field(default_factory=list)
    turn: int = 0


class FairQueue:
    """Waiting jobs. The clock gives monotonic seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lines: dict[Role, _Line] = {}
        self._count = itertools.count(1)

    def put(self, job: Job) -> None:
        """Queue a job. One that is queued a second time goes first."""
        line = self._lines.setdefault(job.role, _Line())
        due = float("-inf") if job.retried else self._clock() - job.item.priority * SECONDS_PER_PRIORITY
        heapq.heappush(line.jobs, (due, next(self._count), job))

    def take(self, roles: Collection[Role]) -> Job | None:
        """The next job of the role, among these, whose turn was longest ago."""
        waiting = [(line.turn, role) for role, line in self._lines.items() if role in roles and self._trim(line)]
        if not waiting:
            return None
        line = self._lines[min(waiting)[1]]
        line.turn = next(self._count)
        return heapq.heappop(line.jobs)[2]

    def waiting(self, role: Role) -> bool:
        """Whether a job of the role waits."""
        line = self._lines.get(role)
        return line is not None and self._trim(line)

    def clear(self, role: Role) -> list[Job]:
        """Remove every job of the role and return them."""
        line = self._lines.get(role, _Line())
        jobs, line.jobs = [job for _, _, job in sorted(line.jobs, key=lambda entry: entry[:2])], []
        return jobs

    @staticmethod
    def _trim(line: _Line) -> bool:
        # A job whose caller has gone stays in the heap until it comes to the front.
        while line.jobs and line.jobs[0][2].answer.done():
            heapq.heappop(line.jobs)
        return bool(line.jobs)
