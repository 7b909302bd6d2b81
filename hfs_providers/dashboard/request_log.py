"""The newest requests in the usage file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from hfs_providers.dashboard.source import DashboardSource
from hfs_providers.money.prices import NANO
from hfs_providers.usage.database import opened
from hfs_providers.usage.row_writer import COLUMNS, SELECT

MOST_REQUESTS = 500
"""The most requests in one answer."""

_NAMES = ("id", *COLUMNS)


class RequestLog:
    """The requests in a source's file, by their numbers, which increase in the order in which they end."""

    def __init__(self, source: DashboardSource) -> None:
        self._source = source

    def newest(self, after: int | None = None, before: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Requests, the latest first.

        Args:
            after: only those with a greater number.
            before: only those with a smaller number.
            limit: how many requests, at most `MOST_REQUESTS`.

        Raises:
            StoreError: the file cannot be read.
        """
        store = self._source.store()
        if store is None:
            return []
        query = f"{SELECT} WHERE usage.id > ? AND usage.id < ? ORDER BY usage.id DESC LIMIT ?"
        bounds = (after or 0, 2**62 if before is None else before, max(1, min(limit, MOST_REQUESTS)))
        with opened(store) as connection:
            return [readable_row(dict(zip(_NAMES, row, strict=True))) for row in connection.execute(query, bounds)]

    def last(self) -> int:
        """The greatest number so far; 0 if there are no requests.

        Raises:
            StoreError: the file cannot be read.
        """
        store = self._source.store()
        if store is None:
            return 0
        with opened(store) as connection:
            (found,) = connection.execute("SELECT coalesce(max(id), 0) FROM usage").fetchone()
        return int(found)


def newest_of_series(connection: sqlite3.Connection, provider: str, name: str, limit: int) -> Sequence[dict[str, Any]]:
    """The last requests of a key, by its `Credential.name`, the latest first. Reads only a few entries of an index for
    each of its series.
    """
    query = "SELECT id FROM series WHERE provider = ? AND ? IN (fingerprint, key_id)"
    found: list[dict[str, Any]] = []
    for (series,) in connection.execute(query, (provider, name)).fetchall():
        rows = connection.execute(
            f"{SELECT} WHERE usage.series = ? ORDER BY usage.at DESC LIMIT ?", (series, limit)
        ).fetchall()
        found += [dict(zip(_NAMES, row, strict=True)) for row in rows]
    return sorted(found, key=lambda row: row["at"], reverse=True)[:limit]


def readable_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row for JSON: numbers that JavaScript reads exactly, and dollars instead of nano-USD."""
    cost = row["cost_nanousd"]
    shown = {name: value for name, value in row.items() if name not in ("charged", "cost_nanousd")}
    return shown | {"cost_usd": None if cost is None else cost / NANO}
