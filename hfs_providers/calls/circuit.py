"""A circuit breaker for one provider and model: after repeated failures the model is not asked for a while."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeGuard

FAILURES = 3
"""The number of failed calls in a row that opens a circuit."""
OPEN_SECONDS = 60.0
"""Seconds for which a circuit is open at first. Each failed probe doubles them."""
MAX_OPEN_SECONDS = 4 * 3600.0
"""The longest time for which a circuit is open, in seconds."""

_APART = 1.0
"""Seconds by which the wall clock must be ahead before it is believed, because its floats are less precise."""


class Circuit:
    """Closed while calls succeed, open after repeated failures, half-open for one probe when its cooldown is over.

    Args:
        clock: monotonic seconds.
        on_change: called outside the lock with `opened` and the seconds, or with `closed` and 0.
        wall: seconds since the epoch. A cooldown ends when either clock says so: the monotonic one stands still while
            the host is suspended.
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
        """Whether the circuit is open or half-open."""
        return self._until is not None

    def cooldown(self) -> float:
        """Seconds until a call may ask: 0 if it may now, infinite while the probe of another call is under way."""
        with self._lock:
            if self._until is None:
                return 0.0
            return float("inf") if self._probing else self._left(self._until)

    def enter(self) -> bool:
        """Whether a call may be made. It may be the probe, so it must end with `succeed`, `fail` or `leave`."""
        with self._lock:
            if self._until is None:
                return True
            if self._probing or self._left(self._until) > 0:
                return False
            self._probing = True
            return True

    def succeed(self) -> bool:
        """A call was answered: the circuit closes, and an outage ends. Returns whether there was one."""
        with self._lock:
            closes = self._until is not None
            ended, self._outage = self._outage, False
            self._failures, self._cooldown, self._until, self._probing = 0, 0.0, None, False
        if closes and self._on_change is not None:
            self._on_change("closed", 0.0)
        return ended

    def pass_over(self) -> bool:
        """A call went to another entry of its chain. Returns whether an outage begins, which lasts until an answer."""
        with self._lock:
            began, self._outage = not self._outage, True
            return began

    def fail(self, reset: float | None = None) -> None:
        """A call failed, and the provider was the cause. `reset`: seconds after which it expects to be back."""
        with self._lock:
            self._failures += 1
            probed, self._probing = self._probing, False
            if self._until is not None and not probed:
                # The call had begun before the circuit opened, so its failure shows nothing new.
                return
            if self._failures < FAILURES and not probed:
                return
            self._cooldown = min(self._cooldown * 2 if self._cooldown else OPEN_SECONDS, MAX_OPEN_SECONDS)
            seconds = min(max(self._cooldown, reset or 0.0), MAX_OPEN_SECONDS)
            self._open_for(seconds)
        if self._on_change is not None:
            self._on_change("opened", seconds)

    def leave(self) -> None:
        """A call ended without showing anything about the provider. If it was the probe, another call may be one."""
        with self._lock:
            self._probing = False

    # The state that outlives the process

    def dump(self, wall: float) -> dict[str, float] | None:
        """See `KeptCircuit`."""
        with self._lock:
            if self._until is None:
                return None
            return {"until": wall + self._left(self._until), "cooldown": self._cooldown, "failures": self._failures}

    def load(self, state: Mapping[str, object], wall: float) -> None:
        """See `KeptCircuit`."""
        until, cooldown, failures = (state.get(name) for name in ("until", "cooldown", "failures"))
        if not (_real(until) and _real(cooldown) and _real(failures)):
            return
        with self._lock:
            if self._until is None:
                self._cooldown = min(max(OPEN_SECONDS, cooldown), MAX_OPEN_SECONDS)
                self._failures = max(FAILURES, int(failures))
                self._open_for(min(until - wall, MAX_OPEN_SECONDS))

    def _open_for(self, seconds: float) -> None:
        self._until, self._until_wall = self._clock() + seconds, self._wall() + seconds

    def _left(self, until: float) -> float:
        left, by_wall = until - self._clock(), self._until_wall - self._wall()
        return max(0.0, by_wall if left - by_wall > _APART else left)


def _real(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
