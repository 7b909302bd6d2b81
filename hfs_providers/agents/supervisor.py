"""The supervisor: agents of several roles, a bound on the items at work at once, and an answer to each item.

async with Supervisor({"executor": 2, "reviewer": 1}) as supervisor:
    result = await supervisor.work("executor", {"id": "1", "description": "...", "phase": "plan_to_artifacts"})
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

from hfs_providers.agents.bridge import Bridge, Notified, worker_command
from hfs_providers.agents.contract import (
    CANCELLED,
    ROLES,
    AgentConfig,
    AgentEvent,
    AgentSnapshot,
    ContractError,
    Role,
    WorkItem,
    WorkResult,
    read_item,
)
from hfs_providers.agents.events import Hub, Subscription
from hfs_providers.agents.queueing import MAX_CONCURRENT_AGENTS, FairQueue, Job
from hfs_providers.agents.supervised import Connect, SupervisedAgent, Surroundings
from hfs_providers.agents.worker import GRACE, HEARTBEAT

_log = logging.getLogger("hfs_providers.agents")


class Supervisor:
    """Agents in worker processes of their own. Use it as an asynchronous context manager.

    Args:
        agents: the number of workers by role; by default one of each role.
        configs: by role, how its agents are made; see `AgentConfig`.
        max_concurrent_agents: items that all agents together work on at once; at least 1.
        env: the workers' environment; None for this process's own.
        heartbeat: seconds between a worker's heartbeats; after three missing ones it is replaced.
        grace: seconds that a worker has to cancel work or to end, before it is killed.
        connect: starts a worker; by default a process of this installation.
        clock: monotonic seconds.
        sleep: waits, in seconds.

    An agent that cannot work is unavailable and says why; nothing is raised, and the others keep working.

    Raises:
        ContractError: there is no such role, or a config does not fit.
        ValueError: `max_concurrent_agents` is less than 1.
    """

    def __init__(
        self,
        agents: Mapping[Role, int] | None = None,
        configs: Mapping[Role, AgentConfig | Mapping[str, Any]] | None = None,
        *,
        max_concurrent_agents: int = MAX_CONCURRENT_AGENTS,
        env: Mapping[str, str] | None = None,
        heartbeat: float = HEARTBEAT,
        grace: float = GRACE,
        connect: Connect | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        counts: Mapping[Role, int] = dict.fromkeys(ROLES, 1) if agents is None else agents
        unknown = sorted({*counts, *(configs or {})} - {*ROLES})
        if unknown:
            raise ContractError("role", (f"{', '.join(unknown)}: none of {', '.join(ROLES)}",))
        if max_concurrent_agents < 1:
            raise ValueError("max_concurrent_agents is at least 1")

        async def start(role: Role, notified: Notified) -> Bridge:
            return await Bridge.start(worker_command(role, heartbeat), notified, env)

        self._hub = Hub()
        self._queue = FairQueue(clock)
        self._working = 0
        self._most_working = max_concurrent_agents
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: set[tuple[Role, str]] = set()
        self._stopping: asyncio.Task[None] | None = None
        around = Surroundings(connect or start, self._hub.publish, self._dispatch, heartbeat, grace, clock, sleep)
        self._agents: dict[Role, Sequence[SupervisedAgent]] = {}
        for role, count in counts.items():
            given = (configs or {}).get(role, {})
            config = given if isinstance(given, AgentConfig) else AgentConfig.read(given)
            self._agents[role] = [
                SupervisedAgent(f"{role}#{number}", role, config, around) for number in range(1, count + 1)
            ]

    def __repr__(self) -> str:
        return f"Supervisor({', '.join(f'{role}: {len(agents)}' for role, agents in self._agents.items())})"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start every worker, and wait until each has a session or is known to be unavailable."""
        try:
            for agent in self._all():
                agent.start()
            for agent in self._all():
                await agent.settled.wait()
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the workers, then everything else. Unfinished work is answered as cancelled. Safe to call twice."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        for role in self._agents:
            for job in self._queue.clear(role):
                job.finish(WorkResult.failed(job.item.id, CANCELLED))
        await asyncio.gather(*(agent.stop() for agent in self._all()))
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._hub.publish(AgentEvent(kind="supervisor_stopped", at=time.time()))
        self._hub.close()

    # What callers can do

    async def work(self, role: Role, item: WorkItem | Mapping[str, Any]) -> WorkResult:
        """Have a piece of work done. Errors of the work are in the result.

        Cancelling the call cancels the work.

        Args:
            role: whose work it is.
            item: the work. Its timeout starts when a worker gets it.

        Raises:
            ContractError: the item does not fit, the supervisor has no such role, or an item with its id is pending.
        """
        item = read_item(item)
        if role not in self._agents:
            raise ContractError("role", (f"{role}: this supervisor has {', '.join(self._agents) or 'none'}",))
        if (role, item.id) in self._pending:
            raise ContractError("WorkItem", (f"id: {item.id!r} is pending already",))
        job = Job(role, item, asyncio.get_running_loop().create_future())
        if self._stopping is not None:
            return WorkResult.failed(item.id, CANCELLED)
        self._pending.add((role, item.id))
        try:
            self._queue.put(job)
            self._dispatch()
            return await job.answer
        finally:
            if not job.given_out:
                self._pending.discard((role, item.id))

    def events(self, size: int = 1000) -> Subscription:
        """The events from now on. At most `size` are held for a slow reader; it loses the oldest and gets their
        number."""
        return self._hub.subscribe(size)

    def snapshot(self) -> list[AgentSnapshot]:
        """The state of every agent at this moment."""
        return [agent.snapshot() for agent in self._all()]

    def unavailable(self, role: Role) -> str | None:
        """Why no agent of the role can work, or None if one can or may soon."""
        reasons = {agent.name: agent.unavailable for agent in self._agents.get(role, ())}
        if any(reason is None for reason in reasons.values()):
            return None
        # The workers of a role usually have one reason.
        return "; ".join(dict.fromkeys(filter(None, reasons.values()))) or "it has no agent"

    def _all(self) -> list[SupervisedAgent]:
        return [agent for agents in self._agents.values() for agent in agents]

    # Who does what

    def _dispatch(self) -> None:
        if self._stopping is not None:
            return
        for role in self._agents:
            self._answer_for_nobody(role)
        while self._working < self._most_working:
            ready = {role: [agent for agent in agents if agent.ready] for role, agents in self._agents.items()}
            job = self._queue.take([role for role, agents in ready.items() if agents])
            if job is None:
                return
            agent = min(ready[job.role], key=lambda agent: agent.working)
            self._working += 1
            job.given_out = True
            task = asyncio.create_task(self._run(agent.work(job), job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _answer_for_nobody(self, role: Role) -> None:
        """If no agent of a role can work, let one whose pause is over try again, or answer all that wait with the
        reason."""
        reason = self.unavailable(role)
        if reason is None or not self._queue.waiting(role):
            return
        if not any(agent.try_again() for agent in self._agents[role]):
            for job in self._queue.clear(role):
                job.finish(WorkResult.failed(job.item.id, f"the {role} is unavailable: {reason}"))

    async def _run(self, work: Awaitable[bool], job: Job) -> None:
        try:
            answered = await work
        except Exception as error:
            # A bug here must not leave the caller without an answer.
            _log.exception("the work on %s failed", job.item.id)
            job.finish(WorkResult.failed(job.item.id, f"the supervisor failed: {type(error).__name__}"))
            answered = True
        finally:
            self._working -= 1
            job.given_out = False
            if job.answer.done():
                self._pending.discard((job.role, job.item.id))
        if not answered:
            job.retried = True
            if self._stopping is None:
                self._queue.put(job)
            else:
                job.finish(WorkResult.failed(job.item.id, CANCELLED))
        self._dispatch()
