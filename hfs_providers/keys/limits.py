"""A model's limits, read against what was used of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from hfs_providers.contract.instants import DAY, HOUR, MINUTE, NEVER, Wall, zone_of
from hfs_providers.contract.records import LIMIT_NAMES, Limits
from hfs_providers.keys.windows import SlidingWindow, Window, ZonedDay

# Seconds of a bucket: its whole content leaves the window at once, when the end of the bucket does.
HOUR_GRAIN, DAY_GRAIN = 60.0, 900.0

_UNLIMITED = 10**15
"""A limit of this many requests is never reached: its window only counts."""


class Sleeper(Protocol):
    """Something that sleeps until a meter has changed."""

    def wake(self) -> None:
        """Look at the meter again; it leaves `sleepers`."""


class Meter:
    """What one account has used, for one model or for all models that share an allowance.

    `in_flight` and `reserved` belong to the leases that are open; the windows to the requests that ended. `sleepers`
    are woken when a call ends.
    """

    __slots__ = ("_wall", "in_flight", "leased", "reserved", "sleepers", "windows")

    def __init__(self, wall: Wall) -> None:
        self._wall = wall
        self.in_flight = 0
        self.reserved = 0
        # Counts every lease that was ever opened. An instant that was computed before the last one is too early.
        self.leased = 0
        self.windows: dict[str, Window] = {}
        self.sleepers: set[Sleeper] = set()

    def window(self, kind: str) -> Window:
        """The window called `minute`, `hour`, `day` or `day@<zone>`, which counts from now on if it is new."""
        found = self.windows.get(kind)
        if found is None:
            found = self.windows[kind] = self._make(kind)
        return found

    def _make(self, kind: str) -> Window:
        if kind == "minute":
            return SlidingWindow(MINUTE)
        if kind == "hour":
            return SlidingWindow(HOUR, HOUR_GRAIN)
        zone = zone_of(kind.partition("@")[2]) if "@" in kind else None
        return ZonedDay(zone, self._wall) if zone is not None else SlidingWindow(DAY, DAY_GRAIN)

    def record(self, now: float, tokens: int) -> None:
        """Count one request that was sent and ended `now`."""
        for window in self.windows.values():
            if window.expires <= now:
                window.prune(now)
            window.add(now, tokens)

    def wake(self) -> None:
        """Wake all that sleep until the meter changes."""
        for sleeper in list(self.sleepers):
            sleeper.wake()


class WindowRule(NamedTuple):
    """One window and the most that it may hold; infinity if there is no limit."""

    window: Window
    requests: float
    tokens: float


class Readiness(NamedTuple):
    """When an allowance has room, if no call ends earlier."""

    requests: float
    tokens: float


class Allowance:
    """One model's limits, read against a meter.

    A request fits if no limit would be exceeded, calls in flight included. An estimate that is larger than a limit
    could never fit: such a request may be sent when that window is empty.

    Args:
        limits: how much there is; None is unlimited.
    """

    __slots__ = ("limits", "meter", "rules", "token_rules", "zoned")

    def __init__(self, meter: Meter, limits: Limits | None) -> None:
        self.meter = meter
        self.limits = limits
        self.rules = tuple(_rules(meter, limits)) if limits is not None else ()
        self.token_rules = any(rule.tokens != NEVER for rule in self.rules)
        self.zoned = any(isinstance(rule.window, ZonedDay) for rule in self.rules)

    def fits(self, tokens: int, now: float) -> bool:
        """Whether a request with that estimate may be sent now."""
        meter = self.meter
        for window, most, most_tokens in self.rules:
            if window.expires <= now:
                window.prune(now)
            if window.requests + meter.in_flight >= most:
                return False
            if window.tokens + meter.reserved + min(tokens, most_tokens) > most_tokens or not most_tokens:
                return False
        return True

    def ready(self, tokens: int, now: float, *, idle: bool = False) -> Readiness:
        """When a request with that estimate may be sent; with `idle`, as if nothing were in flight."""
        in_flight, reserved = (0, 0) if idle else (self.meter.in_flight, self.meter.reserved)
        requests_at = tokens_at = now
        for window, most, most_tokens in self.rules:
            if window.expires <= now:
                window.prune(now)
            over = window.requests + in_flight + 1 - most
            if over > 0:
                requests_at = max(requests_at, NEVER if most <= 0 else window.freed_at(now, int(over), 0))
            over = window.tokens + reserved + min(tokens, most_tokens) - most_tokens
            if over > 0 or not most_tokens:
                tokens_at = max(tokens_at, NEVER if most_tokens <= 0 else window.freed_at(now, 0, int(over)))
        return Readiness(requests_at, tokens_at)


def _rules(meter: Meter, limits: Limits) -> Iterable[WindowRule]:
    day = f"day@{limits.day_zone}" if limits.day_zone else "day"
    for kind, requests, tokens in (
        ("minute", limits.rpm, limits.tpm),
        ("hour", limits.rph, limits.tph),
        (day, limits.rpd, limits.tpd),
    ):
        if requests is None and tokens is None:
            continue
        window = meter.window(kind)
        window.counts_requests |= requests is not None
        most = NEVER if requests is None or requests >= _UNLIMITED else max(0, requests)
        most_tokens = NEVER if tokens is None else max(0, tokens)
        yield WindowRule(window, most, most_tokens)


def counting_hours(limits: Limits | None) -> Limits:
    """Limits that count what is used in an hour, whether or not they limit it."""
    limits = limits or Limits()
    return limits if limits.rph is not None or limits.tph is not None else replace(limits, rph=_UNLIMITED)


def strictest(limits: Sequence[Limits | None]) -> Limits | None:
    """The lowest of each limit: these hold for an account whose keys have different limits."""
    known = [each for each in limits if each is not None]
    if not known or known.count(known[0]) == len(known):
        return known[0] if known else None
    tightest: dict[str, int | None] = {}
    for name in LIMIT_NAMES:
        said = [value for each in known if (value := getattr(each, name)) is not None]
        tightest[name] = min(said, default=None)
    zone = next((each.day_zone for each in known if each.day_zone), None)
    return Limits(**tightest, day_zone=zone, shared=any(each.shared for each in known))
