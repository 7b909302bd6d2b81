"""The Azure clients of the openai SDK, through `agno.models.azure:AzureOpenAI` and `AzureOpenAIResponses`."""

from __future__ import annotations

from typing import Any

from hfs_providers.authoring import Credential
from hfs_providers.families.stainless import StainlessClients

# The fields besides the key that the classes take from the process environment. The SDK refuses some with an address.
_FROM_ENVIRONMENT = ("azure_endpoint", "azure_deployment")


class AzureOpenAIClients(StainlessClients):
    """The address ends with `/openai`; the SDK adds the deployment, which is the model's id, and the API's version."""

    settings = (*StainlessClients.settings, "api_version")

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        params: dict[str, Any] = {"max_retries": 0}
        if getattr(bound, "timeout", None) is not None:
            params["timeout"] = bound.timeout
        if bound.base_url is not None:
            params |= {name: None for name in _FROM_ENVIRONMENT if getattr(bound, name, "") is None}
        bound.client_params = {**params, **bound.client_params}
