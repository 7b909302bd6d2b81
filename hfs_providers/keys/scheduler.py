"""Which account is next for a model, without looking at all of them.

A ready queue serves the requests for one model whose estimates are of one size (a power of two). Each account has one
slot in it. A slot is either in the turn order, because the account may have room, or asleep until a known instant. A
slot is examined when it is first in the turn order or when its instant has come. Whatever frees an account earlier (a
call that ends, a key that is revived) wakes its slots. So an account without room costs nothing until it may have room.
A slot is made when it is first examined. So the first request of a model does not wait until all slots are made.

    invariant: a slot that is asleep has no room before its alarm for the estimate for which it fell asleep, nor for a
               larger one. For an estimate from that one to `high` it has room at its alarm, if no call ends before and
               nothing was leased from its meter since (`leased`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sized

from hfs_providers.contract.instants import NEVER
from hfs_providers.keys.limits import Allowance
from hfs_providers.keys.state import Account, Key

# Stale entries are dropped when they come first; a heap that holds mostly stale ones is rebuilt.
_STALE_FACTOR = 4
_STALE_FLOOR = 64

# Seconds between two comparisons of the monotonic with the wall clock.
_LOOK = 1.0


class Slot:
    """The place of one account in one ready queue."""

    __slots__ = ("account", "allowance", "asleep", "high", "label", "leased", "queue", "version", "weight")

    def __init__(self, queue: ReadyQueue, account: Account, allowance: Allowance) -> None:
        self.queue = queue
        self.account = account
        self.allowance = allowance
        self.asleep = False
        # Counts how often it fell asleep or woke: an entry of a heap with an older version is void.
        self.version = 0
        self.high = NEVER
        self.leased = 0
        self.label = ""
        self.weight = 0

    def fits(self, tokens: int, now: float) -> bool:
        """Whether the account may send a request with that estimate now, with a live key."""
        return bool(self.account.live) and self.has_room(tokens, now)

    def has_room(self, tokens: int, now: float) -> bool:
        """As `fits`, whether or not a key of the account is live."""
        account = self.account
        if account.cooling and account.cooldown(self.queue.model_id).until > now:
            return False
        return self.allowance.fits(tokens, now)

    def free_at(self, tokens: int, now: float, open_at: float) -> float:
        """The instant from which keys that are open from `open_at` may use it, if no call ends before."""
        return max(now, open_at, self.account.cooldown(self.queue.model_id).until, *self.allowance.ready(tokens, now))

    def earliest_if_idle(self, tokens: int, now: float, open_at: float) -> float:
        """As `free_at`, if all calls in flight ended without counting; `NEVER` if nothing is in flight."""
        if not self.allowance.meter.in_flight:
            return NEVER
        return max(
            now,
            open_at,
            self.account.cooldown(self.queue.model_id).until,
            *self.allowance.ready(tokens, now, idle=True),
        )

    def wake(self) -> None:
        """Put it back into the turn order, to be examined when it comes first."""
        if self.asleep:
            self.asleep = False
            self.version += 1
            self.allowance.meter.sleepers.discard(self)
            self.queue.uncount(self)
            heapq.heappush(self.queue.turns, (self.account.order, self.account.index, self.account))


class _Slots(dict[Account, Slot]):
    """Slots by account; each is made when it is first looked up."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[Account], Slot]) -> None:
        self._make = make

    def __missing__(self, account: Account) -> Slot:
        slot = self[account] = self._make(account)
        return slot


