"""How much of a limit was used: windows of time whose cost does not grow with their history."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from hfs_providers.contract.instants import DAY, NEVER, Wall, next_midnight

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


# A wall clock in floats is exact to a quarter of a microsecond: wait a little longer than until the reset.
_WALL_MARGIN = 1e-6


MOST_TOKENS = 1 << 40
"""The most that one entry of a window counts, whatever a provider or a file says: sums stay within 64 bits."""

WindowEntry = tuple[float, int, int]
"""An instant, requests and tokens."""


class SlidingWindow:
    """The last `span` seconds, exact or in buckets. Its counts are right if `prune` was called after `expires`.

    The entries are in arrays, not lists: with thousands of keys, every object that a call has to look up elsewhere in
    memory costs it time.

    An entry that ended at `s` counts until `s + span`. All of a bucket counts as if it had ended at the end of the
    bucket: a key is freed up to `grain` seconds late and never early. With cumulative sums, a bisection finds the
    instant at which enough has left.

    Args:
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
        self._stamps = array("d")
        self._cumulative_requests = array("q")
        self._cumulative_tokens = array("q")
        self._head = 0
        self.requests = 0
        self.tokens = 0
        self.expires = NEVER

    def add(self, now: float, tokens: int) -> None:
        """Count one request that ended `now`; no request that was counted ended later."""
        # Without a limit on requests, an entry without tokens changes nothing.
        if tokens or self.counts_requests:
            self._put((now // self._grain + 1) * self._grain if self._grain else now, 1, tokens)

    def _put(self, stamp: float, requests: int, tokens: int) -> None:
        stamps = self._stamps
        self.requests += requests
        self.tokens += tokens
        if stamps:
            total_requests = self._cumulative_requests[-1] + requests
            total_tokens = self._cumulative_tokens[-1] + tokens
            # A bucket that is younger than this entry (restored from another process) takes it: freed late, not early.
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
            if end:
                self._clear()
            return
        if head:
            self.requests = self._cumulative_requests[-1] - self._cumulative_requests[head - 1]
            self.tokens = self._cumulative_tokens[-1] - self._cumulative_tokens[head - 1]
        if head > 32 and head * 2 > end:
            # The cumulative sums keep their values: only their differences have a meaning.
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

    def entries(self) -> list[WindowEntry]:
        """What is counted, oldest first."""
        found: list[WindowEntry] = []
        if not self._stamps:
            return found
        requests = self._cumulative_requests[-1] - self.requests
        tokens = self._cumulative_tokens[-1] - self.tokens
        for index in range(self._head, len(self._stamps)):
            upto_requests, upto_tokens = self._cumulative_requests[index], self._cumulative_tokens[index]
            found.append((self._stamps[index], upto_requests - requests, upto_tokens - tokens))
            requests, tokens = upto_requests, upto_tokens
        return found

    def restore(self, now: float, entries: Iterable[WindowEntry]) -> None:
        """Count `entries`, oldest first, and nothing else."""
        self._clear()
        span, latest, last = self.span, now + self._grain, -math.inf
        counted = charged = 0
        stamps: list[float] = []
        requests_upto: list[int] = []
        tokens_upto: list[int] = []
        # As `_put` does it, but all at once: with thousands of keys there are hundreds of thousands.
        for stamp, requests, tokens in entries:
            if stamp + span <= now:
                continue
            counted += requests
            charged += tokens
            stamp = stamp if stamp < latest else latest
            if last >= stamp:
                requests_upto[-1], tokens_upto[-1] = counted, charged
                continue
            last = stamp
            stamps.append(stamp)
            requests_upto.append(counted)
            tokens_upto.append(charged)
        if stamps:
            self.requests, self.tokens = counted, charged
            self._stamps, self.expires = array("d", stamps), stamps[0] + span
            self._cumulative_requests, self._cumulative_tokens = array("q", requests_upto), array("q", tokens_upto)

    def age(self, seconds: float) -> None:
        """Account for time that the monotonic clock did not count."""
        self._stamps = array("d", (stamp - seconds for stamp in self._stamps))
        self.expires -= seconds


class ZonedDay:
    """The calendar day of a zone: all counts are reset at its midnight, by the wall clock.

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
        # Only the wall clock tells when the day is over: the monotonic clock stands still while a host is suspended.
        self.expires = -math.inf

    def add(self, now: float, tokens: int) -> None:
        self.prune(now)
        self.requests += 1
        self.tokens += tokens

    def prune(self, now: float) -> None:
        """Begin a new day if the last one is over."""
        wall = self._wall()
        if wall >= self.ends:
            self.requests = self.tokens = 0
            self.ends = next_midnight(self._zone, wall)

    def freed_at(self, now: float, requests: int, tokens: int) -> float:
        """The instant of midnight if that many requests and tokens are counted, else `NEVER`."""
        if requests > self.requests or tokens > self.tokens:
            return NEVER
        return now + max(0.0, self.ends - self._wall()) + _WALL_MARGIN

    def entries(self) -> list[WindowEntry]:
        """The day's counts as one entry that lies within it."""
        self.prune(0.0)
        return [(0.0, self.requests, self.tokens)] if self.requests else []

    def restore(self, now: float, entries: Iterable[WindowEntry]) -> None:
        """Replace what is counted by those of `entries` that lie within the current day."""
        self.prune(now)
        since = next_midnight(self._zone, self.ends - 1.5 * DAY) - self._wall() + now
        kept = [entry for entry in entries if entry[0] >= since]
        self.requests = sum(requests for _, requests, _ in kept)
        self.tokens = sum(tokens for _, _, tokens in kept)

    def age(self, seconds: float) -> None:
        """Nothing: a calendar day goes by the wall clock."""


Window: TypeAlias = SlidingWindow | ZonedDay
