"""How rows of usage are written: numbered, under the number of their series, and summed up by quarters of an hour."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

from hfs_providers.core.contract import UsageRow
from hfs_providers.core.store import QUARTER, transaction

# Of a statement: old versions of SQLite take 999 values.
_ROWS = 100
_MOST = 2**53

Series: TypeAlias = tuple[str, str, str, str]
"""Provider, model, key id and fingerprint."""


def write_rows(
    connection: sqlite3.Connection, rows: Sequence[UsageRow], known: dict[Series, int] | None = None
) -> None:
    """Write rows and their sums in one transaction, or in the one that is under way.

    Args:
        connection: of the store.
        rows: in the order in which they are to be numbered.
        known: the numbers of series, remembered from one call to the next; to be cleared by whoever rolls back.

    Raises:
        sqlite3.Error: none of them was written.
    """
    known = {} if known is None else known
    try:
        _write(connection, rows, known)
    except (OverflowError, ValueError, TypeError, sqlite3.IntegrityError):
        # A number that is none, or text that is none: mended here, so that one such row does not cost the others.
        known.clear()
        _write(connection, [_mended(row) for row in rows], known)


def _write(connection: sqlite3.Connection, rows: Sequence[UsageRow], known: dict[Series, int]) -> None:
    with transaction(connection):
        connection.execute("SAVEPOINT batch")
        try:
            _insert(connection, rows, known)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO batch")
            raise
        connection.execute("RELEASE batch")


def _insert(connection: sqlite3.Connection, rows: Sequence[UsageRow], known: dict[Series, int]) -> None:
    sums: dict[tuple[int, int, str], list[float]] = {}
    written = []
    for row in rows:
        at, provider, model, key_id, fingerprint, tokens_in, tokens_out, tokens, latency, outcome, charged = row
        name = provider, model, key_id, fingerprint
        series = known.get(name)
        if series is None:
            series = known[name] = _number(connection, name)
        written.append((series, at, tokens_in, tokens_out, tokens, charged, latency, outcome))
        place = series, int(at // QUARTER) * QUARTER, outcome
        total = sums.get(place)
        if total is None:
            sums[place] = [1, tokens_in, tokens_out, tokens, charged, latency]
        else:
            total[0] += 1
            total[1] += tokens_in
            total[2] += tokens_out
            total[3] += tokens
            total[4] += charged
            total[5] += latency
    _put(
        connection,
        "INSERT INTO usage (series, at, tokens_in, tokens_out, tokens, charged, latency, outcome)",
        written,
    )
    _put(
        connection,
        "INSERT INTO quarter (series, start, outcome, requests, tokens_in, tokens_out, tokens, charged, latency)",
        [(*place, *total) for place, total in sums.items()],
        "ON CONFLICT (series, start, outcome) DO UPDATE SET"
        " requests = requests + excluded.requests, tokens_in = tokens_in + excluded.tokens_in,"
        " tokens_out = tokens_out + excluded.tokens_out, tokens = tokens + excluded.tokens,"
        " charged = charged + excluded.charged, latency = latency + excluded.latency",
    )


def _put(connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[Any, ...]], conflict: str = "") -> None:
    """Insert rows in as few statements as can be.

    At each step of a statement SQLite lets go of the interpreter's lock, and where the calls keep that busy it has it
    back after 5 ms at the earliest, at their cost: a row a statement took a tenth of what 100 tasks got done.
    """
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        places = f"({', '.join('?' * len(part[0]))})"
        values = ", ".join([places] * len(part))
        connection.execute(f"{insert} VALUES {values} {conflict}", [value for row in part for value in row])


def _number(connection: sqlite3.Connection, name: Series) -> int:
    connection.execute("INSERT OR IGNORE INTO series (provider, model, key_id, fingerprint) VALUES (?, ?, ?, ?)", name)
    row = connection.execute(
        "SELECT id FROM series WHERE provider = ? AND model = ? AND key_id = ? AND fingerprint = ?", name
    ).fetchone()
    return int(row[0])


def _mended(row: UsageRow) -> UsageRow:
    def count(value: Any) -> int:
        try:
            return min(max(0, int(value)), _MOST)
        except (TypeError, ValueError, OverflowError):
            return 0

    def seconds(value: Any, default: float = 0.0) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return default
        return number if 0.0 <= number < _MOST else default

    def text(value: object) -> str:
        return str(value).encode(errors="replace").decode()

    return UsageRow(
        seconds(row.at, time.time()),
        text(row.provider),
        text(row.model),
        text(row.key_id),
        text(row.fingerprint),
        count(row.tokens_in),
        count(row.tokens_out),
        count(row.tokens),
        seconds(row.latency),
        text(row.outcome),
        count(row.charged),
    )
