"""The loopback provider server: one process that answers what the providers' real SDKs send, over real sockets.

with LoopbackServer() as server:
    env = server.env({"groq": 2})
    server.script("groq", env["GROQ_API_KEY_1"], [RateLimited(retry_after=7)])
    with ProviderManager(env=env) as manager:
        ...
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from hfs_providers.testing.answers import Request, think
from hfs_providers.testing.dialects import Dialect, built_in
from hfs_providers.testing.scripts import BadRequest, ModelGone, Ok, Reply, Reset, Stall, Step, Unauthorized

_MODELS: Mapping[str, Sequence[str]] = {
    "cerebras": ("llama-3.3-70b", "gpt-oss-120b", "llama3.1-8b"),
    "groq": ("llama-3.3-70b-versatile", "openai/gpt-oss-120b"),
    "gemini": ("gemini-2.5-flash", "gemini-3.5-flash-lite"),
    "openrouter": ("meta-llama/llama-3.3-70b-instruct:free", "openrouter/free"),
}
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
_STOP_WITHIN = 5.0


@dataclass(frozen=True)
class Seen:
    """One request that the server saw.

    Args:
        at: monotonic seconds.
        provider, model, path, stream: what was asked for.
        key: the caller's key; never represented.
        fingerprint: the first 8 hex digits of its SHA-256.
        outcome: the name of the step that answered it.
        status: HTTP status, or 0 where none was sent.
        connection: the number of the connection that it came on.
        tokens: what the answer said that it cost.
        finished: whether the whole answer was written.
    """

    at: float
    provider: str
    model: str
    path: str
    stream: bool
    key: str = field(repr=False)
    fingerprint: str
    outcome: str
    status: int
    connection: int
    tokens: int
    finished: bool


class Gate:
    """Holds answers back until it is opened, so that a test can have calls in flight at the same time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = 0
        self.opened = asyncio.Event()

    def arrived(self) -> None:
        """One more request waits. Called by the server."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()

    def wait_for(self, number: int, timeout: float = 10.0) -> bool:
        """Whether `number` requests have come to wait within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting >= number, timeout)


