"""All keys of a pool: which one a request may have, from when on it may have one, and the state of each.

It has no lock: the pool holds its own around every call but `resolve_limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hfs_providers.contract.instants import NEVER, seconds_until
from hfs_providers.contract.records import Credential, KeyState, KeyStatus, Limits, WindowUse
from hfs_providers.keys.clocks import Clocks
from hfs_providers.keys.dead_key_trials import Trials
from hfs_providers.keys.limits import Allowance, Meter, strictest
from hfs_providers.keys.request import KeyRequest
from hfs_providers.keys.scheduler import ReadyQueue, Slot
from hfs_providers.keys.state import Account, Key

Resolver = Callable[[str, str], "Limits | None"]
"""The limits of a model on a key, by (model id, key id); None if none are known."""


class KeyRing:
    """The keys by account, their limits, and a ready queue for each model and size of estimate.

    Args:
        credentials: the keys.
        resolver: the limits of a model on a key.
        clock: monotonic seconds.
        wall: seconds since the epoch.

    Raises:
        ValueError: two credentials have one id.
    """

    def __init__(
        self,
        credentials: Sequence[Credential],
        resolver: Resolver | None,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._clocks = Clocks(clock, wall)
        self._resolver = resolver
        # The limits of a model, key by key, as the resolver gave them; and as answers of the provider showed them.
        self._resolved: dict[str, list[Limits | None]] = {}
        self._learned: dict[tuple[str, str], Limits] = {}
        self._trials = Trials()
        self.ready_queues: dict[tuple[str, int], ReadyQueue] = {}
        self.keys: dict[str, Key] = {}
        accounts: dict[str, Account] = {}
        for index, credential in enumerate(credentials):
            if credential.id in self.keys:
                raise ValueError(f"two credentials have the id {credential.id!r}")
            account = accounts.setdefault(credential.account, Account(len(accounts), self._clocks))
            key = self.keys[credential.id] = Key(credential, account, index, index - len(credentials))
            account.sort(key)
        self.accounts = list(accounts.values())

    # Limits.

    def resolve_limits(self, model_id: str) -> None:
        """Resolve the limits of a model once. Called without the lock, because a resolver may be anyone's code."""
        if model_id not in self._resolved:
            resolver = self._resolver
            self._resolved[model_id] = [resolver(model_id, key_id) if resolver else None for key_id in self.keys]

    def allowance(self, account: Account, model_id: str) -> Allowance:
        """What an account may use of a model."""
        found = account.allowances.get(model_id)
        if found is None:
            found = account.allowances[model_id] = self._allow(account, model_id)
        return found

    def _allow(self, account: Account, model_id: str) -> Allowance:
        # Rarely the limits were forgotten since the lock was taken; only then the resolver is called under the lock.
        self.resolve_limits(model_id)
        said = self._resolved[model_id]
        limits = strictest(
            self._learned.get((model_id, key.id)) if said[key.index] is None else said[key.index]
            for key in account.keys
        )
        scope = None if limits is not None and limits.shared else model_id
        meter = account.meters.get(scope)
        if meter is None:
            meter = account.meters[scope] = Meter(self._wall)
        return Allowance(meter, limits)

    def learned(self, model_id: str, key_id: str) -> Limits | None:
        """The limits that answers have shown."""
        return self._learned.get((model_id, key_id))

    def learn(self, model_id: str, key_id: str, limits: Limits | None) -> bool:
        """Note limits that an answer showed, or that it showed none; whether that changed anything."""
        pair = (model_id, key_id)
        key = self.keys.get(key_id)
        if key is None or self._learned.get(pair) == limits:
            return False
        if limits is None:
            del self._learned[pair]
        else:
            self._learned[pair] = limits
        said = self._resolved.get(model_id)
        if said is not None and said[key.index] is not None:
            return False
        self._forget(model_id)
        # Not when the next call asks: the request whose answer showed the limits is in flight.
        self.allowance(key.account, model_id)
        return True

    def invalidate_limits(self, model_id: str | None) -> list[tuple[Account, str]]:
        """Forget the limits of a model or of all; the accounts that have calls in flight, each with their model."""
        if model_id is None:
            self._resolved.clear()
        else:
            self._resolved.pop(model_id, None)
        busy = [
            (account, each)
            for account in self.accounts
            for each, allowance in account.allowances.items()
            if allowance.meter.in_flight and model_id in (None, each)
        ]
        self._forget(model_id)
        return busy

    def _forget(self, model_id: str | None) -> None:
        for place in [place for place in self.ready_queues if model_id in (None, place[0])]:
            # No meter is to remember a slot that is not used any more.
            self.ready_queues.pop(place).wake_all()
        for account in self.accounts:
            if model_id is None:
                account.allowances.clear()
            else:
                account.allowances.pop(model_id, None)

    # Picking.

    def ready_queue(self, model_id: str, tokens: int) -> ReadyQueue:
        """The queue that serves requests for a model with estimates of that size."""
        size = tokens.bit_length()
        queue = self.ready_queues.get((model_id, size))
        if queue is None:
            for account in self.accounts:
                self.allowance(account, model_id)
            queue = self.ready_queues[model_id, size] = ReadyQueue(model_id, size, self.accounts, self.follow_clocks)
        return queue

    def find(self, request: KeyRequest, now: float) -> tuple[Slot, Key] | None:
        """A live key that can be leased now."""
        queue = self.ready_queue(request.model_id, request.tokens)
        if request.key_id is None:
            return queue.pick(request.tokens, now, request.exclude)
        key = self._pinned(request, dead=False)
        if key is None:
            return None
        slot = queue.slots[key.account]
        return (slot, key) if slot.fits(request.tokens, now) else None

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
        """The one key that a request admits, if it is dead or live as said."""
        key = self.keys.get(request.key_id or "")
        return key if key is not None and request.admits(key.id) and (key.dead_reason is not None) == dead else None

    def free_in(self, request: KeyRequest, now: float, *, taken: bool = False) -> float | None:
        """Seconds until a key can be leased, for a trial too, if no call ends before; None for never.

        Args:
            request: for a key.
            now: monotonic seconds.
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
        """If the clocks moved apart, compute anew what ends when, and examine all slots again."""
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
        """Something about an account changed that is not in its windows."""
        if account.dead or self._trials.filed:
            self._trials.file(account)
        for meter in account.meters.values():
            meter.wake()

    # The state of the keys.

    def count(self, model_id: str, tokens: int, now: float) -> tuple[int, int, int]:
        """How many keys are limited, cooling and dead, for a request with that estimate."""
        queue = self.ready_queue(model_id, tokens)
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
            state, reason = "limited", "its allowance is used up"
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
