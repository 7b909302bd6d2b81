"""The calls that wait for a key: one queue per model, for threads and asyncio tasks alike, served in the order of
arrival.

Nobody polls. A waiter sleeps until its own deadline. The first waiter of each home (a thread, an event loop) also keeps
the alarm of the queue: it wakes at the earliest instant at which a key can be free, and serves the whole queue. A lease
that ends serves the queue at once. Each home has a keeper because any one thread or loop may be busy with other work.

All of this happens under the pool's lock, except for the sleeping itself.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeAlias

from hfs_providers.contract.instants import NEVER
from hfs_providers.keys.leases import Grant, Lease
from hfs_providers.keys.request import KeyRequest

if TYPE_CHECKING:
    # Importing asyncio costs 30 ms, and a program without tasks needs none of it.
    import asyncio

# Timers stand still while the host is suspended: a longer nap is interrupted to look at the wall clock (seconds).
_LONGEST_NAP = 30.0


class Waits(Protocol):
    """How waiters sleep: in real time by default, by a clock of their own in tests."""

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Return when `event` is set or the seconds have passed."""

    async def wait_async(self, future: asyncio.Future[None], seconds: float) -> None:
        """Return when `future` is done or the seconds have passed; never block the event loop."""


class RealWaits:
    """Sleeping in real time."""

    def wait(self, event: threading.Event, seconds: float) -> None:
        event.wait(min(seconds, _LONGEST_NAP))

    async def wait_async(self, future: asyncio.Future[None], seconds: float) -> None:
        timer = future.get_loop().call_later(min(seconds, _LONGEST_NAP), finish, future)
        try:
            await future
        finally:
            timer.cancel()


def finish(future: asyncio.Future[None]) -> None:
    """End a nap if it has not ended."""
    if not future.done():
        future.set_result(None)


class ThreadSignal:
    """Ends the nap of a thread, which calls `arm` before each."""

    __slots__ = ("event", "home")

    def __init__(self) -> None:
        self.home: Hashable = threading.get_ident()
        self.event = threading.Event()

    def arm(self) -> None:
        self.event.clear()

    def ring(self) -> bool:
        """End the nap, from any thread; False if there is nobody to wake any more."""
        self.event.set()
        return True


class LoopSignal:
    """Ends the nap of a task of the running event loop."""

    __slots__ = ("_loop", "future", "home")

    def __init__(self) -> None:
        import asyncio  # imported by now: its loop runs

        self._loop = asyncio.get_running_loop()
        self.home: Hashable = self._loop
        self.arm()

    def arm(self) -> None:
        self.future: asyncio.Future[None] = self._loop.create_future()

    def ring(self) -> bool:
        """End the nap; False if the loop was closed."""
        try:
            self._loop.call_soon_threadsafe(finish, self.future)
        except RuntimeError:
            return False
        return True


Signal: TypeAlias = ThreadSignal | LoopSignal


class Waiter:
    """One call that wants a key: its request, how long it waits, and what it was given.

    Args:
        timeout: seconds to wait at most.
        trial: whether it may try a dead key.
    """

    __slots__ = ("deadline", "grant", "lease", "naps_until", "request", "signal", "timeout", "trial", "turn")

    def __init__(self, request: KeyRequest, now: float, timeout: float, trial: bool) -> None:
        self.request = request
        self.deadline = now + max(0.0, timeout)
        self.timeout = timeout
        self.trial = trial
        # What wakes it, once it is in a queue.
        self.signal: Signal
        self.lease: Lease | None = None
        self.grant: Grant | None = None
        # `-NEVER`: it is awake and needs no signal.
        self.naps_until = -NEVER
        self.turn = 0


class WaitQueue:
    """The waiters for one model.

    `alarm` is the earliest instant at which a key may be free, as of the last time that the queue was served.
    """

    __slots__ = ("_arrivals", "_deadlines", "_homes", "_waiters", "alarm")

    def __init__(self) -> None:
        self._waiters: OrderedDict[int, Waiter] = OrderedDict()
        self._homes: dict[Hashable, OrderedDict[int, Waiter]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._arrivals = 0
        self.alarm = NEVER

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        """In the order of arrival. Nobody may join or leave during the iteration."""
        return iter(self._waiters.values())

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter.turn in self._waiters

    def join(self, waiter: Waiter) -> None:
        """Put a waiter at the end."""
        self._arrivals += 1
        waiter.turn = self._arrivals
        self._waiters[waiter.turn] = waiter
        self._homes.setdefault(waiter.signal.home, OrderedDict())[waiter.turn] = waiter
        heapq.heappush(self._deadlines, (waiter.deadline, waiter.turn))

    def leave(self, waiter: Waiter) -> None:
        """Take a waiter out if it is in the queue."""
        if self._waiters.pop(waiter.turn, None) is not None:
            home = self._homes[waiter.signal.home]
            del home[waiter.turn]
            if not home:
                del self._homes[waiter.signal.home]

    def most_pressed(self) -> Waiter | None:
        """The waiter with the earliest deadline."""
        while self._deadlines:
            waiter = self._waiters.get(self._deadlines[0][1])
            if waiter is not None:
                return waiter
            heapq.heappop(self._deadlines)
        return None

    def keeps_alarm(self, waiter: Waiter) -> bool:
        """Whether a waiter is the first of its home."""
        home = self._homes.get(waiter.signal.home)
        return home is not None and next(iter(home)) == waiter.turn

    def set_alarm(self, instant: float) -> None:
        """Have the queue served at `instant`: wake the keepers that would sleep longer."""
        self.alarm = instant
        for home in list(self._homes.values()):
            keeper = next(iter(home.values()))
            if keeper.naps_until > min(instant, keeper.deadline):
                keeper.naps_until = instant
                if not keeper.signal.ring():
                    self.leave(keeper)
