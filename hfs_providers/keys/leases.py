"""The right to send one request: how it is given, how it ends, and what its outcome does to the key."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

from hfs_providers.contract.error_rules import Scope
from hfs_providers.contract.records import Credential
from hfs_providers.keys.keyring import KeyRing
from hfs_providers.keys.ledger import Reservation
from hfs_providers.keys.limits import Meter
from hfs_providers.keys.scheduler import Slot
from hfs_providers.keys.state import CREDIT_PROBATION, DEFAULT_COOLDOWN, PROBATION, PROBE_RETRY, Key

KeyChange = Literal["key_cooling", "key_dead", "key_revived", "key_joined", "key_left", "limits_learned"]
OnChange = Callable[[KeyChange, str, "str | None", "str | None", "float | None"], None]
"""Called outside the lock with: what changed, key id, model id or None, reason, seconds."""

Outcome = Literal["commit", "failed", "rate_limited", "dead", "release"]
Told = tuple[KeyChange, "str | None", "str | None", "float | None"]
"""The arguments of `OnChange`, without the key."""


class Refused(NamedTuple):
    """The provider's answer to a request that it refused because of the key.

    Args:
        retry_after: seconds to wait, if it named them.
        scope: whether that holds for the model alone or for the key.
        credits: the account has no credits left.
    """

    reason: str | None = None
    retry_after: float | None = None
    scope: Scope = "model"
    credits: bool = False


class Grant:
    """The pool's record of a lease. It has no reference to the lease, which is released when it is collected."""

    __slots__ = ("ended", "key", "meter", "model_id", "probe", "reservation", "reserved", "turn")

    def __init__(self, key: Key, meter: Meter, model_id: str, reserved: int, turn: int) -> None:
        self.key = key
        self.meter = meter
        self.model_id = model_id
        self.reserved = reserved
        self.turn = turn
        self.ended = False
        self.probe = key.dead_reason is not None
        # What the ledger granted, if it was asked.
        self.reservation: Reservation | None = None


class Lender(Protocol):
    """The giver of a lease."""

    def end(self, grant: Grant, outcome: Outcome, tokens: int, refused: Refused = ...) -> None:
        """End a lease, unless it has ended."""

    def orphaned(self, grant: Grant) -> None:
        """A lease was collected open. Called at any moment, maybe in a thread that holds the pool's lock."""


class Lease:
    """The right to send one request with one key. It ends once: the first outcome counts, later ones do nothing.

    As a context manager it is released if the block ends without an outcome. A lease that is dropped without an outcome
    is released when it is collected.
    """

    __slots__ = ("_grant", "_lender")

    def __init__(self, lender: Lender, grant: Grant) -> None:
        self._lender = lender
        self._grant = grant

    @property
    def credential(self) -> Credential:
        """The key that was leased."""
        return self._grant.key.credential

    @property
    def key_id(self) -> str:
        """The id of the key, such as `acme#3`."""
        return self._grant.key.credential.id

    @property
    def model_id(self) -> str:
        """The model that it was leased for."""
        return self._grant.model_id

    @property
    def reserved(self) -> int:
        """The tokens that are reserved until it ends."""
        return self._grant.reserved

    @property
    def probe(self) -> bool:
        """Whether it tries a dead key."""
        return self._grant.probe

    @property
    def ended(self) -> bool:
        """Whether an outcome was given."""
        return self._grant.ended

    def __repr__(self) -> str:
        return f"Lease({self.key_id}, {self.model_id}, {'ended' if self.ended else 'open'})"

    def commit(self, tokens: int = 0) -> None:
        """The call was answered.

        Args:
            tokens: as the provider counted them.
        """
        self._lender.end(self._grant, "commit", tokens)

    def failed(self, tokens: int = 0) -> None:
        """The request was sent and counts, but its failure is not the key's fault.

        Args:
            tokens: as the provider counted them.
        """
        self._lender.end(self._grant, "failed", tokens)

    def rate_limited(self, retry_after: float | None = None, scope: Scope = "model", reason: str | None = None) -> None:
        """The provider rate-limited the key.

        Args:
            retry_after: seconds, as the provider said; None for 30 s.
            scope: `model` if the limit is that of one model, `key` if it is the key's or its account's.
        """
        self._lender.end(self._grant, "rate_limited", 0, Refused(reason, retry_after, scope))

    def dead(self, reason: str, *, credits: bool = False) -> None:
        """The provider refused the key itself.

        Args:
            credits: the account has no credits left: the key is tried again after a day instead of an hour.
        """
        self._lender.end(self._grant, "dead", 0, Refused(reason, credits=credits))

    def release(self) -> None:
        """Nothing was sent: nothing counts."""
        self._lender.end(self._grant, "release", 0)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        if not self._grant.ended:
            self._lender.orphaned(self._grant)


