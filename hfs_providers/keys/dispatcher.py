"""Who gets a free key: the rules by which waiters are served.

It has no lock: the pool holds its own around every call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.instants import NEVER
from hfs_providers.keys.keyring import KeyRing
from hfs_providers.keys.leases import Grant, Lease, Lender
from hfs_providers.keys.request import KeyRequest
from hfs_providers.keys.scheduler import Slot
from hfs_providers.keys.state import Key
from hfs_providers.keys.waiters import Signal, Waiter, WaitQueue


class Dispatcher:
    """The queues of waiters, by model. It leases free keys to them."""

    def __init__(
        self,
        provider: str,
        keyring: KeyRing,
        lender: Lender,
        lease: Callable[[Slot, Key, int], Grant],
        take_back: Callable[[Grant], None],
    ) -> None:
        self._provider = provider
        self._keyring = keyring
        self._lender = lender
        self._lease = lease
        self._take_back = take_back
        self.wait_queues: dict[str, WaitQueue] = {}

    def admit(self, waiter: Waiter, now: float, signal: Callable[[], Signal]) -> None:
        """Give a new call a lease, or a place in the queue.

        Raises:
            PoolExhaustedError: no key is free or will be in its time.
        """
        request = waiter.request
        if request.model_id not in self.wait_queues:
            found = self._keyring.find(request, now)
            if found is None and waiter.timeout <= 0 and waiter.trial:
                found = self._keyring.find_trial(request, now)
            if found is not None:
                return self._give(waiter, *found)
            if waiter.timeout <= 0:
                raise self._exhausted(waiter, now, taken=not request.exclude)
        # A call that has to wait takes any key.
        waiter.request = request._replace(affinity=None)
        waiter.signal = signal()
        queue = self.wait_queues.setdefault(request.model_id, WaitQueue())
        queue.join(waiter)
        self._serve(request.model_id, queue, now)
        return self._nap_or_give_up(waiter, now)

    def resume(self, waiter: Waiter, now: float) -> None:
        """Give a waiter that woke its lease, or let it sleep on.

        Raises:
            PoolExhaustedError: no key was free in its time.
        """
        # It is awake: nobody needs to signal it while it serves the queue itself.
        waiter.naps_until = -NEVER
        queue = self.wait_queues.get(waiter.request.model_id)
        if waiter.lease is None and queue is not None:
            self._serve(waiter.request.model_id, queue, now)
        self._nap_or_give_up(waiter, now)

    def abandon(self, waiter: Waiter, now: float) -> None:
        """Remove a waiter that was cancelled or failed."""
        queue = self.wait_queues.get(waiter.request.model_id)
        if waiter.lease is None and queue is not None:
            queue.leave(waiter)
            # It may have kept keys from those behind it.
            self._serve(waiter.request.model_id, queue, now)

    def serve_all(self) -> None:
        """Lease what is free to those that wait."""
        now = self._keyring.look() if self.wait_queues else 0.0
        for model_id, queue in list(self.wait_queues.items()):
            self._serve(model_id, queue, now)

    def _nap_or_give_up(self, waiter: Waiter, now: float) -> None:
        if waiter.lease is not None:
            return
        queue = self.wait_queues.get(waiter.request.model_id)
        if queue is not None and waiter in queue and now < waiter.deadline:
            waiter.naps_until = min(waiter.deadline, queue.alarm) if queue.keeps_alarm(waiter) else waiter.deadline
            waiter.signal.arm()
            return
        self.abandon(waiter, now)
        found = self._keyring.find_trial(waiter.request, now) if waiter.trial else None
        if found is None:
            raise self._exhausted(waiter, now)
        self._give(waiter, *found)

    def _give(self, waiter: Waiter, slot: Slot, key: Key) -> None:
        waiter.grant = self._lease(slot, key, waiter.request.tokens)
        waiter.lease = Lease(self._lender, waiter.grant)

    def _hand_over(self, waiter: Waiter, slot: Slot, key: Key) -> None:
        """Lease a key to a waiter that may sleep."""
        grant = self._lease(slot, key, waiter.request.tokens)
        if waiter.naps_until == -NEVER or waiter.signal.ring():
            waiter.grant, waiter.lease = grant, Lease(self._lender, grant)
        else:
            # Its event loop is closed: nobody would ever end this lease.
            self._take_back(grant)

    def _dismiss(self, waiter: Waiter, now: float) -> bool:
        """If a waiter gets no live key in time, give it a trial, or nothing. Returns False if it has to wait."""
        # Even a waiter without a deadline does not wait for a key that never comes.
        latest = min(waiter.deadline, sys.float_info.max)
        request = waiter.request
        if self._keyring.live_at(request, now) <= latest or self._keyring.earliest_if_idle(request, now) <= latest:
            return False
        found = self._keyring.find_trial(request, now) if waiter.trial else None
        if found is not None:
            self._hand_over(waiter, *found)
            return True
        if self._trial_at(waiter, now) <= latest:
            return False
        waiter.signal.ring()
        return True

    def _trial_at(self, waiter: Waiter, now: float) -> float:
        due = self._keyring.trial_at(waiter.request, now) if waiter.trial else NEVER
        # A key that may be tried now is not used while a live key may come in time; that is decided at the next event.
        return due if due > now else NEVER

    def _serve(self, model_id: str, queue: WaitQueue, now: float) -> None:
        """Lease what is free, in the order of arrival.

        A waiter that cannot be served keeps all keys that it admits from those behind it, for the same model.
        """
        self._keyring.follow_clocks(now)
        alarm = self._serve_in_order(queue, now)
        while (pressed := queue.most_pressed()) is not None and self._dismiss(pressed, now):
            # Not only the first: every waiter that no key can reach in time.
            queue.leave(pressed)
        if queue:
            queue.set_alarm(min(alarm, self._trial_at(pressed, now) if pressed is not None else NEVER))
        if not queue:
            self.wait_queues.pop(model_id, None)

    def _serve_in_order(self, queue: WaitQueue, now: float) -> float:
        """Serve the waiters that can be served. Returns the earliest instant at which another one may be."""
        alarm = NEVER
        served: list[Waiter] = []
        # The keys that remain for the next waiters; None is all.
        left: set[str] | None = None
        for waiter in queue:
            found = self._find_left(waiter, left, now)
            if found is not None:
                self._hand_over(waiter, *found)
                served.append(waiter)
            elif self._dismiss(waiter, now):
                served.append(waiter)
            else:
                alarm = min(alarm, self._keyring.live_at(waiter.request, now), self._trial_at(waiter, now))
                left = self._leaves(waiter, left)
                # Most waiters admit every key, and a key that failed is seldom free: then nobody else can be served.
                for key_id in list(left):
                    smallest = KeyRequest(waiter.request.model_id, 0, (), key_id)
                    if self._keyring.find(smallest, now) is None:
                        alarm = min(alarm, self._keyring.live_at(smallest, now))
                        left.discard(key_id)
                if not left:
                    break
        for waiter in served:
            queue.leave(waiter)
        return alarm

    def _leaves(self, waiter: Waiter, left: set[str] | None) -> set[str]:
        """The remaining keys that the waiter does not admit."""
        request = waiter.request
        if request.key_id is None:
            return {each for each in request.exclude if each in self._keyring.keys and (left is None or each in left)}
        return {each for each in (self._keyring.keys if left is None else left) if not request.admits(each)}

    def _find_left(self, waiter: Waiter, left: set[str] | None, now: float) -> tuple[Slot, Key] | None:
        request = waiter.request
        if left is None:
            return self._keyring.find(request, now)
        fitting = (
            self._keyring.find(request._replace(exclude=(), key_id=key_id), now)
            for key_id in left
            if request.admits(key_id)
        )
        return min((found for found in fitting if found), key=lambda found: found[1].last_used, default=None)

    def _exhausted(self, waiter: Waiter, now: float, *, taken: bool = False) -> PoolExhaustedError:
        model_id, tokens, exclude, key_id, _ = waiter.request
        # A key that this call has tried counts by its state like any other; `tried` are those that would be ready.
        keyring, keys = self._keyring, self._keyring.keys
        tried = [keys[each] for each in exclude if each in keys]
        if key_id is not None:
            states = [keyring.status(keys[key_id], model_id, now, tokens).state] if key_id in keys else []
            limited, cooling, dead = states.count("limited"), states.count("cooling"), states.count("dead")
        else:
            limited, cooling, dead = keyring.count(model_id, tokens, now, taken=taken)
        return PoolExhaustedError(
            self._provider,
            model_id,
            total=len(keys),
            limited=limited,
            cooling=cooling,
            dead=dead,
            tried=[keyring.status(each, model_id, now, tokens).state for each in tried].count("ready"),
            free_in=keyring.free_in(
                waiter.request._replace(exclude=()) if exclude else waiter.request, now, taken=taken
            ),
            timeout=waiter.timeout,
        )
