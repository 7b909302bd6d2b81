"""A worker: one role in a process of its own, which speaks JSON-RPC on its standard input and output.

It ends on request, when its input ends (so no worker outlives its supervisor), when nobody reads its output, and on
SIGTERM; at most some seconds later, whatever it is doing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Final

from hfs_providers.agents.contract import Role
from hfs_providers.agents.pipes import Input, Output, claim_stdio
from hfs_providers.agents.service import Service
from hfs_providers.agents.wire import Lines

HEARTBEAT: Final = 30.0
"""Seconds between heartbeats."""
GRACE: Final = 5.0
"""Seconds within which a worker that should end has ended."""

_log = logging.getLogger("hfs_providers.agents")


def run_worker(role: Role, heartbeat: float = HEARTBEAT) -> int:
    """Serve on stdin and stdout until the end, with `heartbeat` seconds between heartbeats. Returns the exit code."""
    try:
        reading, writing = claim_stdio()
    except OSError as error:
        _log.error("a worker needs stdin and stdout: %s", error)
        return 1

    async def serve() -> int:
        return await _Worker(role, heartbeat).run(reading, writing)

    return asyncio.run(serve())


class _Worker:
    """One run of a worker. `end` may be called any number of times, from any thread; the first call counts."""

    def __init__(self, role: Role, heartbeat: float) -> None:
        self._role: Role = role
        self._interval = heartbeat
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._code: int | None = None
        self._lock = threading.Lock()

    def end(self, code: int) -> None:
        """Start to end."""
        with self._lock:
            if self._code is not None:
                return
            self._code = code
        _exit_after(GRACE, code)
        self._loop.call_soon_threadsafe(self._ended.set)

    async def run(self, reading: int, writing: int) -> int:
        """Serve until the end. Returns the exit code."""
        _on_signals({signal.SIGTERM: 143, signal.SIGINT: 130}, self.end)
        output = Output(writing, on_broken=lambda: self.end(1))

        def send(line: bytes, droppable: bool) -> None:
            if not (droppable and output.behind):
                output.send(line)

        service = Service(self._role, send, on_shutdown=lambda: self.end(0))
        # What came before the end is received first, unless the loop is stuck.
        incoming = Input(reading, on_end=lambda: _exit_after(2 * GRACE, 0))
        tasks = [
            asyncio.create_task(self._receive(incoming, output, service)),
            asyncio.create_task(service.beat(self._interval)),
        ]
        await self._ended.wait()
        for task in tasks:
            task.cancel()
        await service.close()
        output.close(GRACE)
        assert self._code is not None
        return self._code

    async def _receive(self, incoming: Input, output: Output, service: Service) -> None:
        lines = Lines()
        try:
            async for chunk in incoming.chunks():
                for line in lines.feed(chunk):
                    service.receive(line)
                await output.wait_until_read()
        except OSError as error:
            _log.error("stdin cannot be read: %s", error.strerror)
            self.end(1)
        self.end(0)


def _on_signals(codes: Mapping[int, int], end: Callable[[int], object]) -> None:
    """Call `end` with the code of the first of these signals. To be called before any other thread is started."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        for number, code in codes.items():
            signal.signal(number, lambda *_, code=code: end(code))
        return
    # A handler runs in the main thread, and not while that is stuck; so a thread of its own waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, codes)
    threading.Thread(target=lambda: end(codes[signal.sigwait(codes)]), name="agents-signals", daemon=True).start()


def _exit_after(seconds: float, code: int) -> None:
    """Make the process exit by then, even if something is stuck that cannot be cancelled."""
    watchdog = threading.Timer(seconds, os._exit, [code])
    watchdog.daemon = True
    watchdog.start()
