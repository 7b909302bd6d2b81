"""Key state that several processes or hosts share: what a pool asks before it lets a request go.

A pool picks a key by what it knows itself. Where others use the same keys, a `Ledger` has the last word: it counts what
all of them have used and have in flight, and what any of them was told of a key.

    invariant: a claim that was granted is in flight for everyone until it is ended, or until a minute after its
               holder died (what it had sent by then counts at the provider for that long).
    invariant: the row of a request is recorded before its claim is ended, so that it is never counted by neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from hfs_providers.contract.records import Credential, Limits


def account_name(credential: Credential) -> str:
    """What the account of a key is called wherever the key is used."""
    return credential.params.get("account") or key_name(credential)


def key_name(credential: Credential) -> str:
    """What a key is called wherever it is used: its fingerprint, or the id of an endpoint that has no key."""
    return credential.fingerprint if credential.secret is not None else credential.id


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a pool wants to use for one request.

    Args:
        provider: its name.
        account: what the key shares limits with, named alike wherever the key is used: the name of the account, else
            the fingerprint of the key.
        fingerprints: of all keys of the account.
        fingerprint: of the key that was picked.
        model_id: the model to be called.
        limits: what the account is allowed, as far as the pool knows; None is unlimited.
        tokens: the estimate to be reserved.
    """

    provider: str
    account: str
    fingerprints: tuple[str, ...]
    fingerprint: str
    model_id: str
    limits: Limits | None
    tokens: int

    @property
    def scope(self) -> str:
        """Which requests of the account count together: those of one model, or (empty) all."""
        return "" if self.limits is not None and self.limits.shared else self.model_id


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a claim is not granted.

    Args:
        state: `limited` (the others have used the allowance up), `cooling` or `dead` (one of them was told so).
        until: seconds since the epoch from which it is worth asking again.
        reason: for people.
        scope: whether it holds for the model alone or for the whole account; a dead key is dead for all models.
    """

    state: Literal["limited", "cooling", "dead"]
    until: float
    reason: str
    scope: Literal["model", "key"] = "model"


class Held(NamedTuple):
    """What a pool has in flight for one account and scope when it begins to share: requests, and tokens reserved."""

    account: str
    scope: str
    requests: int
    tokens: int


class Spent(NamedTuple):
    """What a pool remembers of one account and scope: what lies in a window, by instants of the wall clock."""

    account: str
    scope: str
    kind: str
    entries: Sequence[tuple[float, int, int]]


class Ledger(Protocol):
    """What all who share the keys have agreed on. One for each process; safe for threads.

    A pool is joined to it by `KeyPool.join` while there is anybody to share with, and left by `KeyPool.part` when there
    is not; a joined pool asks it before each request, one that is not does not know it.
    """

    def reserve(self, reservation: Reservation) -> Refusal | None:
        """Count the claim as in flight if all limits allow it, in one atomic step; None is yes.

        Blocks for the time of one transaction, and never for longer than a quarter of a second: where the others
        cannot be reached, the pool goes on alone. Tasks call it in a thread, unless the ledger is a `TaskLedger`.
        Raises nothing but what interrupts the program, and then nothing is reserved.
        """

    def end(self, reservation: Reservation, charged: int | None) -> None:
        """The claim is in flight no more. Takes effect after the rows that were recorded before.

        Called under the pool's lock, so that what `join` reports and what ends are never the same: it must not block
        and not call the pool. Not called for what was refused.

        Args:
            claim: one that was granted, or in flight when the pool was joined.
            charged: tokens that the request cost, or None where it was never sent and counts nothing.
        """


class TaskLedger(Ledger, Protocol):
    """A ledger that tasks ask without a thread."""

    async def reserve_async(self, reservation: Reservation) -> Refusal | None:
        """As `reserve`. A claim that is granted to a task that was cancelled is ended."""
