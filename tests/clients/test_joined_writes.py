"""How often a request is written: a server counts the pieces in which it arrives."""

from __future__ import annotations

import asyncio
import importlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hfs_providers import ProviderManager
from hfs_providers.clients.joined_writes import join_writes
from tests.gateway.served import certify

POSTS = 20
ANSWER = (
    b'{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)


class Counter:
    """A server of HTTP/1.1 that notes of each request its body and the number of reads that it took."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[bytes, int]] = []
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with connection:
            while request := self._read(connection):
                self.requests.append(request)
                head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
                connection.sendall(head + ANSWER)

    def _read(self, connection: socket.socket) -> tuple[bytes, int] | None:
        received, reads = b"", 0
        while True:
            piece = connection.recv(1 << 20)
            if not piece:
                return None
            received += piece
            reads += 1
            head, end, body = received.partition(b"\r\n\r\n")
            if end and b"transfer-encoding: chunked" in head.lower():
                if body.endswith(b"0\r\n\r\n"):
                    return body, reads
            elif end:
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                if len(body) == (int(lengths[0].partition(b":")[2]) if lengths else 0):
                    return body, reads


@pytest.fixture
def counter() -> Iterator[Counter]:
    counter = Counter()
    yield counter
    counter.close()


@pytest.fixture(params=["httpx", "httpx2"])
def backend(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


def test_the_naive_way_writes_most_requests_in_two_pieces(backend: Any, counter: Counter) -> None:
    with backend.Client() as client:
        for number in range(POSTS):
            client.post(counter.url, json={"number": number})
    assert max(reads for _, reads in counter.requests) == 2


def test_each_request_arrives_in_one_piece(backend: Any, counter: Counter) -> None:
    with join_writes(backend.Client()) as client:
        for number in range(POSTS):
            assert client.post(counter.url, json={"number": number}).content == ANSWER
    assert counter.requests == [(b'{"number":%d}' % number, 1) for number in range(POSTS)]


def test_each_async_request_arrives_in_one_piece(backend: Any, counter: Counter) -> None:
    async def main() -> None:
        async with join_writes(backend.AsyncClient()) as client:
            for number in range(POSTS):
                assert (await client.post(counter.url, json={"number": number})).content == ANSWER

    asyncio.run(main())
    assert counter.requests == [(b'{"number":%d}' % number, 1) for number in range(POSTS)]


def test_over_tls_it_is_one_record(backend: Any, tmp_path: Path) -> None:
    certify(tmp_path, "IP:127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    trusted = ssl.create_default_context(cafile=tmp_path / "cert")

    async def main() -> None:
        async with join_writes(backend.AsyncClient(verify=trusted)) as client:
            assert (await client.post(counter.url, json={})).content == ANSWER

    with ExitStack() as stack:
        counter = Counter(context)
        stack.callback(counter.close)
        with join_writes(backend.Client(verify=trusted)) as client:
            assert client.post(counter.url, json={}).content == ANSWER
        asyncio.run(main())
    # A read gives one record at most.
    assert counter.requests == [(b"{}", 1), (b"{}", 1)]


def test_requests_of_all_forms_arrive_whole(backend: Any, counter: Counter) -> None:
    long = bytes(range(256)) * 8_000
    with join_writes(backend.Client()) as client:
        client.get(counter.url)
        client.post(counter.url)
        client.post(counter.url, content=long)
        # A part that looks like a head is one no more than any other.
        client.post(counter.url, content=iter([b"POST ", b"/", b"POST "]))
        client.post(counter.url, content=b"POST ")
    bodies = [body for body, _ in counter.requests]
    assert bodies == [b"", b"", long, b"5\r\nPOST \r\n1\r\n/\r\n5\r\nPOST \r\n0\r\n\r\n", b"POST "]


def test_a_head_does_not_wait_for_what_never_comes(backend: Any, counter: Counter) -> None:
    head = b"POST / HTTP/1.1\r\nhost: here\r\n\r\n"

    async def main() -> bytes:
        async with join_writes(backend.AsyncClient()) as client:
            stream = await client._transport._pool._network_backend.connect_tcp("127.0.0.1", counter.port)
            await stream.write(head)
            answer: bytes = await stream.read(10_000)
            await stream.aclose()
            return answer

    with join_writes(backend.Client()) as client:
        stream = client._transport._pool._network_backend.connect_tcp("127.0.0.1", counter.port)
        stream.write(head)
        assert stream.read(10_000).endswith(ANSWER)
        stream.close()
    assert asyncio.run(main()).endswith(ANSWER)


def test_a_client_with_a_transport_of_its_own_stays_as_it_is(backend: Any) -> None:
    transport = backend.MockTransport(lambda request: backend.Response(200, content=request.content))
    with join_writes(backend.Client(transport=transport)) as client:
        assert client.post("http://here/", content=b"hi").content == b"hi"


@pytest.mark.parametrize("provider", ["cerebras", "groq", "openrouter"])
def test_the_models_requests_arrive_in_one_piece(counter: Counter, provider: str) -> None:
    from agno.models.message import Message

    name = provider.upper()
    env = {f"NUM_{name}": "1", f"{name}_API_KEY_1": "a-key", f"{name}_BASE_URL": counter.url, "HFS_USAGE_DB": "off"}

    with ProviderManager(env=env) as manager:
        model = manager.get_model(provider)
        for _ in range(5):
            assert model.response(messages=[Message(role="user", content="x")]).content == "hi"
        asyncio.run(model.aresponse(messages=[Message(role="user", content="x")]))
    assert [reads for _, reads in counter.requests] == [1] * 6
