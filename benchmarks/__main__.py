"""Measure everything, print the table, write the results and the plot: `python -m benchmarks [--quick]`."""

# ruff: noqa: S603  the processes started here are this interpreter's own modules

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.figures import ROWS, Measured, from_json, rows_of
from benchmarks.group import GROUPS
from benchmarks.plot import svg
from benchmarks.report import as_json, machine, terminal_table, write_document

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
PLOT = ROOT / "docs" / "benchmarks.svg"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
_WITHIN, _QUICK_WITHIN = 240, 60
# Variables that would bring in a user's own keys, settings or proxies, or have each start compile the modules.
_FOREIGN = ("NUM_", "HFS_", "EXPECTED_", "TIDB_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PYTHONDONTWRITE")


def main() -> int:
    """Returns 0 if every figure that was measured reaches its goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="rough figures within a minute; writes nothing")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), help="only these groups; writes nothing")
    parser.add_argument("--render", action="store_true", help="write plot and table again from the last results")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    if arguments.render:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
        measured, about = {row["id"]: from_json(row) for row in results["rows"]}, results["about"]
    else:
        about = machine()
        if about["load"] and about["load"][0] > 1:
            console.print(f"[yellow]this machine is busy (load {about['load'][0]}): expect noise[/]")
        measured = _measure(console, arguments.only or list(GROUPS), arguments.quick)
    console.print(terminal_table(measured))
    values = {row: measured[row.id].value for row in rows_of(measured)}
    met = sum(value is not None and row.met(value) for row, value in values.items())
    absent = sum(value is None for value in values.values())
    missed = len(values) - met - absent
    console.print(f"{met} met, {missed} missed, {absent} not measured")
    if arguments.render or not (arguments.quick or arguments.only):
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(as_json(measured, about), indent=1) + "\n", encoding="utf-8")
        PLOT.write_text(svg(measured), encoding="utf-8")
        write_document(DOCUMENT, measured, about)
        console.print(f"written: {', '.join(str(path.relative_to(ROOT)) for path in (RESULTS, PLOT, DOCUMENT))}")
    return 1 if missed else 0


def _measure(console: Console, names: list[str], quick: bool) -> dict[str, Measured]:
    measured: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            begin = time.perf_counter()
            console.print(f"[dim]{name} ...[/]", end="")
            rows, failure = _run(name, Path(directory), quick)
            for row in ROWS:
                if row.id.startswith(GROUPS[name].rows):
                    measured[row.id] = rows.get(row.id) or Measured(row.id, note=f"failed: {failure}")
            console.print(f"[dim] {time.perf_counter() - begin:.0f} s[/]" + (f" [red]{failure}[/]" if failure else ""))
    return measured


def _run(name: str, directory: Path, quick: bool) -> tuple[dict[str, Measured], str]:
    target = directory / f"{name}.json"
    program = [sys.executable, "-m", "benchmarks.group", name, str(target), *(["--quick"] if quick else [])]
    process = subprocess.Popen(
        program,
        cwd=directory,
        env=_environment(directory),
        stdin=subprocess.DEVNULL,
        # Agno logs to stdout.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = process.communicate(timeout=_QUICK_WITHIN if quick else _WITHIN)
    except subprocess.TimeoutExpired:
        # Its own children end when it does: they wait on pipes from it.
        process.kill()
        process.communicate()
        return {}, "took too long"
    except BaseException:
        process.kill()
        raise
    if process.returncode or not target.exists():
        return {}, (errors.strip().splitlines() or ["it ended without a message"])[-1][:200]
    return {row["id"]: from_json(row) for row in json.loads(target.read_text())}, ""


def _environment(directory: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(_FOREIGN) and "API_KEY" not in name.upper()
    }
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "HFS_USAGE_DB": str(directory / "usage.db"),
        "XDG_CONFIG_HOME": str(directory),
        "XDG_STATE_HOME": str(directory),
        # Without it, LiteLLM downloads prices when it is imported.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


if __name__ == "__main__":
    sys.exit(main())
