"""What a pool says about its keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hfs_providers.contract.records import Credential, KeyStatus, Limits, PoolCounts, WindowUse
from hfs_providers.keys import snapshot
from hfs_providers.keys.capacity import Room, room_of
from hfs_providers.keys.keyring import KeyRing
from hfs_providers.keys.ledger import Spent
from hfs_providers.keys.lending import Lending
from hfs_providers.keys.request import KeyRequest
from hfs_providers.keys.reservations import Reservations


class PoolView:
    """The part of `KeyPool` that changes nothing."""

    _keyring: KeyRing
    _reservations: Reservations
    _lending: Lending
    _wall: Callable[[], float]

    @property
    def credentials(self) -> Sequence[Credential]:
        """The keys, in the order of the environment."""
        return [key.credential for key in self._keyring.keys.values()]

    def credential(self, key_id: str) -> Credential | None:
        """The key with that id."""
        key = self._keyring.keys.get(key_id)
        return key.credential if key is not None else None

    def next_free(self, model_id: str, estimated_tokens: int = 1000) -> float | None:
        """Seconds until a key can be leased: 0 if one is free now, None if none will become free by itself.

        A dead key counts from when it may be tried. Waiters do not count, although they are served first.
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
            accounts = self._keyring.accounts
            states = [self._keyring.status(key, model_id, now).state for key in self._keyring.keys.values()]
            return PoolCounts(
                total=len(states),
                ready=states.count("ready"),
                limited=states.count("limited"),
                cooling=states.count("cooling"),
                dead=states.count("dead"),
                in_flight=sum(account.in_flight for account in accounts),
                reserved_tokens=sum(meter.reserved for account in accounts for meter in account.meters.values()),
                free_in=self._keyring.free_in(KeyRequest(model_id, 1), now),
            )

    def statuses(self, model_id: str | None = None) -> list[KeyStatus]:
        """The state of each key, for one model or (None) overall: cooling if it cools for any model."""
        if model_id is not None:
            self._keyring.resolve_limits(model_id)
        with self._lending.held():
            now = self._keyring.look()
            return [self._keyring.status(key, model_id, now) for key in self._keyring.keys.values()]

    def used(self, model_id: str) -> dict[str, list[WindowUse]]:
        """How much of a model's limits is used, by key id; nothing if no limits are known."""
        self._keyring.resolve_limits(model_id)
        with self._lending.held():
            now = self._keyring.look()
            return {key.id: self._keyring.used(key, model_id, now) for key in self._keyring.keys.values()}

    def limits(self, model_id: str, key_id: str) -> Limits | None:
        """The limits that hold for a model on a key; None if none are known."""
        self._keyring.resolve_limits(model_id)
        with self._lending.held():
            return self._keyring.limits(model_id, key_id)

    def rooms(self, model_id: str) -> list[Room]:
        """What each account may use of a model, for `capacity_of`. The pool must count hours."""
        self._keyring.resolve_limits(model_id)
        with self._lending.held():
            keyring, now, wall = self._keyring, self._keyring.look(), self._wall()
            return [room_of(each, model_id, keyring.allowance(each, model_id), now, wall) for each in keyring.accounts]

    def learned(self, model_id: str, key_id: str) -> Limits | None:
        """The limits that answers have shown."""
        return self._keyring.learned.get((model_id, key_id))

    def spent(self) -> list[Spent]:
        """What this pool remembers to have been used, for those who share the keys."""
        with self._lending.held():
            return self._reservations.spent()

    def dump(self) -> snapshot.PoolSnapshot:
        """Windows, cooldowns and dead keys as plain data, stamped by the wall clock. It holds no key."""
        with self._lending.held():
            return snapshot.dump_state(self._keyring.accounts, self._keyring.look(), self._wall())
