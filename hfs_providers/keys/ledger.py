"""Key state that several processes or hosts share: a pool asks it before each request.

A pool picks a key by what it knows itself. If others use the same keys, a `Ledger` decides: it counts what all of them
have used and have in flight, and knows how the provider answered any of them.

    invariant: a reservation that was granted is in flight for all until it is ended, or until a minute after its
               holder died (what the holder had sent by then counts at the provider for that long).
    invariant: the row of a request is recorded before its reservation is ended, so that one of the two always counts.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar

from hfs_providers.contract.error_rules import Scope
from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.contract.records import Limits

if TYPE_CHECKING:
    # Importing it costs 10 ms, and a pool that shares nothing with tasks needs none of it.
    from concurrent.futures import Future, ThreadPoolExecutor

_Wanted = TypeVar("_Wanted", contravariant=True)
_Refused = TypeVar("_Refused", covariant=True)

_THREADS = 4
_executor: ThreadPoolExecutor | None = None
_executor_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Reservation:
    """A pool's reservation for one request.

    Args:
        account: what the key shares limits with, as `Credential.account` names it.
        fingerprints: of all keys of the account.
        fingerprint: of the key that was picked.
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
    """Why a reservation is not granted.

    Args:
        state: `limited` (the others have used the allowance up), `cooling` or `dead` (the provider told one of them).
        until: seconds since the epoch from which it is worth asking again.
        scope: whether it holds only for the model or for the whole account; a dead key is dead for all models.
    """

    state: Literal["limited", "cooling", "dead"]
    until: float
    reason: str
    scope: Scope = "model"


class InFlight(NamedTuple):
    """What a pool has in flight for one account and scope when it begins to share: requests, and tokens reserved."""

    account: str
    scope: str
    requests: int
    tokens: int


class Spent(NamedTuple):
    """What a pool remembers of one account and scope: the content of a window, by instants of the wall clock."""

    account: str
    scope: str
    kind: str
    entries: Sequence[tuple[float, int, int]]


class Ledger(Protocol):
    """The shared state that all users of the keys agree on. One for each process; safe for threads.

    `KeyPool.join` makes a pool ask it before each request, `KeyPool.leave` ends that.
    """

    def reserve(self, reservation: Reservation) -> Refusal | None:
        """Count the reservation as in flight if all limits allow it, in one atomic step; None: granted.

        Blocks for the time of one transaction, and never for longer than a quarter of a second: if the others cannot be
            reached, the pool goes on alone. Raises only what interrupts the program; then nothing is reserved.
        """

    async def reserve_async(self, reservation: Reservation) -> Refusal | None:
        """As `reserve`, without blocking the event loop.

        If the task is cancelled, a reservation that is granted after all is ended. A ledger that can only block calls
        `reserve_in_thread`.
        """

    def end(self, reservation: Reservation, charged: int | None) -> None:
        """The reservation is not in flight any more. Takes effect after the rows that were recorded before.

        Called under the pool's lock, so that what `join` reports and what ends are never the same: it must not block
        or call the pool. Not called for a refused reservation.

        Args:
            reservation: one that was granted, or in flight when the pool was joined.
            charged: tokens that the request cost, or None if it was never sent and counts nothing.
        """


class _Blocking(Protocol[_Wanted, _Refused]):
    """What reserves in a call that blocks, such as a `Ledger`."""

    def reserve(self, wanted: _Wanted, /) -> _Refused | None: ...

    def end(self, wanted: _Wanted, charged: None, /) -> None: ...


async def reserve_in_thread(ledger: _Blocking[_Wanted, _Refused], reservation: _Wanted) -> _Refused | None:
    """Call `reserve` in a thread. If cancelled, a reservation that is granted after all is ended at once."""
    import asyncio

    future = _threads().submit(ledger.reserve, reservation)
    try:
        return await asyncio.wrap_future(future)
    except BaseException:

        def give_back(done: Future[_Refused | None]) -> None:
            if not done.cancelled() and done.exception() is None and done.result() is None:
                ledger.end(reservation, None)

        future.add_done_callback(give_back)
        raise


def _threads() -> ThreadPoolExecutor:
    global _executor
    with _executor_lock:
        if _executor is None:
            from concurrent.futures import ThreadPoolExecutor

            _executor = ThreadPoolExecutor(_THREADS, "hfs-providers-ledger")
        return _executor


def _after_fork_in_child() -> None:
    global _executor, _executor_lock
    # The parent's threads are not here.
    _executor, _executor_lock = None, threading.Lock()


at_fork(ForkPhase.POOLS, child=_after_fork_in_child)
