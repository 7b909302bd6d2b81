"""The gateway as an ASGI application: the pool of keys behind OpenAI's and Anthropic's protocols."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Router
from starlette.routing import Route as Path
from starlette.types import Message, Receive, Scope, Send

from hfs_providers import ProviderManager
from hfs_providers.contract.http_api import Endpoint
from hfs_providers.contract.usage_row import UsageRow, asking
from hfs_providers.dashboard.app import API, IS_ADMIN, DashboardApp
from hfs_providers.gateway.clients import ANYBODY, CLIENT, Client, Clients, count_for_client
from hfs_providers.gateway.description import describe
from hfs_providers.gateway.guard import READ, Guard, Headers
from hfs_providers.gateway.metrics import Metrics
from hfs_providers.gateway.models import ModelList
from hfs_providers.gateway.protocol import GatewayProtocol
from hfs_providers.gateway.refusals import Refusal, refusal_of
from hfs_providers.gateway.relay import PASSED_UP, Relay, read_body, too_large
from hfs_providers.gateway.reply import Reply
from hfs_providers.gateway.routes import AskedModels, backends
from hfs_providers.gateway.token_counts import TokenCounts
from hfs_providers.gateway.upstream import Upstream

MOST_BODY = 20 * 2**20
"""The largest body of a request, in bytes."""

MOST_IN_FLIGHT = 1000
"""The most requests that are answered at the same time."""

_BODY_PATIENCE = 30.0
_HEALTH = "/health"
_READ_OF: Mapping[Endpoint | None, Collection[bytes]] = {each: READ | passed for each, passed in PASSED_UP.items()}


class Gateway:
    """The application. Its connections must be those of `GatewayProtocol`.

    Args:
        guard: refuses requests of web pages.
        clients: the clients that may use it; None: everybody.
        dashboard: the application at `/`; None: nothing.
    """

    def __init__(
        self,
        manager: ProviderManager,
        guard: Guard,
        clients: Clients | None = None,
        dashboard: DashboardApp | None = None,
    ) -> None:
        self._manager = manager
        self._dashboard = dashboard
        self._guard = guard
        self._clients = clients or Clients({})
        self._upstream = Upstream()
        self._in_flight = 0
        self._draining = False
        self._metrics = Metrics(manager, lambda: self._in_flight)
        for backend in backends(manager).values():
            backend.count = self._count
        names = AskedModels()
        relays: list[Relay | TokenCounts] = [TokenCounts(manager, self._upstream, names)]
        relayed = [each for each in PASSED_UP if each != TokenCounts.endpoint]
        relays += [Relay(manager, self._upstream, each, names, self._metrics.emit) for each in relayed]
        self._relays = {f"/v1/{each.endpoint}": each for each in relays}
        self._models = ModelList(manager, self._upstream)
        self._router = Router(self._paths(), default=_no_such_path)

    def _paths(self) -> list[BaseRoute]:
        shown = self._dashboard
        return [
            *(Path(path, shown) for path in ("/", "/dashboard/{path:path}") if shown is not None),
            Path("/v1/models", self._models.all),
            Path("/v1/models/{name:path}", self._models.one),
            Path(_HEALTH, _healthy),
            Path("/ready", self._ready),
            Path("/metrics", _for_admins(self._metrics.page)),
            Path("/openapi.json", describe),
            # The router refuses other methods; POST does not come this way.
            *(Path(path, describe, methods=["POST"]) for path in self._relays),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        connection: GatewayProtocol = scope["extensions"]["hfs.connection"]
        self._in_flight += 1
        relay = self._relays.get(scope["path"]) if scope["method"] == "POST" else None
        endpoint = relay.endpoint if relay is not None else None
        reply = Reply(send, connection.respond)
        try:
            headers = self._guard.admit(scope, _READ_OF.get(endpoint, READ), self._clients.required)
            if b"origin" in headers:
                send = _told(headers[b"origin"], send)
                reply = Reply(send, None)
            if relay is not None:
                terms = self._client(headers).terms
                await relay.serve(await self._body(headers, receive, connection), headers, reply, terms)
            elif scope["method"] == "OPTIONS" and b"origin" in headers:
                # A browser sends this request without the token.
                await reply.whole(200, _PREFLIGHT, b"")
            else:
                scope[CLIENT] = self._visitor(scope, headers)
                await self._routed(scope, receive, send)
        except asyncio.CancelledError:
            # The client has gone, or the process ends: nobody reads an answer.
            return
        except Exception as error:
            refusal = refusal_of(error)
            await reply.whole(refusal.status, refusal.raw_headers(), refusal.body(endpoint))
        finally:
            self._in_flight -= 1

    def _client(self, headers: Headers) -> Client:
        """The client of a request. From now on usage rows and budgets know it too."""
        client = self._clients.identify(headers)
        # Always set it, because this context may be a copy of an earlier request's context.
        asking.set(client.name)
        return client

    def _visitor(self, scope: Scope, headers: Headers) -> Client:
        """The client that requests a page."""
        path, shown = scope["path"], self._dashboard
        if path == _HEALTH:
            return ANYBODY
        if shown is None or not (path == "/" or path.startswith("/dashboard/")):
            return self._client(headers)
        # A browser sends no token for a page and its files, which contain nothing secret.
        if not path.startswith(API) or shown.knows(headers.get(b"authorization", b"").decode("latin-1")):
            return ANYBODY
        client = self._client(headers)
        _check_admin(client, path)
        scope[IS_ADMIN] = self._clients.required
        return client

    async def _body(self, headers: Headers, receive: Receive, connection: GatewayProtocol) -> bytes:
        if self._in_flight > MOST_IN_FLIGHT:
            raise Refusal(503, "overloaded", "The gateway has too many requests in flight.", retry_after=1)
        if int(headers.get(b"content-length", b"0")) > MOST_BODY:
            raise too_large(MOST_BODY)
        body = connection.body()
        if body is None:
            return await read_body(receive, MOST_BODY, _BODY_PATIENCE)
        if len(body) > MOST_BODY:
            raise too_large(MOST_BODY)
        return body

    async def _routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # with it, the router raises its errors
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow", "")
            message = f"This path takes {allowed}."
            headers = [(b"allow", allowed.encode())]
            raise Refusal(error.status_code, "method_not_allowed", message, headers=headers) from None

    def _count(self, row: UsageRow) -> None:
        self._metrics.count(row)
        count_for_client(row)

    async def _ready(self, request: Request) -> Response:
        """Whether a key can be used now or soon, and the process does not end."""
        if self._draining:
            raise Refusal(503, "not_ready", "The gateway is shutting down.")
        keys = (key for wrapper in self._manager.wrappers.values() for key in wrapper.pool.statuses())
        if all(key.state == "dead" for key in keys):
            raise Refusal(503, "not_ready", "No provider has a live key.")
        return JSONResponse({"status": "ready"})

    @property
    def draining(self) -> bool:
        """Whether it is shutting down, and is not ready any more."""
        return self._draining

    @draining.setter
    def draining(self, ends: bool) -> None:
        self._draining = ends
        if self._dashboard is not None:
            self._dashboard.closing = ends

    def close(self) -> None:
        """Close the connections to the providers, and stop watching files."""
        self._clients.close()
        self._upstream.close()


async def _healthy(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _check_admin(client: Client, path: str) -> None:
    if not client.admin:
        message = f"{path} needs the token of an admin: hfs-providers clients add NAME --admin"
        raise Refusal(403, "admin_needed", message)


def _for_admins(page: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def checked(request: Request) -> Response:
        _check_admin(request.scope[CLIENT], request.scope["path"])
        return await page(request)

    return checked


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise Refusal(404, "unknown_url", f"There is no {scope['method']} {scope['path'][:200]}.")


def _told(origin: bytes, send: Send) -> Send:
    """`send` with a header that tells the browser that pages of this origin may read the answer."""

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            allowed = ((b"access-control-allow-origin", origin), (b"vary", b"origin"))
            message = {**message, "headers": [*message["headers"], *allowed]}
        await send(message)

    return told


_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"*, authorization"),
    (b"access-control-max-age", b"600"),
]
