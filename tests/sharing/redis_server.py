"""A Redis server of the test's own, and a clock that it goes by instead of its own."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

# Read now: tests run with an environment that has none of our variables.
_BINARY = os.environ.get("HFS_TEST_REDIS")


class RedisServer:
    """A server on a port of its own; `options` are those of its command line."""

    def __init__(self, binary: str, directory: Path, *options: str) -> None:
        self.port = free_port()
        self._command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        self._command += ["--save", "", "--appendonly", "no", "--enable-debug-command", "yes", *options]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> Any:
        import redis

        return redis.Redis(port=self.port, decode_responses=True, **options)

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        eventually(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def pause(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """One that is free, ten thousand above (where members of a cluster speak with one another) as well."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 10_000))
            return port


def eventually(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for a condition of another thread or process."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def binary() -> str:
    """The server's binary; the test is skipped where there is none."""
    if not _BINARY:
        pytest.skip("needs a Redis server: set HFS_TEST_REDIS to the path of redis-server")
    return _BINARY


def by_clock(scripts: dict[str, str]) -> None:
    """Have the scripts go by the key `clock`, in seconds."""
    for name, body in scripts.items():
        assert "redis.call('TIME')" in body
        scripts[name] = body.replace("redis.call('TIME')", "{redis.call('GET', 'clock'), 0}")


class Clock:
    """Seconds since the epoch, for the server and its clients alike."""

    def __init__(self, server: RedisServer, now: float) -> None:
        self._client = server.client()
        self._lock = threading.Lock()
        self.set(now)

    def __call__(self) -> float:
        with self._lock:
            return self.now

    def set(self, now: float) -> None:
        # At once for all: who has heard the server's new time does not see the old one here.
        with self._lock:
            self.now = now
            self._client.set("clock", f"{now:.3f}")

    def pass_by(self, seconds: float) -> None:
        self.set(self.now + seconds)


def everything(client: Any) -> dict[str, Sequence[Any]]:
    """All that a server holds, but for the clock: its time to live and its content, by key."""
    held: dict[str, Sequence[Any]] = {}
    for key in client.scan_iter():
        if key != "clock":
            kind = client.type(key)
            content = client.hgetall(key) if kind == "hash" else client.zrange(key, 0, -1, withscores=True)
            held[key] = (client.pttl(key), content)
    return held
