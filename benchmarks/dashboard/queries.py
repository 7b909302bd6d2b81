"""How long each query of the pages takes the server, on a machine with many keys and rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from hfs_providers.core.capacity import pool_capacity
from hfs_providers.core.inventory import take_inventory
from hfs_providers.dashboard.key_list import KeyFilter
from hfs_providers.dashboard.source import DashboardSource
from hfs_providers.dashboard.summary import Dashboard

SPANS = {"1 hour": 3600.0, "24 hours": 86_400.0, "7 days": 604_800.0, "all": None}


def queries(env: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """Each query, and the milliseconds of a core that it takes, with nothing cached."""
    shown = Dashboard(DashboardSource(lambda: take_inventory(dict(env))))
    yield "environment and installation", _cpu(lambda: shown.source.inventory)
    yield "state of all keys", _cpu(shown.source.watched)
    shown.source.changed()
    yield "state of all keys, read again", _cpu(shown.source.watched)
    watched = shown.source.watched()
    pools = [(found.pool, watched.models[name]) for name, found in watched.pools.items()]
    yield "capacity of all models", _cpu(lambda: [pool_capacity(*each) for each in pools])
    yield "the last hours", _cpu(shown.sums.lately)
    yield "a day by key", _cpu(shown.sums.by_key)
    shown.keys.map(KeyFilter())
    yield "a page of 100 keys", _cpu(lambda: shown.keys.page(KeyFilter()))
    yield "map of all keys", _cpu(lambda: shown.keys.map(KeyFilter()))
    first = watched.keys[0].status.id
    yield "one key", _cpu(lambda: shown.keys.one(first))
    yield "the newest requests", _cpu(shown.requests.newest)
    for by in ("provider", "key"):
        for name, seconds in SPANS.items():
            since = None if seconds is None else (time.time() - seconds) // 900 * 900
            asked = (by,), since, None, "requests", by
            yield f"usage of {name} by {by}", _cpu(lambda asked=asked: shown.sums.span(*asked))  # type: ignore[misc]


def _cpu(work: Callable[[], object]) -> float:
    begin = time.thread_time()
    work()
    return (time.thread_time() - begin) * 1e3
