"""Measure the dashboard at size, and print the table: `python -m benchmarks.dashboard [--rows N] [--keys N]`.

It needs Chromium and its driver. A file of ten million rows takes some minutes; `--in DIR` keeps it for the next time.
"""

# ruff: noqa: S603  the process started here is ours

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.dashboard.large_machine import asked, large_machine
from benchmarks.dashboard.pages import PAGES, Visit, browser, requests_of, visit
from benchmarks.dashboard.queries import queries
from benchmarks.gateway.load import Address
from benchmarks.gateway.subjects import Subject
from benchmarks.report import machine
from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import Store
from hfs_providers.usage.row_writer import write_rows

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

_VISITS = 5
_A_SECOND = 4
"""Requests that end while a page is watched."""


class Figure(NamedTuple):
    """A row of the table; None is no goal."""

    name: str
    value: float
    unit: str
    goal: float | None = None

    @property
    def met(self) -> bool:
        """Whether it reaches its goal."""
        return self.goal is None or self.value <= self.goal


def main() -> int:
    """Returns 0 if every figure reaches its goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="requests of a month")
    parser.add_argument("--keys", type=int, default=5_000, help="keys of four providers together")
    parser.add_argument("--in", type=Path, dest="folder", metavar="DIR", help="where the file is made, and kept")
    parser.add_argument("--watch", type=float, default=60.0, metavar="SECONDS", help="how long a page is left open")
    parser.add_argument("--driver", default=os.environ.get("HFS_TEST_CHROMIUM") or shutil.which("chromedriver"))
    options = parser.parse_args()
    if options.driver is None:
        parser.error("chromedriver is not installed: name it with --driver")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    with tempfile.TemporaryDirectory() as made:
        folder: Path = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        console.print(f"[dim]{options.rows} rows of {options.keys} keys[/]")
        env = large_machine(folder, options.keys, options.rows)
        console.print(f"[dim]load of the machine: {machine()['load']}[/]")
        figures = [*_pages(env, options.driver, options.watch), *_queries(env)]
    console.print(_table(figures))
    return 0 if all(figure.met for figure in figures) else 1


def _pages(env: Mapping[str, str], driver: str, seconds: float) -> Iterator[Figure]:
    with _served(env) as (server, address), browser(driver) as page:
        # Nothing is cached yet.
        first = visit(page, address, "overview")
        yield Figure("first visit: first paint", first.painted, "ms", 300)
        yield Figure("first visit: time until its numbers are shown", first.stood, "ms")
        for name in PAGES:
            visits = [visit(page, address, name) for _ in range(_VISITS)]
            found = Visit(*(statistics.median(each) for each in zip(*visits, strict=True)))
            yield Figure(f"{name}: first paint", found.painted, "ms", 300)
            yield Figure(f"{name}: time until its numbers are shown", found.stood, "ms")
            yield Figure(f"{name}: requests, files included", found.requests, "")
            yield Figure(f"{name}: sent, with nothing kept", found.sent / 1e3, "kB", 150)
        for name in ("overview", "keys"):
            visit(page, address, name)
            cpu, requests, sent = _watched(server, page, env, seconds)
            yield Figure(f"{name}, a minute of it: server's core", cpu * 60 / seconds, "s")
            yield Figure(f"{name}, a minute of it: requests", requests * 60 / seconds, "")
            yield Figure(f"{name}, a minute of it: sent", sent / 1e3 * 60 / seconds, "kB")
        yield Figure("memory of the server", server.memory, "MB")


def _watched(server: Subject, page: WebDriver, env: Mapping[str, str], seconds: float) -> tuple[float, int, int]:
    """What it costs to leave a page open: seconds of a core, requests, bytes."""
    requests_of(page)
    ended = threading.Event()
    writing = threading.Thread(target=_ask, args=(env, ended))
    writing.start()
    cpu = server.cpu
    time.sleep(seconds)
    cpu = server.cpu - cpu
    ended.set()
    writing.join()
    return cpu, *requests_of(page)


def _ask(env: Mapping[str, str], ended: threading.Event) -> None:
    who = asked(env)
    with closing(Store(env["HFS_USAGE_DB"]).connect()) as connection:
        number = 0
        while not ended.wait(1 / _A_SECOND):
            number += 1
            write_rows(connection, [UsageRow(time.time(), *who[number % len(who)], 7, 3, 10, 0.5, "ok", 10)])


def _queries(env: Mapping[str, str]) -> Iterator[Figure]:
    for name, milliseconds in queries(env):
        yield Figure(f"query: {name}", milliseconds, "ms", 500 if name.startswith("capacity") else None)


@contextmanager
def _served(env: Mapping[str, str]) -> Iterator[tuple[Subject, str]]:
    """`hfs-providers dashboard` and its address."""
    command = [sys.executable, "-m", "hfs_providers", "dashboard", "--no-open", "--port", "0", "--read-only"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUM_", "HFS_"))}
    with subprocess.Popen(command, env={**kept, **env}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            yield Subject("dashboard", Address(urlsplit(address).port or 0, "/", ""), process), address
        finally:
            process.terminate()


def _table(figures: Sequence[Figure]) -> Table:
    table = Table("figure", "goal", "measured", "met")
    for figure in figures:
        goal = "-" if figure.goal is None else f"<= {figure.goal:.0f} {figure.unit}"
        told = "-" if figure.goal is None else "yes" if figure.met else "no"
        table.add_row(figure.name, goal, f"{figure.value:.0f} {figure.unit}", told)
    return table


if __name__ == "__main__":
    sys.exit(main())
