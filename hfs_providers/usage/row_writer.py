"""The columns of a row of usage, and how rows are written: numbered, under the number of their series."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import NoneType
from typing import Any, TypeAlias, get_args, get_type_hints

from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.usage.database import SCHEMA_VERSION

_HINTS = get_type_hints(UsageRow)

NULLABLE = frozenset(name for name, hint in _HINTS.items() if NoneType in get_args(hint))
"""The fields of a row that may be None."""

COLUMNS: Mapping[str, type] = {name: get_args(hint)[0] if name in NULLABLE else hint for name, hint in _HINTS.items()}
"""The fields of a row by name, with their types, as every table and statement has them."""

_SERIES = (*UsageRow._fields[1:5], "client")
_VALUES = tuple(name for name in UsageRow._fields if name not in _SERIES)

_series_of: Callable[[UsageRow], Series] = attrgetter(*_SERIES)
_values_of: Callable[[UsageRow], tuple[object, ...]] = attrgetter(*_VALUES)

Series: TypeAlias = tuple[str, str, str, str, str]
"""Provider, model, key id, fingerprint and client."""

AT_ONCE = 100 if sqlite3.sqlite_version_info >= (3, 32) else 60
"""Rows that one statement takes: older versions of SQLite take 999 values."""

SELECT = f"SELECT usage.id, {', '.join(COLUMNS)} FROM usage JOIN series ON series.id = usage.series"  # noqa: S608  our own
"""Whole rows with their numbers."""

_MOST = 2**53

_INSERT = f"INSERT INTO usage (series, {', '.join(_VALUES)})"
_PLACES = f"({', '.join('?' * (1 + len(_VALUES)))})"
_NAMES = ", ".join(_SERIES)
# In the same step, so that no later version can come in between.
_UNLESS_NEWER = f"WHERE (SELECT user_version FROM pragma_user_version) <= {SCHEMA_VERSION}"  # noqa: S608  our own


def write_rows(connection: sqlite3.Connection, rows: Sequence[UsageRow], known: dict[Series, int] | None = None) -> int:
    """Write rows; the file sums them up itself.

    All or none, if they are at most `AT_ONCE` or a transaction is under way.

    At each step of a statement SQLite releases the interpreter's lock. If calls keep it busy, a writer regains it after
    5 ms at the earliest, at their cost: with seven statements for each group, 100 tasks had a twelfth less throughput.

    Args:
        rows: in the order in which they are to be numbered.
        known: the numbers of series, remembered from one call to the next; clear it after a rollback.

    Returns:
        How many were written: all of them, or fewer if the file got the schema of a later version.

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
            # A value of a wrong type is replaced, so that one such row does not cost the others.
            written += _insert(connection, [_mended(row) for row in part], known)
    return written


def _insert(connection: sqlite3.Connection, rows: Sequence[UsageRow], known: dict[Series, int]) -> int:
    values: list[object] = []
    for row in rows:
        if not 0 <= row.at < _MOST:
            raise ValueError("no time")
        name = _series_of(row)
        series = known.get(name)
        if series is None:
            series = known[name] = _number(connection, name)
        values += (series, *_values_of(row))
    places = ", ".join([_PLACES] * len(rows))
    statement = f"{_INSERT} SELECT * FROM (VALUES {places}) {_UNLESS_NEWER}"  # noqa: S608  our own
    return connection.execute(statement, values).rowcount


def _number(connection: sqlite3.Connection, name: Series) -> int:
    connection.execute(f"INSERT OR IGNORE INTO series ({_NAMES}) VALUES (?, ?, ?, ?, ?)", name)  # noqa: S608  our own
    query = f"SELECT id FROM series WHERE ({_NAMES}) = (?, ?, ?, ?, ?)"  # noqa: S608  our own
    return int(connection.execute(query, name).fetchone()[0])


def _mended(row: UsageRow) -> UsageRow:
    mended = UsageRow._make(
        None if value is None and name in NULLABLE else _MEND[COLUMNS[name]](value)
        for name, value in row._asdict().items()
    )
    return mended if mended.at else mended._replace(at=time.time())


def _count(value: Any) -> int:
    try:
        return min(max(0, int(value)), _MOST)
    except (TypeError, ValueError, OverflowError):
        return 0


def _seconds(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if 0.0 <= number < _MOST else 0.0


def _text(value: object) -> str:
    return str(value).encode(errors="replace").decode()


_MEND: Mapping[type, Callable[[Any], Any]] = {int: _count, float: _seconds, str: _text}
