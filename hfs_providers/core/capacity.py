"""What a provider's keys can still serve, by all that is known of their use: here, in the file and in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from hfs_providers.contract.records import Wrapper
from hfs_providers.keys.capacity import Capacity, capacity_of
from hfs_providers.keys.pool import KeyPool
from hfs_providers.keys.snapshot import models_of

if TYPE_CHECKING:
    from hfs_providers.core.persistence import Persistence


def measure_capacity(
    pool: KeyPool, persistence: Persistence, default: str, model: str | None, *load: float | None
) -> list[Capacity]:
    """The capacity of a pool for one model, or for the default one and those that were asked within a day."""
    known = persistence.known_of(pool.provider, pool.credentials) or pool.dump()
    models = models_known(models_of(known), default) if model is None else [model]
    watched = pool.watched()
    watched.load(known)
    persistence.consult({pool.provider: cast(Wrapper, SimpleNamespace(pool=watched))}, {pool.provider: models})
    return pool_capacity(watched, models, *load)


def pool_capacity(pool: KeyPool, models: Sequence[str], *load: float | None) -> list[Capacity]:
    """The capacity of a pool that counts hours, for each of some models; see `capacity_of`."""
    return [capacity_of(pool.provider, each, pool.rooms(each), *load) for each in models]


def models_known(asked: Iterable[str], default: str) -> list[str]:
    """The default model, and those that were asked within a day."""
    return list(dict.fromkeys([default, *sorted(asked)]))
