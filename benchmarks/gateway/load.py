"""Sends requests to a gateway and measures the time."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks.gateway.provider import SHORT

_TOLD = re.compile(rb'"content": ?"(\d+) "')


@dataclass(frozen=True)
class Address:
    """Where a gateway takes requests.

    Args:
        port: on 127.0.0.1.
        path: of chat completions.
        model: the name that the gateway expects.
        headers: those that it needs.
    """

    port: int
    path: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(self, stream: bool = False, short: bool = False) -> bytes:
        """A request, as it goes over the wire: 2 kB, as an SDK sends it. The chunks of a short stream come at once."""
        messages = [
            {"role": "system", "content": "You are a helpful assistant. " * 40},
            {"role": "user", "content": "Tell me something. " * 40},
        ]
        tokens = SHORT if short else 300
        body = json.dumps(
            {"model": self.model, "messages": messages, "temperature": 0.3, "max_tokens": tokens, "stream": stream}
        ).encode()
        lines = {
            "host": f"127.0.0.1:{self.port}",
            "accept": "application/json",
            "content-type": "application/json",
            "user-agent": "OpenAI/Python 3.0.0",
            "x-stainless-lang": "python",
            "x-stainless-os": "Linux",
            "x-stainless-retry-count": "0",
            "authorization": "Bearer sk-benchmark",
            **self.headers,
            "content-length": str(len(body)),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + body


class _Client(asyncio.Protocol):
    """One connection, which asks again as soon as it is answered."""

    def __init__(self, request: bytes, answered: Callable[[float], bool], failed: Callable[[str], object]) -> None:
        self._request = request
        self._answered = answered
        self._failed = failed
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is not of a class of asyncio.
        self._transport: Any = transport
        self._ask()

    def _ask(self) -> None:
        self._got = b""
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got = got = self._got + data if self._got else data
        end = got.find(b"\r\n\r\n")
        if end < 0:
            return
        head = got[:end].lower()
        at = head.find(b"content-length:")
        size = end + 4 + int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
        if len(got) < size or not (size or got.endswith(b"0\r\n\r\n")):
            return
        if got[9:12] != b"200":
            self._end(got[:300].decode("latin-1"))
        elif self._answered(time.perf_counter() - self._began):
            self._ask()
        else:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._end("the connection was closed")

    def _end(self, failure: str | None) -> None:
        if not self._ended:
            self._ended = True
            if failure is not None:
                self._failed(failure)
            self._transport.close()


@dataclass
class Load:
    """The result of a load.

    Args:
        seconds: how long it took.
        latencies: of each request, in seconds.
        failures: what ended a connection.
    """

    seconds: float
    latencies: list[float]
    failures: list[str]

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds


def load(address: Address, connections: int, seconds: float = 1e9, requests: int = 10**9) -> Load:
    """Requests, one after the other on each connection, for some time or up to a number."""

    async def run() -> Load:
        loop = asyncio.get_running_loop()
        latencies: list[float] = []
        failures: list[str] = []
        done = loop.create_future()
        until = time.perf_counter() + seconds

        def answered(latency: float) -> bool:
            latencies.append(latency)
            goes_on = time.perf_counter() < until and len(latencies) < requests
            if not goes_on and not done.done():
                done.set_result(None)
            return goes_on

        def failed(why: str) -> None:
            failures.append(why)
            if not done.done() and len(failures) >= connections:
                done.set_result(None)

        began = time.perf_counter()
        data = address.request()
        for _ in range(connections):
            await loop.create_connection(lambda: _Client(data, answered, failed), "127.0.0.1", address.port)
        await done
        return Load(time.perf_counter() - began, latencies, failures)

    return uvloop.run(run())


def paced(address: Address, number: int, pause: float) -> list[float]:
    """The seconds that each of some requests takes, one after the other on one connection, `pause` seconds apart."""

    async def run() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        latencies = []
        for _ in range(number):
            await asyncio.sleep(pause)
            began = time.perf_counter()
            writer.write(address.request())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
            latencies.append(time.perf_counter() - began)
        writer.close()
        return latencies

    return uvloop.run(run())


def streams(address: Address, number: int, short: bool = False) -> tuple[list[float], list[list[float]]]:
    """Streams, one after the other on one connection.

    Returns:
        Of each the seconds until its first chunk, and for each chunk the seconds that it took from the provider.
    """

    async def run() -> tuple[list[float], list[list[float]]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        found = [await _stream(reader, writer, address.request(True, short)) for _ in range(number)]
        writer.close()
        return [first for first, _ in found], [lags for _, lags in found]

    return uvloop.run(run())


async def _stream(reader: Any, writer: Any, request: bytes) -> tuple[float, list[float]]:
    began, first, lags = time.perf_counter(), 0.0, []
    writer.write(request)
    got = b""
    # A stream that has come whole is passed on with its length.
    while not got.endswith(b"[DONE]\n\n" if b"content-length" in got[:500].lower() else b"0\r\n\r\n"):
        data = await reader.read(65536)
        now = time.perf_counter_ns()
        if not data or (not got and data[9:12] != b"200"):
            raise ConnectionError((got or data)[:300].decode("latin-1"))
        lags += [(now - int(told)) / 1e9 for told in _TOLD.findall(data)]
        if lags and not first:
            first = now / 1e9 - began
        got += data
    return first, lags
