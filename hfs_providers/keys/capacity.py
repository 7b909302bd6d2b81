"""What a pool can still serve of a model, and for how long.

The forecast treats requests as a steady flow that goes wherever there is room. Until an instant, an account can serve
what its limits allow, minus what was used before and has not left the windows by then. The pool runs dry when the flow
needs more than all its accounts together can serve.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from hfs_providers.contract.instants import DAY, HOUR, MINUTE, NEVER
from hfs_providers.keys.limits import DAY_GRAIN, HOUR_GRAIN, Allowance
from hfs_providers.keys.state import Account
from hfs_providers.keys.windows import WindowEntry, ZonedDay

_SPANS = {"minute": MINUTE, "hour": HOUR, "day": DAY}
_GRAINS = {"minute": 0.0, "hour": HOUR_GRAIN, "day": DAY_GRAIN}
_MOST_STEPS = 100_000
"""The most accounts times instants that a forecast examines."""


@dataclass(frozen=True, slots=True)
class Left:
    """What limits still allow within a time; None is unlimited.

    Args:
        requests: of the mean size, if that is known.
        tokens: regardless of the number of requests.
    """

    requests: int | None
    tokens: int | None


@dataclass(frozen=True, slots=True)
class LimitNeed:
    """What a load needs of one limit.

    Args:
        name: as a field of `Limits`.
        needed: by the load.
        available: of all live keys, together; None is unlimited.
    """

    name: str
    needed: int
    available: int | None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a load needs.

    Args:
        rate: requests a minute.
        tokens: of one request.
        limits: those that the keys have.
        missing_keys: how many more keys with such limits it takes; None if no key is live.
        dry_in: as `Capacity.dry_in`, for this load.
    """

    rate: float
    tokens: float
    limits: Sequence[LimitNeed]
    missing_keys: int | None
    dry_in: float | None


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a provider's keys can serve of a model.

    Args:
        keys: how many of its keys are not dead.
        rate: requests a minute in the last hour, or since the first of them.
        tokens: mean of a request in that time; 0 if there was none.
        minute, hour, day: what limits allow within the next minute and hour, and until the day's limits are reset.
        dry_in: seconds until no key is free at this rate; 0: now; None: not within a day.
        limit: the limit that is used up then, as a field of `Limits`.
        needs: what the load given by the caller needs.
    """

    provider: str
    model: str
    keys: int
    rate: float
    tokens: float
    minute: Left
    hour: Left
    day: Left
    dry_in: float | None
    limit: str | None
    needs: Needs | None = None


class WindowRoom(NamedTuple):
    """One window of an account.

    Args:
        kind: `minute`, `hour` or `day`.
        requests, tokens: its limits; infinity if there is none.
        entries: what is used, each with the seconds until it leaves the window, the first to leave first.
        resets: whether the window is a calendar day, of which all leaves at once.
    """

    kind: str
    requests: float
    tokens: float
    entries: Sequence[WindowEntry]
    resets: float | None = None

    def name(self, unit: str) -> str:
        """The limit, as a field of `Limits`."""
        return f"{unit}p{self.kind[0]}"


class Room(NamedTuple):
    """What one account may use of a model: its live keys, the seconds for which it is closed, its windows."""

    keys: int
    closed: float
    windows: Sequence[WindowRoom]


def room_of(account: Account, model_id: str, allowance: Allowance, now: float, wall: float) -> Room:
    """What an account may use of a model.

    Args:
        allowance: of a pool that counts hours.
        now: monotonic seconds.
        wall: seconds since the epoch.
    """
    kinds = {id(window): kind.partition("@")[0] for kind, window in allowance.meter.windows.items()}
    windows = []
    for window, requests, tokens in allowance.rules:
        window.prune(now)
        kind = kinds[id(window)]
        if isinstance(window, ZonedDay):
            resets = window.ends - wall
            windows.append(WindowRoom(kind, requests, tokens, ((resets, window.requests, window.tokens),), resets))
        else:
            used = [(stamp + window.span - now, sent, charged) for stamp, sent, charged in window.entries()]
            windows.append(WindowRoom(kind, requests, tokens, tuple(used)))
    return Room(len(account.live), max(0.0, account.cooldown(model_id).until - now), tuple(windows))


def capacity_of(
    provider: str, model: str, rooms: Sequence[Room], rate: float | None = None, tokens: float | None = None
) -> Capacity:
    """What accounts can serve of a model.

    Args:
        rooms: of all its accounts. Their hours show how much was used lately.
        rate: requests a minute of the load; None: the rate of the last hour.
        tokens: of one of its requests; None: as in the last hour.
    """
    # Of thousands of keys, most may be alike.
    alike = Counter(rooms)
    used, mean = _recent(rooms)
    dry_in, limit = _dry_in(alike, used, mean)
    needs = None
    if rate is not None or tokens is not None:
        needs = _needs(alike, used if rate is None else rate, mean if tokens is None else tokens)
    minute, hour, day = (_left(alike, span, mean) for span in _SPANS.values())
    keys = sum(room.keys for room in rooms)
    return Capacity(provider, model, keys, used, mean, minute, hour, day, dry_in, limit, needs)


def _recent(rooms: Iterable[Room]) -> tuple[float, float]:
    """Requests a minute in the last hour, and the tokens of one."""
    windows = [window for room in rooms for window in room.windows if window.resets is None]
    for kind in ("hour", "day", "minute"):
        # Without anything in the last hour, older entries count.
        earliest = _SPANS[kind] - HOUR
        used = [entry for window in windows if window.kind == kind for entry in window.entries if entry[0] > earliest]
        requests = sum(requests for _, requests, _ in used)
        if requests:
            # An entry is stamped with the end of its bucket.
            since = _SPANS[kind] - min(leaves for leaves, _, _ in used) + _GRAINS[kind] / 2
            tokens = sum(tokens for _, _, tokens in used)
            return requests / min(HOUR, max(MINUTE, since)) * MINUTE, tokens / requests
    return 0.0, 0.0


class _Limit:
    """One limit of an account, in requests of the mean size."""

    def __init__(self, name: str, span: float, most: float, used: Iterable[tuple[float, float]]) -> None:
        self.name = name
        self.most = most
        self._span = span
        entries = list(used)
        self._leaves = [leaves for leaves, _ in entries]
        self._still = [*accumulate((amount for _, amount in reversed(entries)), initial=0.0)][::-1]

    def supply(self, at: float, open_for: float, *, before: bool = False) -> float:
        """The requests that it lets through until `at`, of which the account is open for the last seconds."""
        if open_for > self._span:
            return self.most * open_for / self._span
        left = (bisect_left if before else bisect_right)(self._leaves, at)
        return max(0.0, self.most - self._still[left])


def _limits(room: Room, mean: float) -> list[_Limit]:
    found = []
    for window in room.windows:
        span = _SPANS[window.kind]
        if window.requests != NEVER:
            used = [(leaves, float(requests)) for leaves, requests, _ in window.entries]
            found.append(_Limit(window.name("r"), span, window.requests, used))
        if window.tokens != NEVER and mean:
            used = [(leaves, tokens / mean) for leaves, _, tokens in window.entries]
            found.append(_Limit(window.name("t"), span, window.tokens / mean, used))
    return found


class _Supply:
    """What accounts together can have served until an instant."""

    def __init__(self, rooms: Mapping[Room, int], mean: float) -> None:
        self._parts = [(count, room.closed, _limits(room, mean)) for room, count in rooms.items() if room.keys]

    def __len__(self) -> int:
        return len(self._parts)

    def until(self, at: float, *, before: bool = False) -> float:
        """Requests; with `before`, as if what leaves a window at that instant were still in it."""
        return sum(
            count * min((limit.supply(at, at - closed, before=before) for limit in limits), default=NEVER)
            for count, closed, limits in self._parts
            if closed < at or (closed == at and not before)
        )

    def limit(self, at: float) -> str | None:
        """The limit that stops most accounts."""
        stops: Counter[str] = Counter()
        for count, closed, limits in self._parts:
            if limits and closed <= at:
                stops[min(limits, key=lambda limit: limit.supply(at, at)).name] += count
        return stops.most_common(1)[0][0] if stops else None


def _dry_in(rooms: Mapping[Room, int], rate: float, mean: float) -> tuple[float | None, str | None]:
    """Seconds until a load is more than the accounts can serve, and the limit that stops most of them then."""
    flow = rate / MINUTE
    if flow <= 0:
        return None, None
    resets = min([DAY, *(window.resets for room in rooms for window in room.windows if window.resets is not None)])
    supply = _Supply(rooms, mean)
    if supply.until(0.0) < 1:
        return 0.0, supply.limit(0.0)
    instants = _instants(rooms, resets, len(supply))
    place = 1
    while place < len(instants):
        # In between, the supply grows, and ever more slowly: any shortage is still there at the end.
        there = supply.until(instants[place], before=True)
        if flow * instants[place] > there:
            at = _first(instants[place - 1], instants[place], lambda at: flow * at > supply.until(at))
            return at, supply.limit(at)
        # It never shrinks: what it is by then is enough for the next instants, too.
        place = bisect_right(instants, there, place + 1, key=lambda at: flow * at)
    if resets < DAY:
        later: Counter[Room] = Counter()
        for room, count in rooms.items():
            later[_after(room, resets)] += count
        again, limit = _dry_in(later, rate, mean)
        if again is not None and resets + again <= DAY:
            return resets + again, limit
    return None, None


def _first(low: float, high: float, reached: Callable[[float], bool]) -> float:
    """The first instant, to the second, at which `reached` holds; it holds at `high`, and not at `low`."""
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _instants(rooms: Mapping[Room, int], end: float, parts: int) -> list[float]:
    """The instants of changes, from 0 (at which an account is open) to `end`; fewer if there are many accounts."""
    found = {end, *(5.0 * number for number in range(1, 13)), *(room.closed for room in rooms)}
    for room in rooms:
        for window in room.windows:
            if window.kind != "minute":
                found.update(leaves for leaves, _, _ in window.entries)
    instants = sorted(instant for instant in found if instant <= end)
    step = math.ceil(len(instants) * max(1, parts) / _MOST_STEPS)
    return [*instants[:-1:step], end]


def _after(room: Room, seconds: float) -> Room:
    """An account after a time in which nothing was sent; from then on, calendar days count as sliding ones."""
    windows = []
    for window in room.windows:
        entries = [(at - seconds, requests, tokens) for at, requests, tokens in window.entries if at > seconds]
        windows.append(window._replace(entries=tuple(entries), resets=None))
    return Room(room.keys, max(0.0, room.closed - seconds), tuple(windows))


def _left(rooms: Mapping[Room, int], span: float, mean: float) -> Left:
    requests = tokens = 0.0
    for room, count in rooms.items():
        if not room.keys or room.closed >= span:
            continue
        ends = min([span, *(window.resets for window in room.windows if window.resets is not None)])
        open_for = max(1e-9, ends - room.closed)
        most, most_tokens = NEVER, NEVER
        for window in room.windows:
            if _SPANS[window.kind] < span:
                times = open_for / _SPANS[window.kind]
                here, of_tokens = window.requests * times, window.tokens * times
            else:
                here = window.requests - sum(requests for _, requests, _ in window.entries)
                of_tokens = window.tokens - sum(tokens for _, _, tokens in window.entries)
            most, most_tokens = min(most, max(0.0, here)), min(most_tokens, max(0.0, of_tokens))
        requests += count * min(most, most_tokens / mean if mean else NEVER)
        tokens += count * most_tokens
    return Left(_count(requests), _count(tokens))


def _count(amount: float) -> int | None:
    return None if amount == NEVER else int(amount)


def _needs(rooms: Mapping[Room, int], rate: float, tokens: float) -> Needs:
    live = [(_finite(room), count) for room, count in rooms.items() if room.keys]
    accounts = sum(count for _, count in live)
    limits = []
    for unit, kind in dict.fromkeys(each for room in rooms for each in _finite(room)):
        # One account without that limit is enough for any load.
        there = sum(count * found.get((unit, kind), NEVER) for found, count in live)
        if there != NEVER:
            needed = rate * _SPANS[kind] / MINUTE * (tokens if unit == "t" else 1)
            limits.append(LimitNeed(f"{unit}p{kind[0]}", math.ceil(needed), int(there)))
    more = [(need.needed - need.available) / (need.available / accounts) for need in limits if need.available]
    missing = max([0, *map(math.ceil, more)]) if live else None
    return Needs(rate, tokens, limits, missing, _dry_in(rooms, rate, tokens)[0])


def _finite(room: Room) -> dict[tuple[str, str], float]:
    """The limits that an account has, each by its unit and the kind of its window."""
    limits = (
        (unit, each.kind, most) for each in room.windows for unit, most in (("r", each.requests), ("t", each.tokens))
    )
    return {(unit, kind): most for unit, kind, most in limits if most != NEVER}
