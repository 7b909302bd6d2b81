"""The asyncio end of one worker: its process, its pipes, and the matching of answers to requests.

The process leads a group of its own, so that a signal to the supervisor's terminal does not reach it and a kill reaches
what it may have started. It cannot outlive its supervisor: however that ends, the worker's input ends with it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from hfs_providers import HfsProvidersError
from hfs_providers.agents import wire
from hfs_providers.agents.contract import ContractError, Role
from hfs_providers.agents.wire import Lines, RpcError

Notified = Callable[[str, Mapping[str, Any]], object]
"""Receives each notification of a worker: its method and its params."""

_CHUNK: Final = 65_536
_LAST_WORDS: Final = 5
_POSIX: Final = os.name == "posix"
_log = logging.getLogger("hfs_providers.agents")


class WorkerDiedError(HfsProvidersError):
    """A worker that ended before it answered."""

    def __init__(self, pid: int, reason: str) -> None:
        self.pid = pid
        self.reason = reason
        super().__init__(f"worker process {pid} {reason}")


def worker_command(role: Role, heartbeat: float) -> list[str]:
    """The command that starts a worker of this installation, with seconds between its heartbeats."""
    return [sys.executable, "-m", "hfs_providers", "agents", "worker", "--role", role, "--heartbeat", str(heartbeat)]


class Bridge:
    """A running worker process; made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, notified: Notified) -> None:
        self._process = process
        self._notified = notified
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._writing = asyncio.Lock()
        self.pid = process.pid
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Gives how the process ended, when it has ended."""
        self._life = asyncio.create_task(self._live())

    @classmethod
    async def start(cls, command: Sequence[str], notified: Notified, env: Mapping[str, str] | None = None) -> Bridge:
        """Start a worker. Raises OSError if it cannot be started."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=_POSIX
        )
        return cls(process, notified)

    def __repr__(self) -> str:
        return f"Bridge(pid={self.pid}, {'ended' if self.ended.done() else 'running'})"

    async def call(self, method: str, params: Mapping[str, Any]) -> Any:
        """The answer to a request.

        Raises RpcError if it is an error, WorkerDiedError if none will come, ContractError if it cannot be sent.
        """
        number = next(self._ids)
        try:
            line = wire.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params)})
        except ValueError as error:
            raise ContractError("request", (str(error),)) from None
        if self.ended.done():
            raise WorkerDiedError(self.pid, self.ended.result())
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            # If the worker has died, the answer is an error that says so.
            with suppress(OSError):
                await self._write(line)
            return await answer
        finally:
            del self._pending[number]

    async def _write(self, line: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        async with self._writing:
            stdin.write(line)
            await stdin.drain()

    async def _live(self) -> None:
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        listening = asyncio.create_task(self._listen(process.stderr))
        try:
            lines = Lines()
            while data := await process.stdout.read(_CHUNK):
                for line in lines.feed(data):
                    self._receive(line)
            # After its output was closed, nothing more can come.
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 1)
        finally:
            self.kill()
            code = await process.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(listening, 1)
            self._finish(code)

    def _finish(self, code: int) -> None:
        how = f"was killed by signal {-code} ({_signal_name(-code)})" if code < 0 else f"exited with code {code}"
        said = " | ".join(self._last_words)
        reason = f"{how}; it said: {said}" if said and code != 0 else how
        self.ended.set_result(reason)
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(WorkerDiedError(self.pid, reason))

    def _receive(self, line: bytes | wire.TooLong) -> None:
        try:
            message = None if isinstance(line, wire.TooLong) else wire.decode(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            _log.warning("worker %d sent a line that is not a message", self.pid)
        elif isinstance(message.get("method"), str):
            params = message.get("params")
            self._notified(message["method"], params if isinstance(params, dict) else {})
        else:
            self._answered(message)

    def _answered(self, message: Mapping[str, Any]) -> None:
        number = message.get("id")
        answer = self._pending.get(number) if isinstance(number, int) else None
        if answer is None or answer.done():
            # Nobody waits for it any more, or it is about a request that the worker could not read.
            _log.debug("worker %d sent an answer without a request", self.pid)
            return
        error = message.get("error")
        if not isinstance(error, dict):
            answer.set_result(message.get("result"))
            return
        code, data = error.get("code"), error.get("data")
        answer.set_exception(
            RpcError(
                code if isinstance(code, int) else wire.INTERNAL_ERROR,
                str(error.get("message")),
                data if isinstance(data, dict) else None,
            )
        )

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        lines = Lines(_CHUNK)
        while data := await stderr.read(_CHUNK):
            for line in lines.feed(data):
                if not isinstance(line, wire.TooLong) and line.strip():
                    text = line.decode("utf-8", "replace").strip()[:500]
                    self._last_words.append(text)
                    _log.debug("worker %d: %s", self.pid, text)

    def kill(self) -> None:
        """End the process, and what it may have started, at once. Does nothing if it has ended."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                if _POSIX:
                    os.killpg(self.pid, signal.SIGKILL)
                else:
                    self._process.kill()

    async def stop(self, grace: float) -> None:
        """Ask the process to end; after `grace` seconds send SIGTERM, then kill it. Its work is answered as
        cancelled."""
        try:
            asking = asyncio.create_task(self._ask_to_end())
            if not await self._ends_within(grace) and self._process.returncode is None:
                self._process.terminate()
                await self._ends_within(grace)
            asking.cancel()
        finally:
            self.kill()
            await asyncio.wait([self._life])

    async def _ask_to_end(self) -> None:
        with suppress(HfsProvidersError):
            await self.call("shutdown", {})

    async def _ends_within(self, seconds: float) -> bool:
        done, _ = await asyncio.wait([self.ended], timeout=seconds)
        return bool(done)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
