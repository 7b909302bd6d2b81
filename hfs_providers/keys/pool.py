"""The one owner of every fact about a provider's keys: which is ready, cooling or dead, and what is in flight.

`KeyPool.acquire` and `aacquire` give a `Lease`. A lease ends exactly once, whatever ends the call.
Pure Python, no third-party import; the clocks are injected.

Its parts, each in a module of its own: `state` (a key or account is live, cooling or dead), `windows` and `limits`
(how much is left), `scheduler` and `dead_key_trials` (which key is next), `keyring` (all keys), `waiters` and
`dispatcher` (who waits, who is served), `leases` (what an outcome does), `lending` (the lock; how a lease begins and
ends), `reservations` and `ledger` (what others who use the keys must agree to), `snapshot` (what outlives the process).

    invariant: under the lock, a lease is open exactly if it is counted in its meter and its key.
    invariant: whatever may free an account before its known instant wakes its slots and serves the waiters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing

from hfs_providers.contract.records import Credential, KeyStatus, Limits, PoolCounts, WindowUse
from hfs_providers.keys import snapshot
from hfs_providers.keys.keyring import KeyRing, Resolver
from hfs_providers.keys.leases import Lease, OnChange
from hfs_providers.keys.ledger import InFlight, Ledger, Spent
from hfs_providers.keys.lending import Lending, Nap
from hfs_providers.keys.request import KeyRequest
from hfs_providers.keys.reservations import Reservations
from hfs_providers.keys.state import PROBATION
from hfs_providers.keys.waiters import LoopSignal, RealWaits, ThreadSignal, Waits


class KeyPool:
    """The keys of one provider.

    Keys whose credentials name one account share its windows and cooldowns; if their limits differ, the strictest
    ones hold for all of them.

    Args:
        provider: its name.
        credentials: its keys.
        limits: the limits of a model on a key, by (model id, key id); None if there are none. Called once for each,
            outside the lock.
        clock: monotonic seconds.
        on_change: told of keys that cool, die and revive; called outside the lock. What it raises is logged.
        wall: seconds since the epoch, for days that end at midnight and for what is persisted.
        waits: how waiters sleep.

    Raises:
        ValueError: two credentials have one id.
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
        waits: Waits | None = None,
    ) -> None:
        self.provider = provider
        self._clock = clock
        self._wall = wall
        self._waits: Waits = waits if waits is not None else RealWaits()
        self._keyring = KeyRing(credentials, limits, clock, wall)
        self._reservations = Reservations(provider, self._keyring, clock, wall)
        self._lending = Lending(provider, self._keyring, self._reservations, clock, on_change)
        self._dispatcher = self._lending.dispatcher

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
        request = KeyRequest(model_id, max(0, int(estimated_tokens)), exclude, key_id)
        waiter = self._lending.request(request, timeout, trial, ThreadSignal)
        if waiter.lease is not None and self._reservations.ledger is None:
            return waiter.lease
        answer = None
        with closing(self._lending.steps(waiter, ThreadSignal)) as steps:
            while True:
                try:
                    step = steps.send(answer)
                except StopIteration as end:
                    found: Lease = end.value
                    return found
                if isinstance(step, Nap):
                    assert isinstance(step.signal, ThreadSignal)
                    self._waits.wait(step.signal.event, step.seconds)
                    answer = None
                else:
                    answer = step.ledger.reserve(step.reservation)

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
        request = KeyRequest(model_id, max(0, int(estimated_tokens)), exclude, key_id)
        waiter = self._lending.request(request, timeout, trial, LoopSignal)
        if waiter.lease is not None and self._reservations.ledger is None:
            return waiter.lease
        answer = None
        with closing(self._lending.steps(waiter, LoopSignal)) as steps:
            while True:
                try:
                    step = steps.send(answer)
                except StopIteration as end:
                    found: Lease = end.value
                    return found
                if isinstance(step, Nap):
                    assert isinstance(step.signal, LoopSignal)
                    await self._waits.wait_async(step.signal.future, step.seconds)
                    answer = None
                else:
                    answer = await step.ledger.reserve_async(step.reservation)

    def acquire_nowait(
        self, model_id: str, estimated_tokens: int = 1000, exclude: Collection[str] = ()
    ) -> Lease | None:
        """Lease a live key if one is free, nobody waits and nobody shares the keys: the short way of most calls.

        Args:
            model_id, estimated_tokens, exclude: as for `acquire`, which handles all other cases.
        """
        tokens = estimated_tokens
        if tokens.__class__ is not int or tokens < 0:
            return None
        lending = self._lending
        with lending.lock:
            queue = self._keyring.ready_queues.get((model_id, tokens.bit_length()))
            if (
                queue is None
                or queue.zoned
                or self._reservations.ledger is not None
                or self._dispatcher.wait_queues
                or lending.orphans
            ):
                return None
            found = queue.pick(tokens, self._clock(), exclude)
            return Lease(lending, lending.leases.open(found[0], found[1], tokens)) if found is not None else None

    # The state of the keys.

    def next_free(self, model_id: str, estimated_tokens: int = 1000) -> float | None:
        """Seconds until a key can be leased: 0 if one is free now, None if none will be by itself.

        A dead key counts from when it may be tried. Waiters do not count, although they are served first.

        Args:
            model_id: the model to be called.
            estimated_tokens: tokens to be reserved.
        """
        request = KeyRequest(model_id, max(0, int(estimated_tokens)))
        self._keyring.resolve_limits(model_id)
        with self._lending.held():
            return self._keyring.free_in(request, self._keyring.look())

    def counts(self, model_id: str) -> PoolCounts:
        """The states of the keys for one model, as for a request of one token."""
        self._keyring.resolve_limits(model_id)
        with self._lending.held():
            now = self._keyring.look()
            keys = self._keyring.keys.values()
            states = [self._keyring.status(key, model_id, now).state for key in keys]
            return PoolCounts(
                total=len(states),
                ready=states.count("ready"),
                limited=states.count("limited"),
                cooling=states.count("cooling"),
                dead=states.count("dead"),
                in_flight=sum(key.in_flight for key in keys),
                reserved_tokens=sum(m.reserved for account in self._keyring.accounts for m in account.meters.values()),
                free_in=self._keyring.free_in(KeyRequest(model_id, 1), now),
            )

    def statuses(self, model_id: str | None = None) -> list[KeyStatus]:
        """The state of each key, for one model or (None) overall: there it cools if it cools for any model."""
        if model_id is not None:
            self._keyring.resolve_limits(model_id)
        with self._lending.held():
            now = self._keyring.look()
            return [self._keyring.status(key, model_id, now) for key in self._keyring.keys.values()]

    def used(self, model_id: str) -> dict[str, list[WindowUse]]:
        """What of a model's limits is used, by key id; nothing if no limits are known."""
        self._keyring.resolve_limits(model_id)
        with self._lending.held():
            now = self._keyring.look()
            return {key.id: self._keyring.used(key, model_id, now) for key in self._keyring.keys.values()}

    # Changes from outside.

    def revive(self, key_id: str) -> None:
        """Put a cooling or dead key back into rotation; this ends all cooldowns of its account.

        Raises:
            KeyError: there is no such key.
        """
        key = self._keyring.keys[key_id]
        with self._lending.held():
            key.account.cooling.clear()
            key.revive()
            self._keyring.changed(key.account)
            self._dispatcher.serve_all()
        self._lending.tell(key_id, [("key_revived", None, None, None)])

    def retire(self, key_id: str, reason: str) -> None:
        """Take a key out of rotation.

        Args:
            key_id: the key.
            reason: for people.

        Raises:
            KeyError: there is no such key.
        """
        key = self._keyring.keys[key_id]
        with self._lending.held():
            seconds = key.mark_dead(self._keyring.look(), reason, PROBATION, probed=False)
            self._keyring.changed(key.account)
            self._dispatcher.serve_all()
        self._lending.tell(key_id, [("key_dead", None, reason, seconds)])

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
        with self._lending.held():
            now = self._keyring.look()
            key.account.cool(now, now + seconds, model_id, reason)
            self._keyring.changed(key.account)
            self._dispatcher.serve_all()
        self._lending.tell(key_id, [("key_cooling", model_id, reason, seconds)])

    def invalidate_limits(self, model_id: str | None = None) -> None:
        """Ask for the limits of a model, or of all, again."""
        with self._lending.held():
            busy = self._keyring.invalidate_limits(model_id)
            wanted = {*self._dispatcher.wait_queues, *(each for _, each in busy)}
        for each in wanted:
            self._keyring.resolve_limits(each)
        with self._lending.held():
            # Not when the next call asks: what is in flight counts against new limits when it ends.
            for account, each in busy:
                self._keyring.allowance(account, each)
            self._dispatcher.serve_all()

    def learn(self, model_id: str, key_id: str, limits: Limits | None) -> None:
        """Note the limits that a provider's answer showed; used if no others are known.

        Args:
            model_id: the model that was asked.
            key_id: the key that was used.
            limits: what was shown, or None to forget it.
        """
        # Most answers show what the one before showed: that costs no lock.
        if self._keyring.learned(model_id, key_id) != limits:
            with self._lending.held():
                if self._keyring.learn(model_id, key_id, limits):
                    self._dispatcher.serve_all()

    # Sharing.

    def join(self, ledger: Ledger) -> list[InFlight]:
        """Ask `ledger` before each request from now on. Returns what is in flight already, which it must count."""
        with self._lending.held():
            self._reservations.ledger = ledger
            return self._reservations.in_flight()

    def leave(self, used: Callable[[], Mapping[str, object] | None] | None = None) -> None:
        """Ask nobody from now on, and go on with what this pool itself has seen.

        Args:
            used: what all have used meanwhile, as for `load`; called while nobody can lease a key, so that none of it
                is missed.
        """
        with self._lending.held():
            self._reservations.ledger = None
            state = used() if used is not None else None
            if state is not None:
                self._load(state)

    def spent(self) -> list[Spent]:
        """What this pool remembers to have been used, for those who share the keys."""
        with self._lending.held():
            return self._reservations.spent()

    # What outlives the process.

    def dump(self) -> snapshot.PoolSnapshot:
        """Windows, cooldowns and dead keys as plain data, stamped by the wall clock. It holds no key."""
        with self._lending.held():
            return snapshot.dump_state(self._keyring.accounts, self._keyring.look(), self._wall())

    def load(self, state: Mapping[str, object]) -> None:
        """Take over a state of keys that are here and the same.

        The windows that it names are replaced, cooldowns and probations never shortened. What lies too far ahead is
        clamped to a day; what cannot be read is left out.

        Args:
            state: from `dump`, maybe by way of JSON.
        """
        for model_id in snapshot.models_of(state):
            self._keyring.resolve_limits(model_id)
        with self._lending.held():
            self._load(state)

    def _load(self, state: Mapping[str, object]) -> None:
        snapshot.load_state(state, self._keyring.keys, self._keyring.look(), self._wall(), self._keyring.allowance)
        for account in self._keyring.accounts:
            self._keyring.changed(account)
        self._dispatcher.serve_all()
