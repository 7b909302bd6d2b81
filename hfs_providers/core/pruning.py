"""Old rows of the usage file, taken out a few at a time while others write. Their sums stay in `quarter`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from hfs_providers.core.errors import StoreError
from hfs_providers.core.store import Store

_BATCH = 5_000
"""Rows of one transaction, so that whoever writes waits for some milliseconds."""


class Prunable(NamedTuple):
    """What `prune` would do.

    Args:
        rows: that it would take out.
        kept: that are as old, and were not forwarded to every database yet.
    """

    rows: int
    kept: int


def prunable(store: Store, before: float) -> Prunable:
    """How many rows are older than a moment, and how many of them must stay.

    Args:
        store: the file.
        before: seconds since the epoch.

    Raises:
        StoreError: the file cannot be read.
    """
    with _opened(store) as connection:
        # By series, so that the index answers.
        count = (
            "SELECT count(*) FROM series CROSS JOIN usage ON usage.series = series.id WHERE at < ? AND usage.id <= ?"
        )
        rows, everything = (
            connection.execute(count, (before, upto)).fetchone()[0] for upto in (_forwarded(connection), 2**62)
        )
    return Prunable(rows, everything - rows)


def prune(store: Store, before: float) -> int:
    """Take out the rows that are older than a moment and were forwarded to every database; how many there were.

    Args:
        store: the file.
        before: seconds since the epoch.

    Raises:
        StoreError: the file cannot be written. What was taken out until then stays so.
    """
    gone = 0
    with _opened(store) as connection:
        last = 0
        while True:
            # Asked each time: a database that rows are to be forwarded to may be new.
            ids = [
                each
                for (each,) in connection.execute(
                    "SELECT id FROM usage WHERE id > ? AND id <= ? AND at < ? ORDER BY id LIMIT ?",
                    (last, _forwarded(connection), before, _BATCH),
                )
            ]
            if not ids:
                return gone
            last = ids[-1]
            found = connection.execute(
                "DELETE FROM usage WHERE id >= ? AND id <= ? AND at < ? "
                "AND id <= (SELECT coalesce(min(forwarded), 1 << 62) FROM targets)",
                (ids[0], last, before),
            )
            gone += found.rowcount


def _forwarded(connection: sqlite3.Connection) -> int:
    (upto,) = connection.execute("SELECT coalesce(min(forwarded), 1 << 62) FROM targets").fetchone()
    return int(upto)


@contextmanager
def _opened(store: Store) -> Iterator[sqlite3.Connection]:
    try:
        with closing(store.connect()) as connection:
            yield connection
    except (OSError, sqlite3.Error) as error:
        raise StoreError(store.path, str(error)) from error
