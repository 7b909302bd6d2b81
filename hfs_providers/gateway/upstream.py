"""An HTTP/1.1 client for the providers, with keep-alive connections.

A request takes 30 us of CPU time; with aiohttp 100, pyreqwest 70, httpx 2 000. It has only what the gateway needs: POST
and GET, whole or streamed bodies, TLS, proxies by CONNECT. It follows no redirects, keeps no cookies and requests no
compression.

    invariant: a connection is in `_idle`, or it has a response that is not complete, or it is closed.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import urllib.parse
import urllib.request

from hfs_providers.gateway.connection import (
    KEPT_IDLE,
    MOST_ANSWER_HEAD,
    Connection,
    Origin,
    UpstreamError,
)

CONNECT_TIMEOUT = 10.0
"""Seconds for a new connection, including TLS and proxy."""

_SWEEP = 1.0


class Upstream:
    """The connections to all providers, for one event loop.

    Args:
        first_byte_timeout: seconds in which an answer must begin.
        idle_timeout: the longest time between its parts, in seconds.
    """

    def __init__(self, first_byte_timeout: float = 600.0, idle_timeout: float = 120.0) -> None:
        self.first_byte_timeout = first_byte_timeout
        self.idle_timeout = idle_timeout
        self._busy: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._context: ssl.SSLContext | None = None

    async def connect(self, origin: Origin) -> Connection:
        """A connection that can serve a request: an idle one, or a new one.

        Raises:
            UpstreamError: no connection is possible.
        """
        return self._kept(origin) or await self._connect(origin)

    def begun(self, connection: Connection) -> None:
        """A connection serves a request from now on."""
        self._busy.add(connection)

    def keep(self, connection: Connection) -> None:
        """An answer is complete, and its connection may serve another request."""
        self._busy.discard(connection)
        connection.deadline = connection.loop.time() + KEPT_IDLE
        self._idle.setdefault(connection.origin, []).append(connection)

    def forget(self, connection: Connection) -> None:
        """A connection was closed."""
        self._busy.discard(connection)
        idle = self._idle.get(connection.origin, [])
        if connection in idle:
            idle.remove(connection)

    def close(self) -> None:
        """Close all connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in [*self._busy, *(each for idle in self._idle.values() for each in idle)]:
            connection.expired()

    def _kept(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.can_serve():
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin) -> Connection:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)
        where = f"{origin.host}:{origin.port}"
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await self._open(origin)
        except TimeoutError:
            raise UpstreamError(f"no connection to {where} in {CONNECT_TIMEOUT:.0f} s", sent=False) from None
        except OSError as error:
            raise UpstreamError(f"no connection to {where}: {error.strerror or error}", sent=False) from error

    async def _open(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(self, origin)
        context = self._tls() if origin.tls else None
        proxy = _proxy_of(origin)
        if proxy is None:
            await loop.create_connection(lambda: connection, origin.host, origin.port, ssl=context)
            return connection
        tunnel = _Tunnel(loop.create_future())
        transport, _ = await loop.create_connection(lambda: tunnel, proxy.hostname or "", proxy.port or 80)
        try:
            transport.write(_connect_request(origin, proxy))
            await tunnel.opened
            assert context is not None
            secured = await loop.start_tls(transport, connection, context, server_hostname=origin.host)
        except BaseException:
            transport.abort()
            raise
        assert secured is not None
        connection.connection_made(secured)
        return connection

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context()
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context

    def _sweep(self) -> None:
        """Close the connections whose deadline has passed."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [*self._busy, *(each for idle in self._idle.values() for each in idle)]:
            if connection.deadline < now:
                connection.expired()
        self._sweeper = loop.call_later(_SWEEP, self._sweep)


class _Tunnel(asyncio.Protocol):
    """The answer of a proxy to CONNECT."""

    def __init__(self, opened: asyncio.Future[None]) -> None:
        self.opened = opened
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head and len(self._head) < MOST_ANSWER_HEAD:
            return
        if self.opened.done():
            return
        words = self._head.split(b" ", 2)
        if len(words) > 1 and words[1] == b"200":
            self.opened.set_result(None)
        else:
            said = self._head.partition(b"\r\n")[0].decode("latin-1")[:100]
            self.opened.set_exception(OSError(f"the proxy refused: {said}"))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(OSError("the proxy closed the connection"))


def _proxy_of(origin: Origin) -> urllib.parse.SplitResult | None:
    """The proxy that the environment names for an origin. Only https requests use a proxy."""
    found = urllib.request.getproxies_environment().get("https") if origin.tls else None
    if not found or urllib.request.proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    try:
        proxy = urllib.parse.urlsplit(found if "//" in found else f"//{found}")
        if proxy.scheme in ("", "http") and proxy.hostname and proxy.port != 0:
            return proxy
    except ValueError:
        # The error's text shows parts of the variable, which may contain a password.
        pass
    raise UpstreamError("HTTPS_PROXY does not have the form http://[user:password@]host:port", sent=False)


def _connect_request(origin: Origin, proxy: urllib.parse.SplitResult) -> bytes:
    where = f"{origin.host}:{origin.port}"
    lines = [f"CONNECT {where} HTTP/1.1", f"host: {where}"]
    if proxy.username:
        user = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
        lines.append(f"proxy-authorization: Basic {base64.b64encode(user.encode()).decode()}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")
