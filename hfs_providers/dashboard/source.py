"""The source of everything on the dashboard: the environment and the usage file, read again while somebody looks.

invariant: nothing here registers as a process that shares keys, writes to the file, or reads all of its rows.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from hfs_providers.contract.records import Credential, KeyStatus, Problem, ProviderConfig, WindowUse
from hfs_providers.core.capacity import models_known, pool_capacity
from hfs_providers.core.inventory import Inventory
from hfs_providers.core.storage_status import storage_status
from hfs_providers.dashboard.stored_keys import StoredKeys, StoredPool
from hfs_providers.usage.database import Store
from hfs_providers.usage.location import Places

if TYPE_CHECKING:
    from hfs_providers.keys.capacity import Capacity
    from hfs_providers.keys.pool import KeyPool

_INVENTORY_FRESH = 5.0
_KEYS_FRESH = 1.0
_KEYS_WAIT = 0.5
_CAPACITY_FRESH = 5.0

_log = logging.getLogger("hfs_providers")

T = TypeVar("T")


class Fresh(Generic[T]):
    """A cached value. Reading an old value returns it, and starts a thread that computes a new one.

    A value that costs much to compute is kept longer, so that computing takes at most a tenth of a core. The first time
    does not count, because later ones may need less. Safe for threads.

    Args:
        seconds: the age from which a value is old.
        wait: the reader of an old value waits for the new one, if the last one cost less CPU time than that.
        cpu: the CPU time of a thread in seconds: on a busy machine, values do not become older.
    """

    def __init__(
        self,
        make: Callable[[], T],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        wait: float = 0.0,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._make = make
        self._seconds = seconds
        self._clock = clock
        self._wait = wait
        self._cpu = cpu
        self._cost = math.inf
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._value: T | None = None
        self._until = float("-inf")

    def get(self) -> T:
        """The value. Computes it now if there is none, and then raises the errors of that."""
        value = self._value
        if value is None:
            with self._lock:
                return self._made() if self._value is None else self._value
        if self._clock() >= self._until:
            if self._cost < self._wait:
                with self._lock:
                    return self._made() if self._clock() >= self._until or self._value is None else self._value
            if self._renewing.acquire(blocking=False):
                threading.Thread(target=self._renew, name="hfs-dashboard", daemon=True).start()
        return value

    def peek(self) -> T | None:
        """The value, or None while it is computed for the first time."""
        if self._value is None:
            if self._renewing.acquire(blocking=False):
                threading.Thread(target=self._renew, name="hfs-dashboard", daemon=True).start()
            return None
        return self.get()

    def drop(self) -> None:
        """Compute it again when it is needed next."""
        with self._lock:
            self._value = None

    def _renew(self) -> None:
        try:
            with self._lock:
                self._made()
        except Exception:
            # The next reader computes it again, and gets the error.
            _log.debug("the dashboard's data could not be read", exc_info=True)
            self._value = None
        finally:
            self._renewing.release()

    def _made(self) -> T:
        began, first = self._cpu(), self._value is None
        value = self._value = self._make()
        self._cost = self._cpu() - began
        self._until = self._clock() + (self._seconds if first else max(self._seconds, 9 * self._cost))
        return value


class WatchedKey(NamedTuple):
    """A key as it was when the file was read.

    Args:
        status: as `hfs-providers keys` shows it.
        until: when it can be tried again, in seconds since the epoch; None if it can now, or if unknown.
        model: the model with the fullest window.
        windows: the windows of that model.
    """

    provider: str
    credential: Credential
    status: KeyStatus
    until: float | None
    model: str
    windows: Sequence[WindowUse]

    @property
    def name(self) -> tuple[str, str]:
        """Its provider, and its name in the usage file."""
        return self.provider, self.credential.name

    @property
    def share(self) -> float:
        """The used share of its fullest window."""
        return fullest(self.windows)


def fullest(windows: Sequence[WindowUse]) -> float:
    """The used share of the fullest window: 1 is all of it."""
    return max((each.used / each.limit for each in windows if each.limit), default=0.0)


@dataclass(frozen=True, slots=True)
class Watched:
    """All keys at one moment.

    Args:
        at: seconds since the epoch.
        keys: the keys of all configured providers, in fallback order.
        pools: their pools.
        models: by provider, the default model and those that were asked within a day.
        problems: the problems of the installation, the environment and the places where usage is kept.
    """

    at: float
    inventory: Inventory
    keys: Sequence[WatchedKey]
    pools: Mapping[str, StoredPool]
    models: Mapping[str, Sequence[str]]
    problems: Sequence[Problem]


class DashboardSource:
    """What a dashboard reads. Its methods block: they are not for an event loop.

    Args:
        inventory: reads the installation and the environment.
        wall: seconds since the epoch.
    """

    def __init__(self, inventory: Callable[[], Inventory], wall: Callable[[], float] = time.time) -> None:
        self.wall = wall
        self._inventory = Fresh(inventory, _INVENTORY_FRESH)
        self._watched = Fresh(self._watch, _KEYS_FRESH, wait=_KEYS_WAIT)
        self._capacities = Fresh(self._measure, _CAPACITY_FRESH)
        self._stored = StoredKeys()
        self._stores: dict[object, Store] = {}
        self._lock = threading.Lock()

    @property
    def inventory(self) -> Inventory:
        """The installation and the environment."""
        return self._inventory.get()

    @property
    def places(self) -> Places:
        """Where usage is kept."""
        return Places.of(self.inventory.settings.env)

    def store(self) -> Store | None:
        """The usage file; None while it does not exist.

        Raises:
            StoreError: it cannot be used.
        """
        path = self.places.path
        if path is None or not path.exists():
            # Reading must not create the file.
            return None
        with self._lock:
            if path not in self._stores:
                self._stores[path] = Store(path)
            return self._stores[path]

    def watched(self) -> Watched:
        """All keys as they are now."""
        return self._watched.get()

    def capacities(self) -> Sequence[Capacity] | None:
        """The capacities as `hfs-providers capacity` shows them; None while they are computed for the first time."""
        return self._capacities.peek()

    def changed(self) -> None:
        """Read the keys again next time, because an action has changed them."""
        self._watched.drop()

    def _watch(self) -> Watched:
        inventory = self.inventory
        today = date.today()
        if self.places.redis is not None:
            # A pool never shortens a cooldown when it loads the state from Redis.
            self._stored = StoredKeys()
        pools = self._stored.look(inventory)
        defaults = {name: inventory.providers[name].default_model(today) for name in pools}
        models = {name: models_known(found.asked, defaults[name]) for name, found in pools.items()}
        usage = storage_status(inventory.settings.env)
        problems = list(dict.fromkeys([*inventory.problems, *usage.problems]))
        trouble = _consult(self.places.redis, pools, models)
        if trouble is not None:
            problems.append(trouble)
        now = self.wall()
        keys = [
            key
            for name, found in pools.items()
            for key in _keys_of(inventory.providers[name].config, found.pool, models[name], now)
        ]
        return Watched(now, inventory, keys, pools, models, problems)

    def _measure(self) -> Sequence[Capacity]:
        watched = self.watched()
        return [
            found
            for name, stored in watched.pools.items()
            for found in pool_capacity(stored.pool, watched.models[name])
        ]


def _consult(redis: str | None, pools: Mapping[str, StoredPool], models: Mapping[str, Sequence[str]]) -> Problem | None:
    """Load the state of the keys from Redis into the pools. Returns a problem if it cannot be read."""
    if redis is None:
        return None
    from hfs_providers.sharing.redis_view import take_over

    return take_over(redis, {name: found.pool for name, found in pools.items()}, models)


def _keys_of(config: ProviderConfig, pool: KeyPool, models: Sequence[str], now: float) -> list[WatchedKey]:
    used = {model: pool.used(model) for model in models}
    credentials = {each.id: each for each in config.credentials}
    found = []
    for status in pool.statuses():
        model = max(models, key=lambda each: fullest(used[each].get(status.id, ())))
        until = now + status.free_in if status.free_in else None
        windows = used[model].get(status.id, ())
        found.append(WatchedKey(config.name, credentials[status.id], status, until, model, windows))
    return found


def readable(problem: Problem) -> dict[str, str | None]:
    """A problem for JSON."""
    return {"message": problem.message, "remedy": problem.remedy, "level": problem.level, "provider": problem.provider}
