"""The one owner of every fact about a provider's keys: which is ready, cooling or dead, and what is in flight.

`KeyPool.acquire` and `aacquire` give a `Lease`. A lease ends exactly once, however the call ends.
Pure Python, no third-party import; the clocks are injected.

Its parts, each in a module of its own: `state` (a key or account is live, cooling or dead), `windows` and `limits`
(how much is left), `scheduler` and `dead_key_trials` (which key is next), `keyring` (all keys), `waiters` and
`dispatcher` (who waits, who is served), `leases` (what an outcome does), `lending` (the lock; how a lease begins and
ends), `pool_view` (what it says of the keys), `reservations` and `ledger` (what others who use them must agree to),
`snapshot` (what outlives the process).

    invariant: under the lock, a lease is open exactly if it is counted in its meter and its key.
    invariant: whatever may free an account before its known instant wakes its slots and serves the waiters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing

from hfs_providers.contract.records import Credential, Limits
from hfs_providers.keys import snapshot
from hfs_providers.keys.keyring import KeyRing, Merge, Resolver, known_or_shown
from hfs_providers.keys.leases import Lease, OnChange
from hfs_providers.keys.ledger import InFlight, Ledger
from hfs_providers.keys.lending import Lending, Nap
from hfs_providers.keys.pool_view import PoolView
from hfs_providers.keys.request import KeyRequest
from hfs_providers.keys.reservations import Reservations
from hfs_providers.keys.state import PROBATION
from hfs_providers.keys.waiters import LoopSignal, RealWaits, ThreadSignal, Waits


class KeyPool(PoolView):
    """The keys of one provider.

    Keys whose credentials name one account share its windows and cooldowns; if their limits differ, the strictest
    ones hold for all of them.

    Args:
        provider: its name.
        credentials: its keys.
        limits: the limits of a model on a key, by (model id, key id); None if there are none. Called once for each,
            outside the lock.
        merge: what holds if answers have shown limits, too (see `learn`); by default what `limits` says, if anything.
        clock: monotonic seconds.
        on_change: called outside the lock when something happens to a key. What it raises is logged.
        wall: seconds since the epoch, for days that end at midnight and for what is persisted.
        waits: how waiters sleep.
        counts_hours: whether it counts the use of an hour even without a limit per hour, as `rooms` needs.

    Raises:
        ValueError: two credentials have one id.
    """

    def __init__(
        self,
        provider: str,
        credentials: Sequence[Credential],
        *,
        limits: Resolver | None = None,
        merge: Merge = known_or_shown,
        clock: Callable[[], float] = time.monotonic,
        on_change: OnChange | None = None,
        wall: Callable[[], float] = time.time,
        waits: Waits | None = None,
        counts_hours: bool = False,
    ) -> None:
        self.provider = provider
        self._clock = clock
        self._wall = wall
        self._waits: Waits = waits if waits is not None else RealWaits()
        self._keyring = KeyRing(credentials, limits, merge, clock, wall, counts_hours)
        self._reservations = Reservations(provider, self._keyring, clock, wall)
        self._lending = Lending(provider, self._keyring, self._reservations, clock, on_change)
        self._dispatcher = self._lending.dispatcher

    def __repr__(self) -> str:
        return f"KeyPool({self.provider}, {len(self._keyring.keys)} keys)"

    def __copy__(self) -> KeyPool:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> KeyPool:
        return self

    def watched(self) -> KeyPool:
        """A pool of the same keys, limits and state for reports: it counts hours, and nobody uses it."""
        other = KeyPool(
            self.provider,
            self.credentials,
            limits=self.limits,
            clock=self._clock,
            wall=self._wall,
            counts_hours=True,
        )
        other.load(self.dump())
        return other

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
        affinity: int | None = None,
    ) -> Lease:
        """Lease a key, waiting for one if necessary.

        Args:
            estimated_tokens: tokens to reserve until the call ends.
            timeout: seconds to wait at most; 0 does not wait.
            exclude: ids of keys that must not be used.
            key_id: the only key that may be used.
            trial: whether a dead key whose probation is over may be used, if no live key can be free within `timeout`.
            affinity: a hash of the conversation, 64 evenly spread bits: calls with the same one get the same key, or
                one of the same account, unless that is limited or busy. None: the key that was used least recently.

        Raises:
            PoolExhaustedError: no key is free or will be within `timeout`; raised at once.
        """
        lease = self.acquire_nowait(model_id, estimated_tokens, exclude, affinity) if key_id is None else None
        if lease is not None:
            return lease
        request = KeyRequest(model_id, max(0, int(estimated_tokens)), exclude, key_id, affinity)
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
        affinity: int | None = None,
    ) -> Lease:
        """As `acquire`, without blocking the event loop."""
        lease = self.acquire_nowait(model_id, estimated_tokens, exclude, affinity) if key_id is None else None
        if lease is not None:
            return lease
        request = KeyRequest(model_id, max(0, int(estimated_tokens)), exclude, key_id, affinity)
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
        self,
        model_id: str,
        estimated_tokens: int = 1000,
        exclude: Collection[str] = (),
        affinity: int | None = None,
    ) -> Lease | None:
        """Lease a live key if one is free, nobody waits and nobody shares the keys: the short way of most calls.
        `acquire` handles all other cases.
        """
        tokens = estimated_tokens
        if tokens.__class__ is not int or tokens < 0:
            return None
        lending, keyring = self._lending, self._keyring
        with lending.lock:
            queue = keyring.ready_queues.get((model_id, tokens.bit_length()))
            if (
                queue is None
                or queue.zoned
                or self._reservations.ledger is not None
                or self._dispatcher.wait_queues
                or lending.orphans
            ):
                return None
            near = () if affinity is None else keyring.ring.walk(affinity)
            found = queue.pick(tokens, self._clock(), exclude, near)
            return Lease(lending, lending.leases.open(found[0], found[1], tokens)) if found is not None else None

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
        """Keep a key out of rotation for one model, for `seconds`.

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

    def learn(self, model_id: str, key_id: str, limits: Limits | None) -> None:
        """Note the limits that an answer showed for a model and a key; None forgets them."""
        # Most answers show what the one before showed: that costs no lock.
        if self._keyring.learned.get((model_id, key_id)) == limits:
            return
        with self._lending.held():
            new = self._keyring.learn(model_id, key_id, limits)
            if new:
                self._dispatcher.serve_all()
        if new:
            self._lending.tell(key_id, [("limits_learned", model_id, None, None)])

    def change_keys(
        self, joining: Sequence[Credential], leaving: Collection[str] = (), state: Mapping[str, object] | None = None
    ) -> None:
        """See `ChangesKeys`."""
        self._keyring.resolve_limits_of([each.id for each in joining])
        with self._lending.held():
            self._keyring.change(joining, leaving)
            self._load(state or {})
        for key_id in leaving:
            self._lending.tell(key_id, [("key_left", None, None, None)])
        for each in joining:
            self._lending.tell(each.id, [("key_joined", None, None, None)])

    def forget(self, model_id: str) -> None:
        """Drop everything about a model that is not used any more; each model name costs memory.

        Nothing is dropped while calls of it wait or are in flight.
        """
        with self._lending.held():
            if model_id not in self._dispatcher.wait_queues:
                self._keyring.forget(model_id)

    # Sharing.

    def join(self, ledger: Ledger) -> list[InFlight]:
        """Ask `ledger` before each request from now on. Returns what is in flight already, which it must count."""
        with self._lending.held():
            self._reservations.ledger = ledger
            return self._reservations.in_flight()

    def leave(self, used: Callable[[], Mapping[str, object] | None] | None = None) -> None:
        """Stop asking the ledger, and continue with what this pool itself has seen.

        Args:
            used: what all have used meanwhile, as for `load`; called while nobody can lease a key, so that none of it
                is missed.
        """
        with self._lending.held():
            self._reservations.ledger = None
            state = used() if used is not None else None
            if state is not None:
                self._load(state)

    # What outlives the process.

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
        keyring = self._keyring
        now, wall = keyring.look(), self._wall()
        snapshot.load_state(state, keyring.keys, now, wall, keyring.allowance, keyring.learn)
        for account in keyring.accounts:
            keyring.changed(account)
        self._dispatcher.serve_all()
