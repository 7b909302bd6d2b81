"""HTTP clients that many keys share: what one key was given does not go out with another's request."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from hfs_providers.core.transports import refuse_cookies


class Baker(BaseHTTPRequestHandler):
    """Gives a cookie with each answer and notes those that come back."""

    protocol_version = "HTTP/1.1"
    returned: list[str | None]

    def do_GET(self) -> None:
        self.returned.append(self.headers.get("cookie"))
        self.send_response(200)
        self.send_header("set-cookie", "session=of-the-first-key; Path=/")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def bakery() -> Iterator[tuple[str, list[str | None]]]:
    returned: list[str | None] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnBaker", (Baker,), {"returned": returned}))
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", returned
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["httpx", "httpx2"])
def backend(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


def test_a_plain_client_sends_one_keys_cookie_with_the_next_keys_request(backend: Any, bakery: Any) -> None:
    url, returned = bakery
    with backend.Client() as client:
        client.get(url)
        client.get(url)
    assert returned == [None, "session=of-the-first-key"]


def test_a_client_that_refuses_cookies_sends_none(backend: Any, bakery: Any) -> None:
    url, returned = bakery
    with refuse_cookies(backend.Client()) as client:
        client.get(url)
        client.get(url)
        assert list(client.cookies.jar) == []
    assert returned == [None, None]


def test_an_async_client_that_refuses_cookies_sends_none(backend: Any, bakery: Any) -> None:
    url, returned = bakery

    async def main() -> None:
        async with refuse_cookies(backend.AsyncClient()) as client:
            await client.get(url)
            await client.get(url)

    asyncio.run(main())
    assert returned == [None, None]
