"""HTTP/1.1 for the loopback server, with the failures that a connection can have."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Protocol

from hfs_providers.testing.answers import Request
from hfs_providers.testing.dialects import Dialect
from hfs_providers.testing.scripts import BadRequest, Ok, Reply, Reset, Stall, Step

_Taken = tuple[Dialect, Request, Step]

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


class Serves(Protocol):
    """What a connection needs from its server."""

    connections: int
    in_flight: int
    max_in_flight: int
    open_connections: set[Connection]

    def read(
        self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> tuple[Dialect, Request] | None:
        """The provider's dialect and the request; None if no dialect knows the path."""

    def next_step(self, request: Request) -> Step:
        """The step that answers a request."""

    def thought(self, request: Request, step: Ok) -> Ok:
        """The step with an answer, if the script has given it none."""

    async def wait_at_gate(self) -> None:
        """Wait until answers are not held back any more."""

    def models(self, provider: str) -> tuple[str, ...]:
        """The provider's models."""

    def note(self, request: Request, step: Step, reply: Reply, connection: int, finished: bool) -> None:
        """Record how a request was answered, and whether the whole answer was sent."""


class Connection(asyncio.Protocol):
    """The part of HTTP/1.1 that HTTP clients use: keep-alive, one request after the other, bodies with a length or in
    chunks."""

    def __init__(self, server: Serves) -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.connections += 1
        self._number = self._server.connections
        self._server.open_connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.open_connections.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._next()

    def abort(self) -> None:
        """Close the connection at once, and send nothing more."""
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        try:
            found = _parse(self._buffer)
        except ValueError:
            self._write(_failed(400, "this is not HTTP/1.1"))
            if self._transport is not None:
                self._transport.close()
            return
        if found is not None:
            # Before the task begins: a request that has arrived counts, even if its client leaves before that.
            taken = self._take(*found)
            self._task = asyncio.get_running_loop().create_task(self._handle(taken))

    async def _handle(self, taken: _Taken | Reply) -> None:
        server = self._server
        server.in_flight += 1
        server.max_in_flight = max(server.max_in_flight, server.in_flight)
        try:
            if isinstance(taken, Reply):
                self._write(taken)
            else:
                await self._respond(*taken)
        except Exception as error:
            self._write(_broken(error))
        finally:
            server.in_flight -= 1
            self._task = None
        if self._transport is not None and not self._transport.is_closing():
            self._next()

    def _take(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Taken | Reply:
        """Read and count a request. Returns a reply if it can be answered at once."""
        path = target.partition("?")[0]
        if method == "GET" and path.endswith("/v1/tcp_warming"):
            # The Cerebras SDK's warm-up for each new client, which is not counted as a request.
            return Reply(200, b"{}", {"content-type": "application/json"})
        given = _decoded(body)
        try:
            found = self._server.read(method, path, headers, given or {})
            if found is None:
                return _failed(404, f"the loopback server has no such path: {method} {path}")
            dialect, request = found
            step = self._server.next_step(request) if given is not None else BadRequest()
            if isinstance(step, Ok):
                step = dialect.objection(request) or step
            if isinstance(step, Ok) and method == "POST" and step.text is None and step.tool_calls is None:
                step = self._server.thought(request, step)
        except Exception as error:
            return _broken(error)
        return dialect, request, step

    async def _respond(self, dialect: Dialect, request: Request, step: Step) -> None:
        if request.method == "POST":
            await self._server.wait_at_gate()
        if isinstance(step, (Reset, Stall)):
            self._server.note(request, step, Reply(), self._number, False)
            await asyncio.sleep(getattr(step, "seconds", 0))
            self._reset()
            return
        if request.method == "GET" and isinstance(step, Ok):
            listing = json.dumps(dialect.models(self._server.models(request.provider))).encode()
            reply = Reply(200, listing, {"content-type": "application/json"})
        else:
            reply = dialect.reply(request, step)
        await self._reply(request, step, reply)

    async def _reply(self, request: Request, step: Step, reply: Reply) -> None:
        """Send a reply, and record whether all of it was sent."""
        finished = False
        try:
            if reply.delay:
                await asyncio.sleep(reply.delay)
            if reply.body is not None:
                # Recorded first: a test that has the answer may look at once.
                finished = True
                self._server.note(request, step, reply, self._number, True)
                self._write(reply)
            else:
                finished = await self._stream(request, step, reply)
        finally:
            if reply.body is None and not finished:
                self._server.note(request, step, reply, self._number, False)

    async def _stream(self, request: Request, step: Step, reply: Reply) -> bool:
        """Write a stream. Returns whether all of it was written (and recorded)."""
        self._send(_head(reply.status, reply.headers, None))
        noted = False
        for number, chunk in enumerate(reply.chunks):
            if number and reply.chunk_delay:
                await asyncio.sleep(reply.chunk_delay)
            if number == len(reply.chunks) - 1 and reply.ending == "whole":
                self._server.note(request, step, reply, self._number, True)
                noted = True
            self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if reply.ending in ("whole", "eof"):
            self._send(b"0\r\n\r\n")
        elif reply.ending == "stall":
            await asyncio.sleep(reply.stall)
            self.abort()
        else:
            # The client must read what was written before the reset arrives, or it would lose it.
            await asyncio.sleep(0.05)
            self._reset()
        return noted

    def _write(self, reply: Reply) -> None:
        body = reply.body or b""
        self._send(_head(reply.status, reply.headers, len(body)) + body)

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _reset(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            # With a linger time of 0, `close` sends RST instead of FIN.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _broken(error: Exception) -> Reply:
    # A test's own dialect or `answer` may fail: the client gets the error instead of a timeout.
    return _failed(500, f"the loopback server failed: {error!r}")


def _failed(status: int, message: str) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message}}).encode(), {"content-type": "application/json"})


def _parse(buffer: bytearray) -> tuple[str, str, dict[str, str], bytes] | None:
    """Remove one whole request from the buffer; None, and no change, if it is not complete."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    method, _, rest = lines[0].partition(" ")
    target = rest.rpartition(" ")[0]
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    start = end + 4
    if headers.get("transfer-encoding", "").lower() == "chunked":
        found = _unchunk(buffer, start)
        if found is None:
            return None
        body, used = found
    else:
        used = start + int(headers.get("content-length") or 0)
        if len(buffer) < used:
            return None
        body = bytes(buffer[start:used])
    del buffer[:used]
    return method, target, headers, body


def _unchunk(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    body = bytearray()
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(bytes(buffer[at:line]).split(b";")[0], 16)
        at = line + 2
        if len(buffer) < at + size + 2:
            return None
        body += buffer[at : at + size]
        at += size + 2
        if size == 0:
            return bytes(body), at


def _head(status: int, headers: Mapping[str, Any], length: int | None) -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    rows = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\n{rows}{framing}\r\n\r\n".encode("latin-1")


def _decoded(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a request's body; None if the body is anything else."""
    try:
        decoded = json.loads(body) if body else {}
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) else None
