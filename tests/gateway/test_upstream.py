"""The HTTP client: connections that are kept, and answers that break in every way."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hfs_providers.gateway.connection import MOST_INFLATED, Origin, UpstreamError
from hfs_providers.gateway.upstream import Upstream
from tests.gateway.served import Wire, certify, whole

ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def run(scenario: Callable[[Upstream], Awaitable[Any]], **timeouts: float) -> Any:
    """The result of a scenario."""

    async def main() -> Any:
        upstream = Upstream(**timeouts)
        try:
            return await scenario(upstream)
        finally:
            upstream.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def answered(answer: bytes, *, ends: bool = False) -> Wire:
    """A server that always says the same; at the end it closes the connection."""

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer)
        return ends

    return Wire(talk)


async def fetch(upstream: Upstream, wire: Wire) -> bytes:
    """The body of an answer."""
    response = await (await upstream.connect(Origin("127.0.0.1", wire.port, False))).ask(ASK)
    try:
        return await response.read()
    finally:
        response.close()


def test_a_connection_serves_one_request_after_the_other() -> None:
    async def scenario(upstream: Upstream) -> list[bytes]:
        one = [await fetch(upstream, wire) for _ in range(3)]
        return one + list(await asyncio.gather(fetch(upstream, wire), fetch(upstream, wire)))

    with answered(whole(b"hi")) as wire:
        assert run(scenario) == [b"hi"] * 5
        assert wire.connections == 2


def test_a_kept_connection_that_the_server_has_closed_is_replaced_unseen() -> None:
    async def scenario(upstream: Upstream) -> list[bytes]:
        first = await fetch(upstream, wire)
        # The event loop stands still meanwhile, and has not seen the end of the connection.
        assert wire.ended.wait(10)
        return [first, await fetch(upstream, wire)]

    with answered(whole(b"hi"), ends=True) as wire:
        assert run(scenario) == [b"hi"] * 2
        assert wire.connections == 2


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + whole(b"hi"), b"hi"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: y\r\n\r\n", b"hi"),
        (whole(gzip.compress(b"hi", mtime=0), headers="content-encoding: gzip"), b"hi"),
    ],
)
def test_answers_of_every_form(answer: bytes, body: bytes) -> None:
    with answered(answer, ends=True) as wire:
        assert run(lambda upstream: fetch(upstream, wire)) == body


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"", "closed before an answer"),
        (b"HTTP/1.1 200", "closed in the middle"),
        (whole(b"hi")[:-1], "closed in the middle"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n", "closed in the middle"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, "too large"),
        (whole(b"this is no gzip", headers="content-encoding: gzip"), "not HTTP"),
        (
            whole(gzip.compress(bytes(MOST_INFLATED + 1)), headers="content-encoding: gzip"),
            "compressed answer is too large",
        ),
    ],
)
def test_answers_that_break(answer: bytes, what: str) -> None:
    with answered(answer, ends=True) as wire, pytest.raises(UpstreamError, match=what) as failed:
        run(lambda upstream: fetch(upstream, wire))
    assert failed.value.verdict.kind == "transport"
    assert failed.value.verdict.sent


def test_what_comes_unasked_ends_the_connection() -> None:
    async def scenario(upstream: Upstream) -> list[bytes]:
        return [await fetch(upstream, wire) for _ in range(2)]

    with answered(whole(b"hi") + whole(b"not asked for")) as wire:
        assert run(scenario) == [b"hi"] * 2
        assert wire.connections == 2


def test_nobody_there_is_a_request_that_was_not_sent() -> None:
    with answered(b"") as wire:
        pass
    with pytest.raises(UpstreamError, match=r"no connection to 127\.0\.0\.1") as failed:
        run(lambda upstream: fetch(upstream, wire))
    assert not failed.value.verdict.sent


@pytest.mark.parametrize(
    ("answer", "what"), [(b"", "no answer arrived"), (b"HTTP/1.1 200 OK\r\n\r\nhi", "the rest of the answer")]
)
def test_silence_has_an_end(monkeypatch: pytest.MonkeyPatch, answer: bytes, what: str) -> None:
    monkeypatch.setattr("hfs_providers.gateway.upstream._SWEEP", 0.05)
    with answered(answer) as wire, pytest.raises(UpstreamError, match=f"{what}.* in time"):
        run(lambda upstream: fetch(upstream, wire), first_byte_timeout=0.1, idle_timeout=0.1)


def test_a_large_answer_waits_until_it_is_taken() -> None:
    size, written = 64 * 2**20, 0  # more than the buffers of the two sockets

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> bool:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(bytes(2**16))
            await writer.drain()
            written += 2**16
        return True

    async def scenario(upstream: Upstream) -> int:
        response = await (await upstream.connect(Origin("127.0.0.1", wire.port, False))).ask(ASK)
        first, before = len(await response.chunk()), -1
        while written > before:
            # The server writes until nobody takes it any more.
            before = written
            await asyncio.sleep(0.2)
        assert written < size
        while chunk := await response.chunk():
            first += len(chunk)
        return first

    with Wire(talk) as wire:
        assert run(scenario) == size


def test_a_proxy_is_asked_for_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    with answered(b"HTTP/1.1 403 Forbidden\r\n\r\n", ends=True) as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(UpstreamError, match=r"the proxy refused: HTTP/1\.1 403"):
            run(lambda upstream: upstream.connect(Origin("far.example", 443, True)))
    assert proxy.requests[0].startswith(b"CONNECT far.example:443 HTTP/1.1\r\nhost: far.example:443\r\n")
    assert b"proxy-authorization: Basic bWU6c2VjcmV0" in proxy.requests[0]


@pytest.mark.parametrize(
    "proxy", ["http://me:secret:5@here:port", "http://me:secret@:80", "https://me:secret@here", "http://[secret"]
)
def test_what_is_no_proxy_is_said_without_its_password(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UpstreamError, match=r"HTTPS_PROXY does not have the form http://") as caught:
        run(lambda upstream: upstream.connect(Origin("far.example", 443, True)))
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Of a server on this machine, which is trusted."""
    certify(tmp_path, "DNS:localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    return context


async def said_securely(upstream: Upstream, host: str, port: int) -> bytes:
    """The body of an answer over TLS."""
    response = await (await upstream.connect(Origin(host, port, True))).ask(ASK)
    return await response.read()


def test_https_is_trusted_only_under_its_own_name(tls: ssl.SSLContext) -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"hi"))

    with Wire(talk, tls) as wire:
        assert run(lambda upstream: said_securely(upstream, "localhost", wire.port)) == b"hi"
        with pytest.raises(UpstreamError, match="certificate verify failed") as failed:
            run(lambda upstream: said_securely(upstream, "127.0.0.1", wire.port))
        assert not failed.value.verdict.sent


def test_https_goes_through_a_proxy(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"hi"))

    async def proxied(upstream: Upstream) -> bytes:
        async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", wire.port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    sink.write(data)

            await asyncio.wait(
                {asyncio.ensure_future(pump(reader, far_writer)), asyncio.ensure_future(pump(far_reader, writer))},
                return_when=asyncio.FIRST_COMPLETED,
            )
            far_writer.close()
            writer.close()

        server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        try:
            return await said_securely(upstream, "localhost", wire.port)
        finally:
            upstream.close()
            server.close()

    asked: list[bytes] = []
    with Wire(talk, tls) as wire:
        assert run(proxied) == b"hi"
        assert asked[0].startswith(b"CONNECT localhost:%d HTTP/1.1" % wire.port)