class LoopbackServer:
    """Simulated providers on 127.0.0.1, in a thread of their own.

    Args:
        dialects: providers besides the built-in four, by name.
        answer: what thinks of an answer where no script says one.
        log_size: requests that `seen` keeps.
        limits: `requests` a day and `tokens` a minute that the rate-limit headers of Groq's and Cerebras' good answers
            show; no such headers where not given.
        unasked_usage: whether Cerebras' and OpenRouter's streams tell their usage where the request did not ask.
        port: 0 for any that is free.

    The methods may be called from any thread while it serves. No key appears in its representation.
    """

    def __init__(
        self,
        dialects: Mapping[str, Dialect] | None = None,
        answer: Callable[[Request], Ok] | None = None,
        log_size: int = 100_000,
        port: int = 0,
        unasked_usage: bool = True,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self._limits = limits
        self._dialects = {**built_in(unasked_usage), **(dialects or {})}
        self._answer = answer or think
        self._lock = threading.Lock()
        self._scripts: dict[tuple[str, str, str | None], tuple[deque[Step], Step | None]] = {}
        self._allowed: dict[str, set[str]] = {}
        self._retired: set[tuple[str, str]] = set()
        self._models = {name: tuple(ids) for name, ids in _MODELS.items()}
        self._seen: deque[Seen] = deque(maxlen=log_size)
        self._hits: dict[str, Counter[str]] = {}
        self._answered: dict[str, Counter[tuple[str, str]]] = {}
        self._issued = 0
        self._gate: Gate | None = None
        self.connections = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._open: set[_Connection] = set()

    def __repr__(self) -> str:
        return f"LoopbackServer(port={self._port}, running={self._thread is not None})"

    # Lifecycle

    def start(self) -> LoopbackServer:
        """Listen and serve. Does nothing where it runs already."""
        if self._thread is None:
            # Bound here, so that a port in use is raised to the caller and not in a thread.
            listening = socket.create_server(("127.0.0.1", self._port), backlog=1024)
            ready = threading.Event()
            self._thread = threading.Thread(
                target=self._serve, args=(listening, ready), name="loopback-server", daemon=True
            )
            self._thread.start()
            if not ready.wait(_STOP_WITHIN):
                raise TimeoutError("the loopback server did not start")
        return self

    def stop(self) -> None:
        """Close every connection and end the thread, within seconds. Safe to call twice."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_STOP_WITHIN)

    def __enter__(self) -> LoopbackServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self, bound: socket.socket, ready: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        self._loop = loop
        listening = loop.run_until_complete(loop.create_server(lambda: _Connection(self), sock=bound, backlog=1024))
        self._port = bound.getsockname()[1]
        ready.set()
        try:
            loop.run_forever()
        finally:
            listening.close()
            for connection in list(self._open):
                connection.abort()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    # What a test says

    def base_url(self, provider: str) -> str:
        """What goes into the SDK's base URL."""
        return f"http://127.0.0.1:{self._port}/{provider}{self._dialects[provider].base_path}"

    def env(self, keys: Mapping[str, int | Sequence[str]]) -> dict[str, str]:
        """The environment for a manager.

        Args:
            keys: by provider, how many keys to make up, or the keys.
        """
        env: dict[str, str] = {}
        for provider, wanted in keys.items():
            upper = provider.upper().replace("-", "_")
            given = [self.new_key(provider) for _ in range(wanted)] if isinstance(wanted, int) else list(wanted)
            env[f"NUM_{upper}"] = str(len(given))
            env[f"{upper}_BASE_URL"] = self.base_url(provider)
            env.update({f"{upper}_API_KEY_{number}": key for number, key in enumerate(given, 1)})
        return env

    def new_key(self, provider: str) -> str:
        """A key that looks like the provider's, and that nobody else has."""
        with self._lock:
            self._issued += 1
            number = self._issued
        # Derived, so that a run can be repeated; not random, because it guards nothing.
        body = hashlib.sha256(f"{provider} {number}".encode()).hexdigest()[:36]
        return f"{self._dialects[provider].key_prefix}{body}"

    def script(
        self, provider: str, key: str, steps: Sequence[Step], then: Step | None = None, model: str | None = None
    ) -> None:
        """Say what the next requests are answered with.

        Args:
            provider: its name.
            key: whose requests, or `*` for any key that has no script of its own.
            steps: one for each request.
            then: for all requests after them; None answers as usual.
            model: only requests for this model; such a script goes before one for all models.
        """
        with self._lock:
            self._scripts[provider, key, model] = (deque(steps), then)

    def keys(self, provider: str, allowed: Sequence[str]) -> None:
        """Let only these keys in; any other is unauthorized."""
        with self._lock:
            self._allowed[provider] = set(allowed)

    def retire(self, provider: str, model: str) -> None:
        """Take a model out of service, for every key."""
        with self._lock:
            self._retired.add((provider, model))
            self._models[provider] = tuple(name for name in self._models.get(provider, ()) if name != model)

    def models(self, provider: str) -> tuple[str, ...]:
        """The models that the provider lists."""
        return self._models.get(provider, ())

    def set_models(self, provider: str, ids: Sequence[str]) -> None:
        """Say which models the provider lists."""
        with self._lock:
            self._models[provider] = tuple(ids)

    @contextmanager
    def hold(self) -> Iterator[Gate]:
        """Hold answers back inside the block; they are let go at its end."""
        gate = Gate()
        self._gate = gate
        try:
            yield gate
        finally:
            self._gate = None
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(gate.opened.set)

    # What a test reads

    @property
    def seen(self) -> list[Seen]:
        """The requests, oldest first, once they are answered."""
        with self._lock:
            return list(self._seen)

    def hits(self, provider: str | None = None) -> dict[str, int]:
        """Requests by key, of one provider or of all, whatever the answer; listing the models does not count."""
        with self._lock:
            if provider is None:
                return dict(sum(self._hits.values(), Counter[str]()))
            return dict(self._hits.get(provider, {}))

    def answered(self, provider: str) -> dict[tuple[str, str], int]:
        """Requests that were answered with a whole completion, by key and model."""
        with self._lock:
            return dict(self._answered.get(provider, {}))

    def reset(self) -> None:
        """Forget scripts and counts."""
        with self._lock:
            self._scripts.clear()
            self._seen.clear()
            self._hits.clear()
            self._answered.clear()
            self.connections = self.max_in_flight = 0

    # What its connections ask

    def dialect_of(self, path: str) -> tuple[Dialect, str] | None:
        """The dialect of a path's first part, and the rest of the path."""
        name, _, rest = path.removeprefix("/").partition("/")
        dialect = self._dialects.get(name)
        return None if dialect is None else (dialect, f"/{rest}")

    def next_step(self, request: Request) -> Step:
        """What to do with a request."""
        with self._lock:
            if request.method != "GET":
                self._hits.setdefault(request.provider, Counter())[request.key] += 1
            allowed = self._allowed.get(request.provider)
            if not request.key or (allowed is not None and request.key not in allowed):
                return Unauthorized()
            for key in (request.key, "*"):
                for model in (request.model, None):
                    steps, then = self._scripts.get((request.provider, key, model), (None, None))
                    if steps:
                        return steps.popleft()
                    if then is not None:
                        return then
            if (request.provider, request.model) in self._retired:
                return ModelGone()
        return Ok()

    def with_allowance(self, dialect: Dialect, request: Request, reply: Reply) -> Reply:
        """`reply` with the rate-limit headers of a good answer, where the server was told limits."""
        if self._limits is None:
            return reply
        told = dialect.allowance(self._limits, self.hits(request.provider).get(request.key, 0), reply.tokens)
        return replace(reply, headers={**reply.headers, **told})

    def thought(self, request: Request, step: Ok) -> Ok:
        """`step` with something to say."""
        answer = self._answer(request)
        return replace(step, text=answer.text, tool_calls=answer.tool_calls, usage=step.usage or answer.usage)

    def note(self, request: Request, step: Step, reply: Reply, connection: int, finished: bool) -> None:
        """Write a request down."""
        status = 0 if isinstance(step, (Reset, Stall)) else reply.status
        seen = Seen(
            at=time.monotonic(),
            provider=request.provider,
            model=request.model,
            path=request.path,
            stream=request.stream,
            key=request.key,
            fingerprint=hashlib.sha256(request.key.encode()).hexdigest()[:8],
            outcome=type(step).__name__,
            status=status,
            connection=connection,
            tokens=reply.tokens,
            finished=finished,
        )
        with self._lock:
            self._seen.append(seen)
            if isinstance(step, Ok) and finished and request.method != "GET":
                self._answered.setdefault(request.provider, Counter())[request.key, request.model] += 1

    async def wait_at_gate(self) -> None:
        """Wait while answers are held back."""
        gate = self._gate
        if gate is not None:
            gate.arrived()
            await gate.opened.wait()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as much of it as HTTP clients send: one request after the other, bodies by length or
    chunked."""

    def __init__(self, server: LoopbackServer) -> None:
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
        self._server._open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server._open.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._next()

    def abort(self) -> None:
        """Cut the connection without a farewell."""
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        try:
            found = _parse(self._buffer)
        except ValueError:
            self._write(_failed(400, "this is no HTTP/1.1"))
            if self._transport is not None:
                self._transport.close()
            return
        if found is not None:
            self._task = asyncio.get_running_loop().create_task(self._handle(*found))

    async def _handle(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        server = self._server
        server.in_flight += 1
        server.max_in_flight = max(server.max_in_flight, server.in_flight)
        try:
            await self._respond(method, target.partition("?")[0], headers, body)
        except Exception as error:
            # A dialect or an `answer` of the test's own may fail: its caller is told, and not left to a timeout.
            self._write(_failed(500, f"the loopback server failed: {error!r}"))
        finally:
            server.in_flight -= 1
            self._task = None
        if self._transport is not None and not self._transport.is_closing():
            self._next()

    async def _respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        found = self._server.dialect_of(path)
        if found is not None and method == "GET" and path.endswith("/v1/tcp_warming"):
            # The Cerebras SDK's, at each client's construction: a connection, no request.
            self._write(Reply(200, b"{}", {"content-type": "application/json"}))
            return
        try:
            decoded = json.loads(body) if body else {}
        except ValueError:
            decoded = None
        readable = isinstance(decoded, dict)
        given: dict[str, Any] = decoded if isinstance(decoded, dict) else {}
        request = found[0].read(method, found[1], headers, given) if found is not None else None
        if found is None or request is None:
            self._write(_failed(404, "no such path"))
            return
        step = self._server.next_step(request) if readable else BadRequest()
        if isinstance(step, Ok) and method == "POST" and step.text is None and step.tool_calls is None:
            step = self._server.thought(request, step)
        if method == "POST":
            await self._server.wait_at_gate()
        if isinstance(step, (Reset, Stall)):
            self._server.note(request, step, Reply(), self._number, False)
            await asyncio.sleep(getattr(step, "seconds", 0))
            self._reset()
            return
        if method == "GET" and isinstance(step, Ok):
            listing = json.dumps(found[0].models(self._server.models(request.provider))).encode()
            reply = Reply(200, listing, {"content-type": "application/json"})
        else:
            reply = found[0].reply(request, step)
            if isinstance(step, Ok):
                reply = self._server.with_allowance(found[0], request, reply)
        finished = False
        try:
            if reply.delay:
                await asyncio.sleep(reply.delay)
            if reply.body is not None:
                # Written down first: whoever has the answer may look at once.
                finished = True
                self._server.note(request, step, reply, self._number, True)
                self._write(reply)
            else:
                finished = await self._stream(request, step, reply)
        finally:
            if reply.body is None and not finished:
                self._server.note(request, step, reply, self._number, False)

    async def _stream(self, request: Request, step: Step, reply: Reply) -> bool:
        """Write a stream; whether the whole of it was written (and written down)."""
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
            # What was written must be read before the reset arrives, or the client would lose it.
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
            # Zero seconds to linger: close sends RST instead of FIN.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _failed(status: int, message: str) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message}}).encode(), {"content-type": "application/json"})


def _parse(buffer: bytearray) -> tuple[str, str, dict[str, str], bytes] | None:
    """Take one whole request off the buffer, or leave it as it is and return None."""
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
