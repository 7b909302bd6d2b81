"""HTTP clients that many keys share: what one key was given does not go out with another's request."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from hfs_providers.clients import transports
from hfs_providers.clients.transports import refuse_cookies, spread


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


class House:
    """Answers each request on a connection that it keeps, once it may; knows how many connections are open."""

    def __init__(self) -> None:
        self.open = 0
        self.waiting = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.waiting += 1
                await self.may_answer.wait()
                self.waiting -= 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def until(self, *, waiting: int) -> None:
        async with asyncio.timeout(20):
            while self.waiting != waiting:
                await asyncio.sleep(0.005)

    async def until_open(self, count: int) -> None:
        async with asyncio.timeout(20):
            while self.open != count:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    found = House()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        yield found
    finally:
        found.may_answer.set()
        server.close()


def looks(monkeypatch: pytest.MonkeyPatch, backend: Any) -> list[None]:
    """Grows with each look that a pool takes at one of its connections."""
    core = importlib.import_module(backend.__name__.replace("httpx", "httpcore"))
    found: list[None] = []
    is_closed = core.AsyncHTTPConnection.is_closed
    monkeypatch.setattr(core.AsyncHTTPConnection, "is_closed", lambda self: found.append(None) or is_closed(self))
    return found


class TestSpreading:
    def test_the_naive_way_looks_at_every_connection_for_every_request(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def work(client: Any) -> int:
            async with house() as there:
                await asyncio.gather(*(client.get(there.url) for _ in range(60)))
                seen.clear()
                await asyncio.gather(*(client.get(there.url) for _ in range(60)))
                await client.aclose()
                return len(seen)

        seen = looks(monkeypatch, backend)
        naive = asyncio.run(work(backend.AsyncClient(limits=backend.Limits(max_keepalive_connections=100))))
        ours = asyncio.run(work(spread(lambda: backend.AsyncClient(), 100)))
        assert naive > 3 * ours

    def test_what_one_client_can_do_needs_no_second(self, backend: Any) -> None:
        made: list[Any] = []

        def make() -> Any:
            made.append(backend.AsyncClient())
            return made[-1]

        async def main() -> None:
            async with house() as there:
                client = spread(make, 100, 4)
                for _ in range(20):
                    assert (await client.get(there.url)).text == "hi"
                assert (len(made), there.open) == (1, 1)
                await asyncio.gather(*(client.get(there.url) for _ in range(9)))
                assert len(made) == 3
                await client.aclose()
                assert all(each.is_closed for each in made)
                await there.until_open(0)

        asyncio.run(main())

    def test_all_are_closed_at_the_end_of_a_block(self, backend: Any) -> None:
        async def main() -> None:
            async with house() as there:
                async with spread(backend.AsyncClient, 100, 4) as client:
                    await asyncio.gather(*(client.get(there.url) for _ in range(12)))
                    assert there.open == 12
                await there.until_open(0)

        asyncio.run(main())

    def test_one_that_does_not_close_keeps_none_of_the_others_open(self, backend: Any) -> None:
        made: list[Any] = []

        def make() -> Any:
            made.append(backend.AsyncClient())
            return made[-1]

        async def fail() -> None:
            raise OSError("broken")

        async def main() -> None:
            async with house() as there:
                client = spread(make, 100, 4)
                await asyncio.gather(*(client.get(there.url) for _ in range(12)))
                made[2].aclose = fail
                await client.aclose()
                assert [each.is_closed for each in made] == [True, True, False]
                await there.until_open(4)

        asyncio.run(main())

    def test_a_client_that_nobody_has_used_for_long_is_closed(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            async with house() as there:
                client = spread(backend.AsyncClient, 100, 4)
                await asyncio.gather(*(client.get(there.url) for _ in range(12)))
                await client.get(there.url)
                assert there.open == 12
                monkeypatch.setattr(transports, "_IDLE", 0.0)
                await client.get(there.url)
                await there.until_open(8)
                await client.get(there.url)
                await there.until_open(4)
                await client.get(there.url)
                assert there.open == 4
                await client.aclose()

        asyncio.run(main())

    def test_what_is_too_much_waits_and_is_out_of_time_in_the_backends_own_words(self, backend: Any) -> None:
        async def main() -> None:
            async with house() as there:
                client = spread(lambda: backend.AsyncClient(timeout=backend.Timeout(20, pool=0.2)), 3, 2)
                there.may_answer.clear()
                first = [asyncio.ensure_future(client.get(there.url)) for _ in range(3)]
                await there.until(waiting=3)
                with pytest.raises(backend.PoolTimeout):
                    await client.get(there.url)
                last = asyncio.ensure_future(client.get(there.url))
                await asyncio.sleep(0)
                there.may_answer.set()
                assert [answer.text for answer in await asyncio.gather(*first, last)] == ["hi"] * 4
                await client.aclose()

        asyncio.run(main())

    def test_a_place_is_given_back_once_whatever_ends_the_request(self, backend: Any) -> None:
        async def main() -> None:
            async with house() as there:
                client = spread(lambda: backend.AsyncClient(timeout=backend.Timeout(20, pool=0.2)), 2, 1)
                with pytest.raises(backend.ConnectError):
                    await client.get("http://127.0.0.1:9/")
                there.may_answer.clear()
                cancelled = asyncio.ensure_future(client.get(there.url))
                await there.until(waiting=1)
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
                there.may_answer.set()
                dropped = await client.send(client.build_request("GET", there.url), stream=True)
                await dropped.aclose()
                await dropped.aclose()
                # Both places, and no third.
                streams = [await client.send(client.build_request("GET", there.url), stream=True) for _ in range(2)]
                with pytest.raises(backend.PoolTimeout):
                    await client.get(there.url)
                for stream in streams:
                    await stream.aclose()
                assert (await client.get(there.url)).text == "hi"
                await client.aclose()

        asyncio.run(main())

    def test_a_second_client_that_cannot_be_made_costs_no_place(self, backend: Any) -> None:
        made: list[Any] = []

        def make() -> Any:
            if made:
                raise OSError("too many open files")
            made.append(backend.AsyncClient(timeout=backend.Timeout(20, pool=0.2)))
            return made[-1]

        async def main() -> None:
            async with house() as there:
                client = spread(make, 2, 1)
                stream = await client.send(client.build_request("GET", there.url), stream=True)
                for _ in range(3):
                    with pytest.raises(OSError, match="too many"):
                        await client.get(there.url)
                await stream.aclose()
                assert (await client.get(there.url)).text == "hi"
                await client.aclose()

        asyncio.run(main())
