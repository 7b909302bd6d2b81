"""What a file of ten million rows costs: `python -m benchmarks.large [--rows N]`. Not part of the table.

Writes the rows of a month of 208 keys, the older half as schema 2 has them, and times the migration between the halves;
then a start, a claim, a report and pruning.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from sqlite3 import Connection
from types import SimpleNamespace

from rich.console import Console

from hfs_providers import Limits
from hfs_providers.authoring import Credential, Secret
from hfs_providers.keys import KeyPool
from hfs_providers.keys.ledger import Reservation
from hfs_providers.sharing.file_ledger import FileLedger
from hfs_providers.sharing.key_state import restore_key_state
from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import MIGRATIONS, Store
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.retention import Retention, prune_step
from hfs_providers.usage.row_writer import write_rows
from hfs_providers.usage.transaction import transaction

_KEYS, _DAYS, _DAY = 208, 30, 86_400.0
BATCH = 20_000
"""Rows that are made at once."""

_LIMITS = Limits(rpm=30, rph=10**6, rpd=10**6, tpm=10**9, tph=10**9, tpd=10**9)


Asked = tuple[str, str, str, str]
"""Who is asked: provider, model, key id and fingerprint."""


def rows_of_a_month(count: int, asked: Sequence[Asked], now: float, since: float = 0.0) -> Iterator[list[UsageRow]]:
    """Requests of the last 30 days, evenly over time and over whom they ask, in batches.

    Args:
        count: in 30 days.
        now: seconds since the epoch.
        since: only those after it, if a file has the earlier ones.
    """
    begin, step = now - _DAYS * _DAY, _DAYS * _DAY / count
    for first in range(max(0, int((since - begin) / step) + 1), count, BATCH):
        yield [
            UsageRow(begin + place * step, *asked[place % len(asked)], 7, 3, 10, 0.5, "ok", 10, f"{place:016x}")
            for place in range(first, min(count, first + BATCH))
        ]


def write_batches(connection: Connection, batches: Iterable[list[UsageRow]]) -> None:
    """Write rows, each batch in one transaction."""
    for rows in batches:
        with transaction(connection):
            write_rows(connection, rows)


def _timed(work: Callable[[], object], times: int = 1) -> float:
    """Milliseconds, the median of that many times."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    count = parser.parse_args().rows
    console = Console(highlight=False)
    now = time.time()
    keys = [Credential(f"p#{number}", Secret(f"a-key-{number}")) for number in range(1, _KEYS + 1)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "usage.db"
        batches = rows_of_a_month(count, [("p", "m", key.id, key.fingerprint) for key in keys], now)
        older = _write_older(path, islice(batches, count // BATCH // 2), keys)
        console.print(f"{older} rows of schema 2 taken over: {_timed(lambda: Store(path)):.1f} ms")
        store = Store(path)
        with closing(store.connect()) as connection:
            begin = time.perf_counter()
            write_batches(connection, batches)
            wrote = time.perf_counter() - begin
            newer, size = count - older, path.stat().st_size / 1e6
            console.print(f"{newer} more: written in {wrote:.0f} s, {wrote / newer * 1e6:.1f} us each; {size:.0f} MB")
            _measure(console, store, connection, keys, now)


def _write_older(path: Path, batches: Iterable[list[UsageRow]], keys: list[Credential]) -> int:
    """A file of schema 2. Returns how many rows it has."""
    series = {key.id: (number, "p", "m", key.id, key.fingerprint[:8]) for number, key in enumerate(keys, 1)}
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for version in (1, 2):
            connection.executescript(MIGRATIONS[version])
        connection.execute("PRAGMA user_version = 2")
        connection.execute("INSERT INTO meta VALUES ('source', 'here')")
        connection.executemany("INSERT INTO series VALUES (?, ?, ?, ?, ?)", series.values())
        for rows in batches:
            with transaction(connection):
                connection.executemany(
                    "INSERT INTO usage (series, at, tokens_in, tokens_out, tokens, latency, outcome, charged)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [(series[row.key_id][0], row.at, *row[5:11]) for row in rows],
                )
        return int(connection.execute("SELECT count(*) FROM usage").fetchone()[0])


def _measure(console: Console, store: Store, connection: Connection, keys: list[Credential], now: float) -> None:
    pool = KeyPool("p", keys, limits=lambda *_: _LIMITS)
    wrappers = {"p": SimpleNamespace(pool=pool)}
    start = _timed(lambda: restore_key_state(connection, wrappers, now), 5)  # type: ignore[arg-type]  # all it needs
    console.print(f"state restored: {start:.0f} ms")
    log = UsageLog(store)
    ledgers = [FileLedger(log, wall=lambda: now) for _ in "12"]
    for ledger in ledgers:
        ledger.start({"p": pool})
    mark = keys[0].fingerprint
    reservation = Reservation("p", mark, (mark,), mark, "m", _LIMITS, 10)
    console.print(f"a reservation: {_timed(lambda: ledgers[1].reserve(reservation), 50):.2f} ms")
    by_day = (
        "SELECT provider, model, start / 86400, SUM(requests), SUM(tokens) FROM quarter"
        " JOIN series ON series.id = series GROUP BY 1, 2, 3"
    )
    console.print(f"a report of {_DAYS} days by day: {_timed(lambda: connection.execute(by_day).fetchall(), 5):.0f} ms")
    keep = Retention(days=_DAYS - 1)
    console.print(f"a step of pruning: {_timed(lambda: prune_step(connection, keep, now), 20):.1f} ms")
    for ledger in ledgers:
        ledger.close()
    log.close()


if __name__ == "__main__":
    main()
