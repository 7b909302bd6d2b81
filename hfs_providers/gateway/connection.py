"""One connection to a provider, and its answers."""

from __future__ import annotations

import asyncio
import select
import sys
import urllib.parse
import zlib
from collections import deque
from typing import Any, NamedTuple, Protocol

import httptools

from hfs_providers.calls.verdicts import Verdict

KEPT_IDLE = 50.0
"""Seconds for which an idle connection is kept. Many servers close idle connections after 60 s."""

MOST_ANSWER = 128 * 2**20
"""The largest answer that is read as a whole, in bytes."""

MOST_INFLATED = 16 * 2**20
"""The most bytes to which one received part of a compressed answer may decompress."""

MOST_ANSWER_HEAD = 64 * 1024
"""The largest headers of an answer, in bytes."""

_HIGH_WATER = 256 * 1024
_LEFT = 5.0
_LONG_IDLE = 1.0
_ENCODED = frozenset({b"gzip", b"deflate", b"x-gzip"})


class Keeper(Protocol):
    """The owner of the connections."""

    first_byte_timeout: float
    idle_timeout: float

    def begun(self, connection: Connection) -> None:
        """A connection serves a request from now on."""

    def keep(self, connection: Connection) -> None:
        """An answer is complete, and its connection may serve another request."""

    def forget(self, connection: Connection) -> None:
        """A connection was closed."""


class Origin(NamedTuple):
    """The server of a URL, to which requests are sent."""

    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of a URL.

        Raises:
            ValueError: it is not an HTTP URL.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http or https URL")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls)


class UpstreamError(Exception):
    """The transport failed.

    Args:
        message: what happened.
        sent: whether the request can have reached the provider.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.verdict = Verdict("transport", None, None, message, sent=sent)


class UpstreamResponse:
    """An answer. Read it with `read` or `chunk`, and always close it."""

    __slots__ = (
        "_buffered",
        "_chunks",
        "_complete",
        "_connection",
        "_error",
        "_inflater",
        "_left",
        "_waiter",
        "_whole",
        "headers",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """The headers, by lower-case name."""
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._complete = False
        self._whole = False
        self._left = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._inflater: Any = None

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, given by its lower-case name."""
        return next((value for each, value in self.headers if each == name), None)

    async def head(self) -> None:
        """Wait for status and headers."""
        while not self.status:
            await self._wait()

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            UpstreamError: it did not arrive completely, or is larger than `MOST_ANSWER`.
        """
        self._whole = True
        while not self._complete:
            await self._wait()
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    async def chunk(self) -> bytes:
        """The part of the body that has arrived since the last call, or nothing at the end.

        Raises:
            UpstreamError: the rest will not arrive.
        """
        while not self._chunks:
            if self._complete:
                return b""
            await self._wait()
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        self._connection.resume_reading()
        return data

    async def beginning(self, most: int) -> bytes:
        """The body, or its first `most` bytes. Raises the same errors as `chunk`."""
        data = b""
        while len(data) < most and (chunk := await self.chunk()):
            data += chunk
        return data[:most]

    def close(self) -> None:
        """Drop the rest of the answer, and with it the connection."""
        if not (self._complete or self._left):
            self.fail(UpstreamError("closed"))

    def leave(self) -> None:
        """Drop the rest of the answer. The rest is short, and the connection can be used again after it."""
        self._left = True
        self._chunks.clear()
        self._connection.hurry()

    def feed(self, data: bytes) -> None:
        """A part of the body has arrived."""
        if self._left:
            return
        if self._inflater is not None:
            data = self._inflater.decompress(data, MOST_INFLATED)
            if self._inflater.unconsumed_tail:
                self.fail(UpstreamError("the compressed answer is too large"))
                return
        self._chunks.append(data)
        self._buffered += len(data)
        if not self._whole:
            if self._buffered > _HIGH_WATER:
                self._connection.pause_reading()
            self._wake()
        elif self._buffered > MOST_ANSWER:
            self.fail(UpstreamError(f"the answer is larger than {MOST_ANSWER} bytes"))

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Status and headers have arrived."""
        encoding = next((value.lower() for name, value in headers if name == b"content-encoding"), None)
        if encoding in _ENCODED:
            # Compressed, although not requested. It is decompressed here, so that it can be read on the way.
            self._inflater = zlib.decompressobj(47)
        self.headers = headers
        self.status = status
        self._wake()

    def finish(self) -> None:
        """The body is complete."""
        self._complete = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """The rest will not arrive."""
        if not self._complete:
            self._error = self._error or error
            self._connection.abort()
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._connection.loop.create_future()
        await self._waiter
        if self._error is not None:
            raise self._error


