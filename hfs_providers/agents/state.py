"""What a supervisor or a worker counts: work, errors, restarts and pauses. Pure: the clock is injected."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from hfs_providers.agents.contract import CANCELLED, AgentHealth, AgentState, WorkResult

Clock = Callable[[], float]
"""Gives monotonic seconds."""

DEGRADED_FROM = 3
"""An agent with this many errors since its last success is not healthy."""
RESTART_AT = 5
"""This many errors within the window cause a restart."""
MOST_RESTARTS = 3
"""After this many restarts within the window, an agent is given up."""
WINDOW = 60.0
"""Seconds."""
FIRST_COOLDOWN = 60.0
LONGEST_COOLDOWN = 3600.0


class Record:
    """An agent's work since it was made, and its errors since its last success."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=RESTART_AT)
        self._succeeded = 0
        self._failed = 0
        self._seconds = 0.0
        self.errors = 0
        self.last_error: str | None = None

    @property
    def degraded(self) -> bool:
        """Whether the agent has too many errors to be healthy."""
        return self.errors >= DEGRADED_FROM

    @property
    def ask_for_restart(self) -> bool:
        """Whether there were enough errors within the window for a restart."""
        return len(self._recent) == RESTART_AT and self._clock() - self._recent[0] <= WINDOW

    def note(self, result: WorkResult) -> None:
        """Count work that ended. Cancelled work counts neither as a success nor as a failure."""
        if result.error != CANCELLED:
            self._succeeded += result.success
            self._failed += not result.success
            self._seconds += result.duration
        if result.success:
            self.clear_errors()

    def error(self, error: str) -> bool:
        """Count an error. Returns whether it is the one that degrades the agent."""
        self._recent.append(self._clock())
        self.errors += 1
        self.last_error = error
        return self.errors == DEGRADED_FROM

    def clear_errors(self) -> None:
        """Count a success, or a restart. The last error stays on record."""
        self._recent.clear()
        self.errors = 0

    def health(self, able: bool, state: AgentState, **more: Any) -> AgentHealth:
        """The agent's health; `able` is whether it can work now, `more` are further fields."""
        done = self._succeeded + self._failed
        return AgentHealth(
            is_healthy=able and not self.degraded,
            error_count=self.errors,
            last_error=self.last_error,
            succeeded=self._succeeded,
            failed=self._failed,
            success_rate=self._succeeded / done if done else None,
            mean_duration=self._seconds / done if done else None,
            state=state,
            **more,
        )


class Restarts:
    """How often an agent may restart, and how long it pauses after it was given up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=MOST_RESTARTS)
        self._rest = FIRST_COOLDOWN
        self._until: float | None = None

    @property
    def given_up(self) -> bool:
        """Whether the circuit is open: no start until the pause is over."""
        return self._until is not None and self._clock() < self._until

    def allow(self) -> bool:
        """Count a restart. Returns False if there were too many."""
        now = self._clock()
        if len(self._recent) == MOST_RESTARTS and now - self._recent[0] <= WINDOW:
            return False
        self._recent.append(now)
        return True

    def give_up(self) -> None:
        """Open the circuit: for a minute, and twice as long each further time, up to an hour."""
        self._until = self._clock() + self._rest
        self._rest = min(2 * self._rest, LONGEST_COOLDOWN)

    def worked(self) -> None:
        """A success closes the circuit for good."""
        self._until = None
        self._rest = FIRST_COOLDOWN
