"""Measure the gateway and print the table: `python -m benchmarks.gateway [--rivals litellm portkey]`."""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gateway.load import Address, load, paced, streams
from benchmarks.gateway.provider import BETWEEN, CHUNKS
from benchmarks.gateway.subjects import RIVALS, Subject, ours, provider
from benchmarks.report import machine, put_table

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "gateway.md"
_CONNECTIONS = 32
_PACED = 10
_PAUSE = BETWEEN * CHUNKS
"""Seconds between two streams, and so between requests that are to be compared with them."""

_LOST = 0.1
"""Seconds of rows that a `kill -9` may cost."""


@dataclass
class Figures:
    """What was measured of one gateway, in seconds and megabytes."""

    added: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    paced: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    memory: float = 0.0
    grown: float = 0.0


def main() -> int:
    """Returns 0 if every figure of ours reaches its goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument(
        "--rivals", nargs="+", choices=list(RIVALS), default=[], help="measured, too; each is installed"
    )
    parser.add_argument("--rivals-in", type=Path, default=Path.home() / ".cache" / "hfs-benchmarks", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each figure, in turns")
    parser.add_argument("--requests", type=int, default=20_000, help="requests before memory is measured")
    parser.add_argument("--write", action="store_true", help="put the table into docs/gateway.md")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    about = machine()
    if about["load"] and about["load"][0] > 1:
        console.print(f"[yellow]this machine is busy (load {about['load'][0]}): expect noise[/]")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(provider())
        direct = Subject("direct", Address(upstream, "/v1/chat/completions", "m"), None)
        subjects = [stack.enter_context(ours(upstream, directory))]
        subjects += [stack.enter_context(RIVALS[name](upstream, options.rivals_in)) for name in options.rivals]
        figures = _measure(console, direct, subjects, options.rounds, options.requests)
        with ours(upstream, directory):
            shared = _shared(direct, subjects[0])
        alone = load(direct.address, _CONNECTIONS, seconds=2).rate
        lost = _lost_rows(subjects[0], upstream, directory / "usage.db")
    rows = _rows(figures, lost, options.requests)
    notes = [
        f"While another process shares the keys by the file: {shared}.",
        f"The provider alone answers {alone:.0f} requests/s; it and the load share the machine with each gateway.",
        *(f"{each.name} did not stream." for each, found in zip(subjects, figures, strict=True) if not found.first),
    ]
    console.print(_table(rows, subjects))
    console.print(*notes, sep="\n")
    if options.write:
        lines = [*_markdown(rows, subjects), "", *notes, _where(about), ""]
        put_table(_DOCUMENT, "benchmarks.gateway", "\n".join(lines))
    return 0 if all(row.met for row in rows) else 1


def _measure(
    console: Console, direct: Subject, subjects: Sequence[Subject], rounds: int, requests: int
) -> list[Figures]:
    figures = [Figures() for _ in subjects]
    for number in range(rounds):
        console.print(f"[dim]round {number + 1} of {rounds}[/]")
        alone = statistics.median(load(direct.address, 1, seconds=1).latencies)
        bare_paced = statistics.median(paced(direct.address, _PACED, _PAUSE))
        bare_first, bare_later, bare_gaps = _streamed(direct)
        # Another one begins in each round.
        order = [(number + place) % len(subjects) for place in range(len(subjects))]
        for subject, found in ((subjects[place], figures[place]) for place in order):
            found.added.append(statistics.median(load(subject.address, 1, seconds=1).latencies) - alone)
            before = subject.cpu
            run = load(subject.address, _CONNECTIONS, seconds=2)
            if run.failures:
                raise RuntimeError(f"{subject.name}: {run.failures[0]}")
            found.rates.append(run.rate)
            found.cpu.append((subject.cpu - before) / len(run.latencies))
            found.paced.append(statistics.median(paced(subject.address, _PACED, _PAUSE)) - bare_paced)
            try:
                first, later, gaps = _streamed(subject)
            except ConnectionError as error:
                console.print(f"[yellow]{subject.name} does not stream: {str(error).splitlines()[0]}[/]")
            else:
                found.first.append(first - bare_first)
                found.later.append(later - bare_later)
                found.gaps.append(gaps - bare_gaps)
    for subject, found in zip(subjects, figures, strict=True):
        console.print(f"[dim]{requests} requests to {subject.name}[/]")
        load(subject.address, _CONNECTIONS, requests=requests // 10)
        early = subject.memory
        load(subject.address, _CONNECTIONS, requests=requests)
        found.memory = subject.memory
        found.grown = found.memory - early
    return figures


def _shared(direct: Subject, subject: Subject) -> str:
    """What a request costs while another process uses the keys: each is reserved in the file."""
    alone = statistics.median(load(direct.address, 1, seconds=1).latencies)
    added = statistics.median(load(subject.address, 1, seconds=2).latencies) - alone
    rate = load(subject.address, _CONNECTIONS, seconds=3).rate
    return f"{added * 1e3:.2f} ms added, {rate:.0f} requests/s"


def _streamed(subject: Subject) -> tuple[float, float, float]:
    """Medians over some streams: seconds to the first chunk of short streams and of slow ones, and by how much a gap
    between chunks is off."""
    firsts, _ = streams(subject.address, 200, short=True)
    laters, lags = streams(subject.address, 10)
    gaps = [abs(later - earlier) for each in lags for earlier, later in pairwise(each)]
    # The first opens a connection to the provider.
    return statistics.median(firsts[1:]), statistics.median(laters[1:]), statistics.median(gaps)


def _lost_rows(subject: Subject, upstream: int, usage: Path) -> int:
    """Requests older than 100 ms at a `kill -9` that have no row."""
    assert subject.process is not None
    process = subject.process
    killed: list[float] = []

    def kill() -> None:
        killed.append(time.time())
        process.send_signal(signal.SIGKILL)

    threading.Timer(1.0, kill).start()
    load(subject.address, _CONNECTIONS, seconds=3)
    process.wait()
    with urllib.request.urlopen(f"http://127.0.0.1:{upstream}/sent") as answer:
        sent = json.load(answer)
    # The last second, in which nobody else sent anything.
    since = killed[0] - 0.9
    due = sum(since <= moment < killed[0] - _LOST for moment in sent)
    with sqlite3.connect(usage) as connection:
        (kept,) = connection.execute("SELECT count(*) FROM usage WHERE at >= ?", (since,)).fetchone()
    return max(0, due - int(kept))


@dataclass
class Row:
    """A row of the table."""

    name: str
    goal: str
    reached: Callable[[float], bool]
    shown: str
    values: list[float | None]

    @property
    def met(self) -> bool:
        """Whether ours reaches the goal."""
        return self.values[0] is not None and self.reached(self.values[0])


def _rows(figures: Sequence[Figures], lost: int, requests: int) -> list[Row]:
    def medians(name: str, scale: float = 1.0) -> list[float | None]:
        values = (getattr(found, name) for found in figures)
        return [statistics.median(each) * scale if each else None for each in values]

    return [
        Row("added to a request, one at a time, ms", "<= 0.5", lambda v: v <= 0.5, "{:.2f}", medians("added", 1e3)),
        Row(f"requests/s, {_CONNECTIONS} connections", ">= 5000", lambda v: v >= 5000, "{:.0f}", medians("rates")),
        Row("CPU time per request, us", "", lambda v: True, "{:.0f}", medians("cpu", 1e6)),
        Row(
            f"added to a request {_PAUSE:.1f} s after the last, ms", "", lambda v: True, "{:.2f}", medians("paced", 1e3)
        ),
        Row(
            "added to a stream's first chunk, one at a time, ms",
            "<= 0.5",
            lambda v: v <= 0.5,
            "{:.2f}",
            medians("first", 1e3),
        ),
        Row(
            f"added to a stream's first chunk {_PAUSE:.1f} s after the last, ms",
            "",
            lambda v: True,
            "{:.2f}",
            medians("later", 1e3),
        ),
        Row("added to the gap between chunks, ms", "<= 0.1", lambda v: v <= 0.1, "{:.3f}", medians("gaps", 1e3)),
        Row(
            f"memory after {requests} requests, MB", "<= 100", lambda v: v <= 100, "{:.0f}", [f.memory for f in figures]
        ),
        Row(
            "memory growth over the last 90 % of the requests, MB",
            "",
            lambda v: True,
            "{:.1f}",
            [f.grown for f in figures],
        ),
        Row(
            "rows lost by kill -9, except the last 100 ms",
            "0",
            lambda v: v == 0,
            "{:.0f}",
            [lost, *(None for _ in figures[1:])],
        ),
    ]


def _cells(rows: Sequence[Row], subjects: Sequence[Subject]) -> list[list[str]]:
    """The table line by line, its head first."""
    found = [["figure", "goal", *(subject.name for subject in subjects), "met"]]
    for row in rows:
        values = [row.shown.format(value) if value is not None else "-" for value in row.values]
        found.append([row.name, row.goal or "-", *values, "yes" if row.met else "no"])
    return found


def _table(rows: Sequence[Row], subjects: Sequence[Subject]) -> Table:
    head, *lines = _cells(rows, subjects)
    table = Table(*head)
    for line in lines:
        table.add_row(*line)
    return table


def _markdown(rows: Sequence[Row], subjects: Sequence[Subject]) -> list[str]:
    head, *lines = _cells(rows, subjects)
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def _where(about: Mapping[str, Any]) -> str:
    """When and where it was measured. How fast the machine is shows in the start of an interpreter."""
    times = []
    for _ in range(11):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
        times.append(time.perf_counter() - began)
    start = f"a machine on which a bare interpreter starts in {statistics.median(times) * 1e3:.0f} ms"
    return f"Measured {about['at'][:10]} on {about['system']}, {about['cpus']} CPUs, Python {about['python']}, {start}."


if __name__ == "__main__":
    sys.exit(main())
