"""A provider that answers as fast as Python can: `python -m benchmarks.gateway.provider PORT`.

It gives every request the same answer. A stream has a chunk every few milliseconds, each with the time at which it was
sent. `GET /sent` tells when each request came.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any

import uvloop

CHUNKS = 20
BETWEEN = 0.01
"""Seconds between the chunks of a stream."""
SHORT = 20
"""A stream of that many tokens comes at once."""

_MESSAGE = {"role": "assistant", "content": "word " * 200}
_FRAME = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "m", "system_fingerprint": "fp_1"}
_USAGE = {"prompt_tokens": 300, "completion_tokens": 200, "total_tokens": 500}
_BODY = json.dumps(
    {
        **_FRAME,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop", "logprobs": None}],
        "usage": _USAGE,
    }
).encode()
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: r1\r\nserver: s\r\nvia: 1.1 v\r\n"
_WHOLE = _HEAD + b"content-length: %d\r\n\r\n" % len(_BODY) + _BODY
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

_IS_SHORT = re.compile(rb'"max_tokens": ?%d\b' % SHORT)

_came: list[float] = []


class Provider(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is not of a class of asyncio.
        self._transport: Any = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            whole = end + 4 + (int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get"):
            told = json.dumps(_came).encode() if b"/sent" in head else b'{"data": [{"id": "m"}]}'
            self._transport.write(_HEAD + b"content-length: %d\r\n\r\n" % len(told) + told)
            return
        _came.append(time.time())
        if b'"stream": true' in body or b'"stream":true' in body:
            self._streaming = asyncio.ensure_future(self._stream(0 if _IS_SHORT.search(body) else BETWEEN))
        else:
            self._transport.write(_WHOLE)

    async def _stream(self, between: float) -> None:
        self._transport.write(_STREAM)
        for number in range(CHUNKS):
            if number:
                await asyncio.sleep(between)
            delta: dict[str, Any] = {"content": f"{time.perf_counter_ns()} "}
            self._event({**_FRAME, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self._event({**_FRAME, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._event({**_FRAME, "choices": [], "usage": _USAGE})
        self._transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _event(self, data: dict[str, Any]) -> None:
        event = b"data: %b\n\n" % json.dumps({**data, "object": "chat.completion.chunk"}).encode()
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201  read by who started it
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