class _Heap:
    """Slots that are asleep, by an instant or a number."""

    __slots__ = ("_entries", "_slots")

    def __init__(self, slots: Sized) -> None:
        self._entries: list[tuple[float, int, int, Slot]] = []
        self._slots = slots

    def push(self, figure: float, slot: Slot) -> None:
        """Add a slot; at most once in each of its versions."""
        if len(self._entries) >= _STALE_FACTOR * len(self._slots) + _STALE_FLOOR:
            self._entries = [entry for entry in self._entries if entry[3].version == entry[2]]
            heapq.heapify(self._entries)
        heapq.heappush(self._entries, (figure, slot.account.index, slot.version, slot))

    def first(self) -> tuple[float, int, int, Slot] | None:
        """The least entry that is not void."""
        entries = self._entries
        while entries:
            if entries[0][3].version == entries[0][2]:
                return entries[0]
            heapq.heappop(entries)
        return None

    def due(self, figure: float) -> Slot | None:
        """The first slot whose entry is at most that."""
        # Most of the time nothing is due: find that out without a call.
        if not self._entries or self._entries[0][0] > figure:
            return None
        entry = self.first()
        return entry[3] if entry is not None and entry[0] <= figure else None

    def pop(self) -> None:
        """Drop the least entry."""
        heapq.heappop(self._entries)

    def least(self, skip: Collection[Account]) -> tuple[float, Slot] | None:
        """The least entry of an account that is not in `skip`."""
        aside = []
        found = self.first()
        while found is not None and found[3].account in skip:
            aside.append(heapq.heappop(self._entries))
            found = self.first()
        for entry in aside:
            heapq.heappush(self._entries, entry)
        return (found[0], found[3]) if found is not None else None


