"""Where all that is shown comes from: the environment and the usage file, read again when they are looked at.

invariant: nothing here registers as a process that shares keys, writes to the file, or looks at each of its rows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from hfs_providers.contract.records import Credential, KeyStatus, Problem, WindowUse
from hfs_providers.core.capacity import models_known, pool_capacity
from hfs_providers.core.inventory import Inventory
from hfs_providers.core.storage_status import storage_status
from hfs_providers.dashboard.stored_keys import StoredPool, stored_pools
from hfs_providers.usage.database import Store
from hfs_providers.usage.location import Places

if TYPE_CHECKING:
    from hfs_providers.keys.capacity import Capacity

_INVENTORY_FRESH = 5.0
_KEYS_FRESH = 1.0
_CAPACITY_FRESH = 5.0

_log = logging.getLogger("hfs_providers")

T = TypeVar("T")


class Fresh(Generic[T]):
    """A value that is made again in a thread when it is asked for and has become old; until then the old one is given.

    What takes long to make may become older: making it takes at most a tenth of the time. Safe for threads.

    Args:
        seconds: after which it is old.
    """

    def __init__(self, make: Callable[[], T], seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._value: T | None = None
        self._until = float("-inf")

    def get(self) -> T:
        """The value, made now if there is none yet or it was dropped. Raises what making it raises."""
        value = self._value
        if value is None:
            with self._lock:
                return self._made() if self._value is None else self._value
        if self._clock() >= self._until and self._renewing.acquire(blocking=False):
            threading.Thread(target=self._renew, name="hfs-dashboard", daemon=True).start()
        return value

    def peek(self) -> T | None:
        """The value, or None while it is made for the first time."""
        if self._value is None:
            if self._renewing.acquire(blocking=False):
                threading.Thread(target=self._renew, name="hfs-dashboard", daemon=True).start()
            return None
        return self.get()

    def drop(self) -> None:
        """Make it anew when it is asked for the next time."""
        with self._lock:
            self._value = None

    def _renew(self) -> None:
        try:
            with self._lock:
                self._made()
        except Exception:
            # Whoever asks next makes it, and is told.
            _log.debug("what the dashboard shows could not be read", exc_info=True)
            self._value = None
        finally:
            self._renewing.release()

    def _made(self) -> T:
        began = self._clock()
        value = self._value = self._make()
        ended = self._clock()
        self._until = ended + max(self._seconds, 9 * (ended - began))
        return value


class WatchedKey(NamedTuple):
    """A key as it was when the file was read.

    Args:
        status: as `hfs-providers keys` shows it.
        until: when it can be tried again, in seconds since the epoch; None if it can now, or if that is not known.
        model: of which most of a limit is used.
        windows: that model's.
    """

    provider: str
    credential: Credential
    status: KeyStatus
    until: float | None
    model: str
    windows: Sequence[WindowUse]

    @property
    def name(self) -> tuple[str, str]:
        """Its provider, and what it is called in the usage file."""
        return self.provider, self.credential.name

    @property
    def share(self) -> float:
        """How much of its fullest window is used."""
        return fullest(self.windows)


def fullest(windows: Sequence[WindowUse]) -> float:
    """How much of the fullest window is used: 1 is all of it."""
    return max((each.used / each.limit for each in windows if each.limit), default=0.0)


@dataclass(frozen=True, slots=True)
class Watched:
    """All keys at one moment.

    Args:
        at: seconds since the epoch.
        keys: of all configured providers, in fallback order.
        pools: that they are in.
        models: by provider, the default model and those that were asked within a day.
        problems: of the installation, the environment and the places where usage is kept.
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
        inventory: takes it anew.
        wall: seconds since the epoch.
    """

    def __init__(self, inventory: Callable[[], Inventory], wall: Callable[[], float] = time.time) -> None:
        self.wall = wall
        self._inventory = Fresh(inventory, _INVENTORY_FRESH)
        self._watched = Fresh(self._watch, _KEYS_FRESH)
        self._capacities = Fresh(self._measure, _CAPACITY_FRESH)
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
        """The usage file; None while there is none.

        Raises:
            StoreError: it cannot be used.
        """
        path = self.places.path
        if path is None or not path.exists():
            # To look creates no file.
            return None
        with self._lock:
            if path not in self._stores:
                self._stores[path] = Store(path)
            return self._stores[path]

    def watched(self) -> Watched:
        """All keys as they are now."""
        return self._watched.get()

    def capacities(self) -> Sequence[Capacity] | None:
        """As `hfs-providers capacity` shows them; None while they are measured for the first time."""
        return self._capacities.peek()

    def changed(self) -> None:
        """Read the keys again at the next look, because something was done with them."""
        self._watched.drop()

    def _watch(self) -> Watched:
        inventory = self.inventory
        today = date.today()
        pools = stored_pools(inventory)
        defaults = {name: inventory.providers[name].default_model(today) for name in pools}
        models = {name: models_known(found.known, defaults[name]) for name, found in pools.items()}
        usage = storage_status(inventory.settings.env)
        problems = list(dict.fromkeys([*inventory.problems, *usage.problems]))
        trouble = _consult(self.places.redis, pools, models)
        if trouble is not None:
            problems.append(trouble)
        now = self.wall()
        keys = [key for name, found in pools.items() for key in _keys_of(name, found, models[name], now)]
        return Watched(now, inventory, keys, pools, models, problems)

    def _measure(self) -> Sequence[Capacity]:
        watched = self.watched()
        return [
            found
            for name, stored in watched.pools.items()
            for found in pool_capacity(stored.pool, watched.models[name])
        ]


def _consult(redis: str | None, pools: Mapping[str, StoredPool], models: Mapping[str, Sequence[str]]) -> Problem | None:
    """Put what Redis holds of the keys into the pools. Returns why it cannot be read."""
    if redis is None:
        return None
    from hfs_providers.sharing.redis_view import take_over

    return take_over(redis, {name: found.pool for name, found in pools.items()}, models)


def _keys_of(name: str, stored: StoredPool, models: Sequence[str], now: float) -> list[WatchedKey]:
    pool = stored.pool
    used = {model: pool.used(model) for model in models}
    credentials = {each.id: each for each in pool.credentials}
    found = []
    for status in pool.statuses():
        model = max(models, key=lambda each: fullest(used[each].get(status.id, ())))
        until = now + status.free_in if status.free_in else None
        windows = used[model].get(status.id, ())
        found.append(WatchedKey(name, credentials[status.id], status, until, model, windows))
    return found


def readable(problem: Problem) -> dict[str, str | None]:
    """A problem for JSON."""
    return {"message": problem.message, "remedy": problem.remedy, "level": problem.level, "provider": problem.provider}
