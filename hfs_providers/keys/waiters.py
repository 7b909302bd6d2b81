"""Who waits for a key: one line per model, threads and asyncio tasks alike, served in the order of their arrival.

Nobody polls. A waiter sleeps until its own deadline; the first of each home (a thread, an event loop) also keeps the
line's alarm, the earliest instant at which a key can be free, and serves the whole line when it rings. A lease that
ends serves the line at once. One keeper for each home, because any one thread or loop may be stuck in other work.

Everything here but the sleeping itself happens under the pool's lock.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterator
from typing import TYPE_CHECKING, Protocol

from hfs_providers.contract.instants import NEVER

if TYPE_CHECKING:
    # Importing asyncio costs 30 ms, and a program without tasks needs none of it.
    import asyncio

    from hfs_providers.keys.leases import Lease

# Timers stand still while the host is suspended: who waits longer wakes, looks at the wall clock and sleeps on.
_LONGEST_NAP = 30.0


class Waits(Protocol):
    """How waiters sleep: real time by default, a clock of their own in tests."""

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Return when `event` is set or the seconds have passed."""

    async def wait_async(self, future: asyncio.Future[None], seconds: float) -> None:
        """Return when `future` is done or the seconds have passed; never block the event loop."""


class RealWaits:
    """Sleeping in real time."""

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Return when `event` is set or the seconds have passed."""
        event.wait(min(seconds, _LONGEST_NAP))

    async def wait_async(self, future: asyncio.Future[None], seconds: float) -> None:
        """Return when `future` is done or the seconds have passed."""
        timer = future.get_loop().call_later(min(seconds, _LONGEST_NAP), finish, future)
        try:
            await future
        finally:
            timer.cancel()


def finish(future: asyncio.Future[None]) -> None:
    """End a nap, unless it has ended."""
    if not future.done():
        future.set_result(None)


class Signal(Protocol):
    """What ends a waiter's nap."""

    home: Hashable

    def arm(self) -> None:
        """Get ready for a nap. Called by the waiter itself."""

    def ring(self) -> bool:
        """End the nap, from any thread; False if nobody is there any more to wake."""


class ThreadSignal:
    """Wakes a thread."""

    __slots__ = ("event", "home")

    def __init__(self) -> None:
        self.home: Hashable = threading.get_ident()
        self.event = threading.Event()

    def arm(self) -> None:
        """Get ready for a nap."""
        self.event.clear()

    def ring(self) -> bool:
        """End the nap."""
        self.event.set()
        return True


class LoopSignal:
    """Wakes a task of the running event loop."""

    __slots__ = ("_loop", "future", "home")

    def __init__(self) -> None:
        import asyncio  # imported by now: its loop runs

        self._loop = asyncio.get_running_loop()
        self.home: Hashable = self._loop
        self.arm()

    def arm(self) -> None:
        """Get ready for a nap."""
        self.future: asyncio.Future[None] = self._loop.create_future()

    def ring(self) -> bool:
        """End the nap; False if the loop was closed."""
        try:
            self._loop.call_soon_threadsafe(finish, self.future)
        except RuntimeError:
            return False
        return True


class Waiter:
    """One call that waits: what it wants, until when, and what it was given."""

    __slots__ = (
        "deadline",
        "exclude",
        "key_id",
        "lease",
        "model_id",
        "naps_until",
        "signal",
        "timeout",
        "tokens",
        "trial",
        "turn",
    )

    def __init__(
        self,
        model_id: str,
        tokens: int,
        exclude: Collection[str],
        key_id: str | None,
        deadline: float,
        timeout: float,
        trial: bool,
    ) -> None:
        self.model_id = model_id
        self.tokens = tokens
        self.exclude = frozenset(exclude)
        self.key_id = key_id
        self.deadline = deadline
        self.timeout = timeout
        self.trial = trial
        self.lease: Lease | None = None
        # Below zero: awake, and in need of no bell.
        self.naps_until = -NEVER
        self.turn = 0
        self.signal: Signal

    def admits(self, key_id: str) -> bool:
        """Whether a key will do."""
        return key_id not in self.exclude and (self.key_id is None or key_id == self.key_id)


class WaitQueue:
    """The waiters for one model.

    `alarm` is the earliest instant, as of the last time that the line was served, at which it may be worth serving it
    again.
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
        """In the order of arrival; nobody may join or leave meanwhile."""
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
        """Take a waiter out, if it is in."""
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
        """Have the line served at `instant`: wake the keepers that mean to sleep longer, to think again."""
        self.alarm = instant
        for home in list(self._homes.values()):
            keeper = next(iter(home.values()))
            if keeper.naps_until > min(instant, keeper.deadline):
                keeper.naps_until = instant
                if not keeper.signal.ring():
                    self.leave(keeper)
