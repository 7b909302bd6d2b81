"""The summary for the first page of the dashboard and for `hfs-providers top`."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hfs_providers.contract.errors import StoreError
from hfs_providers.contract.records import Problem
from hfs_providers.core.inventory import Inventory
from hfs_providers.dashboard.key_list import KeyFilter, KeyList
from hfs_providers.dashboard.request_log import RequestLog
from hfs_providers.dashboard.source import DashboardSource, readable
from hfs_providers.dashboard.sums import UsageSums

if TYPE_CHECKING:
    from hfs_providers.keys.capacity import Capacity


class Dashboard:
    """All the data about one environment. Its methods block: they are not for an event loop."""

    def __init__(self, source: DashboardSource) -> None:
        self.source = source
        self.sums = UsageSums(source)
        self.keys = KeyList(source, self.sums)
        self.requests = RequestLog(source)

    def overview(self) -> dict[str, Any]:
        """Keys by state, the last hour and the one before, the requests of a day, capacity, problems.

        Raises:
            StoreError: the file cannot be read.
        """
        source = self.source
        watched, places = source.watched(), source.places
        now, capacities = source.wall(), source.capacities()
        return {
            "at": now,
            "providers": list(watched.pools),
            "counts": self.keys.counts(),
            **self.sums.lately(),
            "capacities": None if capacities is None else [_capacity(each, now) for each in capacities],
            "problems": [readable(each) for each in (*watched.problems, *first_steps(watched.inventory))],
            "file": None if places.path is None else str(places.path),
            "kept": source.store() is not None,
            "unkept": None if places.unkept is None else readable(places.unkept),
        }

    def warm(self) -> None:
        """Start to read the data of the pages, before somebody waits for it."""
        threading.Thread(target=self._read, name="hfs-dashboard", daemon=True).start()

    def _read(self) -> None:
        try:
            self.overview()
            self.keys.page(KeyFilter(), limit=1)
        except StoreError:
            # The page shows the error.
            return


def _capacity(found: Capacity, now: float) -> dict[str, Any]:
    return asdict(found) | {"dry_at": None if found.dry_in is None else now + found.dry_in}


def first_steps(found: Inventory) -> list[Problem]:
    """What to do if no provider has a key."""
    if any(each.config.configured for each in found.providers.values()):
        return []
    return [Problem("no provider has a key", "Run: hfs-providers status; or try it without keys: demo --watch", "info")]
