"""The one owner of every fact about a provider's keys: which is ready, which cools, which is dead, what is in flight.

`KeyPool.acquire` and `aacquire` give a `Lease`. A lease ends exactly once, whatever ends the call.
Pure Python, no third-party import; the clocks are injected.

The concerns, each in a room of its own: `keystate` (a key lives, dies, is tried), `windows` (how much is left),
`lanes` (whose turn it is) and `roster` (all keys), `waiting` and `desk` (who waits, who is served), `lease` (the words
for an outcome), `claims` (what others must agree to), `snapshot` (what outlives the process). This room
holds the lock that they all rely on.

    invariant: under the lock, a lease is open exactly if it is counted in its meter, its key and the pool.
    invariant: whatever may free an account before its known instant wakes its slots and serves the lines.

Fork: a child starts with fresh locks and without waiters; leases that were open belong to the parent's calls, so the
child counts none of them and ending one there does nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.forks import Phase, at_fork
from hfs_providers.contract.instants import NEVER, seconds_until
from hfs_providers.contract.records import Credential, KeyStatus, Limits, WindowUse
from hfs_providers.keys import snapshot
from hfs_providers.keys.dispatcher import Dispatcher
from hfs_providers.keys.keyring import KeyRing, Resolver
from hfs_providers.keys.leases import Change, Lease, OnChange, Outcome, PoolCounts, Scope, Told
from hfs_providers.keys.ledger import Held, Ledger, Refusal, Reservation, Spent
from hfs_providers.keys.reservations import Reservations, reserve_async
from hfs_providers.keys.scheduler import Slot
from hfs_providers.keys.state import CREDIT_PROBATION, DEFAULT_COOLDOWN, PROBATION, PROBE_RETRY, Account, Key, Strategy
from hfs_providers.keys.waiters import LoopSignal, RealWaits, Signal, ThreadSignal, Waiter, Waits

__all__ = [
    "CREDIT_PROBATION",
    "DEFAULT_COOLDOWN",
    "PROBATION",
    "PROBE_RETRY",
    "Change",
    "KeyPool",
    "Lease",
    "OnChange",
    "PoolCounts",
    "Resolver",
    "Scope",
    "Strategy",
    "Waits",
]


class KeyPool:
    """The keys of one provider.

    Keys whose credentials name one account share its windows and cooldowns; where their limits differ, the strictest
    holds for all of them.

    Args:
        provider: its name.
        credentials: its keys.
        limits: the limits of a model on a key, by (model id, key id); None where there are none. Asked once for each,
            outside the lock.
        clock: monotonic seconds.
        on_change: told of keys that cool, die and revive; called outside the lock. What it raises is dropped.
        wall: seconds since the epoch, for days that end at midnight and for what is persisted.
        strategy: `spread` leases the least recently used of the ready keys, `fill_first` the first of them.
        waits: how waiters sleep.
    """

    def __init__(
        self,
        provider: str,
        credentials: Sequence[Credential],
        *,
        limits: Resolver | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_change: OnChange | None = None,
        wall: Callable[[], float] = time.time,
        strategy: Strategy = "spread",
        waits: Waits | None = None,
    ) -> None:
        self.provider = provider
        self._clock = clock
        self._wall = wall
        self._on_change = on_change
        self._waits: Waits = waits if waits is not None else RealWaits()
        self._keyring = KeyRing(credentials, strategy, limits, clock, wall)
        self._dispatcher = Dispatcher(self._keyring, clock, self._lease, self._take_back)
        self._reservations = Reservations(provider, self._keyring, clock, wall)
        # Whom to ask besides, while others use the same keys.
        self._ledger: Ledger | None = None
        self._turn = 0
        self._in_flight = 0
        self._reserved = 0
        self._epoch = 0
        # Leases that the collector found open, maybe while this very thread held the lock: see `_orphaned`.
        self._orphans: deque[Lease] = deque()
        self._lock = threading.Lock()
        at_fork(
            Phase.POOLS, before=self._before_fork, parent=self._after_fork_in_parent, child=self._after_fork_in_child
        )

    def __repr__(self) -> str:
        return f"KeyPool({self.provider}, {len(self._keyring.keys)} keys)"

    def __copy__(self) -> KeyPool:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> KeyPool:
        return self

    @property
    def credentials(self) -> Sequence[Credential]:
        """The keys, in the order of the environment."""
        return [key.credential for key in self._keyring.keys.values()]

    # Leasing.

    def acquire(
        self,
        model_id: str,
        estimated_tokens: int = 1000,
        timeout: float = 10.0,
        *,
        exclude: Collection[str] = (),
        key_id: str | None = None,
        trial: bool = True,
    ) -> Lease:
        """Lease a key, waiting for one if need be.

        Args:
            model_id: the model to be called.
            estimated_tokens: tokens to reserve until the call ends.
            timeout: seconds to wait at most; 0 does not wait.
            exclude: ids of keys that will not do.
            key_id: the one key that will do.
            trial: whether a dead key will do whose probation is over, if no live key can be free within `timeout`.

        Raises:
            PoolExhaustedError: no key is free, nor will be within `timeout`; raised at once.
        """
        lease = self.acquire_nowait(model_id, estimated_tokens, exclude) if key_id is None else None
        if lease is not None:
            return lease
        # A pool that is joined while the call waits gives it no time besides.
        deadline = 0.0 if self._ledger is None else self._clock() + timeout
        found = self._request(model_id, estimated_tokens, timeout, exclude, key_id, trial, ThreadSignal)
        lease = found if isinstance(found, Lease) else self._wait(found)
        if self._ledger is None:
            return lease
        while True:
            asked = self._ask(lease)
            if asked is None:
                return lease
            ledger, reservation = asked
            refusal: Refusal | None = None
            granted = False
            try:
                refusal = ledger.reserve(reservation)
                granted = refusal is None
            finally:
                self._answer(lease, reservation if granted else None, refusal)
            if granted:
                return lease
            left = max(0.0, deadline - self._clock())
            if left == 0:
                # Who does not wait, or no longer, asks for each key once.
                exclude = {*exclude, lease.key_id}
            found = self._request(model_id, estimated_tokens, left, exclude, key_id, trial, ThreadSignal)
            lease = found if isinstance(found, Lease) else self._wait(found)

    def _wait(self, found: Waiter) -> Lease:
        signal = found.signal
        assert isinstance(signal, ThreadSignal)
        try:
            while True:
                self._waits.wait(signal.event, max(0.0, found.naps_until - self._clock()))
                lease = self._resume(found)
                if lease is not None:
                    return lease
        except BaseException:
            self._abandon(found)
            raise

    async def aacquire(
        self,
        model_id: str,
        estimated_tokens: int = 1000,
        timeout: float = 10.0,
        *,
        exclude: Collection[str] = (),
        key_id: str | None = None,
        trial: bool = True,
    ) -> Lease:
        """As `acquire`, without blocking the event loop."""
        lease = self.acquire_nowait(model_id, estimated_tokens, exclude) if key_id is None else None
        if lease is not None:
            return lease
        # A pool that is joined while the call waits gives it no time besides.
        deadline = 0.0 if self._ledger is None else self._clock() + timeout
        found = self._request(model_id, estimated_tokens, timeout, exclude, key_id, trial, LoopSignal)
        lease = found if isinstance(found, Lease) else await self._await(found)
        if self._ledger is None:
            return lease
        while True:
            asked = self._ask(lease)
            if asked is None:
                return lease
            ledger, reservation = asked
            refusal: Refusal | None = None
            granted = False
            try:
                refusal = await reserve_async(ledger, reservation)
                granted = refusal is None
            finally:
                self._answer(lease, reservation if granted else None, refusal)
            if granted:
                return lease
            left = max(0.0, deadline - self._clock())
            if left == 0:
                exclude = {*exclude, lease.key_id}
            found = self._request(model_id, estimated_tokens, left, exclude, key_id, trial, LoopSignal)
            lease = found if isinstance(found, Lease) else await self._await(found)

    async def _await(self, found: Waiter) -> Lease:
        signal = found.signal
        assert isinstance(signal, LoopSignal)
        try:
            while True:
                await self._waits.wait_async(signal.future, max(0.0, found.naps_until - self._clock()))
                lease = self._resume(found)
                if lease is not None:
                    return lease
        except BaseException:
            # Cancelled, maybe after a lease was handed over: it goes to the next in line.
            self._abandon(found)
            raise

    def _ask(self, lease: Lease) -> tuple[Ledger, Reservation] | None:
        """Whom to ask for a lease that was just opened, and for what; None where nobody shares the keys any more."""
        with self._held():
            if self._ledger is not None and lease in self._reservations.asking:
                return self._ledger, self._reservations.of(lease)
            # Opened before the pool was joined, and counted then; or nobody is left to share with.
            self._reservations.asking.discard(lease)
            return None

    def _answer(self, lease: Lease, granted: Reservation | None, refusal: Refusal | None) -> None:
        """What came of it: a claim that was granted, a refusal, or (None) the asking was cut short."""
        with self._held():
            self._reservations.asking.discard(lease)
            lease._reservation = granted
            if granted is not None or lease._ended or lease._epoch != self._epoch:
                return
            self._take_back(lease)
            if refusal is not None:
                self._reservations.apply_refusal(lease, refusal)
            self._dispatcher.serve_all()

    def acquire_nowait(
        self, model_id: str, estimated_tokens: int = 1000, exclude: Collection[str] = ()
    ) -> Lease | None:
        """Lease a live key, where one is free, nobody waits and nobody shares the keys: the way of most calls, short.

        Args:
            model_id, estimated_tokens, exclude: as for `acquire`, which sees to all else.
        """
        tokens = estimated_tokens
        if tokens.__class__ is not int or tokens < 0:
            return None
        with self._lock:
            queue = self._keyring.ready_queues.get((model_id, tokens.bit_length()))
            if (
                queue is None
                or queue.zoned
                or self._ledger is not None
                or self._dispatcher.wait_queues
                or self._orphans
            ):
                return None
            found = queue.pick(tokens, self._clock(), exclude)
            return self._lease(found[0], found[1], tokens) if found is not None else None

    # Looking.

    def next_free(self, model_id: str, estimated_tokens: int = 1000) -> float | None:
        """Seconds until a key can be leased: 0 if one is free now, None if none will be by itself.

        A dead key counts from when it may be tried. Waiters are not reckoned with: who waits already is served first.
        """
        tokens = max(0, int(estimated_tokens))
        self._keyring.resolve_limits(model_id)
        with self._held():
            now = self._look()
            return seconds_until(self._keyring.free_at(model_id, tokens, (), None, now), now)

    def counts(self, model_id: str) -> PoolCounts:
        """The states of the keys for one model, as a request of one token sees them."""
        self._keyring.resolve_limits(model_id)
        with self._held():
            now = self._look()
            states = [self._keyring.status(key, model_id, now).state for key in self._keyring.keys.values()]
            return PoolCounts(
                total=len(states),
                ready=states.count("ready"),
                limited=states.count("limited"),
                cooling=states.count("cooling"),
                dead=states.count("dead"),
                in_flight=self._in_flight,
                reserved_tokens=self._reserved,
                free_in=seconds_until(self._keyring.free_at(model_id, 1, (), None, now), now),
            )

    def statuses(self, model_id: str | None = None) -> list[KeyStatus]:
        """The state of each key, for one model or (None) overall: there it cools if it cools for any model."""
        if model_id is not None:
            self._keyring.resolve_limits(model_id)
        with self._held():
            now = self._look()
            return [self._keyring.status(key, model_id, now) for key in self._keyring.keys.values()]

    def used(self, model_id: str) -> dict[str, list[WindowUse]]:
        """What of a model's limits is used, by key id; nothing where no limits are known."""
        self._keyring.resolve_limits(model_id)
        with self._held():
            now = self._look()
            return {key.id: self._keyring.used(key, model_id, now) for key in self._keyring.keys.values()}

    # Ruling.

    def revive(self, key_id: str) -> None:
        """Put a cooling or dead key back into rotation; what cools with its account is freed with it.

        Raises:
            KeyError: there is no such key.
        """
        key = self._keyring.keys[key_id]
        with self._held():
            key.account.cooling.clear()
            key.revive()
            self._changed(key.account)
        self._tell(key_id, [("key_revived", None, None, None)])

    def retire(self, key_id: str, reason: str) -> None:
        """Take a key out of rotation.

        Args:
            key_id: the key.
            reason: for people.

        Raises:
            KeyError: there is no such key.
        """
        key = self._keyring.keys[key_id]
        with self._held():
            seconds = key.mark_dead(self._look(), reason, PROBATION, probed=False)
            self._changed(key.account)
        self._tell(key_id, [("key_dead", None, reason, seconds)])

    def pause(self, key_id: str, model_id: str, seconds: float, reason: str) -> None:
        """Keep a key out of rotation for one model.

        Args:
            key_id: the key.
            model_id: the model.
            seconds: for how long.
            reason: for people.

        Raises:
            KeyError: there is no such key.
        """
        key = self._keyring.keys[key_id]
        with self._held():
            now = self._look()
            key.account.cool(now, now + seconds, model_id, reason)
            self._changed(key.account)
        self._tell(key_id, [("key_cooling", model_id, reason, seconds)])

    def set_limits(self, limits: Resolver | None) -> None:
        """Ask another resolver for limits from now on. What was used stays counted."""
        self._keyring.resolver = limits
        self.invalidate_limits()

    def invalidate_limits(self, model_id: str | None = None) -> None:
        """Ask the resolver again for a model, or for everything."""
        with self._held():
            if model_id is None:
                self._keyring.resolved.clear()
            else:
                self._keyring.resolved.pop(model_id, None)
            busy = self._keyring.busy(model_id)
            self._keyring.forget(model_id)
            wanted = {*self._dispatcher.wait_queues, *(each for _, each in busy)}
        for each in wanted:
            self._keyring.resolve_limits(each)
        with self._held():
            # Not when the next call asks: what is in flight counts against new limits when it ends.
            for account, each in busy:
                self._keyring.allowance(account, each)
            self._dispatcher.serve_all()

    def learn(self, model_id: str, key_id: str, limits: Limits | None) -> None:
        """Note the limits that a provider's answer showed; used where the resolver knows none.

        Args:
            model_id: the model that was asked.
            key_id: the key that was used.
            limits: what was shown, or None to forget it.
        """
        pair = (model_id, key_id)
        if key_id not in self._keyring.keys or self._keyring.learned.get(pair) == limits:
            return
        with self._held():
            if limits is None:
                self._keyring.learned.pop(pair, None)
            else:
                self._keyring.learned[pair] = limits
            said = self._keyring.resolved.get(model_id)
            if said is None or said[self._keyring.keys[key_id].index] is None:
                self._keyring.forget(model_id)
                # As above: the request whose answer showed the limits is in flight.
                self._keyring.allowance(self._keyring.keys[key_id].account, model_id)
                self._dispatcher.serve_all()

    # Sharing.

    def join(self, ledger: Ledger) -> list[Held]:
        """Ask `ledger` before each request from now on; what is in flight already, which it must count."""
        with self._held():
            self._ledger = ledger
            return self._reservations.held()

    def leave(self, used: Callable[[], Mapping[str, object] | None] | None = None) -> None:
        """Go on alone, on what this pool itself has seen.

        Args:
            used: what all have used meanwhile, as for `load`; asked while nobody can lease a key, so that none of it
                is missed.
        """
        with self._held():
            self._ledger = None
            state = used() if used is not None else None
            if state is not None:
                self._load(state)

    def spent(self) -> list[Spent]:
        """What this pool remembers to have been used, for those who share the keys."""
        with self._held():
            return self._reservations.spent()

    # What outlives the process.

    def dump(self) -> snapshot.PoolSnapshot:
        """Windows, cooldowns and dead keys as plain data, stamped by the wall clock. It holds no key."""
        with self._held():
            return snapshot.dump(self._keyring.accounts, self._look(), self._wall())

    def load(self, state: Mapping[str, object]) -> None:
        """Take over what `dump` gave, of keys that are here and the same.

        The windows that it names are replaced, cooldowns and probations never shortened. What lies too far ahead is
        clamped to a day; what cannot be read is left out.

        Args:
            state: from `dump`, maybe by way of JSON.
        """
        for model_id in snapshot.models(state):
            self._keyring.resolve_limits(model_id)
        with self._held():
            self._load(state)

    def _load(self, state: Mapping[str, object]) -> None:
        snapshot.load(state, self._keyring.keys, self._look(), self._wall(), self._keyring.allowance)
        for account in self._keyring.accounts:
            self._keyring.wake(account)
        self._dispatcher.serve_all()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The lock, and then what the collector left to do; the hot paths spell it out for speed."""
        try:
            with self._lock:
                yield
        finally:
            self._leave()

    # The methods below expect the lock to be held, unless they say otherwise.

    def _look(self) -> float:
        """Monotonic seconds, both clocks looked at."""
        now = self._clock()
        self._keyring.follow_clocks(now)
        return now

    def _lease(self, slot: Slot, key: Key, tokens: int) -> Lease:
        self._turn += 1
        meter = slot.allowance.meter
        lease = Lease(self, key, meter, slot.queue.model_id, tokens, self._turn)
        if lease.probe:
            key.probe = self._turn
        account = key.account
        if account.only is key and not account.by_index:
            key.last_used = account.order = self._turn
        else:
            account.use(key, self._turn)
        key.in_flight += 1
        meter.in_flight += 1
        meter.leased += 1
        meter.reserved += tokens
        self._in_flight += 1
        self._reserved += tokens
        if self._ledger is not None:
            self._reservations.asking.add(lease)
        return lease

    def _close(self, lease: Lease) -> None:
        """Take the lease out of all counts."""
        lease._ended = True
        if self._reservations.asking:
            self._reservations.asking.discard(lease)
        lease._key.in_flight -= 1
        lease._meter.in_flight -= 1
        lease._meter.reserved -= lease.reserved
        self._in_flight -= 1
        self._reserved -= lease.reserved

    def _end(
        self,
        lease: Lease,
        outcome: Outcome,
        tokens: int = 0,
        *,
        retry_after: float | None = None,
        scope: Scope = "model",
        reason: str | None = None,
        credits: bool = False,
    ) -> None:
        """The way of every lease to its end. Takes the lock."""
        told: Sequence[Told] = ()
        # What cannot be a number fails before anything has changed.
        tokens = max(0, int(tokens))
        with self._lock:
            if lease._ended:
                return
            if lease._epoch != self._epoch:
                lease._ended = True
                return
            ledger = self._ledger if self._ledger is None or lease not in self._reservations.asking else None
            self._close(lease)
            key, meter = lease._key, lease._meter
            if outcome == "release":
                if key.probe == lease._turn:
                    key.probe = 0
            elif meter.windows or lease.probe or outcome != "commit":
                now = self._clock()
                if meter.windows:
                    meter.record(now, tokens)
                if outcome == "rate_limited":
                    told = self._cool(lease, now, retry_after, lease.model_id if scope == "model" else None, reason)
                elif outcome == "dead":
                    told = self._bury(lease, now, reason or "refused", credits)
                elif lease.probe:
                    told = self._probed(lease, now, answered=outcome == "commit")
            if lease.probe or told:
                self._keyring.wake(key.account)
            else:
                for slot in meter.slots:
                    if slot.asleep:
                        slot.wake()
            if self._dispatcher.wait_queues:
                self._dispatcher.serve_all()
            if ledger is not None:
                ledger.end(lease._reservation or self._reservations.of(lease), None if outcome == "release" else tokens)
        if self._orphans:
            self._leave()
        if told:
            self._tell(lease.key_id, told)

    def _probed(self, lease: Lease, now: float, *, answered: bool) -> list[Told]:
        key = lease._key
        # Who put the key to rest or back to work meanwhile knows better than this trial.
        if key.probe != lease._turn:
            return []
        if answered:
            key.revive()
            return [("key_revived", None, None, None)]
        key.probe = 0
        self._keyring.follow_clocks(now)
        key.try_from(now + PROBE_RETRY)
        return []

    def _cool(
        self, lease: Lease, now: float, retry_after: float | None, scope: str | None, reason: str | None
    ) -> list[Told]:
        self._keyring.follow_clocks(now)
        # A key that is told to wait was recognised: it lives.
        told = self._probed(lease, now, answered=True) if lease.probe else []
        seconds = DEFAULT_COOLDOWN if retry_after is None or math.isnan(retry_after) else max(0.0, retry_after)
        why = reason or "rate limited"
        lease._key.account.cool(now, now + seconds, scope, why)
        return [*told, ("key_cooling", scope, why, seconds)]

    def _bury(self, lease: Lease, now: float, reason: str, credits: bool) -> list[Told]:
        self._keyring.follow_clocks(now)
        key = lease._key
        probed = lease.probe and key.probe == lease._turn
        seconds = key.mark_dead(now, reason, CREDIT_PROBATION if credits else PROBATION, probed=probed)
        return [("key_dead", None, reason, seconds)]

    def _tell(self, key_id: str, told: Sequence[Told]) -> None:
        """Outside the lock. An observer that raises must not break the call that it observes."""
        if self._on_change is None:
            return
        for change, model_id, reason, seconds in told:
            try:
                self._on_change(change, key_id, model_id, reason, seconds)
            except Exception:
                _log_observer(self.provider, change)

    # Waiting.

    def _request(
        self,
        model_id: str,
        estimated_tokens: int,
        timeout: float,
        exclude: Collection[str],
        key_id: str | None,
        trial: bool,
        signal: Callable[[], Signal],
    ) -> Lease | Waiter:
        """A lease if one is to be had now, else a place in the line. Takes the lock."""
        tokens = max(0, int(estimated_tokens))
        if model_id not in self._keyring.resolved:
            self._keyring.resolve_limits(model_id)
        if self._orphans:
            self._leave()
        try:
            with self._lock:
                now = self._clock()
                self._keyring.follow_clocks(now)
                if model_id not in self._dispatcher.wait_queues:
                    found = self._keyring.find(model_id, tokens, exclude, key_id, now)
                    if found is None and timeout <= 0 and trial:
                        found = self._keyring.trial(model_id, tokens, exclude, key_id, now)
                    if found is not None:
                        return self._lease(found[0], found[1], tokens)
                    if timeout <= 0:
                        raise self._exhausted(model_id, tokens, exclude, key_id, timeout, now)
                waiter = Waiter(model_id, tokens, exclude, key_id, now + max(0.0, timeout), timeout, trial)
                waiter.signal = signal()
                self._dispatcher.enqueue(waiter, now)
                if waiter.lease is not None:
                    return waiter.lease
                if timeout <= 0 or not self._dispatcher.in_line(waiter):
                    return self._give_up(waiter, now)
                self._dispatcher.nap(waiter)
                return waiter
        finally:
            if self._orphans:
                self._leave()

    def _resume(self, waiter: Waiter) -> Lease | None:
        """What a waiter that woke finds: its lease, None to sleep on, or its error. Takes the lock."""
        try:
            with self._lock:
                # Awake: nobody need ring for it while it serves the line itself.
                waiter.naps_until = -NEVER
                now = self._clock()
                queue = self._dispatcher.wait_queues.get(waiter.model_id)
                if waiter.lease is None and queue is not None:
                    self._dispatcher.serve(waiter.model_id, queue, now)
                if waiter.lease is not None:
                    return waiter.lease
                if not self._dispatcher.in_line(waiter) or now >= waiter.deadline:
                    return self._give_up(waiter, now)
                self._dispatcher.nap(waiter)
                return None
        finally:
            if self._orphans:
                self._leave()

    def _give_up(self, waiter: Waiter, now: float) -> Lease:
        """What a waiter gets for whom no live key was free in time: a trial, or its error."""
        self._dispatcher.dequeue(waiter, now)
        wish = (waiter.model_id, waiter.tokens, waiter.exclude, waiter.key_id)
        found = self._keyring.trial(*wish, now) if waiter.trial else None
        if found is None:
            raise self._exhausted(*wish, waiter.timeout, now)
        return self._lease(found[0], found[1], waiter.tokens)

    def _abandon(self, waiter: Waiter) -> None:
        """A waiter is gone, by cancellation or an error. Takes the lock."""
        with self._held():
            if waiter.lease is None:
                self._dispatcher.dequeue(waiter, self._clock())
        if waiter.lease is not None:
            waiter.lease.release()

    def _take_back(self, lease: Lease) -> None:
        if lease._key.probe == lease._turn:
            lease._key.probe = 0
        self._close(lease)
        self._keyring.wake(lease._key.account)

    def _changed(self, account: Account) -> None:
        self._keyring.wake(account)
        self._dispatcher.serve_all()

    # Saying no.

    def _exhausted(
        self,
        model_id: str,
        tokens: int,
        exclude: Collection[str],
        key_id: str | None,
        timeout: float,
        now: float,
    ) -> PoolExhaustedError:
        # A key that this call has tried counts by its state like any other; `tried` are those that would be ready.
        keys = self._keyring.keys
        if key_id is not None:
            states = [self._keyring.status(keys[key_id], model_id, now, tokens).state] if key_id in keys else []
            limited, cooling, dead = states.count("limited"), states.count("cooling"), states.count("dead")
        else:
            limited, cooling, dead = self._keyring.count(model_id, tokens, (), now)
        tried = [keys[each] for each in exclude if each in keys]
        return PoolExhaustedError(
            self.provider,
            model_id,
            total=len(keys),
            limited=limited,
            cooling=cooling,
            dead=dead,
            tried=sum(1 for key in tried if self._keyring.status(key, model_id, now, tokens).state == "ready"),
            free_in=seconds_until(self._keyring.free_at(model_id, tokens, (), key_id, now), now),
            waited=timeout > 0,
            timeout=timeout,
        )

    # Collecting and forking.

    def _orphaned(self, lease: Lease) -> None:
        """A lease was collected open. Called at any moment, maybe in a thread that holds the lock."""
        self._orphans.append(lease)
        self._leave()

    def _leave(self) -> None:
        """Release orphans, unless the lock is held: whoever holds it comes by here afterwards."""
        while self._orphans and self._lock.acquire(blocking=False):
            try:
                while self._orphans:
                    lease = self._orphans.popleft()
                    if not lease._ended and lease._epoch == self._epoch:
                        if self._ledger is not None and lease not in self._reservations.asking:
                            self._ledger.end(lease._reservation or self._reservations.of(lease), None)
                        self._take_back(lease)
                    lease._ended = True
                self._dispatcher.serve_all()
            finally:
                self._lock.release()

    def _before_fork(self) -> None:
        self._lock.acquire()

    def _after_fork_in_parent(self) -> None:
        self._lock.release()
        self._leave()

    def _after_fork_in_child(self) -> None:
        """In a child: the parent's calls and waiters are not here."""
        self._lock = threading.Lock()
        # Whoever shares for this process joins it again.
        self._ledger = None
        self._reservations.asking.clear()
        self._epoch += 1
        self._in_flight = self._reserved = 0
        self._dispatcher.wait_queues.clear()
        self._orphans.clear()
        for key in self._keyring.keys.values():
            key.in_flight = key.probe = 0
        for account in self._keyring.accounts:
            for meter in account.meters.values():
                meter.in_flight = meter.reserved = 0
            self._keyring.wake(account)


def _log_observer(provider: str, change: str) -> None:
    import logging

    logging.getLogger(__name__).warning("%s: an observer of %s raised", provider, change, exc_info=True)
