"""A supervisor whose workers and whose time are made up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from hfs_providers.agents import AgentEvent, Role, Supervisor, WorkResult
from hfs_providers.agents.bridge import Notified, WorkerDiedError
from tests.agents.workers import item

STEPS = 60
"""Turns of the event loop in which everything that can happen without time passing has happened."""


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(STEPS):
        await asyncio.sleep(0)


class VirtualTime:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        sleeper = (self.now + seconds, asyncio.get_running_loop().create_future())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1]
        finally:
            self._sleepers.remove(sleeper)

    async def pass_by(self, seconds: float) -> None:
        """Let time pass, waking each sleeper at its instant."""
        end = self.now + seconds
        await settle()
        while due := [sleeper for sleeper in self._sleepers if sleeper[0] <= end]:
            first = min(due, key=lambda sleeper: sleeper[0])
            self.now = max(self.now, first[0])
            first[1].set_result(None)
            await settle()
        self.now = end


class FakeLink:
    """A worker that does what the test says."""

    def __init__(self, fleet: Fleet, role: Role, notified: Notified) -> None:
        self.fleet = fleet
        self.role = role
        self.notified = notified
        self.pid = next(fleet.pids)
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.items: dict[str, asyncio.Future[Any]] = {}
        self.calls: list[str] = []
        self.deaf = False
        """Whether it does not even cancel."""

    async def call(self, method: str, params: Mapping[str, Any]) -> Any:
        self.calls.append(method)
        if self.ended.done():
            raise WorkerDiedError(self.pid, self.ended.result())
        if method == "start_session":
            return self.fleet.sessions(self.role, params)
        if method == "send_work":
            item_id = params["item"]["id"]
            answer = self.items[item_id] = asyncio.get_running_loop().create_future()
            self.fleet.seen.append(params["item"])
            try:
                return await answer
            finally:
                del self.items[item_id]
        if method == "cancel" and not self.deaf and params["item_id"] in self.items:
            self.answer(params["item_id"], error="cancelled")
        return {}

    def answer(self, item_id: object = "1", error: str | None = None, **fields: Any) -> None:
        """Answer an item."""
        result = WorkResult(item_id=str(item_id), success=error is None, error=error).dump()
        self.items[str(item_id)].set_result({**result, **fields})

    def kill(self) -> None:
        self.die("was killed by signal 9 (SIGKILL)")

    def die(self, how: str = "exited with code 1") -> None:
        """End at once, with everything unanswered."""
        if self.ended.done():
            return
        self.ended.set_result(how)
        for answer in self.items.values():
            if not answer.done():
                answer.set_exception(WorkerDiedError(self.pid, how))

    async def stop(self, grace: float) -> None:
        self.calls.append("shutdown")
        for item_id in list(self.items):
            self.answer(item_id, error="cancelled")
        for _ in range(5):  # until the answers have arrived
            await asyncio.sleep(0)
        if not self.ended.done():
            self.ended.set_result("exited with code 0")


class Fleet:
    """A supervisor over fake workers.

    Args:
        agents: by role, how many.
        options: of the supervisor.
    """

    def __init__(self, agents: Mapping[Role, int], **options: Any) -> None:
        self.time = VirtualTime()
        self.pids = itertools.count(100)
        self.links: list[FakeLink] = []
        self.seen: list[dict[str, Any]] = []
        self.sessions: Callable[[Role, Mapping[str, Any]], Any] = lambda role, params: {"session_id": f"{role}-session"}
        self.connecting: Callable[[FakeLink], object] = lambda link: None
        self.supervisor = Supervisor(
            agents,
            connect=self._connect,
            clock=self.time.clock,
            sleep=self.time.sleep,
            heartbeat=30,
            grace=5,
            **options,
        )
        self.subscription = self.supervisor.events(10_000)

    async def _connect(self, role: Role, notified: Notified) -> FakeLink:
        link = FakeLink(self, role, notified)
        self.links.append(link)
        self.connecting(link)
        return link

    @property
    def link(self) -> FakeLink:
        """The newest worker."""
        return self.links[-1]

    def give(self, name: object = "1", role: Role = "executor", **changes: Any) -> asyncio.Task[WorkResult]:
        """Give out work."""
        return asyncio.create_task(self.supervisor.work(role, item(name, **changes)))

    async def fail(self, times: int) -> None:
        """Have that many items fail."""
        for number in range(times):
            work = self.give(f"failing{number}")
            await settle()
            self.link.answer(f"failing{number}", error="it broke")
            await work
        await settle()

    async def events(self) -> list[AgentEvent]:
        """What was told so far."""
        self.subscription.close()
        told = [event async for event in self.subscription]
        self.subscription = self.supervisor.events(10_000)
        return told

    async def kinds(self) -> list[str]:
        """The kinds of what was told so far."""
        return [event.kind for event in await self.events()]


def supervised(agents: Mapping[Role, int], body: Callable[[Fleet], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a test's body with a started fleet, and stop it afterwards."""

    async def main() -> None:
        fleet = Fleet(agents, **options)
        async with fleet.supervisor:
            await body(fleet)

    run(main())


def one(body: Callable[[Fleet], Coroutine[Any, Any, None]], **options: Any) -> None:
    """As `supervised`, with one executor."""
    supervised({"executor": 1}, body, **options)


def run(work: Awaitable[None]) -> None:
    """Run it, and fail instead of hanging."""

    async def main() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(main())
