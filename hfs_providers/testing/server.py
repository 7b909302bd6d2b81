"""The loopback server: simulates providers in this process, and answers their real SDKs over real sockets.

with LoopbackServer() as server:
    env = server.env({"groq": 2})
    server.script("groq", env["GROQ_API_KEY_1"], [RateLimited(retry_after=7)])
    with ProviderManager(env=env) as manager:
        ...
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hfs_providers.contract.environment import USAGE, env_name
from hfs_providers.testing.answers import Request, think
from hfs_providers.testing.connection import Connection
from hfs_providers.testing.dialects import Dialect
from hfs_providers.testing.scripts import ModelGone, Ok, Reply, Reset, Stall, Step, Unauthorized
from hfs_providers.testing.spoken import built_in

_MODELS: Mapping[str, Sequence[str]] = {
    "cerebras": ("llama-3.3-70b", "gpt-oss-120b", "llama3.1-8b"),
    "groq": ("llama-3.3-70b-versatile", "openai/gpt-oss-120b"),
    "gemini": ("gemini-2.5-flash", "gemini-3.5-flash-lite"),
    "openrouter": ("meta-llama/llama-3.3-70b-instruct:free", "openrouter/free"),
}
_STOP_WITHIN = 5.0
_OPEN = Ok()

Read = tuple[Dialect, Request]


@dataclass(frozen=True)
class Seen:
    """One request that the server saw.

    Args:
        at: monotonic seconds.
        provider, model, path, stream: what was asked for.
        key: the caller's key; not in the `repr`.
        fingerprint: the first 16 hex digits of the key's SHA-256.
        outcome: the name of the step that answered it.
        status: HTTP status, or 0 if none was sent.
        connection: the number of its connection.
        tokens: the tokens in and out that the answer reported.
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
        """Count one more waiting request. Called by the server."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()

    def wait_for(self, number: int, timeout: float = 10.0) -> bool:
        """Wait until `number` requests are waiting. Returns whether they were within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting >= number, timeout)


