"""Many pieces of work, one JSON object per line, and their results in order of completion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from hfs_providers.agents import wire
from hfs_providers.agents.contract import CANCELLED, ContractError, WorkItem, WorkResult
from hfs_providers.agents.pipes import Input

LOOK_AHEAD: Final = 256
"""How many items are read ahead of their results. Priorities are compared among these, and they bound the memory."""


class Batch:
    """Each line gets one result, even an invalid one; blank lines are ignored.

    Args:
        answered: the `item_id` of results that exist already; their lines get none.
    """

    def __init__(
        self, do: Callable[[WorkItem], Awaitable[WorkResult]], answered: Collection[str] = frozenset()
    ) -> None:
        self._do = do
        self._answered = answered
        self._room = asyncio.Semaphore(LOOK_AHEAD)
        self._results: asyncio.Queue[WorkResult | None] = asyncio.Queue()
        self._stopped = asyncio.Event()
        self.read = 0
        """How many items were read so far, without those that were answered before."""
        self.skipped = 0
        """How many were answered before."""
        self.error: OSError | None = None
        """Why the input could not be read to its end, or None."""
        self.all_read = False
        """Whether there will be no more."""

    def stop_reading(self) -> None:
        """Stop reading; what was read still gets its results."""
        self._stopped.set()

    async def results(self, fd: int) -> AsyncIterator[WorkResult]:
        """The results of the lines of a file descriptor, in order of completion; see `error` afterwards."""
        reading = asyncio.create_task(self._read_all(fd))
        try:
            while (result := await self._results.get()) is not None:
                self._room.release()
                yield result
            await reading
        finally:
            reading.cancel()

    async def _read_all(self, fd: int) -> None:
        tasks: set[asyncio.Task[None]] = set()
        lines = asyncio.create_task(self._read_lines(fd, tasks))
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait([lines, stopped], return_when=asyncio.FIRST_COMPLETED)
            lines.cancel()
            try:
                await lines
            except asyncio.CancelledError:
                pass
            except OSError as error:
                self.error = error
            self.all_read = True
            await asyncio.gather(*tasks)
        finally:
            stopped.cancel()
            for task in (lines, *tasks):
                task.cancel()
            self._results.put_nowait(None)

    async def _read_lines(self, fd: int, tasks: set[asyncio.Task[None]]) -> None:
        lines, number = wire.Lines(), 0
        async for chunk in _with_last_end(Input(fd)):
            for line in lines.feed(chunk):
                number += 1
                if isinstance(line, bytes) and not line.strip():
                    continue
                name, item = _item_of(line, number)
                if name in self._answered:
                    self.skipped += 1
                    continue
                await self._room.acquire()
                self.read += 1
                task = asyncio.create_task(self._one(name, item))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _one(self, name: str, item: WorkItem | ContractError) -> None:
        try:
            if isinstance(item, ContractError):
                raise item
            result = await self._do(item)
        except ContractError as error:
            result = WorkResult.failed(name, str(error))
        self._results.put_nowait(result)


def _item_of(line: bytes | wire.TooLong, number: int) -> tuple[str, WorkItem | ContractError]:
    """The `item_id` of a line's result, and its item or what is wrong with it."""
    name = f"line {number}"
    if isinstance(line, wire.TooLong):
        return name, ContractError("WorkItem", (f"{name} is over {wire.LINE_LIMIT} bytes",))
    try:
        data = wire.decode(line)
    except ValueError as error:
        return name, ContractError("WorkItem", (f"{name} is not JSON: {error}",))
    # So that the author of the line finds its result.
    given = data.get("id") if isinstance(data, dict) else None
    name = given if isinstance(given, str) and 0 < len(given) <= 256 else name
    try:
        return name, WorkItem.read(data)
    except ContractError as error:
        return name, error


def answered_in(path: Path) -> set[str]:
    """The `item_id` of the results in a file that `agents run` printed, without those that were cancelled.

    A line that was written only in part, as in a crash, is ignored. Raises ContractError if no line is a result.
    """
    answered, lines, results = set(), 0, 0
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            lines += 1
            with suppress(ValueError, ContractError):
                result = WorkResult.read(wire.decode(line))
                results += 1
                if result.error != CANCELLED:
                    answered.add(result.item_id)
    if lines and not results:
        raise ContractError("WorkResult", (f"no line of {path} is a result",))
    return answered


async def _with_last_end(incoming: Input) -> AsyncIterator[bytes]:
    """The chunks, and a line end for the last line, which may lack one."""
    async for chunk in incoming.chunks():
        yield chunk
    yield b"\n"
