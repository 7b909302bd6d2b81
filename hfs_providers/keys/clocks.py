"""The monotonic and the wall clock side by side: a host that is suspended has a monotonic clock that stands still.

A pool reckons in monotonic seconds. What ends by itself is also known by the wall clock, so that it ends by whichever
clock says so first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

# Clocks that went apart by more than this were set, or the host was suspended.
_APART = 1.0

# Between two readings that belong together the process may have been stopped: then they say nothing.
_TOGETHER = 0.1


class Instant(NamedTuple):
    """An instant by both clocks, in seconds."""

    monotonic: float
    wall: float


class Clocks:
    """How far apart the clocks are.

    Args:
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    __slots__ = ("_clock", "_most", "_wall", "offset")

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        # Of the wall clock over the monotonic one; `_most` is the highest so far.
        self.offset = self._most = wall() - clock()

    def moved(self, now: float) -> bool:
        """Whether the clocks went apart since the last look, or together again; then `offset` is the new one."""
        return not -_APART <= self._wall() - now - self.offset <= _APART and self._look()

    def _look(self) -> bool:
        before = self._clock()
        offset = self._wall() - before
        if self._clock() - before > _TOGETHER or abs(offset - self.offset) <= _APART:
            return False
        self.offset = offset
        return True

    def slept(self) -> float:
        """Seconds by which the wall clock has gone ahead of the monotonic one, told once.

        Set back and forward again, it has gone nowhere.
        """
        ahead = max(0.0, self.offset - self._most)
        self._most += ahead
        return ahead

    def at(self, monotonic: float) -> Instant:
        """An instant by both clocks."""
        return Instant(monotonic, monotonic + self.offset)

    def first(self, instant: Instant) -> float:
        """The monotonic instant at which the first of the clocks shows it."""
        return min(instant.monotonic, instant.wall - self.offset)
