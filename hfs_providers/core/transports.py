"""HTTP clients that many keys can share: what is mended or added to those of httpx and httpx2."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from hfs_providers.core.attempt import running


def newest_backend() -> Any:
    """httpx2 where it is installed, else httpx: what google-genai takes."""
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


def gate(client: Any, limit: int) -> None:
    """Let no more requests into an async httpx client than it may have connections.

    httpcore 1.0.9 makes a connection for a request that waits in its queue and hands it over in the next step of the
    loop. Is the request cancelled or out of time in between, nobody ever uses the connection, and it counts for ever:
    a pool that all keys share would be used up for good. So nothing waits in that queue; it waits here.

    Args:
        client: an `httpx.AsyncClient`, or an `httpx.AsyncHTTPTransport`.
        limit: its most connections.
    """
    places = asyncio.Semaphore(limit)
    base = type(client)
    method = _sender(base)
    sends = getattr(base, method)

    async def send(self: Any, request: Any, **options: Any) -> Any:
        if places.locked():
            await _wait(places, request)
        else:
            await places.acquire()
        try:
            response = await sends(self, request, **options)
        except BaseException:
            places.release()
            raise
        if response.is_closed:
            places.release()
        else:
            response.aclose = _releasing(response.aclose, places)
        return response

    client.__class__ = type(base.__name__, (base,), {method: send})


async def _wait(places: asyncio.Semaphore, request: Any) -> None:
    import httpx

    try:
        async with asyncio.timeout(request.extensions.get("timeout", {}).get("pool")):
            await places.acquire()
    except TimeoutError as error:
        raise httpx.PoolTimeout("no connection was free in time", request=request) from error


def _releasing(close: Callable[[], Any], places: asyncio.Semaphore) -> Callable[[], Any]:
    """`close`, which gives the place back the first time."""
    held = [True]

    async def aclose() -> None:
        try:
            await close()
        finally:
            if held:
                held.clear()
                places.release()

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
