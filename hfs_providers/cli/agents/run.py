"""`agents run`: reads work items as JSON lines, prints results as JSON lines, and writes events to a file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfs_providers.cli import output

if TYPE_CHECKING:
    from hfs_providers.agents import Batch, Role, Subscription, Supervisor, WorkItem, WorkResult

UNUSABLE = 2
"""The exit code for wrong usage, and if the items cannot be read."""
NOBODY = 3
"""The exit code if no agent is available for the work."""


@dataclass(frozen=True)
class Options:
    """The options of the command, with None as the role of the pipeline."""

    role: Role | None
    workers: int = 1
    max_concurrent_agents: int | None = None
    min_confidence: float | None = None
    events: Path | None = None
    resume: Path | None = None


@dataclass
class Tally:
    """The numbers of items by result."""

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    interrupted: int = 0
    """The exit code of the signal that ended it, or 0."""

    @property
    def done(self) -> int:
        """How many items have a result."""
        return self.succeeded + self.failed + self.cancelled


def run(source: str, options: Options) -> int:
    """Work through the items of a file, or of stdin if it is `-`. Returns the exit code."""
    if source == "-" and sys.stdin is None:
        output.fail("stdin is closed", "Give a file of work items, or pipe them in", code=UNUSABLE)
    try:
        # Opened by Python itself, which refuses a directory.
        given = None if source == "-" else open(source, "rb", buffering=0)  # noqa: SIM115  closed below
        answered = set() if options.resume is None else _answered(options.resume)
        journal = None if options.events is None else options.events.open("w", encoding="utf-8")
    except OSError as error:
        output.fail(f"{error.filename or source} cannot be opened: {error.strerror}", code=UNUSABLE)
    fd = sys.stdin.fileno() if given is None else given.fileno()
    try:
        return asyncio.run(_run(fd, "stdin" if given is None else source, options, journal, answered))
    finally:
        for file in (given, journal):
            if file is not None:
                file.close()


def _answered(path: Path) -> set[str]:
    from hfs_providers.agents import ContractError, answered_in

    try:
        answered = answered_in(path)
    except ContractError as error:
        output.fail(str(error), "Give the file that the results of an earlier run were written to", code=UNUSABLE)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        # If this run appends to the same file, a line that a crash left incomplete has to end first.
        if size and file.read() != b"\n" and os.path.sameopenfile(file.fileno(), sys.stdout.fileno()):
            print(flush=True)
    return answered


async def _run(fd: int, source: str, options: Options, journal: Any, answered: set[str]) -> int:
    from hfs_providers.agents import PIPELINE, Batch, Supervisor, max_concurrent_agents, run_pipeline
    from hfs_providers.core.inventory import take_inventory

    role = options.role
    roles: Sequence[Role] = PIPELINE if role is None else (role,)
    at_once = max_concurrent_agents(take_inventory().settings.env, options.max_concurrent_agents)
    least = options.min_confidence
    pipeline = run_pipeline if least is None else partial(run_pipeline, min_confidence=least)
    supervisor = Supervisor(dict.fromkeys(roles, options.workers), max_concurrent_agents=at_once)

    async def do(item: WorkItem) -> WorkResult:
        if role is None:
            return await pipeline(supervisor, item)
        return await supervisor.work(role, item)

    writing = None if journal is None else asyncio.create_task(_write(supervisor.events(), journal))
    batch, tally = Batch(do, answered), Tally()
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
    if batch.error is not None:
        output.note(f"Error: {source} cannot be read to the end: {batch.error.strerror}")
        return UNUSABLE
    return 1 if tally.failed or tally.cancelled else 0


async def _results(batch: Batch, fd: int, tally: Tally) -> None:
    from hfs_providers.agents import CANCELLED

    # Results that go to the terminal would stand between the pieces of the bar.
    with output.progress(sys.stderr.isatty() and not sys.stdout.isatty()) as bar:
        task = bar.add_task("working", total=None)
        async for result in batch.results(fd):
            tally.succeeded += result.success
            tally.cancelled += result.error == CANCELLED
            tally.failed += not result.success and result.error != CANCELLED
            print(json.dumps(result.dump(), ensure_ascii=False), flush=True)
            words = "working" if not tally.failed else f"working, {tally.failed} failed"
            total = batch.read if batch.all_read else None
            bar.update(task, description=words, completed=tally.done, total=total)
    counts = [f"{tally.succeeded} succeeded", f"{tally.failed} failed"]
    if tally.cancelled:
        counts.append(f"{tally.cancelled} cancelled")
    if batch.skipped:
        counts.append(f"{batch.skipped} skipped because they were answered before")
    output.note(f"{batch.read} items: {', '.join(counts)}")


@contextmanager
def _signals(supervisor: Supervisor, batch: Batch, tally: Tally) -> Iterator[None]:
    """After a signal, the items that were read are answered as cancelled, and then the command ends."""
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
