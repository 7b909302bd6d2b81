"""All keys of a pool: which one a request may have, from when on one may be had, and what the others are doing.

A room without a lock: the pool holds its own around every call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from hfs_providers.contract.instants import NEVER, seconds_until
from hfs_providers.contract.records import Credential, KeyState, KeyStatus, Limits, WindowUse
from hfs_providers.keys.clocks import Clocks
from hfs_providers.keys.limits import Allowance, Meter, strictest
from hfs_providers.keys.scheduler import ReadyQueue, Slot
from hfs_providers.keys.state import Account, Key, Strategy
from hfs_providers.keys.trials import Trials

Resolver = Callable[[str, str], "Limits | None"]
"""The limits of a model on a key, by (model id, key id); None where none are known."""


class KeyRing:
    """The keys by account, the limits that are known of them, and a lane for each model and size of estimate.

    Args:
        credentials: the keys.
        strategy: in which order they take turns.
        resolver: the limits of a model on a key.
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        credentials: Sequence[Credential],
        strategy: Strategy,
        resolver: Resolver | None,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._wall = wall
        self._clocks = Clocks(clock, wall)
        self.keys: dict[str, Key] = {}
        self.accounts: list[Account] = []
        self._file(credentials, strategy)
        self.resolver = resolver
        self.resolved: dict[str, list[Limits | None]] = {}
        self.learned: dict[tuple[str, str], Limits] = {}
        self.dead = 0
        self.ready_queues: dict[tuple[str, int], ReadyQueue] = {}
        self._trials = Trials()

    def _file(self, credentials: Sequence[Credential], strategy: Strategy) -> None:
        accounts: dict[str, Account] = {}
        for credential in credentials:
            if credential.id in self.keys:
                raise ValueError(f"two credentials have the id {credential.id!r}")
            index = len(self.keys)
            account = accounts.setdefault(credential.account, Account(len(accounts), strategy, self._clocks))
            key = self.keys[credential.id] = Key(credential, account, index, index - len(credentials))
            account.sort(key)
        self.accounts = list(accounts.values())

    # Limits.

    def resolve_limits(self, model_id: str) -> None:
        """Resolve the limits of a model once, outside the lock: a resolver may be anyone's code."""
        if model_id not in self.resolved:
            resolver = self.resolver
            self.resolved[model_id] = [resolver(model_id, key_id) if resolver else None for key_id in self.keys]

    def queue(self, model_id: str, tokens: int) -> ReadyQueue:
        size = tokens.bit_length()
        queue = self.ready_queues.get((model_id, size))
        if queue is None:
            for account in self.accounts:
                self.allowance(account, model_id)
            queue = self.ready_queues[model_id, size] = ReadyQueue(model_id, size, self.accounts, self.follow_clocks)
        return queue

    def allowance(self, account: Account, model_id: str) -> Allowance:
        found = account.allowances.get(model_id)
        if found is None:
            found = account.allowances[model_id] = self._allow(account, model_id)
        return found

    def _allow(self, account: Account, model_id: str) -> Allowance:
        # Forgotten again since the lock was taken: rare, and only then the resolver is asked under the lock.
        self.resolve_limits(model_id)
        said = self.resolved[model_id]
        limits = strictest(
            self.learned.get((model_id, key.id)) if said[key.index] is None else said[key.index] for key in account.keys
        )
        scope = None if limits is not None and limits.shared else model_id
        return Allowance(self.meter(account, scope), limits)

    def meter(self, account: Account, scope: str | None) -> Meter:
        meter = account.meters.get(scope)
        if meter is None:
            meter = account.meters[scope] = Meter(self._wall)
        return meter

    def busy(self, model_id: str | None) -> list[tuple[Account, str]]:
        """The accounts that have calls in flight, each with the model: with one, or (None) with any."""
        return [
            (account, each)
            for account in self.accounts
            for each, allowance in account.allowances.items()
            if allowance.meter.in_flight and model_id in (None, each)
        ]

    def forget(self, model_id: str | None = None) -> None:
        gone = [place for place in self.ready_queues if model_id in (None, place[0])]
        ready_queues = {self.ready_queues.pop(place) for place in gone}
        for account in self.accounts:
            for meter in account.meters.values():
                meter.slots = [slot for slot in meter.slots if slot.queue not in ready_queues]
            if model_id is None:
                account.allowances.clear()
            else:
                account.allowances.pop(model_id, None)

    # Picking.

    def find(
        self, model_id: str, tokens: int, exclude: Collection[str], key_id: str | None, now: float
    ) -> tuple[Slot, Key] | None:
        """A live key that can be leased now."""
        queue = self.queue(model_id, tokens)
        if key_id is None:
            return queue.pick(tokens, now, exclude)
        key = self.keys.get(key_id)
        if key is None or key_id in exclude or key.dead_reason is not None:
            return None
        slot = queue.slots[key.account]
        return (slot, key) if slot.fits(tokens, now) else None

    def trial(
        self, model_id: str, tokens: int, exclude: Collection[str], key_id: str | None, now: float
    ) -> tuple[Slot, Key] | None:
        """A dead key that may be tried now."""
        if not self.dead:
            return None
        queue = self.queue(model_id, tokens)
        if key_id is None:
            return self._trials.find(queue, tokens, exclude, now)
        key = self.keys.get(key_id)
        if key is None or key_id in exclude or key.dead_reason is None or key.open_at() > now:
            return None
        slot = queue.slots[key.account]
        return (slot, key) if slot.has_room(tokens, now) else None

    def follow_clocks(self, now: float) -> None:
        """Where the clocks went apart, see anew what ends when, and look at all slots again."""
        if not self._clocks.moved(now):
            return
        slept = self._clocks.slept()
        for account in self.accounts:
            account.follow_clocks()
            self._trials.file(account)
            for meter in account.meters.values() if slept else ():
                for window in meter.windows.values():
                    window.age(slept)
        for queue in self.ready_queues.values():
            queue.wake_all()

    def free_at(self, model_id: str, tokens: int, exclude: Collection[str], key_id: str | None, now: float) -> float:
        """The earliest instant at which a key can be leased, for a trial too, if no call ends before."""
        live_at = self.live_at(model_id, tokens, exclude, key_id, now)
        return min(live_at, self.trial_at(model_id, tokens, exclude, key_id, now)) if self.dead else live_at

    def trial_at(self, model_id: str, tokens: int, exclude: Collection[str], key_id: str | None, now: float) -> float:
        """The earliest instant at which a dead key may be tried, if no call ends before."""
        if not self.dead:
            return NEVER
        queue = self.queue(model_id, tokens)
        if key_id is None:
            return self._trials.at(queue, tokens, exclude, now)
        key = self.keys.get(key_id)
        if key is None or key_id in exclude or key.dead_reason is None:
            return NEVER
        return queue.slots[key.account].free_at(tokens, now, key.open_at())

    def live_at(self, model_id: str, tokens: int, exclude: Collection[str], key_id: str | None, now: float) -> float:
        """The earliest instant at which a live key can be leased, if no call ends before."""
        if self.find(model_id, tokens, exclude, key_id, now) is not None:
            return now
        queue = self.queue(model_id, tokens)
        if key_id is not None:
            key = self.keys.get(key_id)
            if key is None or key_id in exclude or key.dead_reason is not None:
                return NEVER
            return queue.slots[key.account].free_at(tokens, now, -NEVER)
        touched = self.touched(exclude)
        instants = [queue.slots[account].free_at(tokens, now, account.open_at(exclude)) for account in touched]
        return min([queue.alarm(tokens, now, touched), *instants])

    def earliest_if_idle(
        self, model_id: str, tokens: int, exclude: Collection[str], key_id: str | None, now: float
    ) -> float:
        """As `live_at`, if calls that are in flight ended without counting."""
        queue = self.queue(model_id, tokens)
        if key_id is not None:
            key = self.keys.get(key_id)
            if key is None or key_id in exclude or key.dead_reason is not None:
                return NEVER
            return queue.slots[key.account].earliest_if_idle(tokens, now, -NEVER)
        touched = self.touched(exclude)
        instants = [queue.slots[account].earliest_if_idle(tokens, now, account.open_at(exclude)) for account in touched]
        return min([queue.hope(touched), *instants])

    def touched(self, exclude: Collection[str]) -> Collection[Account]:
        return {self.keys[key_id].account for key_id in exclude if key_id in self.keys} if exclude else ()

    def wake(self, account: Account) -> None:
        """Something about an account changed that is not in its windows."""
        if account.dead or account.dead_counted:
            self.dead += len(account.dead) - account.dead_counted
            account.dead_counted = len(account.dead)
            self._trials.file(account)
        for meter in account.meters.values():
            for slot in meter.slots:
                slot.wake()

    # Counting.

    def count(self, model_id: str, tokens: int, exclude: Collection[str], now: float) -> tuple[int, int, int]:
        queue = self.queue(model_id, tokens)
        queue.settle(tokens, now)
        queue.thaw(now)
        limited, cooling = queue.limited, queue.cooling
        dead = self.dead
        for key_id in exclude:
            key = self.keys.get(key_id)
            if key is None:
                continue
            slot = queue.slots[key.account]
            if key.dead_reason is not None:
                dead -= 1
            elif slot.asleep and slot.label == "cooling":
                cooling -= 1
            elif slot.asleep:
                limited -= 1
        return limited, cooling, dead

    def status(self, key: Key, model_id: str | None, now: float, tokens: int = 1) -> KeyStatus:
        account = key.account
        if model_id is None:
            cooldowns = [cooldown for cooldown in account.cooling.values() if cooldown.until > now]
            allowances = list(account.allowances.values())
        else:
            cooldowns = [cooldown for cooldown in (account.cooldown(model_id),) if cooldown.until > now]
            self.queue(model_id, tokens)
            allowances = [account.allowances[model_id]]
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
        self.queue(model_id, 1)
        allowance = key.account.allowances[model_id]
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
