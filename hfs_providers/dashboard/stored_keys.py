"""The state of each key as the usage file has it, read without a manager and without writing.

Neither Agno nor keycycle is imported for it.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hfs_providers.calls.shown_limits import ShownLimits
from hfs_providers.contract.records import KeyStatus, ProviderConfig
from hfs_providers.keys.pool import KeyPool
from hfs_providers.usage.location import usage_path

if TYPE_CHECKING:
    from hfs_providers.core.inventory import Inventory
    from hfs_providers.core.registry import Registry
    from hfs_providers.keys.snapshot import PoolSnapshot

_PATIENCE = 0.5
"""Seconds to wait for another process that writes; readers of the file seldom have to."""


class StoredPool(NamedTuple):
    """A provider's keys.

    Args:
        pool: with the state that the file knows; it counts hours, as `capacity_of` needs.
        known: that state; None if nothing is known.
    """

    pool: KeyPool
    known: PoolSnapshot | None


def stored_pools(inventory: Inventory) -> dict[str, StoredPool]:
    """The pools of the configured providers.

    Where there is no usage file, or it cannot be read, nothing is known against any key.
    """
    path = usage_path(inventory.settings.env)
    configured = {name: found for name, found in inventory.providers.items() if found.config.configured}
    pools = {name: _pool(name, found.config, inventory.registry) for name, found in configured.items()}
    known = _read(pools, path) if path is not None and path.exists() else {}
    return {name: StoredPool(pool, known.get(name)) for name, pool in pools.items()}


def stored_statuses(inventory: Inventory) -> dict[str, tuple[KeyStatus, ...]]:
    """By configured provider, the state of each key for its default model; see `stored_pools`."""
    today = date.today()
    return {
        name: tuple(found.pool.statuses(inventory.providers[name].default_model(today)))
        for name, found in stored_pools(inventory).items()
    }


def _pool(name: str, config: ProviderConfig, registry: Registry) -> KeyPool:
    published = getattr(registry.plugins[name].target, "limits", {})
    limits = ShownLimits(config, published, {})
    return KeyPool(name, config.credentials, limits=limits.of, merge=limits.merge, counts_hours=True)


def _read(pools: dict[str, KeyPool], path: Path) -> dict[str, PoolSnapshot]:
    from hfs_providers.sharing.key_state import pool_state

    known: dict[str, PoolSnapshot] = {}
    try:
        # Not mode=ro: such a connection leaves the files of the write-ahead log behind.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE)) as connection:
            connection.execute("PRAGMA query_only = ON")
            for name, pool in pools.items():
                known[name] = pool_state(connection, name, pool.credentials, time.time())
                pool.load(known[name])
    except (OSError, ValueError, sqlite3.Error):
        # What is wrong with the file is among the problems of `storage_status`.
        return known
    return known
