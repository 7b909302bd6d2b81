"""Files and pipes, each with a thread of its own, so that neither a full pipe nor a silent one blocks the event loop.

Threads and not asyncio's transports, because these need a pipe or a socket (not a file) and leave it non-blocking for
every process that shares it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable
from typing import Final

_CHUNK: Final = 65_536
_CHUNKS_AHEAD: Final = 16
_MOST_UNREAD: Final = 4 * 1024 * 1024


def claim_stdio() -> tuple[int, int]:
    """Private copies of the file descriptors 0 and 1. After that, reading 0 finds nothing, and 1 is stderr.

    Call it before importing anything that logs to stdout, as Agno does. Raises OSError if one of them is closed.
    """
    reading, writing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(nothing, 1)
    os.close(nothing)
    return reading, writing


class Input:
    """Reads a file descriptor to its end, at which the thread calls `on_end`."""

    def __init__(self, fd: int, on_end: Callable[[], object] = lambda: None) -> None:
        self._fd = fd
        self._on_end = on_end
        self._error: OSError | None = None
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(_CHUNKS_AHEAD)
        threading.Thread(target=self._read, name="agents-input", daemon=True).start()

    def _read(self) -> None:
        data = b"-"
        while data:
            try:
                data = os.read(self._fd, _CHUNK)
            except OSError as error:
                self._error, data = error, b""
            if not data:
                self._on_end()
            try:
                # Waits while the loop is behind, so that what is not read yet stays in the pipe.
                asyncio.run_coroutine_threadsafe(self._chunks.put(data), self._loop).result()
            except (RuntimeError, asyncio.CancelledError):
                return  # the loop has ended

    async def chunks(self) -> AsyncIterator[bytes]:
        """The data that is read, until the end. Raises OSError if reading fails, after what was read before."""
        while data := await self._chunks.get():
            yield data
        if self._error is not None:
            raise self._error


class Output:
    """Writes lines to a file descriptor. The thread calls `on_broken` when nobody reads any more."""

    def __init__(self, fd: int, on_broken: Callable[[], object]) -> None:
        self._fd = fd
        self._on_broken = on_broken
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._unread = 0
        self._thread = threading.Thread(target=self._write, name="agents-output", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> bool:
        """Whether too much is waiting to be read."""
        return self._unread > _MOST_UNREAD

    def send(self, line: bytes) -> None:
        """Write a line, later and in order."""
        with self._changed:
            self._unread += len(line)
        self._lines.put(line)

    async def wait_until_read(self) -> None:
        """Wait while the reader is behind."""
        if self.behind:
            await asyncio.to_thread(self._until_read)

    def _until_read(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self.behind)

    def _write(self) -> None:
        broken = False
        while (line := self._lines.get()) is not None:
            left = memoryview(line)
            while left and not broken:
                try:
                    left = left[os.write(self._fd, left) :]
                except OSError:
                    broken = True
                    self._on_broken()
            with self._changed:
                self._unread -= len(line)
                self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Wait until everything is written, for at most `timeout` seconds."""
        self._lines.put(None)
        self._thread.join(timeout)
