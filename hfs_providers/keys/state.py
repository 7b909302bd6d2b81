"""The state of one key, and of the account whose windows and cooldowns it shares.

A key is live or dead. A dead key has a probation. After it one call may try the key (half-open), and only the outcome
of that call says whether the key is live again:

    live --refused--> dead --probation over--> half-open --answered, or rate limited--> live
                       ^                          |--refused: dead, probation doubled
                       `--------------------------'--failed otherwise: dead, tried again soon

Cooldowns belong to the account, for one model or (None) for all.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from hfs_providers.contract.instants import NEVER
from hfs_providers.contract.records import Credential, KeyState
from hfs_providers.keys.clocks import Clocks, Instant
from hfs_providers.keys.limits import Allowance, Meter

DEFAULT_COOLDOWN = 30.0
"""Seconds for which a limited key cools down if the provider's answer names no time."""

PROBATION = 3600.0
"""Seconds after which a dead key may be tried again; up to a quarter less, so that keys that died together are not
tried together."""

CREDIT_PROBATION = 86_400.0
"""The same for a key without credits; also the longest probation that doubling leads to."""

PROBE_RETRY = 60.0
"""Seconds until a dead key is tried again if its trial failed for a reason that is not the key's fault."""

_SPREAD = 0.25
_SHARES = 4096


class Cooldown(NamedTuple):
    """When the cooldown of an account ends, and why there is one.

    Args:
        state: `cooling` if the provider said so, `limited` if others have used the allowance up.
        end: the end by both clocks; `until` is what comes first.
    """

    until: float
    reason: str
    state: KeyState = "cooling"
    end: Instant = Instant(-NEVER, -NEVER)


_NO_COOLDOWN = Cooldown(-NEVER, "")


class Key:
    """One key: live or dead, and what is in flight on it."""

    __slots__ = (
        "account",
        "credential",
        "dead_reason",
        "due",
        "gone",
        "in_flight",
        "index",
        "last_used",
        "probation",
        "probe",
        "retry_at",
        "since",
    )

    def __init__(self, credential: Credential, account: Account, index: int, rank: int) -> None:
        self.credential = credential
        self.account = account
        self.index = index
        # The turn in which it was last leased; below zero if it never was, so that new keys keep their order.
        self.last_used = rank
        self.in_flight = 0
        # Whether it has left the pool: only calls that began before still use it.
        self.gone = False
        self.dead_reason: str | None = None
        # The monotonic instant from which it may be tried, and what that comes from.
        self.retry_at = 0.0
        self.due = Instant(0.0, 0.0)
        self.probation = 0.0
        # When it was refused, in seconds since the epoch.
        self.since = 0.0
        # The number of the lease that tries this dead key, or 0.
        self.probe = 0

    @property
    def id(self) -> str:
        """Such as `acme#3`."""
        return self.credential.id

    def mark_dead(self, now: float, reason: str, probation: float, *, probed: bool) -> float:
        """Declare the key dead, and return the seconds until it may be tried.

        Only a failed trial doubles the probation: several calls that were in flight when the key died count as one.
        """
        if probed:
            probation = max(probation, 2 * self.probation)
        elif self.dead_reason is not None:
            probation = max(probation, self.probation)
        self.probation = min(CREDIT_PROBATION, probation)
        until = now + self.spread(self.probation)
        self.try_from(max(self.retry_at if self.dead_reason is not None else now, until))
        self.since = self.account.clocks.at(now).wall
        self.dead_reason = reason
        self.probe = 0
        self.account.sort(self)
        return self.retry_at - now

    def revive(self) -> None:
        """Put the key back into rotation."""
        self.dead_reason = None
        self.probation = 0.0
        self.probe = 0
        self.account.sort(self)

    def spread(self, seconds: float) -> float:
        """Up to a quarter less, always the same share for one key."""
        share = zlib.crc32(f"{self.id} {self.credential.fingerprint}".encode()) % _SHARES / _SHARES
        return seconds * (1 - _SPREAD * share)

    def try_from(self, instant: float) -> None:
        """Allow a trial of the dead key from that monotonic instant on."""
        self.retry_at = instant
        self.due = self.account.clocks.at(instant)

    def open_at(self) -> float:
        """The instant from which the key may be leased, if its account has room."""
        if self.dead_reason is None:
            return -NEVER
        return NEVER if self.probe else self.retry_at


