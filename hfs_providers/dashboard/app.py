"""The dashboard as an ASGI application: one page, its files, and its data.

It does not check who sends a request or from where: see `hfs_providers.gateway.guard`. Actions always need a token.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from hfs_providers import __version__
from hfs_providers.contract.errors import HfsProvidersError
from hfs_providers.dashboard.key_list import KeyFilter
from hfs_providers.dashboard.rulings import rule_key, try_key
from hfs_providers.dashboard.summary import Dashboard

if TYPE_CHECKING:
    from hfs_providers.core.manager import ProviderManager

MOST_BODY = 10_000
"""The largest body of a request, in bytes."""

MOST_TRIALS = 4
"""The most keys that are tried at the same time."""

API = "/dashboard/api/"
"""The beginning of the paths of its data. Everything else is the same for all clients."""

IS_ADMIN = "hfs.admin"
"""The field of a request's scope that says whether an admin sent it, who needs no other token for actions."""

_LONGEST_WAIT = 15.0
_LOOK = 0.25
_SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

_Action = Callable[[str, str], dict[str, Any]]
"""An action on a key: a function of its id and a reason."""

Managers = Callable[[], AbstractContextManager["ProviderManager"]]
"""Creates the manager for an action, and shuts it down afterwards."""


class ActionError(Exception):
    """An action that is refused: an HTTP status, and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Trials:
    """The keys that are being tried now: each only once, and not many at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: set[str] = set()

    @contextmanager
    def admitted(self, key_id: str) -> Iterator[None]:
        """Count a key as being tried inside the block."""
        with self._lock:
            if key_id in self._keys:
                raise ActionError(409, "this key is being tried already")
            if len(self._keys) >= MOST_TRIALS:
                raise ActionError(429, f"{MOST_TRIALS} keys are being tried: wait until one is finished")
            self._keys.add(key_id)
        try:
            yield
        finally:
            with self._lock:
                self._keys.discard(key_id)


class DashboardApp:
    """The application.

    Args:
        token: the token for actions.
        managers: for actions; None if there are no actions.
    """

    def __init__(self, dashboard: Dashboard, token: str, managers: Managers | None) -> None:
        self._dashboard = dashboard
        self._token = token
        self._managers = managers
        self._files = _files()
        self._trying = _Trials()
        self.closing = False
        """Whether the server is about to end, so that no request waits for new rows any more."""
        # Compression makes a page of keys ten times smaller, which helps over a forwarded port.
        self._router = GZipMiddleware(Router(self._routes(), default=_nothing), compresslevel=4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._router(scope, receive, send)

    def _routes(self) -> list[BaseRoute]:
        data: Mapping[str, Callable[[Request], Any]] = {
            "overview": lambda request: self._dashboard.overview() | self._about(),
            "keys": self._keys,
            "map": lambda request: self._dashboard.keys.map(_filter(request)),
            "key": self._key,
            "requests": self._requests,
            "usage": self._usage,
        }
        actions: Mapping[str, _Action] = {"revive": self._revive, "retire": self._retire, "try": self._try}
        return [
            Route("/", self._page),
            Route("/dashboard/{name}", self._file),
            *(Route(f"{API}{name}", _answering(read)) for name, read in data.items()),
            Route("/dashboard/api/live", self._live),
            Route("/dashboard/api/usage.csv", self._csv),
            *(Route(f"{API}{name}", self._acting(act), methods=["POST"]) for name, act in actions.items()),
        ]

    def _about(self) -> dict[str, Any]:
        return {"version": __version__, "actions": self._managers is not None}

    async def _page(self, request: Request) -> Response:
        return self._served("index.html", request)

    async def _file(self, request: Request) -> Response:
        return self._served(request.path_params["name"], request)

    def _served(self, name: str, request: Request) -> Response:
        found = self._files.get(name)
        if found is None:
            return _json(404, {"error": "this file does not exist"})
        body, tag = found
        headers = {**_SECURITY, "etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=_TYPES[name.rpartition(".")[2]])

    def _keys(self, request: Request) -> dict[str, Any]:
        asked = request.query_params
        return self._dashboard.keys.page(_filter(request), asked.get("after", ""), _whole(request, "limit", 100))

    def _key(self, request: Request) -> dict[str, Any]:
        found = self._dashboard.keys.one(request.query_params.get("id", ""))
        if found is None:
            raise ActionError(404, "this key does not exist")
        return found

    def _requests(self, request: Request) -> dict[str, Any]:
        before = _whole(request, "before", 0)
        rows = self._dashboard.requests.newest(before=before or None, limit=_whole(request, "limit", 100))
        return {"at": time.time(), "rows": rows}

    def _usage(self, request: Request) -> dict[str, Any]:
        asked = request.query_params
        by = [name for name in asked.get("by", "provider").split(",") if name]
        of = asked.get("of", "requests")
        if of not in ("requests", "cost_nanousd"):
            raise ValueError("of: choose from requests, cost_nanousd")
        span = _moment(request, "since"), _moment(request, "until")
        return self._dashboard.sums.span(by, *span, of, asked.get("lines", "provider"))  # type: ignore[arg-type]

    async def _live(self, request: Request) -> Response:
        """The requests after a number. If there are none yet, it waits for one, up to a limit."""
        try:
            after, wait = _whole(request, "after", 0), min(_whole(request, "wait", 0), _LONGEST_WAIT)
            requests = self._dashboard.requests
            deadline = time.monotonic() + wait
            while await run_in_threadpool(requests.last) <= after and not self.closing:
                if time.monotonic() >= deadline or await request.is_disconnected():
                    break
                await asyncio.sleep(_LOOK)
            rows = await run_in_threadpool(requests.newest, after)
        except (ValueError, HfsProvidersError) as error:
            return _failed(error)
        return _json(200, {"at": time.time(), "rows": rows})

    async def _csv(self, request: Request) -> Response:
        by = [name for name in request.query_params.get("by", "provider").split(",") if name]
        try:
            span = _moment(request, "since"), _moment(request, "until")
            text = await run_in_threadpool(self._dashboard.sums.table, by, *span)
        except (ValueError, HfsProvidersError) as error:
            return _failed(error)
        name = {"content-disposition": 'attachment; filename="usage.csv"', "cache-control": "no-store"}
        return Response(text, headers={**_SECURITY, **name}, media_type="text/csv; charset=utf-8")

    def _acting(self, act: _Action) -> Callable[[Request], Any]:
        async def acted(request: Request) -> Response:
            try:
                self._admit(request)
                said = await _body(request)
                key, reason = said.get("key"), said.get("reason", "by hand")
                if not isinstance(key, str) or not isinstance(reason, str):
                    raise ActionError(400, "key and reason must be texts")
                return _json(200, await run_in_threadpool(act, key, reason))
            except (ActionError, HfsProvidersError) as error:
                return _failed(error)
            except KeyError:
                # The key was removed after the page was drawn.
                return _failed(ActionError(404, "this key does not exist"))

        return acted

    def knows(self, authorization: str) -> bool:
        """Whether the header has the dashboard's own token."""
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), self._token.encode())

    def _admit(self, request: Request) -> None:
        if self._managers is None:
            raise ActionError(403, "this dashboard is read-only")
        if not request.scope.get(IS_ADMIN) and not self.knows(request.headers.get("authorization", "")):
            raise ActionError(401, "actions need the token: open the address that the command printed")

    def _provider_of(self, key_id: str) -> str:
        key = next((each for each in self._dashboard.source.watched().keys if each.status.id == key_id), None)
        if key is None:
            raise ActionError(404, "this key does not exist")
        if not self._dashboard.source.places.path:
            raise ActionError(409, "key state is not kept: HFS_USAGE_DB is off")
        return key.provider

    def _revive(self, key_id: str, _: str) -> dict[str, Any]:
        return self._rule(key_id, None)

    def _retire(self, key_id: str, reason: str) -> dict[str, Any]:
        return self._rule(key_id, reason)

    def _rule(self, key_id: str, reason: str | None) -> dict[str, Any]:
        provider = self._provider_of(key_id)
        with self._changing() as manager:
            status = rule_key(manager, provider, key_id, reason)
        return {"id": status.id, "state": status.state, "reason": status.reason}

    def _try(self, key_id: str, _: str) -> dict[str, Any]:
        provider = self._provider_of(key_id)
        with self._trying.admitted(key_id), self._changing() as manager:
            found = try_key(manager, provider, key_id)
        return {name: getattr(found, name) for name in ("id", "outcome", "reason", "free_in", "latency")}

    @contextmanager
    def _changing(self) -> Iterator[ProviderManager]:
        """A manager for one action; afterwards the keys are read again."""
        assert self._managers is not None, "`_admit` has checked this"
        with self._managers() as manager:
            yield manager
            manager.persistence.flush()
        self._dashboard.source.changed()


