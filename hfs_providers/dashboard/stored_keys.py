"""The state of each key in the usage file, read without a manager and without writing.

This imports neither Agno nor keycycle.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from hfs_providers.calls.shown_limits import ShownLimits
from hfs_providers.contract.instants import DAY
from hfs_providers.contract.records import KeyStatus, ProviderConfig
from hfs_providers.keys.pool import KeyPool
from hfs_providers.usage.location import usage_path

if TYPE_CHECKING:
    from hfs_providers.core.inventory import Inventory
    from hfs_providers.core.registry import Registry
    from hfs_providers.keys.snapshot import PoolSnapshot

_PATIENCE = 0.5
"""Seconds to wait for another process that writes. Readers of the file rarely have to wait."""


class StoredPool(NamedTuple):
    """A provider's keys.

    Args:
        pool: the pool with the state from the file; it counts hours, as `capacity_of` needs.
        asked: the models that were asked within a day.
    """

    pool: KeyPool
    asked: Collection[str]


_Name: TypeAlias = tuple[str, str]
"""A provider, and the name of a key or an account of it."""


class _Seen(NamedTuple):
    """How far the file was read.

    Args:
        source: the random name of the file.
        row: the number of the last row of usage.
        said: the stamp of the last change of a key.
    """

    source: str
    row: int
    said: float


@dataclass(slots=True)
class _Kept:
    """A pool that is kept from one read of the file to the next.

    Args:
        asked: by model, the seconds since the epoch until which it counts as asked.
        read: whether the state of its keys was read.
    """

    config: ProviderConfig
    pool: KeyPool
    asked: dict[str, float] = field(default_factory=dict)
    read: bool = False

    def learn(self, known: PoolSnapshot) -> None:
        """Load the state of some keys."""
        self.pool.load(known)
        self.read = True
        windows = (window for account in known["accounts"] for window in account["windows"] if window["kind"] == "day")
        for window in windows:
            until = max(window["entries"])[0] + DAY
            for model in window["models"]:
                self.asked[model] = max(until, self.asked.get(model, until))


class StoredKeys:
    """The pools of the configured providers. They are kept, so that only what has changed is read again.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._seen: _Seen | None = None

    def look(self, inventory: Inventory) -> dict[str, StoredPool]:
        """The pools as they are now.

        If there is no usage file, or it cannot be read, all keys count as ready.
        """
        path, wall = usage_path(inventory.settings.env), time.time()
        try:
            if path is None or not path.exists():
                self._take(inventory, None)
            else:
                # Not mode=ro: such a connection leaves the files of the write-ahead log behind.
                uri = f"{path.absolute().as_uri()}?mode=rw"
                with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE)) as connection:
                    connection.execute("PRAGMA query_only = ON")
                    connection.execute("BEGIN")
                    self._read(connection, inventory, wall)
        except (OSError, ValueError, sqlite3.Error):
            # What is wrong with the file is among the problems of `storage_status`.
            self._take(inventory, None)
        return {
            name: StoredPool(kept.pool, [model for model, until in kept.asked.items() if until > wall])
            for name, kept in self._kept.items()
        }

    def _take(self, inventory: Inventory, seen: _Seen | None) -> None:
        """Make the pools that are new. A pool is kept if its file and its configuration are the same as before."""
        same = self._seen is not None and seen is not None and self._seen.source == seen.source
        configs = {name: found.config for name, found in inventory.providers.items() if found.config.configured}
        self._seen = seen
        self._kept = {
            name: kept
            if same and (kept := self._kept.get(name)) is not None and kept.config == config
            else _Kept(config, _pool(name, config, inventory.registry))
            for name, config in configs.items()
        }

    def _read(self, connection: sqlite3.Connection, inventory: Inventory, wall: float) -> None:
        from hfs_providers.sharing.key_state import pool_state

        before, now = self._seen, _seen(connection)
        self._take(inventory, now)
        moved, ruled = _changed(connection, before) if before is not None else (set(), set())
        for name, kept in self._kept.items():
            credentials = kept.pool.credentials
            if kept.read:
                # Keys of one account have one state.
                accounts = {
                    each.account
                    for each in credentials
                    if not moved.isdisjoint(((name, each.name), (name, each.account)))
                }
                credentials = [each for each in credentials if each.account in accounts]
                for each in credentials:
                    if not ruled.isdisjoint(((name, each.name), (name, each.account))):
                        # A pool never shortens a cooldown when it loads a state.
                        kept.pool.revive(each.id)
            if credentials:
                kept.learn(pool_state(connection, name, credentials, wall))


def stored_statuses(inventory: Inventory) -> dict[str, tuple[KeyStatus, ...]]:
    """By configured provider, the state of each key for its default model; see `StoredKeys.look`."""
    today = date.today()
    return {
        name: tuple(found.pool.statuses(inventory.providers[name].default_model(today)))
        for name, found in StoredKeys().look(inventory).items()
    }


def _pool(name: str, config: ProviderConfig, registry: Registry) -> KeyPool:
    published = getattr(registry.plugins[name].target, "limits", {})
    limits = ShownLimits(config, published, {})
    return KeyPool(name, config.credentials, limits=limits.of, merge=limits.merge, counts_hours=True)


def _seen(connection: sqlite3.Connection) -> _Seen:
    return _Seen(
        *connection.execute(
            "SELECT coalesce((SELECT value FROM meta WHERE name = 'source'), ''),"
            " coalesce((SELECT max(id) FROM usage), 0), coalesce((SELECT max(at) FROM state), 0.0)"
        ).fetchone()
    )


def _changed(connection: sqlite3.Connection, since: _Seen) -> tuple[set[_Name], set[_Name]]:
    """The keys and accounts that have new rows, limits or states; and those of them that have new states."""
    moved: set[_Name] = set()
    ruled: set[_Name] = set()
    query = "SELECT kind, provider, name FROM state WHERE kind IN ('key', 'rest', 'limits') AND at > ?"
    for kind, provider, name in connection.execute(query, (since.said,)):
        (moved if kind == "limits" else ruled).add((provider, name))
    query = (
        "SELECT DISTINCT provider, key_id, fingerprint FROM usage CROSS JOIN series ON series.id = usage.series"
        " WHERE usage.id > ?"
    )
    for provider, key_id, fingerprint in connection.execute(query, (since.row,)):
        moved |= {(provider, key_id), (provider, fingerprint)}
    return moved | ruled, ruled