class Account:
    """Keys that share windows and cooldowns; most accounts have one key.

    `order` is the place of the account's next key in the pool's turn order: the smallest is leased first.
    """

    __slots__ = (
        "allowances",
        "clocks",
        "cooling",
        "dead",
        "index",
        "live",
        "meters",
        "name",
        "only",
        "order",
    )

    def __init__(self, name: str, index: int, clocks: Clocks) -> None:
        self.name = name
        self.index = index
        self.clocks = clocks
        self.live: OrderedDict[str, Key] = OrderedDict()
        self.dead: dict[str, Key] = {}
        self.cooling: dict[str | None, Cooldown] = {}
        self.meters: dict[str | None, Meter] = {}
        self.allowances: dict[str, Allowance] = {}
        self.order = 0
        # The key of an account that has only one, if it is live; else None.
        self.only: Key | None = None

    @property
    def keys(self) -> Sequence[Key]:
        """All keys of the account."""
        return [*self.live.values(), *self.dead.values()]

    @property
    def in_flight(self) -> int:
        """Calls in flight with any of its keys, also with keys that have left."""
        return sum(meter.in_flight for meter in self.meters.values())

    def sort(self, key: Key) -> None:
        """File a key that is new, died or was revived."""
        if key.gone:
            return
        self.live.pop(key.id, None)
        self.dead.pop(key.id, None)
        if key.dead_reason is not None:
            self.dead[key.id] = key
        elif not self.live:
            self.live[key.id] = key
        else:
            live = sorted([*self.live.values(), key], key=lambda each: each.last_used)
            self.live = OrderedDict((each.id, each) for each in live)
        self._sorted()

    def drop(self, key: Key) -> None:
        """Take out a key that leaves the pool."""
        key.gone = True
        self.live.pop(key.id, None)
        self.dead.pop(key.id, None)
        self._sorted()

    def _sorted(self) -> None:
        self.only = next(iter(self.live.values())) if len(self.live) == 1 and not self.dead else None
        self._reorder()

    def use(self, key: Key, turn: int) -> None:
        """Note that a key was leased in that turn."""
        key.last_used = turn
        if len(self.live) > 1 and key.dead_reason is None:
            self.live.move_to_end(key.id)
        self._reorder()

    def _reorder(self) -> None:
        if self.live:
            self.order = next(iter(self.live.values())).last_used
        else:
            self.order = min((key.last_used for key in self.dead.values()), default=0)

    def choose(self, exclude: Collection[str]) -> Key | None:
        """The live key to lease next."""
        if self.only is not None and not exclude:
            return self.only
        for key in self.live.values():
            if key.id not in exclude:
                return key
        return None

    def open_at(self, exclude: Collection[str] = ()) -> float:
        """The instant from which `choose` has a key, whatever cooldowns and windows say."""
        return -NEVER if any(key_id not in exclude for key_id in self.live) else NEVER

    def cool(self, now: float, until: float, model_id: str | None, reason: str, state: KeyState = "cooling") -> None:
        """Cool down until that instant, for one model or for all. A longer cooldown that was set before stays."""
        self.cooling = {scope: cooldown for scope, cooldown in self.cooling.items() if cooldown.until > now}
        if until > self.cooling.get(model_id, Cooldown(now, "")).until:
            self.cooling[model_id] = Cooldown(until, reason, state, self.clocks.at(until))

    def follow_clocks(self) -> None:
        """The clocks have moved apart or together again: compute again when cooldowns and probations end."""
        first = self.clocks.first
        self.cooling = {scope: cooldown._replace(until=first(cooldown.end)) for scope, cooldown in self.cooling.items()}
        for key in self.dead.values():
            key.retry_at = first(key.due)

    def cooldown(self, model_id: str) -> Cooldown:
        """Until when the account cools down for a model, and why."""
        return max(self.cooling.get(model_id, _NO_COOLDOWN), self.cooling.get(None, _NO_COOLDOWN))
