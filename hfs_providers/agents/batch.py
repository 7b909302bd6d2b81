"""Many pieces of work, one JSON object a line, and their results as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from hfs_providers.agents import wire
from hfs_providers.agents.contract import ContractError, WorkItem, WorkResult
from hfs_providers.agents.pipes import Input

LOOK_AHEAD: Final = 256
"""Items that are read before their results are there: priorities hold among them, and memory is bounded by them."""


class Batch:
    """Each line gets one result, whatever it holds; blank lines are nothing.

    Args:
        do: does a piece of work.
    """

    def __init__(self, do: Callable[[WorkItem], Awaitable[WorkResult]]) -> None:
        self._do = do
        self._room = asyncio.Semaphore(LOOK_AHEAD)
        self._results: asyncio.Queue[WorkResult | None] = asyncio.Queue()
        self._stopped = asyncio.Event()
        self.read = 0
        """How many items were read so far."""
        self.all_read = False
        """Whether there will be no more."""

    def stop_reading(self) -> None:
        """Read no further; what was read still gets its results."""
        self._stopped.set()

    async def results(self, fd: int) -> AsyncIterator[WorkResult]:
        """The results of what a file descriptor gives, as they come.

        Args:
            fd: is read to its end.
        """
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
            with suppress(asyncio.CancelledError):
                await lines
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
                await self._room.acquire()
                self.read += 1
                task = asyncio.create_task(self._one(line, number))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _one(self, line: bytes | wire.TooLong, number: int) -> None:
        name = f"line {number}"
        try:
            if isinstance(line, wire.TooLong):
                raise ContractError("WorkItem", (f"{name} is over {wire.LINE_LIMIT} bytes",))
            try:
                data = wire.decode(line)
            except ValueError as error:
                raise ContractError("WorkItem", (f"{name} is no JSON: {error}",)) from None
            # So that whoever wrote the line finds its result.
            given = data.get("id") if isinstance(data, dict) else None
            name = given if isinstance(given, str) and 0 < len(given) <= 256 else name
            result = await self._do(WorkItem.read(data))
        except ContractError as error:
            result = WorkResult.failed(name, str(error))
        self._results.put_nowait(result)


async def _with_last_end(incoming: Input) -> AsyncIterator[bytes]:
    """The chunks, and an end for the last line, which may lack it."""
    async for chunk in incoming.chunks():
        yield chunk
    yield b"\n"
