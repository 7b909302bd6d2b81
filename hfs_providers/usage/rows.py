"""How rows of usage are written: numbered, under the number of their series."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

from hfs_providers.contract.records import UsageRow
from hfs_providers.usage.database import SCHEMA_VERSION

AT_ONCE = 100
"""Rows that one statement takes: old versions of SQLite take 999 values."""

_MOST = 2**53

_INSERT = "INSERT INTO usage (series, at, tokens_in, tokens_out, tokens, charged, latency, outcome)"
# In the same step, so that no later version can come in between.
_UNLESS_NEWER = f"WHERE (SELECT user_version FROM pragma_user_version) <= {SCHEMA_VERSION}"  # noqa: S608  our own

Series: TypeAlias = tuple[str, str, str, str]
"""Provider, model, key id and fingerprint."""


def write_rows(connection: sqlite3.Connection, rows: Sequence[UsageRow], known: dict[Series, int] | None = None) -> int:
    """Write rows; the file sums them up itself.

    All or none where they are at most `AT_ONCE`, or a transaction is under way.

    At each step of a statement SQLite lets go of the interpreter's lock, and where calls keep that busy it has it back
    after 5 ms at the earliest, at their cost: with seven statements for each group, 100 tasks got a twelfth less done.

    Args:
        connection: of the store.
        rows: in the order in which they are to be numbered.
        known: the numbers of series, remembered from one call to the next; to be cleared by whoever rolls back.

    Returns:
        How many were written: all of them, or none more once the file has the schema of a later version.

    Raises:
        sqlite3.Error: the file cannot be written.
    """
    known = {} if known is None else known
    written = 0
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        try:
            written += _insert(connection, part, known)
        except (OverflowError, ValueError, TypeError, sqlite3.IntegrityError):
            # A number that is none, or text that is none: mended here, so that one such row does not cost the others.
            written += _insert(connection, [_mended(row) for row in part], known)
    return written


def _insert(connection: sqlite3.Connection, rows: Sequence[UsageRow], known: dict[Series, int]) -> int:
    values: list[object] = []
    for row in rows:
        at, provider, model, key_id, fingerprint, tokens_in, tokens_out, tokens, latency, outcome, charged = row
        if not 0 <= at < _MOST:
            raise ValueError("no time")
        name = provider, model, key_id, fingerprint
        series = known.get(name)
        if series is None:
            series = known[name] = _number(connection, name)
        values += (series, at, tokens_in, tokens_out, tokens, charged, latency, outcome)
    places = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * len(rows))
    statement = f"{_INSERT} SELECT * FROM (VALUES {places}) {_UNLESS_NEWER}"  # noqa: S608  our own
    return connection.execute(statement, values).rowcount


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
