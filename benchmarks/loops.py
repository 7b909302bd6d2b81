"""How long an event loop was blocked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

_TICK = 0.001


@dataclass
class Gaps:
    """Seconds for which the loop was blocked.

    Args:
        waiting: the longest while there was nothing to do yet.
        longest: the longest of all.
    """

    waiting: float = 0.0
    longest: float = 0.0


async def gaps(calls: Callable[[], Awaitable[object]], number: int, busy: Callable[[], bool] | None = None) -> Gaps:
    """Watch the running loop while calls are under way.

    Args:
        calls: makes one.
        number: of calls.
        busy: whether the first of them has stopped waiting; by default, none ever waits.
    """
    found = Gaps()
    done = False

    async def watch() -> None:
        last = time.perf_counter()
        waiting = busy is not None
        while not done:
            await asyncio.sleep(_TICK)
            now = time.perf_counter()
            # What is done with a key is the model's own work, which a bare model does as well.
            waiting = waiting and busy is not None and not busy()
            found.longest = max(found.longest, now - last - _TICK)
            if waiting:
                found.waiting = max(found.waiting, now - last - _TICK)
            last = now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(5 * _TICK)
    try:
        await asyncio.gather(*(calls() for _ in range(number)))
    finally:
        done = True
        await watching
    return found
