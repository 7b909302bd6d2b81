"""Who is let in, and how much."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from hfs_providers.gateway import app, protocol
from hfs_providers.gateway.guard import Guard
from hfs_providers.testing import LoopbackServer, ModelGone, Ok
from tests.gateway.served import HELLO, Served

BODY = json.dumps({"model": "groq", **HELLO}).encode()


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def served(server: LoopbackServer) -> Iterator[Served]:
    with Served(server.env({"groq": 1}), guard=Guard(["gateway.example"], ["https://app.example"])) as served:
        yield served


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8321"}, 200),
        ({"host": "[::1]:8321"}, 200),
        ({"host": "GATEWAY.example"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:80"}, 403),
        ({"host": "evil.example:127.0.0.1"}, 403),
        ({"host": ""}, 403),
        ({"origin": "https://app.example"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://localhost:3000", "host": "localhost:8321"}, 403),
        ({"origin": "http://localhost:8321", "host": "localhost:8321"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site", "origin": "https://app.example"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/jsonp"}, 415),
        ({"content-type": "Application/JSON; charset=utf-8"}, 200),
    ],
)
def test_web_pages_do_not_get_in(served: Served, server: LoopbackServer, headers: dict[str, str], status: int) -> None:
    sent = {"content-type": "application/json", **headers}
    got = httpx.post(f"{served.url}/v1/chat/completions", content=BODY, headers=sent)
    assert got.status_code == status
    assert len(server.seen) == (status == 200)
    if status != 200:
        assert set(got.json()["error"]) == {"message", "type", "param", "code"}
    for path in ("health", "ready", "metrics", "v1/models"):
        page = httpx.get(f"{served.url}/{path}", headers=headers)
        assert page.status_code == (403 if status == 403 else 200), path


def test_an_allowed_origin_is_told_so_and_no_other_one(served: Served) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    url = f"{served.url}/v1/chat/completions"
    allowed = httpx.options(url, headers={"origin": "https://app.example", **asked})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    got = served.post(BODY, origin="https://app.example")
    assert got.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in got.headers
    refused = httpx.options(url, headers={"origin": "https://evil.example", **asked})
    assert refused.status_code == 403
    assert not [name for name in refused.headers if name.startswith("access-control")]


def test_a_header_that_decides_may_not_be_there_twice(served: Served) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n"
    got = served.raw(head + b"content-type: application/json\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
    assert got.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx y: z\r\n\r\n",
        # Request smuggling: two framings at once.
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -4\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_connection_closed(served: Served, data: bytes) -> None:
    head, _, body = served.raw(data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_request"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x%d: y\r\n" % number for number in range(8000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 40_000,
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ],
)
def test_large_headers_are_431(served: Served, data: bytes) -> None:
    assert served.raw(data).startswith(b"HTTP/1.1 431 ")


def test_slow_headers_are_408(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    assert served.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: loc").startswith(b"HTTP/1.1 408 ")
    assert served.raw(b"") == b""
    # The second request of a connection as well.
    got = served.raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /heal")
    assert got.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in got


def test_slow_and_large_bodies_are_refused(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr(app, "_BODY_PATIENCE", 0.2)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    assert served.raw(head + b"content-length: 10\r\n\r\n{").startswith(b"HTTP/1.1 408 ")
    assert served.raw(head + b"content-length: 20971521\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    monkeypatch.setattr(app, "MOST_BODY", 100)
    chunk = b"40\r\n" + b" " * 64 + b"\r\n"
    assert served.raw(head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 3).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_is_gone_in_the_middle_of_its_body_costs_nothing(served: Served, server: LoopbackServer) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(head + b"content-length: 10\r\n\r\n{")
    assert served.post(BODY).status_code == 200
    assert len(server.seen) == 1


def test_more_requests_than_it_takes_are_503(
    monkeypatch: pytest.MonkeyPatch, served: Served, server: LoopbackServer
) -> None:
    monkeypatch.setattr(app, "MOST_IN_FLIGHT", 1)
    with server.hold() as gate:
        first = threading.Thread(target=served.post, args=[BODY])
        first.start()
        assert gate.wait_for(1)
        got = served.post(BODY)
        assert (got.status_code, got.json()["error"]["code"]) == (503, "overloaded")
        assert got.headers["retry-after"] == "1"
    first.join()
    assert served.post(BODY).status_code == 200


def test_a_reader_that_takes_nothing_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, served: Served, server: LoopbackServer
) -> None:
    monkeypatch.setattr(protocol, "STALLED_SECONDS", 0.2)
    server.script("groq", "*", [Ok(text="word " * 2_000_000, chunks=200)])
    body = json.dumps({"model": "groq", **HELLO, "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert served.wait_for_rows(1)[0][1] == "abandoned"


def test_other_paths_and_methods_have_errors_of_the_same_shape(served: Served) -> None:
    for method, path, status in (
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/files", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/nobody/x", 404),
    ):
        got = httpx.request(method, f"{served.url}{path}", json={} if method == "POST" else None)
        assert (got.status_code, set(got.json())) == (status, {"error"}), path
    got = served.ask("nobody", "messages")
    assert got.json()["type"] == "error"
    assert set(got.json()["error"]) == {"type", "message"}


def test_any_number_of_made_up_models_costs_a_bounded_amount(served: Served, server: LoopbackServer) -> None:
    assert served.ask("groq/real").status_code == 200
    server.script("groq", "*", [], then=ModelGone(decommissioned=False))
    with httpx.Client(base_url=served.url) as client:
        for number in range(300):
            body = {"model": f"groq/made-up-{number}", **HELLO}
            assert client.post("/v1/chat/completions", json=body).status_code == 404
    wrapper = served.manager.wrapper("groq")
    keyring = wrapper.pool._keyring
    models = {model for model, _ in keyring.ready_queues}
    assert "real" in models
    assert 150 < len(models) <= 210
    assert len(keyring.accounts[0].meters) <= 210
    assert len(keyring.accounts[0].allowances) <= 210
    page = httpx.get(f"{served.url}/metrics").text
    assert 'model="real"' in page
    assert 'model="other"' in page
    assert page.count("hfs_requests_total{") <= 110
