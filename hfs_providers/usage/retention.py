"""How long usage rows are kept, and how they are deleted: a few at a time, so that nobody has to wait.

    invariant: no row of the last two days is ever deleted: the limits of a day are counted from them.
    invariant: a row that a database does not have yet is deleted only if the file would outgrow its bound.

The tables `quarter` and `total` keep the totals of deleted rows, for longer.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hfs_providers.contract.environment import USAGE_DAYS, USAGE_MEGABYTES, USAGE_ROWS
from hfs_providers.contract.errors import StoreError
from hfs_providers.contract.instants import DAY
from hfs_providers.contract.records import Problem
from hfs_providers.usage.connection import StoreConnection
from hfs_providers.usage.database import Store, opened
from hfs_providers.usage.key_events import forget_key_events
from hfs_providers.usage.totals import add_up
from hfs_providers.usage.transaction import transaction

NEEDED = 2 * DAY
"""Seconds for which every row stays."""

STEP = 1000
"""Rows that one step of the `Pruner` deletes."""

SOON, LATER = 0.2, 600.0
"""Seconds from one step to the next while there is more to delete, and while there is not."""

SUMS = 400 * DAY
"""Seconds for which the totals by quarters of an hour are kept."""

STATE = 60 * DAY
"""Seconds after which state is forgotten if nothing renews it."""

# Rows that one transaction of `prune` deletes, so that writers wait for some milliseconds.
_BATCH = 5_000

# A database that got nothing for so long is not waited for.
_FORGOTTEN = 35 * DAY

_ALL = 2**63 - 1

_log = logging.getLogger("hfs_providers")


class Prunable(NamedTuple):
    """The rows that `prune` would delete and keep.

    Args:
        rows: how many it would delete.
        kept: how many are as old, but not forwarded to every database yet.
    """

    rows: int
    kept: int


def prunable(
    store: Store, before: float, *, targets: Collection[str] = (), wall: Callable[[], float] = time.time
) -> Prunable:
    """Count the rows that are older than a moment, and those of them that must stay.

    Args:
        before: seconds since the epoch; rows of the last two days are not counted.
        targets: names of databases that rows are forwarded to, besides those that the file knows.

    Raises:
        StoreError: the file cannot be read.
    """
    now = wall()
    before = min(before, now - NEEDED)
    # By series, so that the index answers.
    count = "SELECT count(*) FROM series CROSS JOIN usage ON usage.series = series.id WHERE at < ? AND usage.id <= ?"
    with opened(store) as connection:
        rows, everything = (
            connection.execute(count, (before, upto)).fetchone()[0]
            for upto in (_forwarded(connection, now, targets), _ALL)
        )
    return Prunable(rows, everything - rows)


def prune(store: Store, before: float, *, targets: Collection[str] = (), wall: Callable[[], float] = time.time) -> int:
    """Delete the rows that are older than a moment and were forwarded to every database. Their totals stay.

    Args:
        before: seconds since the epoch; rows of the last two days always stay.
        targets: names of databases that rows are forwarded to, besides those that the file knows.

    Returns:
        How many rows were deleted.

    Raises:
        StoreError: the file cannot be written. What was deleted until then stays deleted.
    """
    gone = last = 0
    query = "SELECT id, at FROM usage WHERE id > ? AND id <= ? AND at < ? ORDER BY id LIMIT ?"
    with opened(store) as connection:
        while True:
            with transaction(connection):
                now = wall()
                # Read each time: a database may have been added.
                upto = _forwarded(connection, now, targets)
                rows = connection.execute(query, (last, upto, before, _BATCH)).fetchall()
                if not rows:
                    return gone
                last = rows[-1][0]
                gone += len(_delete(connection, rows, now))


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept.

    Args:
        days: the age at which a row is deleted.
        rows: the number beyond which the oldest are deleted.
        megabytes: the largest size of the file, even if rows are not forwarded yet.
    """

    days: float = 35.0
    rows: int = 20_000_000
    megabytes: float = 8_000.0

    @classmethod
    def of(cls, env: Mapping[str, str]) -> tuple[Retention, list[Problem]]:
        """Read it from an environment; a value that cannot be read is a problem, and the default applies."""
        problems = []
        found: dict[str, float] = {}
        for variable, name in ((USAGE_DAYS, "days"), (USAGE_ROWS, "rows"), (USAGE_MEGABYTES, "megabytes")):
            text = env.get(variable, "").strip()
            try:
                number = float(text or "inf")
                if not number > 0:
                    raise ValueError(text)
            except ValueError:
                problems.append(Problem(f"{variable} is not a number above 0", f"Set {variable} to one, or remove it"))
                continue
            if text:
                found[name] = number
        default = cls()
        rows = min(found.get("rows", default.rows), 2**62)
        return cls(found.get("days", default.days), int(rows), found.get("megabytes", default.megabytes)), problems


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune_step` did.

    Args:
        rows: how many were deleted.
        unforwarded: how many of them a database does not have.
        more: whether there is more to delete.
    """

    rows: int
    unforwarded: int
    more: bool


def prune_step(connection: sqlite3.Connection, keep: Retention, wall: float, targets: Collection[str] = ()) -> Pruned:
    """Delete the oldest rows that need not be kept, at most `STEP` of them, in one transaction.

    Args:
        targets: names of databases that rows are forwarded to, besides those that the file knows.

    Raises:
        sqlite3.Error: nothing was deleted.
    """
    with transaction(connection):
        sums = connection.execute(
            "SELECT series, start, outcome FROM quarter WHERE start < ? LIMIT ?", (wall - SUMS, STEP)
        ).fetchall()
        connection.executemany("DELETE FROM quarter WHERE series = ? AND start = ? AND outcome = ?", sums)
        totals = "DELETE FROM total WHERE start IN (SELECT start FROM total WHERE start < ? LIMIT ?)"
        connection.execute(totals, (wall - SUMS, STEP))
        connection.execute("DELETE FROM state WHERE at < ?", (wall - STATE,))
        more = STEP in (len(sums), forget_key_events(connection, wall, STEP))
        # In one query both would look at all rows.
        first, last = connection.execute("SELECT (SELECT MIN(id) FROM usage), (SELECT MAX(id) FROM usage)").fetchone()
        if first is None:
            return Pruned(0, 0, more)
        sent = _forwarded(connection, wall, targets)
        # Numbers have few gaps: this is how many rows there are, without counting them.
        over = last - first + 1 - keep.rows
        outgrown = _size(connection) > keep.megabytes * 1e6
        bound = last if outgrown else sent
        oldest = connection.execute(
            "SELECT id, at FROM usage WHERE id <= ? ORDER BY id LIMIT ?", (bound, STEP)
        ).fetchall()
        aged = [
            (number, at) for number, at in oldest if outgrown or at < wall - keep.days * DAY or number < first + over
        ]
        gone = _delete(connection, aged, wall)
        return Pruned(len(gone), sum(number > sent for number in gone), more or len(gone) == STEP)


def _delete(connection: sqlite3.Connection, rows: Iterable[tuple[int, float]], wall: float) -> list[int]:
    """Delete rows (number and time of each) unless they are of the last two days. Returns the deleted numbers."""
    gone = [number for number, at in rows if at < wall - NEEDED]
    connection.executemany("DELETE FROM usage WHERE id = ?", [(number,) for number in gone])
    return gone


def _forwarded(connection: sqlite3.Connection, wall: float, targets: Collection[str]) -> int:
    """The last row that every database has; the greatest number that there can be if rows go to none.

    A database that is not among `targets` is waited for as long as it is in use.
    """
    known = {name: (last, at) for name, last, at in connection.execute("SELECT name, forwarded, at FROM targets")}
    waited = [last for name, (last, at) in known.items() if name in targets or at > wall - _FORGOTTEN]
    return min([*waited, *(0 for name in targets if name not in known)], default=_ALL)


def _size(connection: sqlite3.Connection) -> int:
    (pages,), (free,), (each,) = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * each)


class Pruner:
    """Deletes old rows and adds up quarters that are over, a step at a time, whenever it is asked and a step is due."""

    def __init__(
        self,
        store: Store,
        keep: Retention,
        targets: Collection[str] = (),
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = StoreConnection(store, patience=0.0)
        self._keep = keep
        self._targets = targets
        self._wall = wall
        self._clock = clock
        # Not while a program starts: it may be a short one.
        self._due = clock() + 10.0
        self.unforwarded = 0
        """The number of rows that were dropped before a database had them."""

    @property
    def problem(self) -> Problem | None:
        """The problem that rows were dropped, or None."""
        if not self.unforwarded:
            return None
        return Problem(
            f"{self.unforwarded} rows of usage were dropped before a database had them: the file had outgrown"
            f" {self._keep.megabytes:g} MB",
            f"See why rows are not forwarded, or set {USAGE_MEGABYTES}",
        )

    def step(self) -> None:
        """Do what is due. Raises nothing."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + LATER
        try:
            with self._connection.use() as connection:
                wall = self._wall()
                done = prune_step(connection, self._keep, wall, self._targets)
                more = add_up(connection, wall) or done.more
        except (OSError, sqlite3.Error, StoreError) as error:
            _log.info("usage was not pruned or added up: %s", error)
            return
        if more:
            self._due = self._clock() + SOON
        if done.unforwarded and not self.unforwarded:
            _log.warning("rows of usage are dropped before a database has them: the file has outgrown its bound")
        self.unforwarded += done.unforwarded

    def close(self) -> None:
        """Close its connection."""
        self._connection.close()
