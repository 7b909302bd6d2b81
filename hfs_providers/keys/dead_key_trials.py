"""The dead keys of a pool, in the order in which they may be tried.

A trial is the last resort of a call that gets no live key in time. A call makes at most one trial: most dead keys stay
dead, and finding out costs the call time.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection

from hfs_providers.contract.instants import NEVER
from hfs_providers.keys.scheduler import ReadyQueue, Slot
from hfs_providers.keys.state import Account, Key


class Trials:
    """The dead keys, sorted by the end of their probation."""

    __slots__ = ("_order", "filed")

    def __init__(self) -> None:
        self._order: list[tuple[float, int, Key]] = []
        self.filed: dict[Key, float] = {}
        """The same by key."""

    def file(self, account: Account) -> None:
        """Note which keys of an account are dead, and when they are due."""
        for key in account.keys:
            self._file(key, key.retry_at if key.dead_reason is not None else None)

    def drop(self, key: Key) -> None:
        """Forget a key that leaves the pool."""
        self._file(key, None)

    def _file(self, key: Key, due: float | None) -> None:
        filed = self.filed.get(key)
        if filed == due:
            return
        if filed is not None:
            del self.filed[key]
            # A tuple without the key sorts just before the one that has it.
            del self._order[bisect_left(self._order, (filed, key.index))]
        if due is not None:
            self.filed[key] = due
            insort(self._order, (due, key.index, key))

    def find(self, queue: ReadyQueue, tokens: int, exclude: Collection[str], now: float) -> tuple[Slot, Key] | None:
        """The dead key that may be tried now and was due first."""
        for due, _, key in self._order:
            if due > now:
                break
            slot = queue.slots[key.account]
            if not key.probe and key.id not in exclude and slot.has_room(tokens, now):
                return slot, key
        return None

    def at(self, queue: ReadyQueue, tokens: int, exclude: Collection[str], now: float) -> float:
        """The earliest instant at which a dead key may be tried, if no call ends before."""
        earliest = NEVER
        for due, _, key in self._order:
            if due >= earliest:
                break
            if not key.probe and key.id not in exclude:
                earliest = min(earliest, queue.slots[key.account].free_at(tokens, now, due))
        return earliest
