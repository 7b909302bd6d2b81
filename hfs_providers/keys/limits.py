"""A model's limits, read against what was used of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from hfs_providers.contract.instants import DAY, HOUR, MINUTE, NEVER, Wall, zone_of
from hfs_providers.contract.records import Limits
from hfs_providers.keys.windows import SlidingWindow, Window, ZonedDay

if TYPE_CHECKING:
    from hfs_providers.keys.scheduler import Slot


# Seconds of a bucket: what it holds leaves the window together, when its youngest possible entry may.
_HOUR_GRAIN, _DAY_GRAIN = 60.0, 900.0


class Meter:
    """What one account has used, for one model or for all that share an allowance.

    `in_flight` and `reserved` belong to the leases that are open; the windows to the requests that ended.
    """

    __slots__ = ("_wall", "in_flight", "leased", "reserved", "slots", "windows")

    def __init__(self, wall: Wall) -> None:
        self._wall = wall
        self.in_flight = 0
        self.reserved = 0
        # Counts every lease that was ever opened, so that who computed an instant sees that it has become later.
        self.leased = 0
        self.windows: dict[str, Window] = {}
        self.slots: list[Slot] = []

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
            return SlidingWindow(HOUR, _HOUR_GRAIN)
        zone = zone_of(kind.partition("@")[2]) if "@" in kind else None
        return ZonedDay(zone, self._wall) if zone is not None else SlidingWindow(DAY, _DAY_GRAIN)

    def record(self, now: float, tokens: int) -> None:
        """Count one request that was sent and ended `now`."""
        for window in self.windows.values():
            if window.expires <= now:
                window.prune(now)
            window.add(now, tokens)


class Rule(NamedTuple):
    """One window and the most that it may hold; infinity where there is no limit."""

    window: Window
    requests: float
    tokens: float


class Readiness(NamedTuple):
    """When an allowance has room, if no call ends before.

    Args:
        requests: the instant from which one more request fits.
        tokens: the instant from which its tokens fit.
    """

    requests: float
    tokens: float


class Allowance:
    """One model's limits, read against a meter.

    A request fits where, calls in flight included, no limit would be passed. An estimate beyond a limit itself could
    never fit: it is let through when that window is empty.

    Args:
        meter: what was used.
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
        """When a request with that estimate may be sent; `idle`: if nothing were in flight."""
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


def _rules(meter: Meter, limits: Limits) -> Iterable[Rule]:
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
        yield Rule(window, NEVER if requests is None else max(0, requests), NEVER if tokens is None else max(0, tokens))


def strictest(limits: Iterable[Limits | None]) -> Limits | None:
    """The tightest of each limit: what keys of one account that say different things may count on."""
    known = [each for each in limits if each is not None]
    if not known or all(each == known[0] for each in known):
        return known[0] if known else None
    tightest: dict[str, int | None] = {}
    for name in ("rpm", "rph", "rpd", "tpm", "tph", "tpd"):
        said = [value for each in known if (value := getattr(each, name)) is not None]
        tightest[name] = min(said, default=None)
    zone = next((each.day_zone for each in known if each.day_zone), None)
    return Limits(**tightest, day_zone=zone, shared=any(each.shared for each in known))