def _answering(read: Callable[[Request], Any]) -> Callable[[Request], Response]:
    """An endpoint that runs in a thread."""

    def answer(request: Request) -> Response:
        try:
            return _json(200, read(request))
        except (ValueError, ActionError, HfsProvidersError, sqlite3.Error) as error:
            return _failed(error)

    return answer


def _failed(error: Exception) -> Response:
    status = 503 if isinstance(error, (HfsProvidersError, sqlite3.Error)) else getattr(error, "status", 400)
    return _json(status, {"error": str(error), "remedy": getattr(error, "remedy", None)})


def _json(status: int, data: object) -> Response:
    body = json.dumps(data, separators=(",", ":"), default=list).encode()
    headers = {**_SECURITY, "cache-control": "no-store"}
    return Response(body, status_code=status, headers=headers, media_type="application/json")


async def _body(request: Request) -> dict[str, Any]:
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > MOST_BODY:
            raise ActionError(413, "the body is too large")
    try:
        said = json.loads(found)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ActionError(400, "the body is not a JSON object")
    return said


def _filter(request: Request) -> KeyFilter:
    asked = request.query_params
    return KeyFilter(
        asked.get("q", "")[:200], asked.get("provider", ""), asked.get("state", ""), asked.get("sort", "order")
    )


def _whole(request: Request, name: str, default: int) -> int:
    said = request.query_params.get(name, "")
    if said and not (said.isascii() and said.isdigit() and len(said) < 19):
        raise ValueError(f"{name} must be an integer")
    return int(said) if said else default


def _moment(request: Request, name: str) -> float | None:
    said = request.query_params.get(name, "")
    try:
        found = float(said) if said else None
    except ValueError:
        found = -1.0
    # Until the year 9999, the last one that `datetime` supports.
    if found is not None and not 0 <= found < 253_000_000_000:
        raise ValueError(f"{name} must be a time in seconds since the epoch")
    return found


def _files() -> dict[str, tuple[bytes, str]]:
    """The files that the browser loads, each with its ETag."""
    found = {}
    for file in resources.files("hfs_providers.dashboard").joinpath("static").iterdir():
        if file.name.rpartition(".")[2] in _TYPES:
            body = file.read_bytes()
            found[file.name] = (body, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
    return found


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await _json(404, {"error": "this path does not exist"})(scope, receive, send)
