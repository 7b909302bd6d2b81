"""The azure-ai-inference SDK, through `agno.models.azure:AzureAIFoundry`."""

from __future__ import annotations

import importlib
from http.cookiejar import DefaultCookiePolicy
from typing import Any, ClassVar

from hfs_providers.authoring import Clients, Credential, ErrorRules, Meaning
from hfs_providers.clients.attempt import running
from hfs_providers.clients.transports import noting

_POOL = 100
"""The most connections: as many as httpx opens."""


class AzureInferenceClients(Clients):
    """Its clients accept a transport of azure-core: with requests for sync calls, with aiohttp for async ones."""

    settings = ("azure_endpoint", "api_version", "timeout", "client_params")
    url_field = "azure_endpoint"
    answers = "asked"
    defaults: ClassVar = {
        "errors": ErrorRules(
            # A deployment belongs to the resource, and so to the key.
            codes={"unknown_model": Meaning("model_gone", scope="key")},
            # azure-core's errors for those of a transport, of which it keeps only the message.
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
        # It creates its aiohttp session, which keeps no cookies, when the first request is sent.
        return _noting_async(_azure_core().AioHttpTransport)()

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        # Without a key the model class creates no client.
        bound.api_key = bound.api_key or "none"
        params = {"transport": transport, **self.provider.client_params}
        if (timeout := bound.timeout) is not None:
            # The model class has the field but does not pass it on, and a shared transport has its own timeouts.
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
