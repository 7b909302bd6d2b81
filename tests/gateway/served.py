"""A gateway that serves in a thread, and providers that it asks."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import httpx

from hfs_providers import Event, KeyedProvider, ModelDefault, ProviderManager
from hfs_providers.authoring import HttpApi
from hfs_providers.dashboard.app import DashboardApp
from hfs_providers.dashboard.source import DashboardSource
from hfs_providers.dashboard.summary import Dashboard
from hfs_providers.gateway.app import Gateway
from hfs_providers.gateway.clients import Clients
from hfs_providers.gateway.guard import Guard
from hfs_providers.gateway.server import GatewayServer

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


class Served:
    """A manager behind a gateway.

    Args:
        env: of the manager.
        plugins: instead of the installed ones.
        guard: which web pages are kept out.
        clients: a file that lists who may use it.
        dashboard_token: serve a dashboard, whose own token this is.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        plugins: Iterable[object] | None = None,
        guard: Guard | None = None,
        clients: Path | None = None,
        dashboard_token: str | None = None,
    ) -> None:
        self.manager = ProviderManager(env=env, plugins=plugins)
        self.events: list[Event] = []
        self.manager.observe(self.events.append)
        listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.ready = threading.Event()
        self.clients = Clients(self.manager.inventory.file.clients)
        shown = None
        if dashboard_token is not None:
            dashboard = Dashboard(DashboardSource(lambda: self.manager.inventory))
            shown = DashboardApp(dashboard, dashboard_token, lambda: nullcontext(self.manager))
        self.gateway = Gateway(self.manager, guard or Guard(), self.clients, shown)
        if clients is not None:
            self.clients.follow(str(clients))
        self.server = GatewayServer(self.gateway, listening, self.ready.set)
        self._thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self.ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.manager.shutdown()
        for wrapper in self.manager.wrappers.values():
            counts = wrapper.pool.counts("m")
            assert (counts.in_flight, counts.reserved_tokens) == (0, 0)

    def ask(self, model: str, path: str = "chat/completions", **members: Any) -> httpx.Response:
        """One request, with the whole answer."""
        return httpx.post(f"{self.url}/v1/{path}", json={"model": model, **HELLO, **members}, timeout=20)

    def post(self, body: bytes, path: str = "chat/completions", **headers: str) -> httpx.Response:
        """One request with such a body."""
        sent = {
            "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return httpx.post(f"{self.url}/v1/{path}", content=body, headers=sent, timeout=20)

    def raw(self, data: bytes) -> bytes:
        """What comes back on a connection, to its end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            found = b""
            while more := connection.recv(65536):
                found += more
        return found

    @property
    def outcomes(self) -> list[tuple[str, str, int]]:
        """Key, outcome and tokens of each request to a provider that was written down."""
        rows = [event.usage for event in self.events if event.usage is not None]
        return [(row.key_id, row.outcome, row.tokens) for row in rows]

    def wait_for_rows(self, number: int) -> list[tuple[str, str, int]]:
        """`outcomes`, once there are so many."""
        happened = threading.Event()
        end = self.manager.observe(lambda _: happened.set() if len(self.outcomes) >= number else None)
        try:
            assert len(self.outcomes) >= number or happened.wait(10)
        finally:
            end()
        return self.outcomes


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


class Wire:
    """A provider that is written out byte by byte: `talk` has each connection after the request was read.

    Args:
        talk: answers one request; the connection is closed when it returns True.
        tls: for https.
    """

    def __init__(self, talk: Callable[[bytes, asyncio.StreamWriter], Any], tls: ssl.SSLContext | None = None) -> None:
        self.talk = talk
        self.tls = tls
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = threading.Event()
        """A client has gone away."""
        self.ended = threading.Event()
        """A connection was closed on this side."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Wire:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def env(self, keys: int = 1) -> dict[str, str]:
        """For a manager of `CORP`."""
        named = {f"CORP_API_KEY_{number}": f"corp-secret-{number}" for number in range(1, keys + 1)}
        return {"NUM_CORP": str(keys), "CORP_BASE_URL": f"http://127.0.0.1:{self.port}/api", **named}

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                self.requests.append(head + await reader.readexactly(length))
                talking = asyncio.ensure_future(self.talk(self.requests[-1], writer))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({talking, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not talking.done():
                    talking.cancel()
                    self.closed.set()
                    return
                gone.cancel()
                await asyncio.wait({gone})
                if talking.result():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self.ended.set()


CORP = KeyedProvider(
    name="corp",
    model_class="agno.models.openai.like:OpenAILike",
    sdk="openai",
    openai_path="/v1",
    http=HttpApi(openai=("chat/completions", "embeddings", "responses"), messages="/v1/messages"),
    models=(ModelDefault("first"), ModelDefault("second")),
)

ANSWER = json.dumps(
    {
        "id": "x",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }
).encode()


def whole(body: bytes = ANSWER, status: str = "200 OK", headers: str = "content-type: application/json") -> bytes:
    """An answer in one piece, as bytes."""
    return f"HTTP/1.1 {status}\r\n{headers}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(*parts: bytes) -> bytes:
    """Parts of a chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def delta(text: str, finish: str | None = None, **members: Any) -> bytes:
    """An event of a stream of chat completions."""
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "x", "choices": choices, **members}).encode() + b"\n\n"


USAGE = (
    b'data: {"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def certify(folder: Path, name: str) -> None:
    """Write `key` and `cert` of a server with a name (`DNS:localhost`, `IP:127.0.0.1`), signed by itself."""
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x"]
    make += ["-addext", f"subjectAltName={name}"]
    subprocess.run([*make, "-keyout", folder / "key", "-out", folder / "cert"], check=True, capture_output=True)