class LoopbackServer:
    """Simulated providers on 127.0.0.1, in their own thread.

    Args:
        dialects: the dialects of further providers, or replacements for those of the built-in four.
        answer: makes an answer, and its delays, for requests without a script.
        log_size: how many requests `seen` keeps.
        port: 0 for any free port.

    The methods may be called from any thread while it serves. Its `repr` contains no key.
    """

    def __init__(
        self,
        dialects: Iterable[Dialect] = (),
        answer: Callable[[Request], Ok] | None = None,
        log_size: int = 100_000,
        port: int = 0,
    ) -> None:
        self._dialects = {**built_in(), **{dialect.provider: dialect for dialect in dialects}}
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
        self.open_connections: set[Connection] = set()

    def __repr__(self) -> str:
        return f"LoopbackServer(port={self._port}, running={self._thread is not None})"

    # Lifecycle

    def start(self) -> LoopbackServer:
        """Listen and serve. Does nothing if it is running already."""
        if self._thread is None:
            # Bound here, so that the error of a port in use reaches the caller and not a thread.
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
        """Close every connection and end the thread, which takes seconds at most. Safe to call twice."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_STOP_WITHIN)

    def __enter__(self) -> LoopbackServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self, bound: socket.socket, ready: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        self._loop = loop
        listening = loop.run_until_complete(loop.create_server(lambda: Connection(self), sock=bound, backlog=1024))
        self._port = bound.getsockname()[1]
        ready.set()
        try:
            loop.run_forever()
        finally:
            listening.close()
            for connection in list(self.open_connections):
                connection.abort()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    # What a test sets

    def base_url(self, provider: str, endpoint: str = "default") -> str:
        """The base URL for the SDK.

        Args:
            endpoint: for a keyless provider: the name that takes the place of the key in scripts and counts.
        """
        dialect = self._dialects[provider]
        own = f"/{endpoint}" if dialect.keyless else ""
        return f"http://127.0.0.1:{self._port}/{provider}{own}{dialect.base_path}"

    def env(self, keys: Mapping[str, int | Sequence[str]]) -> dict[str, str]:
        """The environment for a manager. `HFS_USAGE_DB` is `off` in it: usage is not kept.

        To look at the keys with `hfs-providers keys` or on the dashboard, set it to a path.

        Args:
            keys: by provider, the number of keys (or endpoints of a keyless provider) to create, or the keys.
        """
        env = {USAGE: "off"}
        for provider, wanted in keys.items():
            upper = env_name(provider)
            given = [self.new_key(provider) for _ in range(wanted)] if isinstance(wanted, int) else list(wanted)
            env[f"NUM_{upper}"] = str(len(given))
            if self._dialects[provider].keyless:
                urls = [self.base_url(provider, endpoint) for endpoint in given]
                env.update({f"{upper}_ENDPOINT_{number}": url for number, url in enumerate(urls, 1)})
                continue
            env[f"{upper}_BASE_URL"] = self.base_url(provider)
            env.update({f"{upper}_API_KEY_{number}": key for number, key in enumerate(given, 1)})
        return env

    def new_key(self, provider: str) -> str:
        """A new key that looks like the provider's."""
        with self._lock:
            self._issued += 1
            number = self._issued
        # Computed instead of random, so that a run can be repeated. It protects nothing.
        body = hashlib.sha256(f"{provider} {number}".encode()).hexdigest()[:36]
        return f"{self._dialects[provider].key_prefix}{body}"

    def script(
        self, provider: str, key: str, steps: Sequence[Step], then: Step | None = None, model: str | None = None
    ) -> None:
        """Set the answers to the next requests.

        Args:
            key: the key of the requests, or `*` for any key that has no script of its own.
            steps: one for each request.
            then: the step for all requests after them; None gives the usual answer.
            model: only for requests for this model; such a script takes precedence over one for all models.
        """
        with self._lock:
            self._scripts[provider, key, model] = (deque(steps), then)

    def keys(self, provider: str, allowed: Sequence[str]) -> None:
        """Accept only these keys; any other is unauthorized."""
        with self._lock:
            self._allowed[provider] = set(allowed)

    def retire(self, provider: str, model: str) -> None:
        """Retire a model, for every key."""
        with self._lock:
            self._retired.add((provider, model))
            self._models[provider] = tuple(name for name in self._models.get(provider, ()) if name != model)

    def models(self, provider: str) -> tuple[str, ...]:
        """The models that the provider lists."""
        return self._models.get(provider, ())

    def set_models(self, provider: str, ids: Sequence[str]) -> None:
        """Set the models that the provider lists."""
        with self._lock:
            self._models[provider] = tuple(ids)

    @contextmanager
    def hold(self) -> Iterator[Gate]:
        """Hold answers back inside the block; they are sent at its end."""
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
        """The answered requests, oldest first."""
        with self._lock:
            return list(self._seen)

    def hits(self, provider: str | None = None) -> dict[str, int]:
        """The number of requests by key, of one provider or all, whatever the answer. Listing models does not count."""
        with self._lock:
            if provider is None:
                return dict(sum(self._hits.values(), Counter[str]()))
            return dict(self._hits.get(provider, {}))

    def answered(self, provider: str) -> dict[tuple[str, str], int]:
        """The number of requests that were answered with a whole completion, by key and model."""
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

    # What its connections call

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Read | None:
        """The dialect that a path's first part names, and the request that it reads; None if there is none."""
        name, _, rest = path.removeprefix("/").partition("/")
        dialect = self._dialects.get(name)
        if dialect is None:
            return None
        endpoint = None
        if dialect.keyless:
            endpoint, _, rest = rest.partition("/")
        for spoken in (dialect, *dialect.others):
            request = spoken.read(method, f"/{rest}", headers, body)
            if request is not None:
                return spoken, request if endpoint is None else replace(request, key=endpoint)
        return None

    def next_step(self, request: Request) -> Step:
        """The step that answers a request."""
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

    def thought(self, request: Request, step: Ok) -> Ok:
        """`step` with an answer. What the script has not set (delays, chunks, usage) comes from `answer`."""
        scripted = {each.name: getattr(step, each.name) for each in fields(Ok)}
        given = {name: value for name, value in scripted.items() if value != getattr(_OPEN, name)}
        return replace(self._answer(request), **given)

    def note(self, request: Request, step: Step, reply: Reply, connection: int, finished: bool) -> None:
        """Record a request."""
        status = 0 if isinstance(step, (Reset, Stall)) else reply.status
        seen = Seen(
            at=time.monotonic(),
            provider=request.provider,
            model=request.model,
            path=request.path,
            stream=request.stream,
            key=request.key,
            fingerprint=hashlib.sha256(request.key.encode()).hexdigest()[:16],
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