class ReadyQueue:
    """The slots of one model and one size of estimates.

    Args:
        size: the bit length of the estimates.
        accounts: the accounts.
        allowance: what an account may use of the model.
        follow_clocks: wakes the slots if the clocks have moved apart.
        busy_above: with more than that in flight, which is at least 2, conversations pass a key over.
    """

    def __init__(
        self,
        model_id: str,
        size: int,
        accounts: Collection[Account],
        allowance: Callable[[Account, str], Allowance],
        follow_clocks: Callable[[float], object],
        busy_above: Callable[[], float],
    ) -> None:
        self.model_id = model_id
        self._busy_above = busy_above
        self._follow_clocks = follow_clocks
        self._look = -NEVER
        self._floor = 1 << (size - 1) if size else 0
        self._allowance = allowance
        self.slots = _Slots(lambda account: Slot(self, account, self._allowance_of(account)))
        self.limited = 0
        self.cooling = 0
        self.zoned = False
        self._alarms = _Heap(self.slots)
        self._tight = _Heap(self.slots)
        self._thaws = _Heap(self.slots)
        self._hopes = _Heap(self.slots)
        self.reorder(accounts)

    def _allowance_of(self, account: Account) -> Allowance:
        allowance = self._allowance(account, self.model_id)
        self.zoned = self.zoned or allowance.zoned
        return allowance

    def renew(self, accounts: Iterable[Account]) -> None:
        """Take over new allowances for the model."""
        for slot in [self.slots[account] for account in accounts if account in self.slots]:
            slot.wake()
            slot.allowance = self._allowance_of(slot.account)

    def reorder(self, accounts: Collection[Account], gone: Iterable[Account] = ()) -> None:
        """Take in accounts that are new, drop those that are gone, and sort: a turn may have changed with the keys.

        Args:
            accounts: all that are here.
        """
        self._total = len(accounts)
        slots = self.slots
        for account in gone:
            if account in slots:
                # An awake slot is in no heap and not counted.
                slots.pop(account).wake()
        awake = (each for each in accounts if each not in slots or not slots[each].asleep)
        self.turns = [(account.order, account.index, account) for account in awake]
        heapq.heapify(self.turns)

    def pick(
        self, tokens: int, now: float, exclude: Collection[str], near: Iterable[Account] = ()
    ) -> tuple[Slot, Key] | None:
        """The first account of `near`, else in turn, that has room, and its next key. It leases nothing.

        After None, every slot is asleep except those of accounts that have room but no key outside `exclude`.
        """
        turns = self.turns
        if len(turns) < self._total:
            self._rouse(tokens, now)
        if near and turns and (found := self._pick_near(near, tokens, now, exclude)) is not None:
            return found
        aside: list[tuple[int, int, Account]] | None = None
        picked = None
        while turns:
            order, index, account = turns[0]
            if account.order != order:
                # It was leased since, for some model: move it to its place.
                heapq.heapreplace(turns, (account.order, index, account))
                continue
            slot = self.slots[account]
            if account.only and not (exclude or account.cooling or slot.allowance.rules):
                # Most accounts have one live key and no limits: nothing else needs to be examined.
                return slot, account.only
            if not slot.fits(tokens, now):
                heapq.heappop(turns)
                self._sleep(slot, tokens, now)
            else:
                key = account.choose(exclude)
                if key is not None:
                    picked = (slot, key)
                    break
                aside = [*(aside or ()), heapq.heappop(turns)]
        for entry in aside or ():
            heapq.heappush(turns, entry)
        return picked

    def _pick_near(
        self, near: Iterable[Account], tokens: int, now: float, exclude: Collection[str]
    ) -> tuple[Slot, Key] | None:
        most = None
        for account in near:
            slot = self.slots[account]
            key = account.choose(exclude)
            if key is None or slot.asleep:
                continue
            if key.in_flight > 2:
                most = self._busy_above() if most is None else most
                if key.in_flight > most:
                    continue
            # Most accounts have neither: this saves two calls.
            if not (account.cooling or slot.allowance.rules) or slot.has_room(tokens, now):
                return slot, key
        return None

    def settle(self, tokens: int, now: float) -> None:
        """Put all slots without room to sleep."""
        self._rouse(tokens, now)
        awake = []
        for entry in self.turns:
            slot = self.slots[entry[2]]
            if slot.fits(tokens, now):
                awake.append(entry)
            else:
                self._sleep(slot, tokens, now)
        heapq.heapify(awake)
        self.turns = awake

    def alarm(self, tokens: int, now: float, skip: Collection[Account]) -> float:
        """The earliest instant at which a sleeping slot has room, except those of `skip`."""
        while (found := self._alarms.least(skip)) is not None:
            until, slot = found
            if tokens <= slot.high and slot.leased == slot.allowance.meter.leased:
                return until
            # Put to sleep by a smaller request, or leased since through another queue: the instant is too early.
            self.uncount(slot)
            slot.version += 1
            self._sleep(slot, tokens, now)
        return NEVER

    def hope(self, skip: Collection[Account]) -> float:
        """The earliest instant at which a sleeping slot could have room if calls in flight ended."""
        found = self._hopes.least(skip)
        return found[0] if found is not None else NEVER

    def thaw(self, now: float) -> None:
        """Count as limited those slots whose cooldown is over and that still have no room."""
        while (slot := self._thaws.due(now)) is not None:
            self._thaws.pop()
            self.uncount(slot)
            self._count(slot, "limited")

    def wake_all(self) -> None:
        """Put all slots back into the turn order."""
        for slot in self.slots.values():
            slot.wake()

    def uncount(self, slot: Slot) -> None:
        """Take a slot's keys out of the counts."""
        if slot.label == "cooling":
            self.cooling -= slot.weight
        else:
            self.limited -= slot.weight

    def _count(self, slot: Slot, label: str) -> None:
        slot.label = label
        slot.weight = len(slot.account.live)
        if label == "cooling":
            self.cooling += slot.weight
        else:
            self.limited += slot.weight

    def _rouse(self, tokens: int, now: float) -> None:
        if now >= self._look:
            self._look = now + _LOOK
            self._follow_clocks(now)
        while (slot := self._alarms.due(now)) is not None:
            slot.wake()
        # A slot that sleeps because of a larger estimate may have room for this one.
        while (slot := self._tight.due(-tokens - 1)) is not None:
            slot.wake()

    def _sleep(self, slot: Slot, tokens: int, now: float) -> None:
        account, allowance = slot.account, slot.allowance
        open_at = account.open_at()
        cooldown = account.cooldown(self.model_id)
        cool_until = cooldown.until
        room = allowance.ready(tokens, now)
        apart = max(now, open_at, cool_until, room.requests)
        slot.asleep = True
        slot.version += 1
        until = max(apart, room.tokens)
        low = tokens if room.tokens > apart else 0
        slot.high = tokens if allowance.token_rules else NEVER
        slot.leased = allowance.meter.leased
        allowance.meter.sleepers.add(slot)
        self._count(slot, cooldown.state if cool_until > now else "limited")
        # A slot that time alone never frees is in no heap: a call that ends wakes it.
        if until != NEVER:
            self._alarms.push(until, slot)
        if low:
            self._tight.push(-low, slot)
        if now < cool_until < until:
            self._thaws.push(cool_until, slot)
        # For the smallest estimate of the queue: an instant that is too early costs a wait, too late would fail a call.
        hope = slot.earliest_if_idle(self._floor, now, open_at)
        if hope < until:
            self._hopes.push(hope, slot)
