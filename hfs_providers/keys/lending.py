"""How a lease begins and ends: everything that the pool's lock guards meanwhile.

Fork: a child starts with fresh locks and without waiters. Leases that were open belong to the parent's calls: the child
counts none of them, and ending one there does nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.keys.dispatcher import Dispatcher
from hfs_providers.keys.keyring import KeyRing
from hfs_providers.keys.leases import Grant, Lease, Leases, OnChange, Outcome, Refused, Told
from hfs_providers.keys.ledger import Ledger, Refusal, Reservation
from hfs_providers.keys.request import KeyRequest
from hfs_providers.keys.reservations import Reservations
from hfs_providers.keys.scheduler import Slot
from hfs_providers.keys.state import Key
from hfs_providers.keys.waiters import Signal, Waiter
from hfs_providers.keys.windows import MOST_TOKENS

_NOTHING = Refused()


class Nap(NamedTuple):
    """Sleep until the signal comes or the seconds have passed."""

    signal: Signal
    seconds: float


class Ask(NamedTuple):
    """Ask the ledger for a reservation; its answer is sent back."""

    ledger: Ledger
    reservation: Reservation


LeaseSteps = Generator[Nap | Ask, "Refusal | None", Lease]
"""A step that a call takes for its lease, whether it blocks a thread or awaits in a task."""


class Lending:
    """The lock of a pool, and the ways of leases through it."""

    def __init__(
        self,
        provider: str,
        keyring: KeyRing,
        reservations: Reservations,
        clock: Callable[[], float],
        on_change: OnChange | None,
    ) -> None:
        self._provider = provider
        self._keyring = keyring
        self._reservations = reservations
        self._clock = clock
        self._on_change = on_change
        self.leases = Leases(keyring, clock)
        self.dispatcher = Dispatcher(provider, keyring, self, self._open, self._take_back)
        self.lock = threading.Lock()
        # Leases that were collected open, maybe while this very thread held the lock: see `orphaned`.
        self.orphans: deque[Grant] = deque()
        at_fork(
            ForkPhase.POOLS,
            before=self._before_fork,
            parent=self._after_fork_in_parent,
            child=self._after_fork_in_child,
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock, and then the release of orphans; the hot paths repeat this code for speed."""
        try:
            with self.lock:
                yield
        finally:
            self._sweep()

    # How a lease begins.

    def request(self, request: KeyRequest, timeout: float, trial: bool, signal: Callable[[], Signal]) -> Waiter:
        """A waiter that has a lease, or has to wait for one: call `steps` next.

        Raises:
            PoolExhaustedError: no key is free or will be within `timeout`.
        """
        self._keyring.resolve_limits(request.model_id)
        if self.orphans:
            self._sweep()
        try:
            with self.lock:
                now = self._keyring.look()
                waiter = Waiter(request, now, timeout, trial)
                self.dispatcher.admit(waiter, now, signal)
                return waiter
        finally:
            if self.orphans:
                self._sweep()

    def steps(self, waiter: Waiter, signal: Callable[[], Signal]) -> LeaseSteps:
        """The steps of a waiter to its lease, for `KeyPool.acquire` and `aacquire`. To give up, close the generator.

        Raises:
            PoolExhaustedError: no key is free or will be in its time.
        """
        request = waiter.request
        # If the pool is joined while the call waits, the call gets no more time.
        deadline = 0.0 if self._reservations.ledger is None else waiter.deadline
        while True:
            lease = waiter.lease or (yield from self._naps(waiter))
            if self._reservations.ledger is None or waiter.grant is None:
                return lease
            ask = self._ask(waiter.grant)
            if ask is None:
                return lease
            refusal: Refusal | None = None
            granted = False
            try:
                refusal = yield ask
                granted = refusal is None
            finally:
                self._answer(waiter.grant, ask.reservation if granted else None, refusal)
            if granted:
                return lease
            left = max(0.0, deadline - self._clock())
            if left == 0:
                # A call that does not wait (any more) asks for each key once.
                request = request._replace(exclude={*request.exclude, lease.key_id})
            waiter = self.request(request, left, waiter.trial, signal)

    def _naps(self, waiter: Waiter) -> Generator[Nap, object, Lease]:
        try:
            while True:
                yield Nap(waiter.signal, max(0.0, waiter.naps_until - self._clock()))
                with self.held():
                    self.dispatcher.resume(waiter, self._clock())
                if waiter.lease is not None:
                    return waiter.lease
        except BaseException:
            # Cancelled, maybe after a lease was handed over: then the next waiter gets the key.
            with self.held():
                self.dispatcher.abandon(waiter, self._clock())
            if waiter.lease is not None:
                waiter.lease.release()
            raise

    def _ask(self, grant: Grant) -> Ask | None:
        """The ledger to ask about a lease that was just opened, and the reservation; None if nobody shares the keys any
        more."""
        with self.held():
            reservations = self._reservations
            if reservations.ledger is not None and grant in reservations.asking:
                return Ask(reservations.ledger, reservations.of(grant))
            # Opened before the pool was joined, and counted then; or there is nobody left to share with.
            reservations.asking.discard(grant)
            return None

    def _answer(self, grant: Grant, granted: Reservation | None, refusal: Refusal | None) -> None:
        """Note that a reservation was granted, was refused, or (neither) that the question was cut short."""
        with self.held():
            self._reservations.asking.discard(grant)
            grant.reservation = granted
            if granted is not None or grant.ended or grant.turn <= self.leases.inherited:
                return
            self.leases.take_back(grant)
            if refusal is not None:
                self._reservations.apply_refusal(grant, refusal)
            self.dispatcher.serve_all()

    def _open(self, slot: Slot, key: Key, tokens: int) -> Grant:
        grant = self.leases.open(slot, key, tokens)
        if self._reservations.ledger is not None:
            self._reservations.asking.add(grant)
        return grant

    def _take_back(self, grant: Grant) -> None:
        self._reservations.asking.discard(grant)
        self.leases.take_back(grant)

    # How a lease ends.

    def end(self, grant: Grant, outcome: Outcome, tokens: int, refused: Refused = _NOTHING) -> None:
        """End a lease, unless it has ended: count it, apply its outcome, serve those that wait."""
        # An invalid number fails before anything has changed.
        if tokens.__class__ is not int or not 0 <= tokens <= MOST_TOKENS:
            tokens = min(max(0, int(tokens)), MOST_TOKENS)
        with self.lock:
            if grant.ended:
                return
            if grant.turn <= self.leases.inherited:
                grant.ended = True
                return
            told = self.leases.settle(grant, outcome, tokens, refused)
            if self.dispatcher.wait_queues:
                self.dispatcher.serve_all()
            reservations = self._reservations
            if reservations.ledger is not None or reservations.asking:
                reservations.end(grant, None if outcome == "release" else tokens)
        if self.orphans:
            self._sweep()
        if told:
            self.tell(grant.key.id, told)

    def orphaned(self, grant: Grant) -> None:
        """A lease was collected open. Called at any moment, maybe in a thread that holds the lock."""
        self.orphans.append(grant)
        self._sweep()

    def _sweep(self) -> None:
        """Release orphans, unless the lock is held: its holder calls this afterwards."""
        while self.orphans and self.lock.acquire(blocking=False):
            try:
                while self.orphans:
                    grant = self.orphans.popleft()
                    if not grant.ended and grant.turn > self.leases.inherited:
                        self._reservations.end(grant, None)
                        self.leases.take_back(grant)
                self.dispatcher.serve_all()
            finally:
                self.lock.release()

    def tell(self, key_id: str, told: Sequence[Told]) -> None:
        """Notify the observer, outside the lock. An error in it must not break the call that it observes."""
        if self._on_change is None:
            return
        for change, model_id, reason, seconds in told:
            try:
                self._on_change(change, key_id, model_id, reason, seconds)
            except Exception:
                logging.getLogger(__name__).warning(
                    "%s: an observer of %s raised", self._provider, change, exc_info=True
                )

    # Forking.

    def _before_fork(self) -> None:
        self.lock.acquire()

    def _after_fork_in_parent(self) -> None:
        self.lock.release()
        self._sweep()

    def _after_fork_in_child(self) -> None:
        """The parent's calls and waiters are not here."""
        self.lock = threading.Lock()
        # The code that shares the keys in this process joins the pool again.
        self._reservations.ledger = None
        self._reservations.asking.clear()
        self.dispatcher.wait_queues.clear()
        self.orphans.clear()
        self.leases.disown()
