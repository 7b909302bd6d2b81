"""The azure-ai-inference SDK, through `agno.models.azure:AzureAIFoundry`."""

from __future__ import annotations

import importlib
from http.cookiejar import DefaultCookiePolicy
from typing import Any, ClassVar

from hfs_providers.authoring import Clients, Credential, ErrorRules, Meaning
from hfs_providers.clients.attempt import running
from hfs_providers.clients.transports import noting

_POOL = 100
"""Connections that are kept: as many as httpx opens."""


class AzureInferenceClients(Clients):
    """Its clients take a transport of azure-core: requests' for sync calls, aiohttp's for async ones."""

    settings = ("azure_endpoint", "api_version", "timeout", "client_params")
    url_field = "azure_endpoint"
    answers = "asked"
    defaults: ClassVar = {
        "errors": ErrorRules(
            # A deployment belongs to the resource, and so to the key.
            codes={"unknown_model": Meaning("model_gone", scope="key")},
            # What azure-core makes of a transport's error, of which it keeps the words alone.
            exceptions={
                name: Meaning("transport")
                for name in (
                    "ServiceRequestError",
                    "ServiceRequestTimeoutError",
                    "ServiceResponseError",
                    "ServiceResponseTimeoutError",
                )
            },
        ),
    }

    def make_transport(self) -> Any:
        transport = noting(_azure_core().RequestsTransport)()
        transport.open()
        transport.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        for adapter in transport.session.adapters.values():
            adapter.init_poolmanager(_POOL, _POOL)
        return transport

    def make_async_transport(self) -> Any:
        # It has a session of aiohttp, which keeps no cookies, and makes it when the first request is sent.
        return _noting_async(_azure_core().AioHttpTransport)()

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        # Without a key there would be no client.
        bound.api_key = bound.api_key or "none"
        params = {"transport": transport, **self.provider.client_params}
        if (timeout := bound.timeout) is not None:
            # The model class has the field and does not pass it on; a transport that is shared has timeouts of its own.
            told = {"connection_timeout": timeout, "read_timeout": timeout}
            params["raw_request_hook"] = lambda request: request.context.options.update(told)
        bound.client_params = {**params, **(bound.client_params or {})}

    def usable(self, answer: Any) -> bool:
        return bool(answer.choices)

    def ends(self, chunk: Any) -> bool:
        return any(choice.finish_reason for choice in chunk.choices or ())


def _azure_core() -> Any:
    return importlib.import_module("azure.core.pipeline.transport")


def _noting_async(base: type[Any]) -> type[Any]:
    """As `noting`, for a transport of azure-core, whose responses have no `aclose`."""

    async def send(self: Any, request: Any, **options: Any) -> Any:
        response = await base.send(self, request, **options)
        attempt = running.get()
        if attempt is not None and (attempt.learns or not response.is_closed):
            response.aclose = response.close
            attempt.responses.append(response)
        return response

    return type(base.__name__, (base,), {"send": send})
