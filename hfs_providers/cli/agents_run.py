"""`agents run`: work items in as JSON lines, results out as JSON lines, what happens meanwhile to a file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfs_providers.cli import output

if TYPE_CHECKING:
    from hfs_providers.agents import Batch, Role, Subscription, Supervisor, WorkItem, WorkResult

NOBODY = 3
"""The exit code where no agent is available for the work."""


@dataclass
class Tally:
    """What came of the items."""

    succeeded: int = 0
    failed: int = 0
    interrupted: int = 0
    """The exit code of the signal that ended it, or 0."""


def run(source: str, role: Role | None, workers: int, events: Path | None) -> int:
    """Work through the items; the exit code.

    Args:
        source: a file, or `-` for stdin.
        role: whose work it is; None for the pipeline.
        workers: processes of each role.
        events: the file that is written with what happens.
    """
    try:
        fd = sys.stdin.fileno() if source == "-" else os.open(source, os.O_RDONLY)
        journal = None if events is None else events.open("w", encoding="utf-8")
    except OSError as error:
        output.fail(f"{error.filename or source} cannot be opened: {error.strerror}", code=2)
    try:
        return asyncio.run(_run(fd, role, workers, journal))
    finally:
        if journal is not None:
            journal.close()


async def _run(fd: int, role: Role | None, workers: int, journal: Any) -> int:
    from hfs_providers.agents import PIPELINE, Batch, Supervisor, run_pipeline

    roles: Sequence[Role] = PIPELINE if role is None else (role,)
    supervisor = Supervisor(dict.fromkeys(roles, workers))

    async def do(item: WorkItem) -> WorkResult:
        return await (run_pipeline(supervisor, item) if role is None else supervisor.work(role, item))

    writing = None if journal is None else asyncio.create_task(_write(supervisor.events(), journal))
    batch, tally = Batch(do), Tally()
    try:
        with _signals(supervisor, batch, tally):
            async with supervisor:
                missing = {name: supervisor.unavailable(name) for name in roles}
                for name, reason in missing.items():
                    if reason is not None and not tally.interrupted:
                        output.note(f"Error: no {name} is available: {reason}")
                if not any(missing.values()):
                    await _results(batch, fd, tally)
    finally:
        if writing is not None:
            await writing
    if tally.interrupted:
        return tally.interrupted
    if any(missing.values()):
        output.note("Remedy: Run: hfs-providers doctor")
        return NOBODY
    return 1 if tally.failed else 0


async def _results(batch: Batch, fd: int, tally: Tally) -> None:
    with _progress() as show:
        async for result in batch.results(fd):
            tally.succeeded += result.success
            tally.failed += not result.success
            print(json.dumps(result.dump(), ensure_ascii=False), flush=True)
            show(batch, tally)
    output.note(f"{batch.read} items: {tally.succeeded} succeeded, {tally.failed} failed")


@contextmanager
def _signals(supervisor: Supervisor, batch: Batch, tally: Tally) -> Iterator[None]:
    """At a signal the items that were read are answered as cancelled, and then the command ends."""
    loop = asyncio.get_running_loop()
    stopping: set[asyncio.Task[None]] = set()

    def stop(code: int) -> None:
        tally.interrupted = tally.interrupted or code
        batch.stop_reading()
        stopping.add(asyncio.ensure_future(supervisor.stop()))

    codes = {signal.SIGTERM: 143, signal.SIGINT: 130} if os.name == "posix" else {}
    for number, code in codes.items():
        loop.add_signal_handler(number, stop, code)
    try:
        yield
    finally:
        for number in codes:
            loop.remove_signal_handler(number)


async def _write(events: Subscription, journal: Any) -> None:
    async for event in events:
        print(event.model_dump_json(exclude_none=True), file=journal, flush=True)


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on stderr, where that is a terminal and the results do not go there, too."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda batch, tally: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Rich would take what is printed to stdout, and print it above the bar.
    with Progress(*columns, console=output.console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task("working", total=None)

        def show(batch: Batch, tally: Tally) -> None:
            words = "working" if not tally.failed else f"working, {tally.failed} failed"
            total = batch.read if batch.all_read else None
            bar.update(task, description=words, completed=tally.succeeded + tally.failed, total=total)

        yield show
