"""All keys of a pool: which one a request may have, when it may have one, and the state of each.

It has no lock: the pool holds its own around every call but `resolve_limits`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence

from hfs_providers.contract.instants import NEVER, seconds_until
from hfs_providers.contract.records import Credential, KeyState, KeyStatus, Limits, WindowUse
from hfs_providers.keys.affinity import AffinityRing
from hfs_providers.keys.clocks import Clocks
from hfs_providers.keys.dead_key_trials import Trials
from hfs_providers.keys.limits import Allowance, Meter, counting_hours, strictest
from hfs_providers.keys.request import KeyRequest
from hfs_providers.keys.scheduler import ReadyQueue, Slot
from hfs_providers.keys.state import Account, Key

Resolver = Callable[[str, str], "Limits | None"]
"""The limits of a model on a key, by (model id, key id); None if none are known."""

Merge = Callable[["Limits | None", Limits], "Limits | None"]
"""The limits that hold, given the known limits and those that answers of the provider have shown."""

# Keys that were never used come before all others, the oldest first.
_NEVER_USED = 1 << 40


def known_or_shown(known: Limits | None, shown: Limits) -> Limits:
    """Known limits, else those that answers show."""
    return shown if known is None else known


class KeyRing:
    """The keys by account, their limits, and a ready queue for each model and size of estimate.

    Args:
        resolver: the limits of a model on a key.
        merge: what holds if answers have shown limits, too.
        counts_hours: whether the use of an hour is counted even without a limit per hour.

    Raises:
        ValueError: two credentials have one id.
    """

    def __init__(
        self,
        credentials: Sequence[Credential],
        resolver: Resolver | None,
        merge: Merge,
        clock: Callable[[], float],
        wall: Callable[[], float],
        counts_hours: bool = False,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._clocks = Clocks(clock, wall)
        self._resolver = resolver
        self._merge = merge
        self._counts_hours = counts_hours
        # By model, the limits of each key as the resolver gave them.
        self._resolved: dict[str, dict[str, Limits | None]] = {}
        self.learned: dict[tuple[str, str], Limits] = {}
        """The limits that answers of the provider have shown, by model and key."""
        self._trials = Trials()
        self.ready_queues: dict[tuple[str, int], ReadyQueue] = {}
        self.keys: dict[str, Key] = {}
        self._accounts: dict[str, Account] = {}
        self._numbers = itertools.count()
        self.in_flight = 0
        """Calls in flight on all keys together."""
        self.change(credentials, ())

    @property
    def accounts(self) -> Sequence[Account]:
        """The accounts of the keys, and for a while those whose keys have left."""
        return list(self._accounts.values())

    # Keys that come and go.

    def change(self, joining: Iterable[Credential], leaving: Iterable[str]) -> None:
        """Add keys, and remove others by id. Calls in flight on removed keys end as usual.

        Raises:
            ValueError: a key that joins has the id of one that is here.
        """
        accounts: dict[Account, None] = {}
        for key in [self.keys.pop(key_id) for key_id in leaving if key_id in self.keys]:
            key.account.drop(key)
            self._trials.drop(key)
            accounts[key.account] = None
            for said in self._resolved.values():
                said.pop(key.id, None)
        if accounts:
            self.learned = {pair: limits for pair, limits in self.learned.items() if pair[1] in self.keys}
        for credential in joining:
            if credential.id in self.keys:
                raise ValueError(f"two credentials have the id {credential.id!r}")
            number, name = next(self._numbers), credential.account
            account = self._accounts.get(name)
            if account is None:
                account = self._accounts[name] = Account(name, number, self._clocks)
            key = self.keys[credential.id] = Key(credential, account, number, number - _NEVER_USED)
            account.sort(key)
            accounts[account] = None
        empty = [each for each in self.accounts if not each.live and not each.dead]
        gone = [each for each in empty if not each.in_flight]
        for account in gone:
            del self._accounts[account.name]
        self.ring = AffinityRing(self.accounts)
        self._renew(accounts.keys() - empty)
        for queue in self.ready_queues.values():
            queue.reorder(self.accounts, gone)

    def _renew(self, accounts: Collection[Account], model_id: str | None = None) -> None:
        """Apply changed limits of accounts, for a model or for all, also to calls in flight."""
        for account in accounts:
            for each in [each for each in account.allowances if model_id in (None, each)]:
                account.allowances[each] = self._allow(account, each)
        for (each, _), queue in self.ready_queues.items():
            if model_id in (None, each):
                self._start_shared(each, [key for account in accounts for key in account.keys])
                queue.renew(accounts)

    def forget(self, model_id: str) -> None:
        """Drop everything about a model, unless calls to it are in flight."""
        if any(meter.in_flight for account in self.accounts if (meter := account.meters.get(model_id)) is not None):
            return
        self._resolved.pop(model_id, None)
        self.learned = {pair: limits for pair, limits in self.learned.items() if pair[0] != model_id}
        for place in [place for place in self.ready_queues if place[0] == model_id]:
            # A meter must not remember a slot that is no longer used.
            self.ready_queues.pop(place).wake_all()
        for account in self.accounts:
            for kept in (account.allowances, account.meters, account.cooling):
                kept.pop(model_id, None)

    # Limits.

    def resolve_limits(self, model_id: str) -> None:
        """Resolve the limits of a model once. Called without the lock, because a resolver may be foreign code."""
        if model_id not in self._resolved:
            self._resolved[model_id] = {key_id: self._resolve(model_id, key_id) for key_id in list(self.keys)}

    def resolve_limits_of(self, key_ids: Collection[str]) -> None:
        """As `resolve_limits`, for keys that are about to join."""
        for model_id, said in list(self._resolved.items()):
            said.update({key_id: self._resolve(model_id, key_id) for key_id in key_ids})

    def _resolve(self, model_id: str, key_id: str) -> Limits | None:
        return self._resolver(model_id, key_id) if self._resolver is not None else None

    def allowance(self, account: Account, model_id: str) -> Allowance:
        """What an account may use of a model."""
        found = account.allowances.get(model_id)
        if found is None:
            found = account.allowances[model_id] = self._allow(account, model_id)
        return found

    def _start_shared(self, model_id: str, keys: Iterable[Key]) -> None:
        """Make the allowances that models share: their windows count the use of other models, from when they are made.

        All other allowances are made when their account is first examined: thousands at once take too long.
        """
        for key in keys:
            limits = self.limits(model_id, key.id)
            if limits is not None and limits.shared:
                self.allowance(key.account, model_id)

    def _allow(self, account: Account, model_id: str) -> Allowance:
        # Most accounts have one key.
        keys = [account.only] if account.only else account.keys
        limits = strictest([self.limits(model_id, key.id) for key in keys])
        if self._counts_hours:
            limits = counting_hours(limits)
        scope = None if limits is not None and limits.shared else model_id
        meter = account.meters.get(scope)
        if meter is None:
            meter = account.meters[scope] = Meter(self._wall)
        return Allowance(meter, limits)

    def learn(self, model_id: str, key_id: str, limits: Limits | None) -> bool:
        """Note the limits that an answer showed, or that it showed none. Returns whether that is new."""
        key = self.keys.get(key_id)
        if key is None or self.learned.get((model_id, key_id)) == limits:
            return False
        if limits is None:
            del self.learned[model_id, key_id]
        else:
            self.learned[model_id, key_id] = limits
        self._renew([key.account], model_id=model_id)
        return True

    def limits(self, model_id: str, key_id: str) -> Limits | None:
        """The limits that hold for a model on a key."""
        self.resolve_limits(model_id)
        said = self._resolved[model_id]
        if key_id not in said:
            said[key_id] = self._resolve(model_id, key_id)
        shown = self.learned.get((model_id, key_id))
        return said[key_id] if shown is None else self._merge(said[key_id], shown)

    # Picking.

    def ready_queue(self, model_id: str, tokens: int) -> ReadyQueue:
        """The queue that serves requests for a model with estimates of that size."""
        size = tokens.bit_length()
        queue = self.ready_queues.get((model_id, size))
        if queue is None:
            self._start_shared(model_id, self.keys.values())
            queue = ReadyQueue(model_id, size, self.accounts, self.allowance, self.follow_clocks, self._busy_above)
            self.ready_queues[model_id, size] = queue
        return queue

    def find(self, request: KeyRequest, now: float) -> tuple[Slot, Key] | None:
        """A live key that can be leased now."""
        queue = self.ready_queue(request.model_id, request.tokens)
        if request.key_id is None:
            near = () if request.affinity is None else self.ring.walk(request.affinity)
            return queue.pick(request.tokens, now, request.exclude, near)
        key = self._pinned(request, dead=False)
        if key is None:
            return None
        slot = queue.slots[key.account]
        return (slot, key) if slot.fits(request.tokens, now) else None

    def _busy_above(self) -> float:
        """Conversations pass over a key that has more calls in flight than this."""
        return 2 * self.in_flight / (len(self.keys) - len(self._trials.filed)) + 2

    def find_trial(self, request: KeyRequest, now: float) -> tuple[Slot, Key] | None:
        """A dead key that may be tried now."""
        if not self._trials.filed:
            return None
        queue = self.ready_queue(request.model_id, request.tokens)
        if request.key_id is None:
            return self._trials.find(queue, request.tokens, request.exclude, now)
        key = self._pinned(request, dead=True)
        if key is None or key.open_at() > now:
            return None
        slot = queue.slots[key.account]
        return (slot, key) if slot.has_room(request.tokens, now) else None

    def _pinned(self, request: KeyRequest, *, dead: bool) -> Key | None:
        """The one key that a request admits, if it is dead (or without `dead`, live)."""
        key = self.keys.get(request.key_id or "")
        return key if key is not None and request.admits(key.id) and (key.dead_reason is not None) == dead else None

    def free_in(self, request: KeyRequest, now: float, *, taken: bool = False) -> float | None:
        """Seconds until a key can be leased, for a trial too, if no call ends before; None for never.

        Args:
            taken: `find` has just shown that no live key is free.
        """
        live_at = self._next_live_at(request, now) if taken else self.live_at(request, now)
        return seconds_until(min(live_at, self.trial_at(request, now)) if self._trials.filed else live_at, now)

    def trial_at(self, request: KeyRequest, now: float) -> float:
        """The earliest instant at which a dead key may be tried, if no call ends before."""
        if not self._trials.filed:
            return NEVER
        queue = self.ready_queue(request.model_id, request.tokens)
        if request.key_id is None:
            return self._trials.at(queue, request.tokens, request.exclude, now)
        key = self._pinned(request, dead=True)
        return queue.slots[key.account].free_at(request.tokens, now, key.open_at()) if key is not None else NEVER

    def live_at(self, request: KeyRequest, now: float) -> float:
        """The earliest instant at which a live key can be leased, if no call ends before."""
        return now if self.find(request, now) is not None else self._next_live_at(request, now)

    def earliest_if_idle(self, request: KeyRequest, now: float) -> float:
        """As `live_at`, if calls that are in flight ended without counting."""
        return self._next_live_at(request, now, idle=True)

    def _next_live_at(self, request: KeyRequest, now: float, *, idle: bool = False) -> float:
        tokens, exclude = request.tokens, request.exclude
        queue = self.ready_queue(request.model_id, tokens)
        free_at = Slot.earliest_if_idle if idle else Slot.free_at
        if request.key_id is not None:
            key = self._pinned(request, dead=False)
            return free_at(queue.slots[key.account], tokens, now, -NEVER) if key is not None else NEVER
        if not exclude:
            return queue.hope(()) if idle else queue.alarm(tokens, now, ())
        touched = {self.keys[key_id].account for key_id in exclude if key_id in self.keys}
        instants = [free_at(queue.slots[account], tokens, now, account.open_at(exclude)) for account in touched]
        return min([queue.hope(touched) if idle else queue.alarm(tokens, now, touched), *instants])

    # Changes.

    def look(self) -> float:
        """Monotonic seconds, after a look at both clocks."""
        now = self._clock()
        if self._clocks.moved(now):
            self._follow_clocks()
        return now

    def follow_clocks(self, now: float) -> None:
        """If the clocks moved apart, compute the ends of cooldowns again, and examine all slots."""
        if self._clocks.moved(now):
            self._follow_clocks()

    def _follow_clocks(self) -> None:
        slept = self._clocks.slept()
        for account in self.accounts:
            account.follow_clocks()
            self._trials.file(account)
            for meter in account.meters.values() if slept else ():
                for window in meter.windows.values():
                    window.age(slept)
        for queue in self.ready_queues.values():
            queue.wake_all()

    def changed(self, account: Account) -> None:
        """Something about an account changed, other than its windows."""
        if account.dead or self._trials.filed:
            self._trials.file(account)
        for meter in account.meters.values():
            meter.wake()

    # The state of the keys.

    def count(self, model_id: str, tokens: int, now: float, *, taken: bool = False) -> tuple[int, int, int]:
        """How many keys are limited, cooling and dead, for a request with that estimate.

        Args:
            taken: `find` has just shown that no live key is free.
        """
        queue = self.ready_queue(model_id, tokens)
        if not taken:
            queue.settle(tokens, now)
        queue.thaw(now)
        return queue.limited, queue.cooling, len(self._trials.filed)

    def status(self, key: Key, model_id: str | None, now: float, tokens: int = 1) -> KeyStatus:
        """The state of one key, for one model or (None) for all of them."""
        account = key.account
        if model_id is None:
            cooldowns = [cooldown for cooldown in account.cooling.values() if cooldown.until > now]
            allowances = list(account.allowances.values())
        else:
            cooldowns = [cooldown for cooldown in (account.cooldown(model_id),) if cooldown.until > now]
            allowances = [self.allowance(account, model_id)]
        room_at = max((max(allowance.ready(tokens, now)) for allowance in allowances), default=now)
        until = max([now, room_at, *(cooldown.until for cooldown in cooldowns)])
        state: KeyState = "ready"
        reason = None
        if key.dead_reason is not None:
            state, reason = "dead", key.dead_reason
            until = max(until, key.open_at())
        elif cooldowns:
            cooldown = max(cooldowns)
            reason, state = cooldown.reason, cooldown.state
        elif room_at > now:
            state, reason = "limited", "its limits are used up"
        return KeyStatus(key.id, key.credential.fingerprint, state, reason, seconds_until(until, now), key.in_flight)

    def used(self, key: Key, model_id: str, now: float) -> list[WindowUse]:
        """What is used of each limit of a model, calls in flight included."""
        allowance = self.allowance(key.account, model_id)
        meter = allowance.meter
        kinds = {id(window): kind.partition("@")[0] for kind, window in meter.windows.items()}
        found = []
        for window, requests, tokens in allowance.rules:
            window.prune(now)
            period = kinds[id(window)]
            if requests != NEVER:
                found.append(WindowUse(period, "requests", window.requests + meter.in_flight, int(requests)))
            if tokens != NEVER:
                found.append(WindowUse(period, "tokens", window.tokens + meter.reserved, int(tokens)))
        return found
