"""uvicorn's HTTP/1.1 protocol with limits that it lacks: for headers, slow clients and clients that have gone."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from hfs_providers.gateway.refusals import CLOSE, RawHeaders, Refusal

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

MOST_HEAD = 32 * 1024
"""The largest request line and headers, in bytes."""

HEAD_SECONDS = 10.0
"""Seconds in which request line and headers must arrive."""

MOST_OF_A_REQUEST = 64 * 2**20
"""The most bytes of a request after its headers: the body and its framing."""

STALLED_SECONDS = 60.0
"""Seconds after which the connection of a client is closed that does not read its answer."""


class GatewayProtocol(HttpToolsProtocol):
    """One connection of a client.

    A request finds it as `scope["extensions"]["hfs.connection"]`. If the client goes away, its task is cancelled.
    """

    _task: asyncio.Task[Any] | None = None
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _in_head = True
    _head_size = 0
    _size = 0
    _idle_since = 0.0
    _refusal: Refusal | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        # Until the head of a request is complete, all data counts as its head.
        self._head_size = self._head_size + len(data) if self._in_head else 0
        self._size += len(data)
        self._parse(data)
        if self._size > MOST_OF_A_REQUEST and not self._in_head:
            self._refuse(_TOO_MUCH)
        elif self._in_head and self._head_size and not self.transport.is_closing():
            if self._head_size > MOST_HEAD:
                self._refuse(_TOO_LARGE)
            elif self._timer is None:
                self._await_head()

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self.parser.get_method() != b"CONNECT":
                    data = self._without_offer() + data[offer.args[0] :]
                    self.parser = httptools.HttpRequestParser(self)
                    continue
                self.send_400_response("This server is not a proxy.")
            except httptools.HttpParserError:
                self.send_400_response("This is not HTTP/1.1.")
            return

    def _without_offer(self) -> bytes:
        """The head of a request without its `Upgrade` header, which Java's client sends: with it, the parser would skip
        the body.
        """
        parser = self.parser
        lines = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        version = parser.get_http_version().encode()
        return b"".join((b"%b %b HTTP/%b\r\n" % (parser.get_method(), self.url, version), *lines, b"\r\n"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._size = 0
        self._in_head = True
        self._head_size = max(self._head_size, 1)
        self.scope["extensions"] = {"hfs.connection": self}  # type: ignore[dict-item]

    def on_header(self, name: bytes, value: bytes) -> None:
        # Headers after a body (trailers) are ignored.
        if self._in_head:
            name = name.lower()
            self.headers.append((name, value))
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_size = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Data that arrives at once may be larger than the limit that `data_received` checks.
        if len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > MOST_HEAD:
            self._refusal = _TOO_LARGE
            raise ValueError("too large")
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # As the base class does, which does not keep the task.
        self._task = task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        # As the base class does, which creates a timer for each request.
        self._in_head = True
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._close_when_idle(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self.cycle.response_complete and not self._head_size:
            left = self._idle_since + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._close_when_idle(left)
            else:
                super().timeout_keep_alive_handler()

    def _close_when_idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def body(self) -> bytes | None:
        """The body of the running request, if it is complete and no other request has arrived; else read it by ASGI."""
        # If several requests arrived at once, `cycle` has the latest.
        cycle = self.cycle
        if cycle.more_body or self.pipeline or cycle.disconnected:
            return None
        # After a large body nothing is read until the body is taken, so a client that has gone would not be noticed.
        self.flow.resume_reading()
        data, cycle.body = bytes(cycle.body), bytearray()
        return data

    def respond(self, status: int, headers: RawHeaders, body: bytes, more_body: bool) -> bool:
        """Begin the answer of the running request, or send all of it, in one write. ASGI's two messages are two writes.

        Returns:
            Whether it was possible: else send the answer by ASGI.
        """
        cycle = self.cycle
        # If several requests arrived at once, an earlier one is running.
        if self.pipeline or self.flow.write_paused or cycle.response_started:
            return False
        if not cycle.disconnected:
            if CLOSE[0] in headers:
                cycle.keep_alive = False
            elif not cycle.keep_alive:
                headers = [*headers, *CLOSE]
            if more_body:
                headers = [*headers, (b"transfer-encoding", b"chunked")]
                body = b"%x\r\n%b\r\n" % (len(body), body)
            self.transport.write(_joined(status, headers, body))
        cycle.response_started = True
        if more_body:
            cycle.chunked_encoding = True
            return True
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or Refusal(400, "invalid_request", msg))

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._stalled, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # The previous request is still being answered.
            self._await_head()
        elif self._head_size:
            self._refuse(Refusal(408, "request_timeout", "The request did not arrive in time."))
        else:
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer data that never became a request, and close the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = refusal.body()
            headers = [*refusal.raw_headers(), (b"content-length", b"%d" % len(body)), *CLOSE]
            self.transport.write(_joined(refusal.status, headers, body))
        self.transport.close()


def _joined(status: int, headers: RawHeaders, body: bytes) -> bytes:
    return b"".join((STATUS_LINE[status], *(b"%b: %b\r\n" % pair for pair in headers), b"\r\n", body))


_TOO_MUCH = Refusal(413, "request_too_large", f"The request is larger than {MOST_OF_A_REQUEST} bytes.")
_TOO_LARGE = Refusal(431, "headers_too_large", f"The headers are larger than {MOST_HEAD} bytes.")
