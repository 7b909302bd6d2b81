"""The state of each key as the usage file has it, read without a manager and without writing.

Neither Agno nor keycycle is imported for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hfs_providers.authoring import ProviderConfig
from hfs_providers.calls.shown_limits import limits_of
from hfs_providers.keys import KeyPool, KeyStatus
from hfs_providers.usage import usage_path

if TYPE_CHECKING:
    from hfs_providers.core.inventory import Inventory

_PATIENCE = 0.5
"""Seconds to wait for another process that writes; readers of the file seldom have to."""


def stored_statuses(inventory: Inventory) -> dict[str, tuple[KeyStatus, ...]]:
    """By configured provider, the state of each key for its default model.

    Where there is no usage file, or it cannot be read, nothing is known against any key.
    """
    path = usage_path(inventory.settings.env)
    configured = {name: found for name, found in inventory.providers.items() if found.config.configured}
    pools = {name: _pool(name, found.config) for name, found in configured.items()}
    if path is not None and path.exists():
        _fill(pools, path)
    today = date.today()
    return {name: tuple(pools[name].statuses(found.default_model(today))) for name, found in configured.items()}


def _pool(name: str, config: ProviderConfig) -> KeyPool:
    return KeyPool(name, config.credentials, limits=partial(limits_of, config))


def _fill(pools: Mapping[str, KeyPool], path: Path) -> None:
    from hfs_providers.sharing.key_state import pool_state

    try:
        # Not mode=ro: such a connection leaves the files of the write-ahead log behind.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE)) as connection:
            connection.execute("PRAGMA query_only = ON")
            for name, pool in pools.items():
                pool.load(pool_state(connection, name, pool.credentials, time.time()))
    except (OSError, ValueError, sqlite3.Error):
        # What is wrong with the file is among the problems of `storage_status`.
        return