class Leases:
    """Opens and closes leases, counts them, and applies their outcomes to the keys.

    It has no lock: the pool holds its own around every call.
    """

    def __init__(self, keyring: KeyRing, clock: Callable[[], float]) -> None:
        self._keyring = keyring
        self._clock = clock
        self._turn = 0
        self.inherited = 0
        """The last turn of the parent process: leases up to it belong to the parent's calls and are not counted."""

    def open(self, slot: Slot, key: Key, tokens: int) -> Grant:
        """Lease a key to a request with that estimate."""
        self._turn = turn = self._turn + 1
        meter = slot.allowance.meter
        grant = Grant(key, meter, slot.queue.model_id, tokens, turn)
        if grant.probe:
            key.probe = turn
        account = key.account
        if account.only is key:
            key.last_used = account.order = turn
        else:
            account.use(key, turn)
        key.in_flight += 1
        self._keyring.in_flight += 1
        meter.in_flight += 1
        meter.leased += 1
        meter.reserved += tokens
        return grant

    def _close(self, grant: Grant) -> None:
        grant.ended = True
        grant.key.in_flight -= 1
        self._keyring.in_flight -= 1
        grant.meter.in_flight -= 1
        grant.meter.reserved -= grant.reserved

    def take_back(self, grant: Grant) -> None:
        """Close a lease as if it had never been given."""
        key = grant.key
        if key.probe == grant.turn:
            key.probe = 0
        self._close(grant)
        self._keyring.changed(key.account)

    def settle(self, grant: Grant, outcome: Outcome, tokens: int, refused: Refused) -> Sequence[Told]:
        """Close a lease and apply its outcome. Returns the changes for the observer."""
        told: Sequence[Told] = ()
        self._close(grant)
        key, meter = grant.key, grant.meter
        if outcome == "release":
            if key.probe == grant.turn:
                key.probe = 0
        elif meter.windows or grant.probe or outcome != "commit":
            now = self._clock()
            if meter.windows:
                meter.record(now, tokens)
            if outcome == "rate_limited":
                told = self._cool(grant, now, refused)
            elif outcome == "dead":
                told = self._mark_dead(grant, now, refused)
            elif grant.probe:
                told = self._tried(grant, now, answered=outcome == "commit")
        if grant.probe or told:
            self._keyring.changed(key.account)
        elif meter.sleepers:
            meter.wake()
        return told

    def _tried(self, grant: Grant, now: float, *, answered: bool) -> list[Told]:
        key = grant.key
        # The key was revived or refused meanwhile: that is newer than the outcome of this trial.
        if key.probe != grant.turn:
            return []
        if answered:
            key.revive()
            return [("key_revived", None, None, None)]
        key.probe = 0
        self._keyring.follow_clocks(now)
        key.try_from(now + PROBE_RETRY)
        return []

    def _cool(self, grant: Grant, now: float, refused: Refused) -> list[Told]:
        self._keyring.follow_clocks(now)
        # A rate-limited key was recognised: it is live.
        told = self._tried(grant, now, answered=True) if grant.probe else []
        seconds = refused.retry_after
        seconds = DEFAULT_COOLDOWN if seconds is None or math.isnan(seconds) else max(0.0, seconds)
        model_id = grant.model_id if refused.scope == "model" else None
        reason = refused.reason or "rate limited"
        grant.key.account.cool(now, now + seconds, model_id, reason)
        return [*told, ("key_cooling", model_id, reason, seconds)]

    def _mark_dead(self, grant: Grant, now: float, refused: Refused) -> list[Told]:
        self._keyring.follow_clocks(now)
        key = grant.key
        probed = grant.probe and key.probe == grant.turn
        reason = refused.reason or "refused"
        seconds = key.mark_dead(now, reason, CREDIT_PROBATION if refused.credits else PROBATION, probed=probed)
        return [("key_dead", None, reason, seconds)]

    def disown(self) -> None:
        """In a child after a fork: the leases that are open belong to the parent's calls."""
        self.inherited = self._turn
        self._keyring.in_flight = 0
        for key in self._keyring.keys.values():
            key.in_flight = key.probe = 0
        for account in self._keyring.accounts:
            for meter in account.meters.values():
                meter.in_flight = meter.reserved = 0
            self._keyring.changed(account)
