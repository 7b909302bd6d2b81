"""uvicorn's HTTP/1.1 protocol with the bounds that it lacks: for headers, for slow clients and for those that left."""

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
"""Bytes of request line and headers."""

HEAD_SECONDS = 10.0
"""Seconds for request line and headers."""

MOST_OF_A_REQUEST = 64 * 2**20
"""Bytes of a request behind its headers: body, and what frames it."""

STALLED_SECONDS = 60.0
"""Seconds after which a client that takes nothing of its answer is cut off."""


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
        # Without the head of a request, all that comes counts.
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
                self.send_400_response("This is no proxy.")
            except httptools.HttpParserError:
                self.send_400_response("This is no HTTP/1.1.")
            return

    def _without_offer(self) -> bytes:
        """The head of a request that offers to speak another protocol, as Java's client does, without the offer: with
        it the parser skips the body.
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
        # What comes behind a body decides nothing.
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
        # What came at once can be more than what is waited for.
        if len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > MOST_HEAD:
            self._refusal = _TOO_LARGE
            raise ValueError("too large")
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # As the base class does; it tells nobody the task.
        self._task = task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        # As the base class does, which makes a timer for each request.
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
        """The body of the running request if all of it has come and no other request has; else ASGI tells it."""
        # Of several requests that came at once, the latest is in `cycle`.
        cycle = self.cycle
        if cycle.more_body or self.pipeline or cycle.disconnected:
            return None
        # Behind a large body nothing is read, not even that the client has gone, until somebody takes it.
        self.flow.resume_reading()
        data, cycle.body = bytes(cycle.body), bytearray()
        return data

    def respond(self, status: int, headers: RawHeaders, body: bytes, more_body: bool) -> bool:
        """Begin to answer the running request, or answer it, in one write; ASGI's two messages are two.

        Returns:
            Whether it could: else it is to be sent by ASGI.
        """
        cycle = self.cycle
        # As above, and an earlier one runs.
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
            # The request before it is still being answered.
            self._await_head()
        elif self._head_size:
            self._refuse(Refusal(408, "request_timeout", "The request did not come in time."))
        else:
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what never became a request, and close."""
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
