"""The messages to the Redis server: about the limits of keys, their state, and budgets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote

from hfs_providers.keys.ledger import Refusal, Reservation
from hfs_providers.money.budgets import Claim, OverBudget
from hfs_providers.sharing.redis_connection import ScriptCall

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_A = TypeVar("_A")

# Milliseconds by which others may try a dead key early: the finder must not be allowed before them.
_EARLY = 500


class CountedScope(NamedTuple):
    """What is counted together: an account's requests for one model or (empty) for all."""

    provider: str
    account: str
    model: str

    @classmethod
    def of(cls, reservation: Reservation) -> CountedScope:
        """The scope that a reservation counts in."""
        return cls(reservation.provider, reservation.account, reservation.scope)

    @property
    def keys(self) -> list[str]:
        """Where the server keeps the counts: `used`, `minute`, `flying` and `shares`."""
        tag = _tag(self.provider, self.account)
        return [f"{tag}:{kind}:{self.model}" for kind in ("used", "minute", "flying", "shares")]


def told_key(provider: str, account: str) -> str:
    """Where the server keeps which keys of an account are dead or cooling."""
    return f"{_tag(provider, account)}:told"


def _tag(provider: str, account: str) -> str:
    # A cluster hashes only what is in braces: so all of an account is in one place.
    return f"hfs:{{{quote(provider, safe='')}/{quote(account, safe='')}}}"


class Question(Generic[_A]):
    """A question whose answer a caller waits for. The first to take the `ticket` decides it.

    Args:
        loop, wake: the event loop of a task that waits, and what wakes the task there; None for a thread.
    """

    __slots__ = ("_loop", "_wake", "answer", "done", "ticket")

    def __init__(self, loop: AbstractEventLoop | None = None, wake: Callable[[], object] | None = None) -> None:
        self.done = threading.Event()
        self.ticket = threading.Lock()
        self.answer: _A | None = None
        self._loop = loop
        self._wake = wake

    def dismiss(self) -> None:
        """Let the caller continue alone."""
        self.settle(None)

    def withdraw(self) -> _A | None:
        """Give up waiting. Returns the answer, if it was given before."""
        if not self.ticket.acquire(blocking=False):
            self.done.wait()
        return self.answer

    def settle(self, answer: _A | None) -> bool:
        """Answer the caller; False if it has given up."""
        loop = self._loop
        if (loop is not None and loop.is_closed()) or not self.ticket.acquire(blocking=False):
            return False
        self.answer = answer
        self.done.set()
        if loop is not None and self._wake is not None:
            # If the loop is closed at this very moment, its task releases what it was granted when it is collected.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake)
        return True


class Reserve(Question[Refusal]):
    """A reservation; without an answer it is granted."""

    __slots__ = ("reservation",)

    def __init__(
        self, reservation: Reservation, loop: AbstractEventLoop | None = None, wake: Callable[[], object] | None = None
    ) -> None:
        super().__init__(loop, wake)
        self.reservation = reservation


class Release(NamedTuple):
    """The end of a request: the tokens that it cost, or None if it was never sent."""

    reservation: Reservation
    charged: int | None


class Announce(NamedTuple):
    """What a process has learned about a key.

    Args:
        provider, account: of the key.
        field: of the hash `told` (see `scripts/prelude.lua`).
        milliseconds: for which it holds; None if the key was revived.
        age: milliseconds since it was learned; None if it was learned just now.
    """

    provider: str
    account: str
    field: str
    milliseconds: int | None
    reason: str
    age: int | None = None

    def call(self) -> ScriptCall:
        """The script that announces it."""
        ms = self.milliseconds
        if ms is not None and self.field.startswith("d:"):
            ms -= _EARLY
        args = [self.field, "" if ms is None else ms, self.reason[:200], "" if self.age is None else self.age]
        return ScriptCall("announce", [told_key(self.provider, self.account)], args)


class Spend(Question[OverBudget | bool]):
    """Whether a claim fits: True, or why not; unanswered if the server is away."""

    __slots__ = ("claim",)

    def __init__(self, claim: Claim) -> None:
        super().__init__()
        self.claim = claim


class Paid:
    """The end of a request.

    Args:
        claim: what it had reserved.
        cost: in nano-USD.
        dismissed: called once when the server has counted it, or will not.
    """

    __slots__ = ("_dismissed", "claim", "cost")

    def __init__(self, claim: Claim, cost: int, dismissed: Callable[[Claim], object]) -> None:
        self.claim = claim
        self.cost = cost
        self._dismissed: Callable[[Claim], object] | None = dismissed

    def dismiss(self) -> None:
        """The server has counted it, or is away."""
        dismissed, self._dismissed = self._dismissed, None
        if dismissed is not None:
            dismissed(self.claim)


Message: TypeAlias = Reserve | Release | Announce | Spend | Paid | None
"""A message; None ends the connection."""
