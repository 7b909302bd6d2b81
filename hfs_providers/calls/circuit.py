"""A circuit breaker for one provider and model: whoever fails repeatedly is left alone for a while."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeGuard

FAILURES = 3
"""Failed calls in a row that open a circuit."""
FIRST_COOLDOWN = 60.0
"""Seconds for which it opens first; each failed probe doubles them."""
LONGEST_COOLDOWN = 4 * 3600.0
"""Seconds beyond which they do not grow."""

_APART = 1.0
"""Seconds by which the wall clock must be ahead to count: its floats are coarser."""


class Circuit:
    """Closed while calls succeed, open after repeated failures, half-open for one probe when its rest is over.

    Args:
        clock: monotonic seconds.
        on_change: called outside the lock with `opened` (and the seconds) or `closed` (and 0).
        wall: seconds since the epoch. A rest ends by whichever clock says so first: the monotonic one stands still
            while the host is suspended.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        on_change: Callable[[str, float], object] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._on_change = on_change
        self._lock = threading.Lock()
        self._failures = 0
        self._cooldown = 0.0
        self._until: float | None = None
        self._until_wall = 0.0
        self._probing = False
        self._outage = False

    def __repr__(self) -> str:
        return f"Circuit({'closed' if self._until is None else 'open'}, failures={self._failures})"

    @property
    def is_open(self) -> bool:
        """Whether it is open, or half-open."""
        return self._until is not None

    def cooldown(self) -> float:
        """Seconds until a call may try it: 0 where one may now, infinite while another call's probe is under way."""
        with self._lock:
            if self._until is None:
                return 0.0
            return float("inf") if self._probing else self._left(self._until)

    def enter(self) -> bool:
        """Whether a call may go ahead. Where this gives it the probe, it ends with one of the methods below."""
        with self._lock:
            if self._until is None:
                return True
            if self._probing or self._left(self._until) > 0:
                return False
            self._probing = True
            return True

    def succeed(self) -> bool:
        """A call was answered: the circuit is closed, and an outage is over.

        Returns:
            Whether there was one.
        """
        with self._lock:
            closes = self._until is not None
            ended, self._outage = self._outage, False
            self._failures, self._cooldown, self._until, self._probing = 0, 0.0, None, False
        if closes and self._on_change is not None:
            self._on_change("closed", 0.0)
        return ended

    def pass_over(self) -> bool:
        """A call went to somebody else.

        Returns:
            Whether that begins an outage, which lasts until a call is answered here.
        """
        with self._lock:
            began, self._outage = not self._outage, True
            return began

    def fail(self, reset: float | None = None) -> None:
        """A call failed in a way that speaks against the provider.

        Args:
            reset: seconds after which the provider itself says that it is back, or None.
        """
        with self._lock:
            self._failures += 1
            probed, self._probing = self._probing, False
            if self._until is not None and not probed:
                # A call that was under way when the circuit opened says nothing new.
                return
            if self._failures < FAILURES and not probed:
                return
            self._cooldown = min(self._cooldown * 2 if self._cooldown else FIRST_COOLDOWN, LONGEST_COOLDOWN)
            seconds = min(max(self._cooldown, reset or 0.0), LONGEST_COOLDOWN)
            self._open_for(seconds)
        if self._on_change is not None:
            self._on_change("opened", seconds)

    def leave(self) -> None:
        """A call ended without saying anything about the provider; a probe is given back."""
        with self._lock:
            self._probing = False

    # What outlives the process.

    def dump(self, wall: float) -> dict[str, float] | None:
        """An open circuit as plain data, or None for one that is closed.

        Args:
            wall: seconds since the epoch.
        """
        with self._lock:
            if self._until is None:
                return None
            return {"until": wall + self._left(self._until), "rest": self._cooldown, "failures": self._failures}

    def load(self, state: Mapping[str, object], wall: float) -> None:
        """Open a circuit that is closed as `dump` said; what cannot be read is left out.

        Args:
            state: from `dump`, maybe by way of JSON.
            wall: seconds since the epoch.
        """
        until, cooldown, failures = (state.get(name) for name in ("until", "rest", "failures"))
        if not (_real(until) and _real(cooldown) and _real(failures)):
            return
        with self._lock:
            if self._until is None:
                self._cooldown = min(max(FIRST_COOLDOWN, cooldown), LONGEST_COOLDOWN)
                self._failures = max(FAILURES, int(failures))
                self._open_for(min(until - wall, LONGEST_COOLDOWN))

    def _open_for(self, seconds: float) -> None:
        self._until, self._until_wall = self._clock() + seconds, self._wall() + seconds

    def _left(self, until: float) -> float:
        left, by_wall = until - self._clock(), self._until_wall - self._wall()
        return max(0.0, by_wall if left - by_wall > _APART else left)


def _real(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
