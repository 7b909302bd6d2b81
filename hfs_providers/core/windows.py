"""What a provider allows to a key, and what was used of it: windows that cost the same whatever their history.

A `Meter` holds the counts that several keys or models may share; an `Allowance` is one model's limits read against it.
Calls in flight count as requests and reserve their estimated tokens, so a limit holds whatever they turn into.
"""

from __future__ import annotations

import functools
import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hfs_providers.core.contract import Limits

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from hfs_providers.core.lanes import Slot

NEVER = math.inf
"""The instant of what no passing of time brings about."""

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0

# Seconds of a bucket: what it holds leaves the window together, when its youngest possible entry may.
_HOUR_GRAIN, _DAY_GRAIN = 60.0, 900.0

# A wall clock in floats is good to a quarter of a microsecond: a reset is awaited for a little longer than it takes.
_WALL_MARGIN = 1e-6

_log = logging.getLogger(__name__)

Wall = Callable[[], float]
Entry = tuple[float, int, int]
"""An instant, requests and tokens."""


class Window(Protocol):
    """Requests and tokens of a span of time that ends now.

    `requests` and `tokens` are right once `prune` was called where `expires` has passed.
    """

    requests: int
    tokens: int
    expires: float
    counts_requests: bool

    def add(self, now: float, tokens: int) -> None:
        """Count one request that ended `now`, not earlier than any before it."""

    def prune(self, now: float) -> None:
        """Drop what has left the window."""

    def freed_at(self, now: float, requests: int, tokens: int) -> float:
        """The instant at which that many of the counted requests and tokens will have left, or `NEVER`."""

    def entries(self) -> Sequence[Entry]:
        """What is counted, oldest first."""

    def restore(self, now: float, entries: Iterable[Entry]) -> None:
        """Count `entries`, oldest first, and nothing else."""

    def age(self, seconds: float) -> None:
        """Let that much more time have passed than the monotonic clock shows."""


