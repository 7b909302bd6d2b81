"""Old rows of the usage file, taken out a few at a time while others write. Their sums stay in `quarter`.

invariant: no row of the last two days is taken out, whoever asks for it: the limits of a day are counted from them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from hfs_providers.contract.errors import StoreError
from hfs_providers.contract.instants import DAY
from hfs_providers.usage.database import Store
from hfs_providers.usage.transaction import transaction

NEEDED = 2 * DAY
"""Seconds for which rows stay."""

_BATCH = 5_000
"""Rows of one transaction, so that whoever writes waits for some milliseconds."""

# A database to which nothing was sent for so long is not waited for.
_FORGOTTEN = 35 * DAY


class Prunable(NamedTuple):
    """What `prune` would do.

    Args:
        rows: that it would take out.
        kept: that are as old, and were not forwarded to every database yet.
    """

    rows: int
    kept: int


def prunable(
    store: Store, before: float, *, targets: Collection[str] = (), wall: Callable[[], float] = time.time
) -> Prunable:
    """How many rows are older than a moment, and how many of them must stay.

    Args:
        store: the file.
        before: seconds since the epoch; rows of the last two days are not counted.
        targets: names of databases that rows are forwarded to, besides those that the file knows.
        wall: the time now, in seconds since the epoch.

    Raises:
        StoreError: the file cannot be read.
    """
    now = wall()
    before = min(before, now - NEEDED)
    with _opened(store) as connection:
        # By series, so that the index answers.
        count = (
            "SELECT count(*) FROM series CROSS JOIN usage ON usage.series = series.id WHERE at < ? AND usage.id <= ?"
        )
        rows, everything = (
            connection.execute(count, (before, upto)).fetchone()[0]
            for upto in (forwarded(connection, now, targets), 2**63 - 1)
        )
    return Prunable(rows, everything - rows)


def prune(store: Store, before: float, *, targets: Collection[str] = (), wall: Callable[[], float] = time.time) -> int:
    """Take out the rows that are older than a moment and were forwarded to every database; how many there were.

    Args:
        store: the file.
        before: seconds since the epoch; rows of the last two days stay, whatever it says.
        targets: names of databases that rows are forwarded to, besides those that the file knows.
        wall: the time now, in seconds since the epoch.

    Raises:
        StoreError: the file cannot be written. What was taken out until then stays so.
    """
    gone = last = 0
    query = "SELECT id, at FROM usage WHERE id > ? AND id <= ? AND at < ? ORDER BY id LIMIT ?"
    with _opened(store) as connection:
        while True:
            with transaction(connection):
                now = wall()
                # Asked each time: a database that rows are to be forwarded to may be new.
                upto = forwarded(connection, now, targets)
                rows = connection.execute(query, (last, upto, before, _BATCH)).fetchall()
                if not rows:
                    return gone
                last = rows[-1][0]
                gone += len(take_out(connection, rows, now))


def take_out(connection: sqlite3.Connection, rows: Iterable[tuple[int, float]], wall: float) -> list[int]:
    """Delete rows, but for those of the last two days; the numbers of those that were deleted.

    Args:
        connection: of the store, in a transaction.
        rows: number and time of each.
        wall: seconds since the epoch.
    """
    gone = [number for number, at in rows if at < wall - NEEDED]
    connection.executemany("DELETE FROM usage WHERE id = ?", [(number,) for number in gone])
    return gone


def forwarded(connection: sqlite3.Connection, wall: float, targets: Collection[str] = ()) -> int:
    """The last row that every database has; the greatest number there is where there are none.

    Args:
        connection: of the store.
        wall: seconds since the epoch.
        targets: names of databases that rows are forwarded to now. Others are waited for while they are in use.
    """
    known = {name: (last, at) for name, last, at in connection.execute("SELECT name, forwarded, at FROM targets")}
    waited = [last for name, (last, at) in known.items() if name in targets or at > wall - _FORGOTTEN]
    return min([*waited, *(0 for name in targets if name not in known)], default=2**63 - 1)


@contextmanager
def _opened(store: Store) -> Iterator[sqlite3.Connection]:
    try:
        with closing(store.connect()) as connection:
            yield connection
    except (OSError, sqlite3.Error) as error:
        raise StoreError(store.path, str(error)) from error
