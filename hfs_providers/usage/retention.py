"""How long rows of usage are kept, and how they leave: a few at a time, so that nobody waits for it.

    invariant: a row that a database has not got yet is pruned only where the file would outgrow its bound.

`quarter` keeps the sums of what was pruned, for longer.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from hfs_providers.contract.errors import StoreError
from hfs_providers.contract.instants import DAY
from hfs_providers.contract.records import Problem
from hfs_providers.usage.connection import StoreConnection
from hfs_providers.usage.database import Store
from hfs_providers.usage.pruning import forwarded, take_out
from hfs_providers.usage.transaction import transaction

DAYS = "HFS_USAGE_DAYS"
ROWS = "HFS_USAGE_ROWS"
MEGABYTES = "HFS_USAGE_MB"

STEP = 1000
"""Rows that one transaction deletes."""

SOON, LATER = 0.2, 600.0
"""Seconds from one step to the next while there is more to prune, and while there is not."""

SUMS = 400 * DAY
"""Seconds for which the sums by quarters of an hour are kept."""

STATE = 60 * DAY
"""Seconds after which state that nobody renewed is forgotten."""

_log = logging.getLogger("hfs_providers")


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept.

    Args:
        days: after which a row goes.
        rows: beyond which the oldest go.
        megabytes: that the file may have, whatever is not forwarded yet.
    """

    days: float = 35.0
    rows: int = 20_000_000
    megabytes: float = 8_000.0

    @classmethod
    def of(cls, env: Mapping[str, str]) -> tuple[Retention, list[Problem]]:
        """Read it from an environment; what cannot be read is as by default, and a problem."""
        problems = []
        found: dict[str, float] = {}
        for variable, name in ((DAYS, "days"), (ROWS, "rows"), (MEGABYTES, "megabytes")):
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
    """What a step did.

    Args:
        rows: that were deleted.
        unforwarded: how many of them a database has not got.
        more: whether there is more to delete.
    """

    rows: int
    unforwarded: int
    more: bool


def prune(connection: sqlite3.Connection, keep: Retention, wall: float, targets: Collection[str] = ()) -> Pruned:
    """Delete the oldest rows that need not be kept, at most `STEP` of them, in one transaction.

    Args:
        connection: of the store.
        keep: how much.
        wall: seconds since the epoch.
        targets: names of databases that rows are forwarded to, besides those that the file knows.

    Raises:
        sqlite3.Error: nothing was deleted.
    """
    with transaction(connection):
        sums = connection.execute(
            "SELECT series, start, outcome FROM quarter WHERE start < ? LIMIT ?", (wall - SUMS, STEP)
        )
        connection.executemany("DELETE FROM quarter WHERE series = ? AND start = ? AND outcome = ?", sums.fetchall())
        connection.execute("DELETE FROM state WHERE at < ?", (wall - STATE,))
        # In one query both would look at all rows.
        first, last = connection.execute("SELECT (SELECT MIN(id) FROM usage), (SELECT MAX(id) FROM usage)").fetchone()
        if first is None:
            return Pruned(0, 0, more=False)
        sent = forwarded(connection, wall, targets)
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
        gone = take_out(connection, aged, wall)
        return Pruned(len(gone), sum(number > sent for number in gone), more=len(gone) == STEP)


def _size(connection: sqlite3.Connection) -> int:
    (pages,), (free,), (each,) = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * each)


class Pruner:
    """Prunes a step at a time, whenever it is asked and a step is due.

    Args:
        store: the file.
        keep: how much.
        targets: names of databases that rows are forwarded to.
        wall: seconds since the epoch.
        clock: monotonic seconds.
    """

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
        """Rows that were given up before a database had them."""

    @property
    def problem(self) -> Problem | None:
        """What was given up, if anything."""
        if not self.unforwarded:
            return None
        return Problem(
            f"{self.unforwarded} rows of usage were dropped before a database had them: the file had outgrown"
            f" {self._keep.megabytes:g} MB",
            f"See why rows are not forwarded, or set {MEGABYTES}",
        )

    def step(self) -> None:
        """Do what is due. Raises nothing."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + LATER
        try:
            with self._connection.use() as connection:
                done = prune(connection, self._keep, self._wall(), self._targets)
        except (OSError, sqlite3.Error, StoreError) as error:
            _log.info("usage was not pruned: %s", error)
            return
        if done.more:
            self._due = self._clock() + SOON
        if done.unforwarded and not self.unforwarded:
            _log.warning("rows of usage are dropped before a database has them: the file has outgrown its bound")
        self.unforwarded += done.unforwarded

    def close(self) -> None:
        """Close its connection."""
        self._connection.close()
