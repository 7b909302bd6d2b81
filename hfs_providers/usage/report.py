"""What was used, read from the local file: by provider, model, key, outcome, hour and day, over any span of time.

Whole quarters of an hour come from the tables `total`, if no key is asked for, and `quarter`; the two ends of a span
that lie within a quarter come from the rows themselves. Hours and days are those of a time zone: everywhere they begin
with a quarter.

    invariant: one report is one snapshot of the file; writers do not wait for it, and it sees no half of a transaction.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Literal, NamedTuple, get_args

from hfs_providers.contract.records import KEYLESS
from hfs_providers.usage.database import QUARTER, Store, opened
from hfs_providers.usage.totals import totalled_until

Dimension = Literal["provider", "model", "key", "fingerprint", "client", "outcome", "hour", "day"]

Period = Literal["hour", "day"]

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
"""What a report can be divided by."""

_OK = "ok"
_CACHE = 64_000
"""Kilobytes of the file that a report may cache. It reads the same pages for each hour or day."""
_HOURLY = 3 * 86_400.0
"""Seconds up to which a timeline has hours."""
_KEPT = 400 * 86_400.0
"""Seconds that sums are kept by default."""


class UsageTotal(NamedTuple):
    """The sums of one group of requests.

    Args:
        group: what its requests have in common, in the order that was asked for; hours and days as ISO in the report's
            zone (`2026-01-31T14:00:00+01:00`, `2026-01-31`).
        requests: all that were sent.
        ok: those that were answered.
        tokens_in, tokens_out, tokens: as the providers counted them.
        tokens_cached: those of `tokens_in` that came from a provider's cache.
        cost_nanousd: the cost of requests with a price, in billionths of a US dollar.
        unpriced: the number of requests without a price: their model has none, or their tokens are not known.
        latency: mean seconds of a request.
    """

    group: tuple[str, ...]
    requests: int
    ok: int
    tokens_in: int
    tokens_out: int
    tokens: int
    tokens_cached: int
    cost_nanousd: int
    unpriced: int
    latency: float


_SUMMED = UsageTotal._fields[1:]
_QUARTERS = {"ok": f"CASE outcome WHEN '{_OK}' THEN requests ELSE 0 END", "unpriced": "requests - priced"}
_ROWS = {
    "requests": "1",
    "ok": f"outcome = '{_OK}'",
    "cost_nanousd": "coalesce(cost_nanousd, 0)",
    "unpriced": "cost_nanousd IS NULL",
}
"""How sums are computed that are not columns of the same name."""
_TOTAL = "total CROSS JOIN kind USING (provider, model, client)"


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """A report.

    Args:
        by: what it is divided by.
        rows: the groups, in order of their names.
        since, until: the span that it covers, seconds since the epoch; None is open. If the rows of an end were
            pruned, it is wider than was asked for, by less than a quarter of an hour.
        exact: whether it covers exactly the span that was asked for.
    """

    by: tuple[Dimension, ...]
    rows: Sequence[UsageTotal]
    since: float | None
    until: float | None
    exact: bool

    @property
    def total(self) -> UsageTotal:
        """All groups together."""
        counts: dict[str, int] = {name: sum(getattr(row, name) for row in self.rows) for name in _SUMMED[:-1]}
        seconds = sum(row.latency * row.requests for row in self.rows)
        return UsageTotal((), **counts, latency=seconds / counts["requests"] if seconds else 0.0)


@dataclass(frozen=True, slots=True)
class UsageTimeline:
    """Requests or their cost over time, quiet hours and days included.

    Args:
        period: what one value stands for.
        starts: the hours or days, as `UsageTotal` has them.
        lines: by name, one value for each of `starts`.
    """

    period: Period
    starts: Sequence[str]
    lines: Mapping[str, Sequence[int]]


class _Span(NamedTuple):
    """Whole quarters from `first` until before `last`, and the parts of quarters at both ends."""

    first: float
    last: float
    pieces: tuple[tuple[float, float], ...]


class UsageReport:
    """Queries over a store.

    Args:
        zone: of hours and days; None is the machine's.
    """

    def __init__(self, store: Store, zone: tzinfo | None = None) -> None:
        self._store = store
        self._zone = zone

    def totals(
        self,
        by: Iterable[Dimension] = (),
        *,
        since: float | None = None,
        until: float | None = None,
        providers: Iterable[str] = (),
        models: Iterable[str] = (),
        keys: Iterable[str] = (),
        clients: Iterable[str] = (),
    ) -> UsageTotals:
        """What was used between two moments, in groups.

        Args:
            by: what to divide it by; without it there is one group, or none if there are no rows.
            since, until: seconds since the epoch, the first of them included; None is open.
            providers, models, keys, clients: only these (keys by id or fingerprint); none is all.

        Raises:
            ValueError: `by` has an unknown name.
            StoreError: the file cannot be read.
        """
        wanted = tuple(dict.fromkeys(by))
        for name in wanted:
            if name not in DIMENSIONS:
                raise ValueError(f"usage has no {name!r}: choose from {', '.join(DIMENSIONS)}")
        only = {"provider": set(providers), "model": set(models), "key": set(keys), "client": set(clients)}
        with opened(self._store) as connection:
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute(f"PRAGMA cache_size = -{_CACHE}")
            connection.execute("BEGIN")
            return _Query(connection, wanted, only, self._zone).run(since, until)

    def timeline(
        self,
        by: Literal["provider", "model", "key", "client", "outcome"],
        *,
        since: float | None = None,
        until: float | None = None,
        of: Literal["requests", "cost_nanousd"] = "requests",
        **only: Iterable[str],
    ) -> UsageTimeline:
        """Requests or their cost, by hour if the span is short, else by day.

        Args:
            by: what makes a line.
            since, until: seconds since the epoch; None is the first and the last request that there is.
            of: what is added up.
            only: `providers`, `models`, `keys`, `clients` as for `totals`.

        Raises:
            StoreError: the file cannot be read.
        """
        extent = self.extent()
        if extent is None:
            return UsageTimeline("hour", (), {})
        # An end beyond all that is kept counts as open: otherwise there would be a value for each day until then.
        first = extent[0] if since is None or since < extent[0] - _KEPT else since
        last = extent[1] + QUARTER if until is None or until > extent[1] + _KEPT else until
        period: Period = "hour" if last - first <= _HOURLY else "day"
        # Every hour begins with a quarter, and no day is shorter than some hours, except today.
        step = QUARTER if period == "hour" else 4 * QUARTER
        moments = (*range(math.floor(first / step) * step, math.ceil(last), step), math.ceil(last) - 1)
        names = {_period_of(max(first, moment), period, self._zone): None for moment in moments}
        places = {name: place for place, name in enumerate(names)}
        lines: dict[str, list[int]] = {}
        for row in self.totals((by, period), since=since, until=until, **only).rows:
            place = places.get(row.group[1])
            if place is not None:
                lines.setdefault(row.group[0], [0] * len(places))[place] += getattr(row, of)
        return UsageTimeline(period, tuple(places), lines)

    def extent(self) -> tuple[float, float] | None:
        """The beginnings of the first and the last quarter with a request, in seconds since the epoch; None: nothing.

        Raises:
            StoreError: the file cannot be read.
        """
        with opened(self._store) as connection:
            # Two queries: each is one step in the index.
            (first,) = connection.execute("SELECT min(start) FROM quarter").fetchone()
            (last,) = connection.execute("SELECT max(start) FROM quarter").fetchone()
        return None if first is None else (float(first), float(last))


class _Query:
    """One report in one transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        by: tuple[Dimension, ...],
        only: Mapping[str, set[str]],
        zone: tzinfo | None,
    ) -> None:
        self._connection = connection
        self._by = by
        self._zone = zone
        self._groups: list[tuple[str, ...]] = []
        self._slots: dict[str, int] = {}
        # By (group, slot, outcome): the sums of `_SUMMED`; the last is that of the seconds.
        self._sums: dict[tuple[int, int, str], list[float]] = {}
        # Quarters before it are read from `total`.
        self._totalled = -math.inf
        if not only["key"] and {"key", "fingerprint"}.isdisjoint(by):
            self._totalled = totalled_until(connection)
        self._choose_series(only)

    def run(self, since: float | None, until: float | None) -> UsageTotals:
        if since is not None and until is not None and since >= until:
            return UsageTotals(self._by, (), since, until, True)
        span, exact = self._settle(_span(since, until))
        self._add_quarters(span)
        for begin, end in span.pieces:
            self._add_piece(begin, end)
        begin = min([span.first, *(piece[0] for piece in span.pieces)])
        end = max([span.last, *(piece[1] for piece in span.pieces)])
        return UsageTotals(
            self._by,
            self._rows(),
            None if math.isinf(begin) else begin,
            None if math.isinf(end) else end,
            exact,
        )

    def _choose_series(self, only: Mapping[str, set[str]]) -> None:
        """Number the groups that the wanted series fall into."""
        wanted = {name: names for name, names in only.items() if names}
        columns = [name for name in self._by if name in ("provider", "model", "key", "fingerprint", "client")]
        numbers: dict[tuple[str, ...], int] = {}
        part: list[tuple[int, int]] = []
        kinds: dict[tuple[str, str, str], int] = {}
        for series, provider, model, key, mark, client in self._connection.execute(
            "SELECT id, provider, model, key_id, fingerprint, client FROM series"
        ):
            about = {
                "provider": (provider,),
                "model": (model,),
                "key": (key, mark),
                # Endpoints without a key have no fingerprint that tells them apart.
                "fingerprint": (key if mark == KEYLESS else mark,),
                "client": (client,),
            }
            if wanted and any(names.isdisjoint(about[name]) for name, names in wanted.items()):
                continue
            group = tuple(about[name][0] for name in columns)
            number = kinds[provider, model, client] = numbers.setdefault(group, len(numbers))
            part.append((series, number))
        self._groups = list(numbers)
        self._connection.execute(
            "CREATE TEMP TABLE part (grp INTEGER, series INTEGER, PRIMARY KEY (grp, series)) WITHOUT ROWID"
        )
        self._connection.executemany("INSERT INTO part (series, grp) VALUES (?, ?)", part)
        # The same without keys.
        self._connection.execute(
            "CREATE TEMP TABLE kind (provider TEXT, model TEXT, client TEXT, grp INTEGER,"
            " PRIMARY KEY (provider, model, client)) WITHOUT ROWID"
        )
        if self._totalled > 0:
            self._connection.executemany(
                "INSERT INTO kind VALUES (?, ?, ?, ?)", ((*kind, number) for kind, number in kinds.items())
            )

    def _settle(self, span: _Span) -> tuple[_Span, bool]:
        """If the rows of a piece were pruned, only the total of its whole quarter is known."""
        first, last, kept = span.first, span.last, []
        for begin, end in span.pieces:
            quarter = math.floor(begin / QUARTER) * QUARTER
            sums = _TOTAL if quarter < self._totalled else "part CROSS JOIN quarter USING (series)"
            (summed,) = self._connection.execute(
                f"SELECT coalesce(sum(requests), 0) FROM {sums} WHERE start = ?",  # noqa: S608  our own words
                (quarter,),
            ).fetchone()
            (there,) = self._connection.execute(
                "SELECT count(*) FROM part CROSS JOIN usage USING (series) WHERE at >= ? AND at < ?",
                (quarter, quarter + QUARTER),
            ).fetchone()
            if there == summed:
                kept.append((begin, end))
            else:
                first, last = min(first, quarter), max(last, quarter + QUARTER)
        return _Span(first, last, tuple(kept)), len(kept) == len(span.pieces)

    def _add_quarters(self, span: _Span) -> None:
        if span.first >= span.last:
            return
        first, last = _bound(span.first), _bound(span.last)
        ranges: dict[int, tuple[int, int]] = {}
        if self._period is None:
            ranges[0] = (first, last)
        else:
            for start in self._starts(first, last):
                slot = self._slot(start)
                ranges[slot] = (ranges.get(slot, (start,))[0], start + QUARTER)
        self._connection.execute("CREATE TEMP TABLE bucket (slot INTEGER PRIMARY KEY, first INTEGER, last INTEGER)")
        self._connection.executemany(
            "INSERT INTO bucket VALUES (?, ?, ?)", [(slot, *ends) for slot, ends in ranges.items()]
        )
        outcome, sums = self._outcome, _summed(_QUARTERS)
        select = f"SELECT grp, slot, {outcome} AS outcome, {sums} FROM bucket CROSS JOIN"  # noqa: S608  our own words
        group = f"GROUP BY bucket.slot, grp{', outcome' if 'outcome' in self._by else ''}"
        upto = _bound(self._totalled)
        if first < upto:
            self._add(f"{select} {_TOTAL} WHERE start >= first AND start < min(last, ?) {group}", (upto,))
        if last > upto:
            # In this order: for each bucket and series one range of the table itself, whose key begins with series and
            # start; the result is in the order of its groups, so that millions of rows need not be sorted.
            self._add(
                f"{select} part CROSS JOIN quarter ON quarter.series = part.series "
                f"AND start >= max(first, ?1) AND start < last WHERE last > ?1 {group}",
                (upto,),
            )

    def _starts(self, first: int, last: int) -> list[int]:
        """The quarters in which anything happened: one step in the index for each."""
        found = self._connection.execute(
            "WITH RECURSIVE step (start) AS (SELECT min(start) FROM quarter WHERE start >= ?1 AND start < ?2 "
            "UNION ALL SELECT (SELECT min(start) FROM quarter WHERE start > step.start AND start < ?2) "
            "FROM step WHERE start IS NOT NULL) SELECT start FROM step WHERE start IS NOT NULL",
            (first, last),
        )
        return [start for (start,) in found]

    def _add_piece(self, begin: float, end: float) -> None:
        slot = self._slot(math.floor(begin / QUARTER) * QUARTER)
        self._add(
            f"SELECT grp, {slot} AS slot, {self._outcome} AS outcome, {_summed(_ROWS)} "  # noqa: S608  our own words
            "FROM part CROSS JOIN usage USING (series) WHERE at >= ? AND at < ? GROUP BY 1, 2, 3",
            (begin, end),
        )

    @property
    def _outcome(self) -> str:
        return "outcome" if "outcome" in self._by else "''"

    @property
    def _period(self) -> Period | None:
        return "hour" if "hour" in self._by else "day" if "day" in self._by else None

    def _slot(self, start: int) -> int:
        """The number of the hour or day that a quarter lies in."""
        if self._period is None:
            return 0
        return self._slots.setdefault(_period_of(start, self._period, self._zone), len(self._slots))

    def _add(self, source: str, bounds: tuple[float, ...]) -> None:
        query = f"SELECT grp, slot, outcome, {_summed({})} FROM ({source}) GROUP BY 1, 2, 3"  # noqa: S608  our own words
        for group, slot, outcome, *sums in self._connection.execute(query, bounds):
            found = self._sums.setdefault((group, slot, outcome), [0] * len(_SUMMED))
            for place, value in enumerate(sums):
                found[place] += value

    def _rows(self) -> list[UsageTotal]:
        slots = list(self._slots)
        rows = []
        for (group, slot, outcome), (*counts, seconds) in self._sums.items():
            names = iter(self._groups[group])
            told = tuple(self._named(name, names, slots[slot] if slots else "", outcome) for name in self._by)
            rows.append(UsageTotal._make([told, *map(int, counts), seconds / counts[0]]))
        return sorted(rows)

    def _named(self, name: Dimension, names: Iterable[str], slot: str, outcome: str) -> str:
        if name == "outcome":
            return outcome
        if name == "hour":
            return slot
        if name == "day":
            return slot[:10]
        return next(iter(names))


def _summed(made: Mapping[str, str]) -> str:
    """The sums of `_SUMMED`; those that a table has under another name are `made`."""
    return ", ".join(f"sum({made.get(name, name)}) AS {name}" for name in _SUMMED)


def _period_of(moment: float, period: Period, zone: tzinfo | None) -> str:
    local = datetime.fromtimestamp(moment, zone).astimezone(zone)
    return local.date().isoformat() if period == "day" else local.replace(minute=0, second=0, microsecond=0).isoformat()


def _span(since: float | None, until: float | None) -> _Span:
    begin = -math.inf if since is None else since
    end = math.inf if until is None else until
    first = begin if math.isinf(begin) else math.ceil(begin / QUARTER) * QUARTER
    last = end if math.isinf(end) else math.floor(end / QUARTER) * QUARTER
    if last < first:
        # Both lie within one quarter.
        return _Span(math.inf, -math.inf, ((begin, end),))
    pieces = [(begin, first)] if begin < first else []
    if last < end:
        pieces.append((last, end))
    return _Span(first, last, tuple(pieces))


def _bound(moment: float) -> int:
    """The value as SQLite takes it."""
    return int(max(-(2.0**62), min(2.0**62, moment)))
