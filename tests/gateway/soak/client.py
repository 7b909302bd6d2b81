"""A client of the gateway, over one connection after the other: what it asked for and what came back."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from contextlib import suppress
from typing import NamedTuple

LEAVES = 0.04
"""Share of the requests whose client goes away before it has the answer."""

_WRONG = 0.02
_MODELS = ("groq", "cerebras", "gemini", "openrouter", "any", "groq,openrouter", "cerebras,gemini,groq")
# Of `refusals`: what a provider's failure, a limit or an exhausted pool may look like.
_CODES = frozenset(
    {"keys_exhausted", "no_usable_key", "provider_error", "provider_unreachable", "provider_overloaded"}
    | {"chain_exhausted", "stream_interrupted", "invalid_request", "rate_limit_exceeded"}
)
_CONTENT = re.compile(rb'"(?:content|delta)": ?"([^"]*)"')


class Ending(NamedTuple):
    """How a request ended.

    Args:
        kind: `answer`, `error`, `interrupted`, `refused` (rightly, before any provider), `left`, `cut` (the connection
            ended) or `wrong`.
        number: of the hit at the provider that answered.
        at: when it ended, in seconds since the epoch.
        said: what is wrong, or the error's code.
    """

    kind: str
    number: int = 0
    at: float = 0.0
    said: str = ""


class _Left(Exception):
    pass


class Client:
    """One connection.

    Args:
        port: the gateway's, on 127.0.0.1.
        secrets: what no answer may show.
    """

    def __init__(self, port: int, secrets: re.Pattern[bytes]) -> None:
        self._port = port
        self._secrets = secrets
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, number: int, draw: random.Random) -> Ending:
        """Send a request whose prompt ends with `number`, and judge what comes back."""
        ending = await self._ended(number, draw)
        return ending if ending.at else ending._replace(at=time.time())

    async def _ended(self, number: int, draw: random.Random) -> Ending:
        try:
            if self._writer is None or self._writer.is_closing():
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            if draw.random() < _WRONG:
                return await self._ask_wrongly(draw)
            leaves_after = draw.choice((0.0, draw.uniform(0, 0.05), None)) if draw.random() < LEAVES else -1.0
            return await self._ask(number, draw, leaves_after)
        except _Left:
            await self.close()
            return Ending("left")
        except (OSError, EOFError) as error:
            await self.close()
            return Ending("cut", said=type(error).__name__)

    async def close(self) -> None:
        """End the connection."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    async def _ask(self, number: int, draw: random.Random, leaves_after: float | None) -> Ending:
        path = "responses" if draw.random() < 0.1 else "chat/completions"
        model = "groq" if path == "responses" else draw.choice(_MODELS)
        text = f"soak-{number}"
        stream = draw.random() < 0.5
        prompt = {"input": text} if path == "responses" else {"messages": [{"role": "user", "content": text}]}
        self._send(path, json.dumps({"model": model, "stream": stream, **prompt}).encode())
        if leaves_after is not None and leaves_after >= 0:
            await asyncio.sleep(leaves_after)
            raise _Left
        status, headers, body = await self._answer(leaves_at_first=leaves_after is None)
        at = time.time()
        if status != 200:
            return self._error(status, body, at)
        if b'"stream_interrupted"' in body or b"event: error" in body:
            return self._error(status, body.rpartition(b"data: ")[2], at)._replace(kind="interrupted")
        if self._secrets.search(body):
            return Ending("wrong", said="a key is shown in an answer")
        whole = b"".join(_CONTENT.findall(body)) if stream and path != "responses" else body
        if f"You said: {text}".encode() not in whole:
            return Ending("wrong", said=f"{path} {text} was answered {body[-300:]!r}")
        if stream and path != "responses" and not body.endswith(b"data: [DONE]\n\n"):
            return Ending("wrong", said=f"a stream ended with {body[-100:]!r}")
        return Ending("answer", int(headers.get(b"x-request-id", b"0")), at)

    def _error(self, status: int, body: bytes, at: float) -> Ending:
        try:
            error = json.loads(body)["error"]
            code = str(error["code"])
            assert set(error) == {"message", "type", "param", "code"}
        except (ValueError, KeyError, TypeError, AssertionError):
            return Ending("wrong", said=f"{status} {body[:300]!r}")
        if self._secrets.search(body):
            return Ending("wrong", said=f"a key is shown in an error {code}")
        if (status >= 500 or status == 429) and code not in _CODES:
            return Ending("wrong", said=f"{status} {body[:300]!r}")
        return Ending("error", at=at, said=code)

    async def _ask_wrongly(self, draw: random.Random) -> Ending:
        """What never gets to a provider."""
        path, body, headers, wanted = draw.choice(
            (
                ("chat/completions", b'{"model":"nobody/x"}', "", 404),
                ("chat/completions", b'{"model":"groq"', "", 400),
                ("chat/completions", b'{"model":"groq","model":"groq"}', "", 400),
                ("chat/completions", b'{"model":"groq"}', "sec-fetch-site: cross-site\r\n", 403),
                ("embeddings", b'{"model":"groq/x","input":"x"}', "", 501),
                ("nothing", b"{}", "", 404),
            )
        )
        self._send(path, body, headers)
        status, _, found = await self._answer()
        if status != wanted or set(json.loads(found)) != {"error"}:
            return Ending("wrong", said=f"{path} {body!r} was answered with {status} {found[:200]!r}")
        return Ending("refused")

    def _send(self, path: str, body: bytes, headers: str = "") -> None:
        assert self._writer is not None
        head = f"POST /v1/{path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{headers}"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    async def _answer(self, leaves_at_first: bool = False) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body of an answer that came whole."""
        reader = self._reader
        assert reader is not None
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        if leaves_at_first:
            raise _Left
        headers = dict(line.split(b": ", 1) for line in lines[1:] if line)
        length = headers.get(b"content-length")
        body = b""
        if length is not None:
            body = await reader.readexactly(int(length))
        else:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        if headers.get(b"connection") == b"close":
            await self.close()
        return int(lines[0].split()[1]), headers, body
