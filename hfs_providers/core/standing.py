"""What state each key is in by what the usage file says of it, read without a manager and without writing.

Neither Agno nor keycycle is imported for it: `hfs-providers status` needs no more than this.
"""

from __future__ import annotations

import fnmatch
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hfs_providers.core.contract import KeyStatus, Limits, ProviderConfig
from hfs_providers.core.pool import KeyPool

if TYPE_CHECKING:
    from hfs_providers.core.survey import Surveyed

_PATIENCE = 0.5
"""Seconds to wait for another process that writes; readers of the file seldom have to."""


def standing(providers: Mapping[str, Surveyed], path: Path | None) -> dict[str, tuple[KeyStatus, ...]]:
    """The state of each key of each configured provider, for its default model.

    Args:
        providers: by name.
        path: of the usage file. Where there is none, or it cannot be read, nothing is known against any key.
    """
    configured = {name: found for name, found in providers.items() if found.config.configured}
    pools = {name: _pool(name, found.config) for name, found in configured.items()}
    if path is not None and path.exists():
        _fill(pools, path)
    today = date.today()
    return {name: tuple(pools[name].statuses(found.default_model(today))) for name, found in configured.items()}


def limits_of(config: ProviderConfig, model_id: str, key_id: str) -> Limits | None:
    """What a provider's configuration says of a model on a key: of the key first, then of all keys."""
    for table in (config.key_limits.get(key_id, {}), config.limits):
        for pattern, limits in table.items():
            if fnmatch.fnmatchcase(model_id, pattern):
                return limits
    return None


def _pool(name: str, config: ProviderConfig) -> KeyPool:
    return KeyPool(name, config.credentials, limits=partial(limits_of, config))


def _fill(pools: Mapping[str, KeyPool], path: Path) -> None:
    from hfs_providers.core.hydrate import pool_state

    try:
        # Not mode=ro: such a connection leaves the files of the write-ahead log behind.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE)) as connection:
            connection.execute("PRAGMA query_only = ON")
            for name, pool in pools.items():
                pool.load(pool_state(connection, name, pool.credentials, time.time()))
    except (OSError, ValueError, sqlite3.Error):
        # What is wrong with the file is among the problems of `Survey.usage`.
        return
