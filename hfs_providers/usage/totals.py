"""Sums of all keys together: the table `total`.

With thousands of keys, each asked less than once in a quarter of an hour, `quarter` has almost as many rows as `usage`.
A quarter that is over is added up once more, in the background and without keys: that is a few rows, and writers
do not wait for it. The file itself counts rows that come later.

    invariant: `total` holds the sums of all rows of the quarters before the instant in `totalled`.
"""

from __future__ import annotations

import math
import sqlite3
import time

from hfs_providers.usage.database import QUARTER
from hfs_providers.usage.transaction import transaction

_STEP = 1000
"""Rows of `quarter` that one step adds up, but a whole quarter at least."""

_LATE = 60.0
"""Seconds that a quarter is left alone after its end: most rows that come late are in it then."""

_PATIENCE = 0.25
"""Seconds that one step may read."""

_GROUP = "start, provider, model, client, outcome"
_SUMMED = ("requests", "tokens_in", "tokens_out", "tokens", "latency", "tokens_cached", "priced", "cost_nanousd")
_READ = (
    f"SELECT {_GROUP}, {', '.join(f'sum(quarter.{name})' for name in _SUMMED)}"  # noqa: S608  our own words
    " FROM quarter CROSS JOIN series ON series.id = quarter.series"
    f" WHERE start >= ? AND start < ? GROUP BY {_GROUP}"
)
_ADD = f"INSERT INTO total ({_GROUP}, {', '.join(_SUMMED)}) {_READ}"


def totalled_until(connection: sqlite3.Connection) -> int:
    """The beginning of the first quarter that is not in `total`, in seconds since the epoch."""
    return int(connection.execute("SELECT upto FROM totalled").fetchone()[0])


def add_up(connection: sqlite3.Connection, wall: float) -> bool:
    """Add the next quarters that are over to `total`. Returns whether there may be more.

    Raises:
        sqlite3.Error: nothing was added.
    """
    span = _next(connection, wall)
    if span is None:
        return False
    # Read from the disk before the transaction, in which others wait.
    if _read(connection, *span):
        with transaction(connection):
            if _next(connection, wall) == span:
                connection.execute(_ADD, span)
                connection.execute("UPDATE totalled SET upto = ?", span[1:])
    return True


def _next(connection: sqlite3.Connection, wall: float) -> tuple[int, int] | None:
    upto = totalled_until(connection)
    over = math.floor((wall - _LATE) / QUARTER) * QUARTER
    starts = "SELECT start FROM quarter WHERE start >= ? ORDER BY start LIMIT 1 OFFSET ?"
    first, last = (connection.execute(starts, (upto, place)).fetchone() for place in (0, _STEP))
    if first is None or first[0] >= over:
        return None
    return upto, over if last is None else min(over, max(last[0], first[0] + QUARTER))


def _read(connection: sqlite3.Connection, first: int, last: int) -> bool:
    """Read what is to be added up. Returns False if it takes too long: the next time, more of it is in memory."""
    ends = time.monotonic() + _PATIENCE
    connection.set_progress_handler(lambda: time.monotonic() > ends, 10_000)
    try:
        connection.execute(_READ, (first, last)).fetchall()
    except sqlite3.OperationalError:
        if time.monotonic() > ends:
            return False
        raise
    finally:
        connection.set_progress_handler(None, 0)
    return True
