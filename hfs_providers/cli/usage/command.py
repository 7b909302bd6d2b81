"""`usage` and `usage prune`: what was used, by whom and when; and deleting old rows.

JSON of `usage`: `database` (the file, or null), `since`, `until` (ISO; null is open), `exact` (false if rows of an
end were pruned and the span is wider, by less than 15 minutes), `by`, `rows` (each with the fields that `by` names, and
`requests`, `ok`, `tokens_in`, `tokens_out`, `tokens`, `tokens_cached` (those of `tokens_in` that came from a provider's
cache), `cost_usd` (of those with a price), `unpriced` (those without), `latency` (mean seconds)), `total` (the same
without the fields of `by`).
With `--cost` also `budgets`: see `budget_records`.
CSV: the rows, with a heading.

JSON of `usage prune`: `before` (ISO), `pruned`, `kept` (rows as old that were not forwarded to every database yet),
`done` (false with `--dry-run`).
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output, spans
from hfs_providers.cli.commands import Command, DefaultGroup
from hfs_providers.cli.table import Column
from hfs_providers.cli.usage.budgets import budget_records, print_budgets
from hfs_providers.cli.usage.chart import COST, REQUESTS, bar, columns
from hfs_providers.cli.usage.send import send
from hfs_providers.money.prices import NANO

if TYPE_CHECKING:
    from hfs_providers.usage import Store, UsageReport, UsageTimeline, UsageTotal, UsageTotals

_DIMENSIONS = ("provider", "model", "key", "fingerprint", "client", "outcome", "hour", "day")
_BAR = 16
_UNPRICED = (
    "Without a price: {:,} of {:,} requests. They are not part of the cost. Prices come from genai-prices (pip install "
    "'hfs-providers[prices]') and from [prices] in the TOML file."
)
_LONGEST_TABLE = 400
"""The most rows that are printed."""

app = typer.Typer(cls=DefaultGroup, name="usage", help="Show what was used; send and prune it.", add_completion=False)


@app.command(cls=Command)
def usage(
    by: Annotated[
        list[str] | None,
        typer.Option(help=f"Group by {', '.join(_DIMENSIONS)}; several with commas.", show_default="provider,model"),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only requests since then: 24h, 7d, or an ISO date or time.", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Only requests before then, written as for --since.", show_default=False)
    ] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Only this provider.", show_default=False)] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model.", show_default=False)] = None,
    client: Annotated[list[str] | None, typer.Option(help="Only this client.", show_default=False)] = None,
    cost: Annotated[bool, typer.Option("--cost", help="Show what requests cost, also in the charts.")] = False,
    as_json: output.JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of tables.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also write a chart to this file: .svg or .png (needs matplotlib).", show_default=False),
    ] = None,
) -> None:
    """Show what was used, in tables and over time. Also: usage send, usage prune."""
    from hfs_providers.usage import UsageReport

    if as_json and as_csv:
        output.fail("--json and --csv exclude each other", code=2)
    wanted: dict[str, Any] = {
        "since": spans.moment(since, "--since"),
        "until": spans.moment(until, "--until"),
        "providers": [name.lower() for name in provider or []],
        "models": model or [],
        "clients": client or [],
    }
    names: Any = _dimensions(by or ["provider,model"])
    if plot is not None:
        _check_plot(plot)
    store = _store(as_json or as_csv)
    report = UsageReport(store)
    found = report.totals(names, **wanted)
    if as_json:
        output.print_json(_record(store.path, found) | ({"budgets": budget_records(report)} if cost else {}))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([*found.by, *_numbers(found.total)])
        writer.writerows([*row.group, *_numbers(row).values()] for row in found.rows)
    else:
        _print_usage(found, _timeline(report, found, wanted, cost) if found.rows else None, cost)
        if not found.rows:
            print(f"No requests {_when(found)} in {store.path}")
        if cost:
            print_budgets(budget_records(report))
    if plot is not None:
        _draw(plot, found, _timeline(report, found, wanted, cost), cost)
    if not found.exact:
        output.note("Rows at an end of this span were pruned: it was widened to whole quarters of an hour.")


def _dimensions(said: Sequence[str]) -> tuple[str, ...]:
    names = [name.strip().lower().removesuffix("s") for each in said for name in each.split(",") if name.strip()]
    for name in names:
        if name not in _DIMENSIONS:
            output.fail(f"--by: there is no {name!r}", f"Choose from {', '.join(_DIMENSIONS)}", code=2)
    return tuple(dict.fromkeys(names))


def _store(quiet: bool = False) -> Store:
    """The file that the environment names. Ends the command if there is none."""
    from hfs_providers.core.inventory import take_inventory
    from hfs_providers.usage import Store
    from hfs_providers.usage.location import Places

    places = Places.of(take_inventory().settings.env)
    path = places.path
    if path is None:
        assert places.unkept is not None, "there is a reason"
        output.fail(places.unkept.message, places.unkept.remedy)
    if not path.exists():
        # A report creates no file.
        output.fail(f"no usage has been kept yet: there is no {path}", "Make a call, such as: hfs-providers ask Hello")
    store = Store(path)
    if store.moved is not None:
        output.note(f"{path} was corrupt: it is now {store.moved}, and a new file was begun.")
    return store


def _timeline(report: UsageReport, found: UsageTotals, wanted: Mapping[str, Any], cost: bool) -> UsageTimeline:
    by: Any = next((name for name in found.by if name not in ("hour", "day")), "provider")
    return report.timeline(by, of="cost_nanousd" if cost else "requests", **wanted)


def _when(found: UsageTotals) -> str:
    since, until = (None if at is None else spans.iso(at) for at in (found.since, found.until))
    named = [f"from {output.local_time(since)}" if since else "", f"until {output.local_time(until)}" if until else ""]
    return " ".join(name for name in named if name) or "so far"


def _numbers(row: UsageTotal) -> dict[str, Any]:
    numbers = row._asdict() | {"latency": round(row.latency, 4), "cost_nanousd": row.cost_nanousd / NANO}
    del numbers["group"]
    return {"cost_usd" if name == "cost_nanousd" else name: number for name, number in numbers.items()}


def _record(path: Path, found: UsageTotals) -> dict[str, Any]:
    return {
        "database": str(path),
        "since": spans.iso(found.since),
        "until": spans.iso(found.until),
        "exact": found.exact,
        "by": list(found.by),
        "rows": [{**dict(zip(found.by, row.group, strict=True)), **_numbers(row)} for row in found.rows],
        "total": _numbers(found.total),
    }


def _print_usage(found: UsageTotals, line: UsageTimeline | None, cost: bool) -> None:
    if line is None:
        return
    timed = {"hour", "day"} & set(found.by)
    size = attrgetter("cost_nanousd" if cost else "requests")
    rows = list(found.rows) if timed else sorted(found.rows, key=size, reverse=True)
    most = max(map(size, rows))
    # Of hours and days the last ones, otherwise the largest.
    more, rows = len(rows) - _LONGEST_TABLE, rows[-_LONGEST_TABLE:] if timed else rows[:_LONGEST_TABLE]
    cells = [[*map(_readable, found.by, row.group), *_cells(row, cost), bar(size(row), most, _BAR)] for row in rows]
    if len(rows) > 1:
        cells.append(["all", *[" "] * (len(found.by) - 1), *_cells(found.total, cost), " "])
    # Model ids are the longest; one that comes first names its row.
    first = found.by[0]
    divided = [Column(name, give=5 if name == "model" != first else 0, how="below") for name in found.by]
    headings: list[Column | str] = [
        ">requests",
        ">failed",
        Column("tokens in", right=True, give=2),
        Column("cached", right=True, give=6),
        Column("tokens out", right=True, give=3),
        ">tokens",
        Column("mean ms", right=True, give=4),
        Column("", give=1),
    ]
    if cost:
        headings[6:7] = [">cost", ">unpriced"]
    print(f"Usage {_when(found)}\n")
    output.print_table(None, [*divided, *headings], cells)
    if more > 0:
        output.note(f"{more:,} more rows are not shown here; --csv and --json have them all.")
    if cost and found.total.unpriced:
        output.note(_UNPRICED.format(found.total.unpriced, found.total.requests))
    values = [sum(each) for each in zip(*line.lines.values(), strict=True)]
    if len(values) > 1:
        print()
        measure = COST if cost else REQUESTS
        print("\n".join(columns(values, line.starts, line.period, output.console().width, measure=measure)))


def _readable(name: str, value: str) -> str:
    return value[:16].replace("T", " ") if name == "hour" else value or "-"


def _cells(row: UsageTotal, cost: bool) -> list[object]:
    cached = f"{row.tokens_cached / row.tokens_in:.0%}" if row.tokens_cached else "-"
    counts = (row.requests, row.requests - row.ok, row.tokens_in, cached, row.tokens_out, row.tokens)
    last = [COST.written(row.cost_nanousd), f"{row.unpriced:,}"] if cost else [f"{row.latency * 1000:,.0f}"]
    return [*(f"{count:,}" if isinstance(count, int) else count for count in counts), *last]


def _check_plot(path: Path) -> None:
    from importlib.util import find_spec

    if path.suffix.lower() not in (".svg", ".png"):
        output.fail(f"--plot: {path} is neither .svg nor .png", "Use one of these endings", code=2)
    if find_spec("matplotlib") is None:
        output.fail("--plot needs matplotlib", "Run: pip install 'hfs-providers[plot]'")


def _draw(path: Path, found: UsageTotals, line: UsageTimeline, cost: bool) -> None:
    from hfs_providers.cli.usage.plot import draw

    total = found.total
    words = f"{COST.written(total.cost_nanousd)}, {total.unpriced:,} unpriced" if cost else f"{total.requests:,}"
    try:
        draw(path, line, f"{words} {_when(found)}", COST if cost else REQUESTS)
    except OSError as error:
        output.fail(f"{path} cannot be written: {error.strerror}", "Name another file with --plot")
    output.note(f"Chart written to {path}")


@app.command(cls=Command)
def prune(
    before: Annotated[
        str | None, typer.Option(help="Rows older than this: 30d, or an ISO date or time.", show_default=False)
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Rows older than this span, such as 30d.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show how many rows would be deleted.")] = False,
    as_json: output.JsonOption = False,
) -> None:
    """Delete old rows but keep their totals, by quarters of an hour.

    Rows that were not yet forwarded to every database stay, and so do those of the last two days.
    """
    from hfs_providers.core.inventory import take_inventory
    from hfs_providers.core.storage_status import storage_status
    from hfs_providers.usage import prunable
    from hfs_providers.usage import prune as delete
    from hfs_providers.usage.retention import NEEDED

    if (before is None) == (keep is None):
        output.fail("say how old: --before or --keep", "hfs-providers usage prune --keep 30d", code=2)
    cut = spans.moment(before, "--before") if keep is None else spans.ago(keep, "--keep")
    assert cut is not None, "one of them was given"
    if cut > (youngest := time.time() - NEEDED):
        output.note("Rows of the last two days count against limits per day and stay.")
        cut = youngest
    store = _store(as_json)
    targets = [target.name for target in storage_status(take_inventory().settings.env).targets]
    rows, kept = prunable(store, cut, targets=targets)
    if not as_json:
        waiting = f"; {kept:,} more wait to be forwarded and stay" if kept else ""
        print(f"{rows:,} rows in {store.path} are from before {output.local_time(spans.iso(cut))}{waiting}.")
    if rows and not dry_run:
        if not yes and not _agreed(rows):
            output.fail("nothing was deleted", "Run it with --yes")
        rows = delete(store, cut, targets=targets)
    if as_json:
        output.print_json({"before": spans.iso(cut), "pruned": rows, "kept": kept, "done": not dry_run})
    elif rows and not dry_run:
        print(f"{rows:,} rows were deleted. The file keeps its size; new rows fill it.")


def _agreed(rows: int) -> bool:
    if not sys.stdin.isatty():
        return False
    return typer.confirm(f"Delete {rows:,} rows?", err=True)


app.command(cls=Command)(send)
