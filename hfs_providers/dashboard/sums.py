"""Sums of usage for the pages: the last hours, and any span by any dimension. All come from `UsageReport`."""

from __future__ import annotations

import csv
import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal, NamedTuple, cast

from hfs_providers.contract.instants import DAY, HOUR
from hfs_providers.dashboard.source import DashboardSource, Fresh
from hfs_providers.money.prices import NANO
from hfs_providers.sharing.spending import budgets_spent
from hfs_providers.usage.database import QUARTER
from hfs_providers.usage.report import DIMENSIONS, Dimension, UsageReport, UsageTimeline, UsageTotal

LineOf = Literal["provider", "model", "key", "client", "outcome"]
Measured = Literal["requests", "cost_nanousd"]

_LINES: tuple[LineOf, ...] = ("provider", "model", "key", "client", "outcome")
_MOST_LINES = 7
"""The most lines of a plot; one more line has the rest."""
_MOST_ROWS = 500
_MOST_SPANS = 32
OTHERS = "others"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _Span(NamedTuple):
    by: tuple[Dimension, ...]
    since: float | None
    until: float | None
    of: Measured
    lines: LineOf


class UsageSums:
    """The sums of the usage file; empty if there is no file."""

    def __init__(self, source: DashboardSource) -> None:
        self._source = source
        self._lately = Fresh(self._sum_lately, 1.0)
        self._budgets = Fresh(self._spent, 5.0)
        self._spans: OrderedDict[_Span, Fresh[dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def lately(self) -> Mapping[str, Any]:
        """The last hour and the hour before it, in total and by provider, and the requests of a day by provider.

        Raises:
            StoreError: the file cannot be read.
        """
        return self._lately.get()

    def _sum_lately(self) -> Mapping[str, Any]:
        report = self._report()
        now = self._source.wall()
        if report is None:
            return {"hour": None, "before": None, "hours": {}, "timeline": _EMPTY}
        by_provider = report.totals(("provider",), since=now - HOUR)
        before = report.totals((), since=now - 2 * HOUR, until=now - HOUR)
        # With an explicit end; otherwise the span would end with the last request, however long ago that was.
        end = now // HOUR * HOUR + HOUR
        line = report.timeline("provider", since=end - DAY, until=end)
        return {
            "hour": numbers(by_provider.total),
            "before": numbers(before.total),
            "hours": {row.group[0]: numbers(row) for row in by_provider.rows},
            "timeline": timeline(line),
        }

    def span(
        self, by: Sequence[str], since: float | None, until: float | None, of: Measured, lines: str = "provider"
    ) -> dict[str, Any]:
        """The usage in a span of time, in groups, with lines over time and the budgets.

        Args:
            by: the dimensions of the groups.
            since, until: seconds since the epoch; None is open.
            of: the measure for the lines and for the order of the groups.
            lines: the dimension of the lines.

        Raises:
            ValueError: a name is unknown.
            StoreError: the file cannot be read.
        """
        asked = _Span(_dimensions(by), since, until, of, _line_of(lines))
        with self._lock:
            found = self._spans.setdefault(asked, Fresh(partial(self._sum_span, asked), 1.0))
            self._spans.move_to_end(asked)
            while len(self._spans) > _MOST_SPANS:
                self._spans.popitem(last=False)
        return found.get() | {"budgets": self._budgets.get()}

    def _sum_span(self, asked: _Span) -> dict[str, Any]:
        wanted, since, until, of, lines = asked
        report = self._report()
        if report is None:
            return {
                "by": wanted,
                "rows": [],
                "total": None,
                "timeline": _EMPTY,
                "exact": True,
                "more": 0,
            }
        found = report.totals(wanted, since=since, until=until)
        rows = sorted(found.rows, key=lambda row: getattr(row, of), reverse=True)
        drawn = report.timeline(lines, since=since, until=until, of=of)
        return {
            "by": wanted,
            "rows": [{"group": row.group, **numbers(row)} for row in rows[:_MOST_ROWS]],
            "more": max(0, len(rows) - _MOST_ROWS),
            "total": numbers(found.total),
            "timeline": timeline(drawn, NANO if of == "cost_nanousd" else 1),
            "exact": found.exact,
        }

    def table(self, by: Sequence[str], since: float | None, until: float | None) -> str:
        """The groups as CSV. A cell that a spreadsheet would read as a formula is quoted.

        Raises:
            ValueError: a name is unknown.
            StoreError: the file cannot be read.
        """
        wanted = _dimensions(by)
        report = self._report()
        rows = report.totals(wanted, since=since, until=until).rows if report is not None else ()
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\r\n")
        writer.writerow([*wanted, *numbers(UsageTotal((), *[0] * 9))])
        writer.writerows([*map(_no_formula, row.group), *numbers(row).values()] for row in rows)
        return written.getvalue()

    def by_key(self) -> dict[tuple[str, str], UsageTotal]:
        """The usage of each key within a day, by provider and `Credential.name`.

        Raises:
            StoreError: the file cannot be read.
        """
        report = self._report()
        if report is None:
            return {}
        since = self._source.wall() // QUARTER * QUARTER - DAY
        return {
            (row.group[0], row.group[1]): row for row in report.totals(("provider", "fingerprint"), since=since).rows
        }

    def by_hour(self, names: Iterable[str], since: float) -> list[tuple[tuple[str, str], float, UsageTotal]]:
        """The usage of keys by hour: provider and `Credential.name`, the hour's begin in seconds since the epoch, sums.

        Raises:
            StoreError: the file cannot be read.
        """
        report, wanted = self._report(), set(names)
        if report is None or not wanted:
            return []
        rows = report.totals(("provider", "fingerprint", "hour"), since=since, keys=wanted).rows
        return [((row.group[0], row.group[1]), datetime.fromisoformat(row.group[2]).timestamp(), row) for row in rows]

    def _report(self) -> UsageReport | None:
        store = self._source.store()
        return None if store is None else UsageReport(store)

    def _spent(self) -> list[dict[str, Any]]:
        report = self._report()
        if report is None:
            return []
        return [
            {
                "name": spent.budget.name,
                "usd": spent.budget.nanousd / NANO,
                "per": spent.budget.per,
                "spent_usd": spent.nanousd / NANO,
                "until": spent.ends,
            }
            for spent in budgets_spent(report, self._source.inventory.file.budgets)
        ]


def numbers(row: UsageTotal) -> dict[str, int | float]:
    """The sums of a group, as in `hfs-providers usage --json`."""
    found = row._asdict() | {"latency": round(row.latency, 4)}
    del found["group"]
    cost = found.pop("cost_nanousd")
    return found | {"cost_usd": cost / NANO}


def timeline(line: UsageTimeline, unit: int = 1) -> dict[str, Any]:
    """Lines for a plot, the largest first; if there are many, the smaller ones are added up."""
    ordered = sorted(line.lines.items(), key=lambda named: (-sum(named[1]), named[0]))
    kept, rest = ordered[:_MOST_LINES], ordered[_MOST_LINES:]
    if rest:
        kept.append((OTHERS, [sum(values) for values in zip(*(each for _, each in rest), strict=True)]))
    return {
        "period": line.period,
        "starts": [datetime.fromisoformat(start).astimezone().timestamp() for start in line.starts],
        "lines": [{"name": name, "values": [value / unit for value in values]} for name, values in kept],
    }


_EMPTY: dict[str, Any] = {"period": "hour", "starts": [], "lines": []}


def _dimensions(said: Sequence[str]) -> tuple[Dimension, ...]:
    unknown = [name for name in said if name not in DIMENSIONS]
    if unknown:
        raise ValueError(f"by: choose from {', '.join(DIMENSIONS)}")
    return cast("tuple[Dimension, ...]", tuple(dict.fromkeys(said)))


def _line_of(said: str) -> LineOf:
    found = next((name for name in _LINES if name == said), None)
    if found is None:
        raise ValueError(f"lines: choose from {', '.join(_LINES)}")
    return found


def _no_formula(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
