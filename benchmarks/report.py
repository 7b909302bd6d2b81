"""The results, as a table for the terminal, as JSON, and as the table in the documentation."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.figures import Measured, Row, rows_of

_PACKAGES = (
    "hfs-providers",
    "agno",
    "groq",
    "cerebras-cloud-sdk",
    "google-genai",
    "openai",
    "httpx",
    "httpx2",
    "aiohttp",
    "keycycle",
    "litellm",
)
_END = "<!-- the end of the table -->"


def machine() -> dict[str, Any]:
    """Where it was measured. The load shows whether the machine was busy."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def as_json(measured: Mapping[str, Measured], about: Mapping[str, Any]) -> dict[str, Any]:
    """The results: each row with its goal and whether it is met."""
    rows = []
    for row in rows_of(measured):
        found = measured[row.id]
        rows.append(
            {
                "title": row.title,
                "goal": f"{row.sense} {row.goal:g}{row.unit and ' '}{row.unit}",
                "met": None if found.value is None else row.met(found.value),
                "unit": row.unit,
                **found.as_json(),
            }
        )
    return {"about": dict(about), "rows": rows}


def terminal_table(measured: Mapping[str, Measured]) -> Table:
    """The table for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure", max_width=36)
    table.add_column("goal", justify="right", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("met", no_wrap=True)
    table.add_column("in the same run", overflow="fold")
    for row in rows_of(measured):
        found = measured[row.id]
        met = {True: "[green]yes[/]", False: "[bold red]NO[/]", None: "-"}[
            None if found.value is None else row.met(found.value)
        ]
        beside = "; ".join([*_beside(row, found), *([f"[dim]{found.note}[/]"] if found.note else [])])
        table.add_row(row.title, _goal(row), _value(row, found), met, beside)
    return table


def write_document(path: Path, measured: Mapping[str, Measured], about: Mapping[str, Any]) -> None:
    """Put the table where the document has a place for it."""
    if path.exists():
        put_table(path, "benchmarks", _markdown(measured, about))


def put_table(path: Path, module: str, table: str) -> None:
    """Replace the table that a document has of a module.

    Raises:
        ValueError: it has no place for it.
    """
    mark = f"<!-- the table: written by python -m {module} -->"
    before, begin, rest = path.read_text(encoding="utf-8").partition(mark)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{path.name} has no place for the table: it needs the lines {mark} and {_END}")
    path.write_text(f"{before}{begin}\n\n{table}\n{end}{after}", encoding="utf-8")


def _markdown(measured: Mapping[str, Measured], about: Mapping[str, Any]) -> str:
    lines = ["| figure | goal | measured | met | in the same run |", "|---|---|---|---|---|"]
    for row in rows_of(measured):
        found = measured[row.id]
        met = "" if found.value is None else "yes" if row.met(found.value) else "**no**"
        value = _value(row, found) if found.value is not None else "not measured"
        beside = "; ".join([*_beside(row, found), *([found.note] if found.note else [])])
        lines.append(f"| {row.title} | {_goal(row)} | {value} | {met} | {beside} |")
    packages = ", ".join(f"{name} {version}" for name, version in about.get("packages", {}).items())
    where = f"{about.get('system')}, {about.get('cpus')} CPUs, Python {about.get('python')}"
    return "\n".join([*lines, "", f"Measured {str(about.get('at'))[:10]} on {where}; {packages}.", ""])


def _goal(row: Row) -> str:
    sign = "<=" if row.sense == "at most" else ">="
    return f"{sign} {row.goal:g}{row.unit and ' '}{row.unit}"


def _value(row: Row, found: Measured) -> str:
    if found.value is None:
        return "-"
    text = f"{_number(found.value, row)}{row.unit and ' '}{row.unit}"
    if found.low is not None and found.high is not None:
        text += f" ({_number(found.low, row)} to {_number(found.high, row)})"
    return text


def _beside(row: Row, found: Measured) -> Iterable[str]:
    for name, value in found.alternatives.items():
        if isinstance(value, str):
            yield f"{name}: {value}"
            continue
        label, _, own_unit = name.partition(", ") if row.unit == "" else (name, "", "")
        unit = own_unit or row.unit
        yield f"{label} {_short(value)}{unit and ' '}{unit}"


def _number(value: float, row: Row) -> str:
    return f"{value:.3f}" if not row.unit else _short(value)


def _short(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
