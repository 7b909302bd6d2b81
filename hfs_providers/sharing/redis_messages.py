"""What is said to the Redis server: reservations, releases and announcements, and the keys that they are about."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from urllib.parse import quote

from hfs_providers.keys.ledger import Refusal, Reservation
from hfs_providers.sharing.redis_connection import ScriptCall

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# Milliseconds by which others may try a dead key early: who found it dead must not come before they may.
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
    # In braces: what a cluster hashes, so that all of an account is in one place.
    return f"hfs:{{{quote(provider, safe='')}/{quote(account, safe='')}}}"


class Reserve:
    """A reservation that a caller waits for. Whoever takes the `ticket` decides its answer.

    Args:
        reservation: what is asked for.
        loop, wake: the event loop of a task that waits, and what wakes the task there; None for a thread.
    """

    __slots__ = ("_loop", "_wake", "answer", "done", "reservation", "ticket")

    def __init__(
        self, reservation: Reservation, loop: AbstractEventLoop | None = None, wake: Callable[[], object] | None = None
    ) -> None:
        self.reservation = reservation
        self.done = threading.Event()
        self.ticket = threading.Lock()
        self.answer: Refusal | None = None
        self._loop = loop
        self._wake = wake

    def settle(self, answer: Refusal | None) -> bool:
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


class Release(NamedTuple):
    """The end of a request: the tokens that it cost, or None if it was never sent."""

    reservation: Reservation
    charged: int | None


class Announce(NamedTuple):
    """What a process has learned of a key.

    Args:
        provider, account: of the key.
        field: of the hash `told` (see `scripts/prelude.lua`).
        milliseconds: for which it holds; None if the key was revived.
        reason: for people.
        age: milliseconds since it was learned; None if it was learned just now.
    """

    provider: str
    account: str
    field: str
    milliseconds: int | None
    reason: str
    age: int | None = None

    def call(self) -> ScriptCall:
        """The script that says it."""
        ms = self.milliseconds
        if ms is not None and self.field.startswith("d:"):
            ms -= _EARLY
        args = [self.field, "" if ms is None else ms, self.reason[:200], "" if self.age is None else self.age]
        return ScriptCall("announce", [told_key(self.provider, self.account)], args)


Message: TypeAlias = Reserve | Release | Announce | None
"""What there is to say; None to say goodbye."""