class SlidingWindow:
    """The last `span` seconds, exact or in buckets.

    An entry that ended at `s` counts until `s + span`, a bucket as if all of it had ended at the bucket's end: with
    buckets a key is freed up to `grain` seconds late and never early. The cumulative sums make both the sums and the
    instant at which enough has left a matter of a bisection.

    Args:
        span: seconds.
        grain: seconds of a bucket; 0 keeps each instant.
    """

    __slots__ = (
        "_cumulative_requests",
        "_cumulative_tokens",
        "_grain",
        "_head",
        "_stamps",
        "counts_requests",
        "expires",
        "requests",
        "span",
        "tokens",
    )

    def __init__(self, span: float, grain: float = 0.0) -> None:
        self.span = span
        self._grain = grain
        self.counts_requests = False
        self._clear()

    def _clear(self) -> None:
        self._stamps: list[float] = []
        self._cumulative_requests: list[int] = []
        self._cumulative_tokens: list[int] = []
        self._head = 0
        self.requests = 0
        self.tokens = 0
        self.expires = NEVER

    def __len__(self) -> int:
        return len(self._stamps) - self._head

    def add(self, now: float, tokens: int) -> None:
        """Count one request that ended `now`."""
        # Without a limit on requests there is none on the number of entries without tokens.
        if tokens or self.counts_requests:
            self._put((now // self._grain + 1) * self._grain if self._grain else now, 1, tokens)

    def _put(self, stamp: float, requests: int, tokens: int) -> None:
        stamps = self._stamps
        self.requests += requests
        self.tokens += tokens
        if stamps:
            total_requests = self._cumulative_requests[-1] + requests
            total_tokens = self._cumulative_tokens[-1] + tokens
            # A bucket that is younger than this entry (restored from another process) takes it: late, not early.
            if stamps[-1] >= stamp:
                self._cumulative_requests[-1] = total_requests
                self._cumulative_tokens[-1] = total_tokens
                return
        else:
            total_requests, total_tokens = requests, tokens
            self.expires = stamp + self.span
        stamps.append(stamp)
        self._cumulative_requests.append(total_requests)
        self._cumulative_tokens.append(total_tokens)

    def prune(self, now: float) -> None:
        """Drop what has left the window."""
        stamps, span = self._stamps, self.span
        head, end = self._head, len(stamps)
        while head < end and stamps[head] + span <= now:
            head += 1
        if head == end:
            self._clear()
            return
        if head:
            self.requests = self._cumulative_requests[-1] - self._cumulative_requests[head - 1]
            self.tokens = self._cumulative_tokens[-1] - self._cumulative_tokens[head - 1]
        if head > 32 and head * 2 > end:
            # The cumulative sums go on from where they are: only their differences have a meaning.
            self._stamps = stamps[head:]
            self._cumulative_requests = self._cumulative_requests[head:]
            self._cumulative_tokens = self._cumulative_tokens[head:]
            head = 0
        self._head = head
        self.expires = self._stamps[head] + span

    def freed_at(self, now: float, requests: int, tokens: int) -> float:
        """The instant at which that many of the counted requests and tokens will have left, or `NEVER`."""
        if requests > self.requests or tokens > self.tokens:
            return NEVER
        index = -1
        if requests > 0:
            gone = self._cumulative_requests[-1] - self.requests
            index = bisect_left(self._cumulative_requests, gone + requests, self._head)
        if tokens > 0:
            gone = self._cumulative_tokens[-1] - self.tokens
            index = max(index, bisect_left(self._cumulative_tokens, gone + tokens, self._head))
        return self._stamps[index] + self.span if index >= 0 else now

    def entries(self) -> list[Entry]:
        """What is counted, oldest first."""
        found: list[Entry] = []
        if not self._stamps:
            return found
        requests = self._cumulative_requests[-1] - self.requests
        tokens = self._cumulative_tokens[-1] - self.tokens
        for index in range(self._head, len(self._stamps)):
            upto_requests, upto_tokens = self._cumulative_requests[index], self._cumulative_tokens[index]
            found.append((self._stamps[index], upto_requests - requests, upto_tokens - tokens))
            requests, tokens = upto_requests, upto_tokens
        return found

    def restore(self, now: float, entries: Iterable[Entry]) -> None:
        """Count `entries`, oldest first, and nothing else."""
        self._clear()
        latest = now + self._grain
        for stamp, requests, tokens in entries:
            if stamp + self.span > now:
                self._put(min(stamp, latest), requests, tokens)

    def age(self, seconds: float) -> None:
        """Let that much more time have passed than the monotonic clock shows."""
        self._stamps = [stamp - seconds for stamp in self._stamps]
        self.expires -= seconds


class ZonedDay:
    """The calendar day of a zone: at its midnight all counts are reset, by the wall clock.

    Args:
        zone: an IANA zone.
        wall: seconds since the epoch.
    """

    __slots__ = ("_wall", "_zone", "counts_requests", "ends", "expires", "requests", "tokens")

    def __init__(self, zone: ZoneInfo, wall: Wall) -> None:
        self._zone = zone
        self._wall = wall
        self.counts_requests = False
        self.requests = 0
        self.tokens = 0
        self.ends = next_midnight(zone, wall())
        # Only the wall clock tells when the day is over (a host that slept has a monotonic clock that did not run).
        self.expires = -math.inf

    def add(self, now: float, tokens: int) -> None:
        """Count one request that ended `now`."""
        self.prune(now)
        self.requests += 1
        self.tokens += tokens

    def prune(self, now: float) -> None:
        """Begin a new day where the last one is over."""
        wall = self._wall()
        if wall >= self.ends:
            self.requests = self.tokens = 0
            self.ends = next_midnight(self._zone, wall)

    def freed_at(self, now: float, requests: int, tokens: int) -> float:
        """The instant of midnight, where that many requests and tokens leave with the day, else `NEVER`."""
        if requests > self.requests or tokens > self.tokens:
            return NEVER
        return now + max(0.0, self.ends - self._wall()) + _WALL_MARGIN

    def entries(self) -> list[Entry]:
        """The day's counts as one entry that lies within it."""
        self.prune(0.0)
        return [(0.0, self.requests, self.tokens)] if self.requests else []

    def restore(self, now: float, entries: Iterable[Entry]) -> None:
        """Count those of `entries` that lie within the day that is."""
        self.prune(now)
        since = next_midnight(self._zone, self.ends - 1.5 * DAY) - self._wall() + now
        kept = [entry for entry in entries if entry[0] >= since]
        self.requests = sum(requests for _, requests, _ in kept)
        self.tokens = sum(tokens for _, _, tokens in kept)

    def age(self, seconds: float) -> None:
        """Nothing: a calendar day goes by the wall clock."""


def next_midnight(zone: ZoneInfo, wall: float) -> float:
    """The first instant of the day after the one that `wall` lies in, in seconds since the epoch.

    A midnight that a change of the clocks skips is the instant of that change (PEP 495: the offset before it).
    """
    day = datetime.fromtimestamp(wall, zone).date() + timedelta(days=1)
    return datetime.combine(day, time(), tzinfo=zone).timestamp()


@functools.lru_cache(maxsize=64)
def zone_of(name: str) -> ZoneInfo | None:
    from zoneinfo import ZoneInfo  # costs 10 ms to import, and few limits name a zone

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        _log.warning("time zone %r is not known here: its days are counted as sliding ones (pip install tzdata)", name)
        return None


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


def seconds_until(instant: float, now: float) -> float | None:
    """From `now` to `instant`, rounded so that their sum is never before it."""
    if instant == NEVER:
        return None
    seconds = max(0.0, instant - now)
    while now + seconds < instant:
        seconds = math.nextafter(seconds, NEVER)
    return seconds
