"""A client of one real worker that can say anything, right or wrong; and work to give out."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests import warm

DEADLINE = 30.0
"""Seconds after which something that should happen counts as not happening."""


def item(id: object = "1", **changes: Any) -> dict[str, Any]:
    """A work item as JSON holds it."""
    return {"id": str(id), "description": f"Do number {id}.", "phase": "plan_to_artifacts", **changes}


def nested(depth: int) -> list[object]:
    """A list in a list in a list."""
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


class RawWorker:
    """A worker process, spoken to in lines.

    Args:
        role: of the worker.
        env: its environment.
        cwd: its working directory.
        heartbeat: seconds.
        command: starts it in another way.
    """

    def __init__(
        self,
        role: str,
        env: Mapping[str, str],
        cwd: Path,
        heartbeat: float = 30.0,
        command: Sequence[str] | None = None,
    ) -> None:
        usual = [warm.python(), "-m", "hfs_providers", "agents", "worker", "--role", role]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command or [*usual, "--heartbeat", str(heartbeat)],
            env=env,
            cwd=cwd,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        self.messages: list[dict[str, Any]] = []
        self._ids = itertools.count(1)
        self._changed = threading.Condition()
        self._ended = False
        self.said: list[bytes] = []
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._listen)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(DEADLINE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.messages.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def close_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def send(self, method: str, params: object = None, **fields: Any) -> int:
        """Send a request; its id."""
        number = next(self._ids)
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}, **fields}
        self.write(json.dumps(message).encode() + b"\n")
        return number

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], start: int = 0) -> dict[str, Any]:
        """The first message from number `start` on that is wanted."""

        def found() -> bool:
            return self._ended or any(map(wanted, self.messages[start:]))

        with self._changed:
            self._changed.wait_for(found, DEADLINE)
            match = next(filter(wanted, self.messages[start:]), None)
        assert match is not None, (self._ended, self.messages[start:][-5:], self.said[-5:])
        return match

    def answer_to(self, number: int | None, start: int = 0) -> dict[str, Any]:
        """The answer with that id."""
        return self.wait_for(lambda message: "method" not in message and message["id"] == number, start)

    def ask(self, method: str, params: object = None) -> dict[str, Any]:
        """The answer to a request."""
        return self.answer_to(self.send(method, params))

    def told(self, method: str) -> list[dict[str, Any]]:
        """The params of the notifications so far."""
        return [message["params"] for message in self.messages if message.get("method") == method]

    def initialize(self) -> dict[str, Any]:
        return self.ask("initialize", {"protocol_versions": [1], "client": {"name": "test", "version": "1"}})

    def session(self, **config: Any) -> str:
        """Start a session; its id."""
        started: str = self.ask("start_session", {"config": config})["result"]["session_id"]
        return started

    def wait(self) -> int:
        """The exit code, once everything that it said was read."""
        code = self.process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        return code
