"""What supervision asks of the world around it: workers, time, and somebody to tell. A test gives it others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hfs_providers.agents.bridge import Notified
from hfs_providers.agents.contract import AgentEvent, Role
from hfs_providers.agents.state import Clock


class Link(Protocol):
    """What supervision needs of a worker; see `Bridge`."""

    pid: int
    ended: asyncio.Future[str]

    async def call(self, method: str, params: Mapping[str, Any]) -> Any:
        """The answer to a request."""

    async def stop(self, grace: float) -> None:
        """End it within bounds."""

    def kill(self) -> None:
        """End it at once."""


Connect = Callable[[Role, Notified], Awaitable[Link]]
"""Starts a worker of a role."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the agents of one supervisor share.

    Args:
        connect: starts a worker.
        publish: hands an event on.
        changed: is called when an agent can do more or less than before.
        heartbeat: seconds between a worker's heartbeats.
        grace: seconds that a worker is given to do what it is told, before it is made to.
        clock: monotonic seconds.
        sleep: waits, in seconds.
    """

    connect: Connect
    publish: Callable[[AgentEvent], object]
    changed: Callable[[], object]
    heartbeat: float
    grace: float
    clock: Clock
    sleep: Callable[[float], Awaitable[object]]

    async def within(self, work: asyncio.Future[Any], seconds: float) -> bool:
        """Wait for something for at most that long; whether it is done. It is not cancelled."""
        timer = asyncio.ensure_future(self.sleep(seconds))
        try:
            await asyncio.wait([work, timer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        return work.done()
