"""The SDKs that are generated like openai's: openai, groq, cerebras and others."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from hfs_providers.authoring import Clients, Credential


class StainlessClients(Clients):
    """Their clients accept `http_client`, `api_key` and `max_retries`."""

    settings = (*Clients.settings, "organization", "http_client")
    answers: Literal["unknown", "choices", "asked"] = "choices"

    def _sdk(self) -> Any:
        requirement = self.provider.requirement
        assert requirement is not None, "the stainless family has an SDK"
        return importlib.import_module(requirement.module)

    def make_transport(self) -> Any:
        # The SDK's default class has its timeouts, limits and redirects, which a plain httpx client lacks.
        return self.shared(self._sdk().DefaultHttpxClient)

    def make_async_transport(self) -> Any:
        sdk = self._sdk()
        limits = getattr(sdk, "DEFAULT_CONNECTION_LIMITS", None)
        most = limits.max_connections if limits is not None else None
        return self.shared(sdk.DefaultAsyncHttpxClient, *([most] if most else []))

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        if credential.secret is None:
            # Without a key the SDKs take one from the process environment, or raise an error.
            setattr(bound, self.key_field, "none")
        bound.max_retries = 0
        params = {**self.provider.client_params, **(bound.client_params or {})}
        if bound.http_client is None:
            # Not as `bound.http_client`: Agno accepts only httpx there, but openai 3 uses httpx2.
            params.setdefault("http_client", transport)
        bound.client_params = params

    def unrepeating(self, client: Any) -> Any:
        # `configure` has turned the SDK's retries off; a user who sets `client_params["max_retries"]` wants them.
        return client


class OllamaResponsesClients(StainlessClients):
    """`agno.models.ollama:OllamaResponses`, which overwrites `base_url`."""

    settings = ("host", *StainlessClients.settings)
    url_field = "host"
