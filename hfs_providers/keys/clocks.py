"""The monotonic and the wall clock side by side: while a host is suspended, its monotonic clock stands still.

A pool counts in monotonic seconds. The end of a cooldown or probation is stored by both clocks: it is over as soon as
one of them says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

# If the clocks moved apart by more than this, the wall clock was set or the host was suspended (seconds).
_APART = 1.0

# Two readings with more seconds between them do not belong together: the process was stopped in between.
_TOGETHER = 0.1


class Instant(NamedTuple):
    """An instant by both clocks, in seconds."""

    monotonic: float
    wall: float


class Clocks:
    """How far apart the clocks are."""

    __slots__ = ("_clock", "_most", "_wall", "offset")

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        # The wall clock minus the monotonic one; `_most` is the highest so far.
        self.offset = self._most = wall() - clock()

    def moved(self, now: float) -> bool:
        """Whether the clocks moved apart or together since the last look; then `offset` is the new one."""
        return not -_APART <= self._wall() - now - self.offset <= _APART and self._look()

    def _look(self) -> bool:
        before = self._clock()
        offset = self._wall() - before
        if self._clock() - before > _TOGETHER or abs(offset - self.offset) <= _APART:
            return False
        self.offset = offset
        return True

    def slept(self) -> float:
        """Seconds by which the wall clock has moved ahead of the monotonic one since the last call.

        A clock that was set back and forward again has not moved.
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