class Connection(asyncio.Protocol):
    """One connection, which serves one request after the other."""

    def __init__(self, keeper: Keeper, origin: Origin) -> None:
        self.loop = asyncio.get_running_loop()
        self.origin = origin
        self.deadline = 0.0
        """When its request is abandoned, or when it is closed if it is idle, in seconds of the event loop."""
        self._keeper = keeper
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self._response: UpstreamResponse | None = None
        self._served = 0
        self._head_size = 0
        self._framed = False
        self._keeps = False
        self._ended = False
        self._stray = False
        self._paused = False

    # Sending

    async def ask(self, data: bytes) -> UpstreamResponse:
        """Send a request, and wait for the head of its answer.

        Args:
            data: the bytes of the whole request.

        Raises:
            UpstreamError: there is no answer.
        """
        response = self._send(data)
        try:
            await response.head()
        except BaseException:
            response.close()
            raise
        return response

    def _send(self, data: bytes) -> UpstreamResponse:
        """Send a request. Returns its answer, which has not arrived yet."""
        response = self._response = UpstreamResponse(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._framed = self._ended = self._stray = False
        self.deadline = self.loop.time() + self._keeper.first_byte_timeout
        self._keeper.begun(self)
        self._transport.write(data)
        return response

    def can_serve(self) -> bool:
        """Whether an idle connection is still open, as far as is known."""
        # Data that the event loop has not read yet can only be the end of the connection. Some servers close it after
        # each answer, without saying so; others close it after a time.
        short = self.loop.time() < self.deadline - KEPT_IDLE + _LONG_IDLE
        if (self._served > 1 and short) or sys.platform == "win32":
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def expired(self) -> None:
        """Its deadline has passed."""
        if self._response is not None:
            what = "the rest of the answer did not arrive" if self._response.status else "no answer arrived"
            self._response.fail(UpstreamError(f"{what} in time"))
        else:
            self.abort()

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def hurry(self) -> None:
        """Wait only briefly for the rest of the answer."""
        self.resume_reading()
        self.deadline = min(self.deadline, self.loop.time() + _LEFT)

    def pause_reading(self) -> None:
        """Stop reading, because the data is not processed fast enough."""
        if not self._paused:
            self._paused = True
            self.deadline = float("inf")
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, because the data has been processed."""
        if self._paused:
            self._paused = False
            self.deadline = self.loop.time() + self._keeper.idle_timeout
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            # There is no request to which this could be the answer.
            self.abort()
            return
        self.deadline = self.loop.time() + self._keeper.idle_timeout
        if not response.status:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, zlib.error):
            response.fail(UpstreamError("the answer is not HTTP/1.1"))
            return
        if self._ended:
            self._release()
        elif not response.status and self._head_size > MOST_ANSWER_HEAD:
            response.fail(UpstreamError("the answer's headers are too large"))

    def connection_lost(self, error: Exception | None) -> None:
        self._keeper.forget(self)
        response, self._response = self._response, None
        if response is None:
            return
        if response.status and not self._framed and error is None:
            # The end of the connection is the end of the body.
            response.finish()
        else:
            what = "in the middle of an answer" if self._head_size else "before an answer"
            response.fail(UpstreamError(f"the connection was closed {what}"))

    # The parser's callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = []
        elif self._response is not None and not self._response.status:
            self._framed = self._framed or status in (204, 304)
            self._keeps = self._parser.should_keep_alive()
            self._response.begin(status, self._headers)

    def on_body(self, body: bytes) -> None:
        if self._response is not None and not self._ended:
            self._response.feed(body)

    def on_message_begin(self) -> None:
        self._stray = self._ended

    def on_message_complete(self) -> None:
        if self._response is not None and self._response.status:
            self._ended = True

    def _release(self) -> None:
        """The answer is complete: keep the connection if it can serve another request."""
        response, self._response = self._response, None
        self._served += 1
        self.resume_reading()
        # Data after the answer would be read as the next answer.
        clean = not self._stray and not self._transport.get_write_buffer_size()
        reusable = clean and self._framed and self._keeps
        if reusable and not self._transport.is_closing():
            self._keeper.keep(self)
        else:
            self._transport.close()
        if response is not None:
            response.finish()
