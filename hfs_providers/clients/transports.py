"""HTTP clients that many keys can share: corrections and additions to those of httpx and httpx2."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hfs_providers.clients.attempt import running

EACH = 8
"""Requests in flight of one client, if they are spread over several clients."""

# Seconds: httpx's own default for a connection that is not used.
_IDLE = 5.0


def newest_backend() -> Any:
    """httpx2 where it is installed, else httpx."""
    return importlib.import_module("httpx2" if importlib.util.find_spec("httpx2") is not None else "httpx")


def backend_of(client_class: type[Any]) -> Any:
    """The module, httpx or httpx2, that a client class comes from."""
    roots = [base.__module__.partition(".")[0] for base in client_class.__mro__]
    return importlib.import_module("httpx2" if "httpx2" in roots else "httpx")


def noting(base: type[Any]) -> type[Any]:
    """A subclass of an HTTP client, or of a transport, that notes the responses it opens with the attempt that runs."""
    method = _sender(base)
    sends = getattr(base, method)
    if hasattr(base, "aclose"):

        async def asend(self: Any, request: Any, **options: Any) -> Any:
            response = await sends(self, request, **options)
            attempt = running.get()
            if attempt is not None and (attempt.learns or not response.is_closed):
                attempt.responses.append(response)
            return response

        send: Callable[..., Any] = asend
    else:

        def send(self: Any, request: Any, **options: Any) -> Any:
            response = sends(self, request, **options)
            attempt = running.get()
            if attempt is not None and (attempt.learns or not response.is_closed):
                attempt.responses.append(response)
            return response

    return type(base.__name__, (base,), {method: send})


def _sender(base: type[Any]) -> str:
    """The method of an httpx client or transport that sends a request."""
    return next(name for name in ("send", "handle_async_request", "handle_request") if hasattr(base, name))


def spread(make: Callable[[], Any], most: int, each: int = EACH) -> Any:
    """An async client that sends through several of its kind, each with a few connections of its own.

    httpcore looks at every connection of a pool when a request begins and again when it ends: with 100 in flight that
    is a quarter of the time of a call. A further client is made only when those before it have `each` requests.

    It also lets no more requests into a pool than the pool may have connections. httpcore 1.0.9 makes a connection for
    a request in its queue and hands the connection over in the next step of the loop. If the request is cancelled or
    times out in between, nobody ever uses the connection, and it counts for ever: in time, a pool that all keys share
    has none left. So requests wait here and not in that queue.

    Args:
        make: makes an `AsyncClient`, or an `AsyncHTTPTransport`, of httpx or httpx2.
        most: requests in flight.
        each: requests in flight of one client.
    """
    first = make()
    base = type(first)
    method = _sender(base)
    members = _Members(first, getattr(base, method), make, most, each)
    own = {method: members.send, "aclose": members.aclose, "__aexit__": members.aexit}
    first.__class__ = type(base.__name__, (base,), own)
    return first


class _Member:
    """One of the clients that requests are spread over."""

    __slots__ = ("client", "left", "requests")

    def __init__(self, client: Any) -> None:
        self.client = client
        self.requests = 0
        self.left = 0.0

    def deserted(self) -> bool:
        """Whether its connections have been idle for so long that they are not worth keeping."""
        return not self.requests and time.monotonic() - self.left > _IDLE


class _Members:
    """The clients that requests are spread over: the first, which stands for all, and those that it needs besides."""

    def __init__(self, first: Any, sends: Callable[..., Any], make: Callable[[], Any], most: int, each: int) -> None:
        self._first = first
        self._base = type(first)
        self._sends = sends
        self._make = make
        self._each = each
        self._places = asyncio.Semaphore(most)
        self._all = [_Member(first)]

    async def send(self, request: Any, **options: Any) -> Any:
        if len(self._all) > 1 and self._all[-1].deserted():
            await self._close_last()
        places = self._places
        if places.locked():
            await _wait(places, request, backend_of(self._base).PoolTimeout)
        else:
            await places.acquire()
        member = None
        try:
            member = self._enter()
            response = await self._sends(member.client, request, **options)
        except BaseException:
            _leave(member, places)
            raise
        if response.is_closed:
            _leave(member, places)
        else:
            response.aclose = _leaving(response.aclose, member, places)
        return response

    async def aclose(self) -> None:
        await self._close_others()
        await self._base.aclose(self._first)

    async def aexit(self, *error: Any) -> None:
        await self._close_others()
        await self._base.__aexit__(self._first, *error)

    def _enter(self) -> _Member:
        for member in self._all:
            if member.requests < self._each:
                break
        else:
            member = _Member(self._make())
            self._all.append(member)
        member.requests += 1
        return member

    async def _close_others(self) -> None:
        while len(self._all) > 1:
            await self._close_last()

    async def _close_last(self) -> None:
        # If one does not close cleanly, neither the others nor the request that came by fail.
        with suppress(Exception):
            await self._all.pop().client.aclose()


def _leave(member: _Member | None, places: asyncio.Semaphore) -> None:
    if member is not None:
        member.requests -= 1
        member.left = time.monotonic()
    places.release()


async def _wait(places: asyncio.Semaphore, request: Any, error: Callable[..., Exception]) -> None:
    try:
        async with asyncio.timeout(request.extensions.get("timeout", {}).get("pool")):
            await places.acquire()
    except TimeoutError as late:
        raise error("no connection was free in time", request=request) from late


def _leaving(close: Callable[[], Any], member: _Member, places: asyncio.Semaphore) -> Callable[[], Any]:
    """`close`, which ends the request the first time."""
    held = [True]

    async def aclose() -> None:
        try:
            await close()
        finally:
            if held:
                held.clear()
                _leave(member, places)

    return aclose


def refuse_cookies(client: Any) -> Any:
    """Let a client keep no cookie: one that came with a key's answer must not go out with another key's request.

    It does not look for any either, which would take longer than anything else that is done to a short answer.
    """
    if not hasattr(client, "cookies"):  # a transport keeps none
        return client
    base = type(client.cookies)
    none = {"extract_cookies": lambda self, response: None, "__bool__": lambda self: False}
    client.cookies.__class__ = type(base.__name__, (base,), none)
    return client
