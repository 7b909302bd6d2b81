"""Who of those that wait gets what is free: the rules of the lines that `waiting` keeps.

A room without a lock: the pool holds its own around every call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from hfs_providers.contract.instants import NEVER
from hfs_providers.keys.keyring import KeyRing
from hfs_providers.keys.leases import Lease
from hfs_providers.keys.scheduler import Slot
from hfs_providers.keys.state import Key
from hfs_providers.keys.waiters import Waiter, WaitQueue


class Dispatcher:
    """The lines of waiters, by model, and the handing out of leases to them.

    Args:
        roster: the keys.
        clock: monotonic seconds.
        lease: opens a lease on what the roster found.
        take_back: undoes that.
    """

    def __init__(
        self,
        keyring: KeyRing,
        clock: Callable[[], float],
        lease: Callable[[Slot, Key, int], Lease],
        take_back: Callable[[Lease], None],
    ) -> None:
        self._keyring = keyring
        self._clock = clock
        self._lease = lease
        self._take_back = take_back
        self.wait_queues: dict[str, WaitQueue] = {}

    def enqueue(self, waiter: Waiter, now: float) -> None:
        queue = self.wait_queues.setdefault(waiter.model_id, WaitQueue())
        queue.join(waiter)
        self.serve(waiter.model_id, queue, now)

    def dequeue(self, waiter: Waiter, now: float) -> None:
        queue = self.wait_queues.get(waiter.model_id)
        if queue is not None:
            queue.leave(waiter)
            # It may have stood in the way of those behind it.
            self.serve(waiter.model_id, queue, now)

    def in_line(self, waiter: Waiter) -> bool:
        queue = self.wait_queues.get(waiter.model_id)
        return queue is not None and waiter in queue

    def nap(self, waiter: Waiter) -> None:
        queue = self.wait_queues[waiter.model_id]
        waiter.naps_until = min(waiter.deadline, queue.alarm) if queue.keeps_alarm(waiter) else waiter.deadline
        waiter.signal.arm()

    def _see_off(self, waiter: Waiter, now: float) -> bool:
        """Give a waiter that can have no live key in its time a trial, or nothing; False where it has to wait."""
        wish = (waiter.model_id, waiter.tokens, waiter.exclude, waiter.key_id, now)
        # Who would wait for ever still does not wait for what never comes.
        latest = min(waiter.deadline, sys.float_info.max)
        if self._keyring.live_at(*wish) <= latest or self._keyring.earliest_if_idle(*wish) <= latest:
            return False
        found = self._keyring.trial(*wish) if waiter.trial else None
        if found is not None:
            self._hand_over(waiter, self._lease(found[0], found[1], waiter.tokens))
            return True
        if self._trial_at(waiter, now) <= latest:
            return False
        waiter.signal.ring()
        return True

    def _trial_at(self, waiter: Waiter, now: float) -> float:
        wish = (waiter.model_id, waiter.tokens, waiter.exclude, waiter.key_id, now)
        due = self._keyring.trial_at(*wish) if waiter.trial else NEVER
        # What may be tried already waits until no live key can be had in time: that is seen when something happens.
        return due if due > now else NEVER

    def serve_all(self) -> None:
        now = self._clock()
        for model_id, queue in list(self.wait_queues.items()):
            self.serve(model_id, queue, now)

    def serve(self, model_id: str, queue: WaitQueue, now: float) -> None:
        """Hand out what is free, in the order of arrival.

        A waiter that cannot be served keeps every key that it admits from those behind it, for the same model.
        """
        self._keyring.follow_clocks(now)
        alarm = NEVER
        gone: list[Waiter] = []
        # The keys that are left to those behind the unserved ones; None is all.
        left: set[str] | None = None
        for waiter in queue:
            found = self._find_left(waiter, left, now)
            if found is not None:
                self._hand_over(waiter, self._lease(found[0], found[1], waiter.tokens))
            elif not self._see_off(waiter, now):
                live_at = self._keyring.live_at(model_id, waiter.tokens, waiter.exclude, waiter.key_id, now)
                alarm = min(alarm, live_at, self._trial_at(waiter, now))
                left = self._leaves(waiter, left)
                # Most waiters admit every key, and a key that was tried is seldom free: nobody else need be asked.
                for key_id in list(left):
                    if self._keyring.find(model_id, 0, (), key_id, now) is None:
                        alarm = min(alarm, self._keyring.live_at(model_id, 0, (), key_id, now))
                        left.discard(key_id)
                if not left:
                    break
                continue
            gone.append(waiter)
        for waiter in gone:
            queue.leave(waiter)
        while (pressed := queue.most_pressed()) is not None and self._see_off(pressed, now):
            # Behind the first as well, if what just happened leaves it no hope.
            queue.leave(pressed)
        if queue:
            queue.set_alarm(min(alarm, self._trial_at(pressed, now) if pressed is not None else NEVER))
        if not queue:
            self.wait_queues.pop(model_id, None)

    def _hand_over(self, waiter: Waiter, lease: Lease) -> None:
        if waiter.naps_until < 0 or waiter.signal.ring():
            waiter.lease = lease
        else:
            # Its event loop is closed: nobody would ever end this lease.
            self._take_back(lease)

    def _leaves(self, waiter: Waiter, left: set[str] | None) -> set[str]:
        """Those of the keys that are left that the waiter does not admit."""
        if waiter.key_id is None:
            return {each for each in waiter.exclude if each in self._keyring.keys and (left is None or each in left)}
        return {each for each in (self._keyring.keys if left is None else left) if not waiter.admits(each)}

    def _find_left(self, waiter: Waiter, left: set[str] | None, now: float) -> tuple[Slot, Key] | None:
        model_id, tokens = waiter.model_id, waiter.tokens
        if left is None:
            return self._keyring.find(model_id, tokens, waiter.exclude, waiter.key_id, now)
        fitting = (self._keyring.find(model_id, tokens, (), key_id, now) for key_id in left if waiter.admits(key_id))
        return min((found for found in fitting if found), key=lambda found: found[1].last_used, default=None)
