"""A pool's side of sharing: what a lease reserves in the ledger, and what a refusal means for the keys.

It has no lock: the pool holds its own around every call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hfs_providers.keys.keyring import KeyRing
from hfs_providers.keys.leases import Grant
from hfs_providers.keys.ledger import InFlight, Ledger, Refusal, Reservation, Spent

_LEAST_COOLDOWN = 0.005
"""Seconds for which a refusal holds at least: a ledger that says "now" is not asked again at once."""


class Reservations:
    """The reservations of a pool while it shares its keys."""

    def __init__(self, provider: str, keyring: KeyRing, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._provider = provider
        self._keyring = keyring
        self._clock = clock
        self._wall = wall
        self.ledger: Ledger | None = None
        """The ledger to ask while others use the same keys."""
        self.asking: set[Grant] = set()
        """Leases that were opened while the keys were shared, and not granted yet: the ledger does not count them."""

    def of(self, grant: Grant) -> Reservation:
        """What a lease reserves."""
        account = grant.key.account
        allowance = account.allowances.get(grant.model_id)
        return Reservation(
            self._provider,
            grant.key.credential.account,
            tuple(sorted(key.credential.fingerprint for key in account.keys)),
            grant.key.credential.fingerprint,
            grant.model_id,
            allowance.limits if allowance is not None else None,
            grant.reserved,
        )

    def end(self, grant: Grant, charged: int | None) -> None:
        """A lease has ended; see `Ledger.end`."""
        if grant in self.asking:
            self.asking.discard(grant)
        elif self.ledger is not None:
            self.ledger.end(grant.reservation or self.of(grant), charged)

    def in_flight(self) -> list[InFlight]:
        """The calls in flight, except those that the ledger is being asked about at this moment."""
        asking: Counter[int] = Counter()
        tokens: Counter[int] = Counter()
        for grant in self.asking:
            asking[id(grant.meter)] += 1
            tokens[id(grant.meter)] += grant.reserved
        found = []
        for account in self._keyring.accounts:
            for scope, meter in account.meters.items():
                requests = meter.in_flight - asking[id(meter)]
                if requests > 0:
                    reserved = meter.reserved - tokens[id(meter)]
                    found.append(InFlight(account.name, scope or "", requests, reserved))
        return found

    def spent(self) -> list[Spent]:
        """The content of the windows."""
        now, wall = self._clock(), self._wall()
        found = []
        for account in self._keyring.accounts:
            for scope, meter in account.meters.items():
                for kind, window in meter.windows.items():
                    window.prune(now)
                    # The one entry of a calendar day has no instant of its own.
                    entries = [
                        (wall if "@" in kind else stamp - now + wall, requests, tokens)
                        for stamp, requests, tokens in window.entries()
                    ]
                    found.append(Spent(account.name, scope or "", kind, entries))
        return found

    def apply_refusal(self, grant: Grant, refusal: Refusal) -> None:
        """Take the key of a refused lease out of rotation, for the reason in the refusal."""
        now = self._keyring.look()
        seconds = max(_LEAST_COOLDOWN, refusal.until - self._wall())
        key = grant.key
        if refusal.state == "dead":
            # A dead key that was tried a little early keeps its probation; the others have said when it is due.
            if key.dead_reason is None:
                key.mark_dead(now, refusal.reason, seconds, probed=False)
            key.try_from(now + seconds)
        else:
            scope = grant.model_id if refusal.scope == "model" else None
            key.account.cool(now, now + seconds, scope, refusal.reason, refusal.state)
        self._keyring.changed(key.account)
