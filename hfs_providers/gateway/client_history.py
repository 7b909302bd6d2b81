"""What clients used before the gateway was started, from the usage file."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing

from hfs_providers.contract.errors import StoreError
from hfs_providers.contract.instants import DAY
from hfs_providers.keys.windows import WindowEntry
from hfs_providers.usage import Store

# For each minute: its last request, the number of requests, and their tokens. All attempts of a call count as one.
_USED = """
    SELECT max(usage.at), sum(usage.attempt = 1), sum(usage.charged)
    FROM series JOIN usage ON usage.series = series.id AND usage.at > :since
    WHERE series.client = :client GROUP BY CAST(usage.at / 60 AS INTEGER) ORDER BY 1
"""
_log = logging.getLogger("hfs_providers")


def used_by_client(
    store: Store | None, wall: Callable[[], float] = time.time
) -> Callable[[str], Sequence[WindowEntry]]:
    """A function that returns what a client has used within a day, oldest first, at instants of the wall clock.

    Args:
        store: the usage file; None if there is none.
    """

    def used(client: str) -> Sequence[WindowEntry]:
        if store is None or store.unusable is not None:
            return ()
        try:
            with closing(store.connect()) as connection:
                return connection.execute(_USED, {"client": client, "since": wall() - DAY}).fetchall()
        except (OSError, sqlite3.Error, StoreError) as error:
            _log.warning("the usage of the client %s could not be read from %s: %s", client, store.path, error)
            return ()

    return used
