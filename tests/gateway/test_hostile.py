"""Requests as no client sends them: each gets an answer or an error in the usual shape, and none fails or is silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

from hfs_providers.gateway import app, protocol
from tests.gateway.hostile import BODY, HEAD, OddRequests, check_answers, mutated
from tests.gateway.served import CORP, Served, Wire, whole

ANSWERS = {
    "chat/completions": {"choices": [{"message": {"content": "hi"}}]},
    "responses": {"output": [{}]},
    "embeddings": {"data": [{}]},
    "messages": {"content": [{}]},
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A gateway whose provider answers everything."""

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        path = request.split(b" ", 2)[1].decode().partition("/v1/")[2]
        writer.write(whole(json.dumps(ANSWERS[path]).encode()))

    with Wire(talk) as wire, Served(wire.env(), [CORP]) as served:
        yield served


LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
CLOSE = b"connection: close\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 403),
        (b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n", 200),
        (b"GET http://evil.example/health HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n", 200),
        (b"GET http://localhost/health HTTP/1.1\r\nhost: evil.example\r\n" + CLOSE + b"\r\n", 403),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n", 404),
        (b"TRACE /health HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n", 405),
        (b"TRACE /v1/messages HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n", 405),
        (b"PURGE /v1/models HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n", 405),
        (b"GET /v1/models/%ff%00 HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n", 404),
        (b"GET /v1/models/..%2f..%2fmetrics HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n", 404),
        (b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n", 400),
        (HEAD + CLOSE + LENGTH + b"x: a\r\n b\r\n\r\n" + BODY, 400),
        (HEAD + CLOSE + LENGTH + b"x : a\r\n\r\n" + BODY, 400),
        ((HEAD + CLOSE + LENGTH).replace(b"\r\n", b"\n") + b"\n" + BODY, 400),
        (HEAD + CLOSE + b"content-length: +5\r\n\r\n" + BODY, 400),
        (HEAD + CLOSE + b"content-length: 99999999999999999999\r\n\r\n" + BODY, 400),
        (HEAD + CLOSE + b"transfer-encoding: xchunked\r\n\r\n" + CHUNK + b"0\r\n\r\n", 400),
        (HEAD + CLOSE + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n" + CHUNK, 400),
        (HEAD + CLOSE + b"transfer-encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n", 200),
        # What comes behind the body is no header.
        (HEAD + CLOSE + b"transfer-encoding: chunked\r\n\r\n" + CHUNK + b"0\r\nhost: evil.example\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\n" + CLOSE + b"transfer-encoding: chunked\r\n\r\n0\r\nhost: localhost\r\n\r\n", 403),
    ],
)
def test_odd_requests(served: Served, data: bytes, status: int) -> None:
    got = served.raw(data)
    assert got.startswith(b"HTTP/1.1 %d " % status)
    check_answers(got)


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0"])
def test_an_offer_to_speak_another_protocol_is_passed_over(served: Served, upgrade: bytes) -> None:
    # Java's client and `curl --http2` make it with each request.
    offer = b"connection: upgrade, http2-settings\r\nupgrade: %b\r\nhttp2-settings: AAMAAABk\r\n" % upgrade
    with httpx.Client() as client:
        for _ in range(2):
            headers = {
                "connection": "upgrade, http2-settings",
                "upgrade": upgrade.decode(),
                "content-type": "application/json",
            }
            assert client.post(f"{served.url}/v1/chat/completions", content=BODY, headers=headers).status_code == 200
    got = served.raw(HEAD + offer + LENGTH + b"\r\n" + BODY + HEAD + CLOSE + LENGTH + b"\r\n" + BODY)
    assert got.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("rest", [b"%x;" % len(BODY) + b"x" * 2**20, CHUNK + b"0\r\n" + b"x: y\r\n" * 2**18])
def test_what_frames_a_body_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch, rest: bytes) -> None:
    monkeypatch.setattr(protocol, "MOST_OF_A_REQUEST", 70_000)
    try:
        got = served.raw(HEAD + b"transfer-encoding: chunked\r\n\r\n" + rest)
    except ConnectionError:
        # It was closed while more was on its way.
        return
    assert got.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_never_begins_is_not_awaited(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_BODY_PATIENCE", 0.2)
    assert served.raw(HEAD + LENGTH + b"\r\n").startswith(b"HTTP/1.1 408 ")


def test_members_of_any_type(served: Served) -> None:
    odd = OddRequests(served.url)
    assert odd.run() > 1000
    assert odd.wrong == []


@pytest.mark.parametrize("nest", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"content":', b"}]")])
@pytest.mark.parametrize("member", ["messages", "tools", "system", "input", "stream_options", "model", "x"])
def test_members_nested_at_any_depth(served: Served, member: str, nest: tuple[bytes, bytes]) -> None:
    begin, end = nest
    with httpx.Client(timeout=20) as client:
        for depth in (*range(100, 1100, 250), *range(940, 1005, 4), 5_000):
            value = begin * depth + b"1" + end * depth
            body = b'{"model":"corp","%b":%b}' % (member.encode(), value)
            headers = {"content-type": "application/json"}
            got = client.post(f"{served.url}/v1/chat/completions", content=body, headers=headers)
            assert got.status_code in (200, 400), (depth, got.text)


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_bytes_that_were_a_request(served: Served, data: bytes) -> None:
    with pytest.MonkeyPatch.context() as impatient:
        # This connection ends soon, and with it what is read. No other: on a busy machine a client may need longer than
        # that between connecting and sending, and the server would close the connection under it.
        impatient.setattr(protocol, "HEAD_SECONDS", 0.2)
        impatient.setattr(app, "_BODY_PATIENCE", 0.2)
        impatient.setattr(served.server.config, "timeout_keep_alive", 0.2)
        got = served.raw(data)
    check_answers(got)
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_the_description_of_itself(served: Served) -> None:
    described: dict[str, Any] = httpx.get(f"{served.url}/openapi.json").json()
    assert described["openapi"].startswith("3.")
    paths = {path.path for path in served.gateway._router.routes} | set(served.gateway._relays)
    assert set(described["paths"]) == {path.replace("{name:path}", "{name}") for path in paths}
