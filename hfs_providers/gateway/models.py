"""`/v1/models`: the models that clients may use."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse

from hfs_providers import ProviderManager
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.gateway.clients import CLIENT
from hfs_providers.gateway.connection import UpstreamError
from hfs_providers.gateway.refusals import Refusal
from hfs_providers.gateway.relay import PASSED_UP
from hfs_providers.gateway.routes import ANY, TIER_PREFIX, Routes, UnusableKeyError
from hfs_providers.gateway.token_counts import TokenCounts
from hfs_providers.gateway.upstream import Upstream

_FRESH = 600.0
_RETRIED = 30.0
_PATIENCE = 5.0
_LISTING = "models"
_log = logging.getLogger("hfs_providers")

Listed = dict[str, Any]


class _Listing(msgspec.Struct):
    data: list[Listed]


class ModelList:
    """The models that providers list, requested live and cached for ten minutes; before that and without an answer, the
    models that their plugins name.
    """

    def __init__(self, manager: ProviderManager, upstream: Upstream) -> None:
        self._manager = manager
        self._upstream = upstream
        self._routes = Routes(manager, "models")
        self._offers = {endpoint: Routes(manager, endpoint).wires for endpoint in PASSED_UP}
        self._known: dict[str, list[Listed]] = {}
        self._fresh_until: dict[str, float] = {}
        self._asking = asyncio.Lock()

    async def all(self, request: Request) -> JSONResponse:
        """The list."""
        return JSONResponse({"object": "list", "data": list((await self._list(request)).values())})

    async def one(self, request: Request) -> JSONResponse:
        """One model.

        Raises:
            Refusal: it is not in the list.
        """
        name = request.path_params["name"]
        found = (await self._list(request)).get(name)
        if found is None:
            raise Refusal(404, "model_not_found", f"{name!r} is not in the list of /v1/models.", param="model")
        return JSONResponse(found)

    async def _list(self, request: Request) -> Mapping[str, Listed]:
        """The models that the client may use, by name."""
        allowed = request.scope[CLIENT].terms.models
        async with self._asking:
            await asyncio.gather(*map(self._refresh, self._manager.wrappers))
        manager = self._manager
        found = [self._entry(ANY, "hfs-providers", list(manager.wrappers))]
        for tier, entries in manager.inventory.tiers.items():
            providers = [entry.partition("/")[0].lower() for entry in entries]
            found.append(self._entry(f"{TIER_PREFIX}{tier}", "hfs-providers", providers))
        for provider in manager.wrappers:
            found.append(self._entry(provider, provider, [provider]))
            for model in self._known[provider]:
                found.append({**model, **self._entry(f"{provider}/{model['id']}", provider, [provider])})
        return {
            each["id"]: each
            for each in found
            if allowed is None or each["id"] in allowed or self._routes.permits(each["id"], allowed)
        }

    def _entry(self, name: str, owner: str, providers: list[str]) -> Listed:
        endpoints = [
            f"/v1/{endpoint}"
            for endpoint, wires in self._offers.items()
            # Tokens are counted by the first alone.
            if any(each in wires for each in (providers[:1] if endpoint == TokenCounts.endpoint else providers))
        ]
        return {"id": name, "object": "model", "created": 0, "owned_by": owner, "endpoints": endpoints}

    async def _refresh(self, provider: str) -> None:
        now = time.monotonic()
        if now < self._fresh_until.get(provider, 0.0):
            return
        declared = [{"id": model.id} for model in self._manager.inventory.providers[provider].models]
        self._known.setdefault(provider, declared)
        self._fresh_until[provider] = now + _RETRIED
        if provider not in self._routes.wires:
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                self._known[provider] = await self._ask(provider)
        except (PoolExhaustedError, UnusableKeyError, UpstreamError, TimeoutError, msgspec.DecodeError) as error:
            _log.info("%s did not list its models: %s", provider, str(error) or type(error).__name__)
        else:
            self._fresh_until[provider] = now + _FRESH

    async def _ask(self, provider: str) -> list[Listed]:
        pool = self._manager.wrappers[provider].backend.pool
        # Released at the end, because it is not a request for a completion.
        with await pool.aacquire(_LISTING, 0, 0.0) as lease:
            origin, data = self._routes.wires[provider].request(lease.credential, b"", b"")
            response = await (await self._upstream.connect(origin)).ask(data)
            try:
                body = await response.read()
            finally:
                response.close()
        listed = msgspec.json.decode(body, type=_Listing).data
        return [
            {**each, "id": each["id"].removeprefix("models/")} for each in listed if isinstance(each.get("id"), str)
        ]
