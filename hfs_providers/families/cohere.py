"""The cohere SDK, through `agno.models.cohere:Cohere`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, ClassVar

from hfs_providers.authoring import Clients, Credential, ErrorRules, Meaning, MessageRules, UsageFields


class CohereClients(Clients):
    """Creates the SDK's clients, because the model class passes neither an address nor a timeout on."""

    settings = ("client_params", "http_client")
    url_field = None
    answers = "asked"
    defaults: ClassVar = {
        "usage_fields": UsageFields(cached=("cached_tokens",)),
        # https://docs.cohere.com/reference/errors
        "errors": ErrorRules(
            statuses={
                # The model does not exist, or this key may not use it; a wrong address has the same status.
                404: Meaning("model_gone", scope="key"),
                # The input or the output contains a blocked word.
                498: Meaning("refused"),
            },
        ),
        # It has a JSON mode, but accepts no schema in OpenAI's form.
        "messages": MessageRules(json_schemas=False),
    }

    def make_transport(self) -> Any:
        return self.shared(importlib.import_module("httpx").Client, timeout=300, follow_redirects=True)

    def make_async_transport(self) -> Any:
        return self.shared(importlib.import_module("httpx").AsyncClient, timeout=300, follow_redirects=True)

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        bound.client = self._made("ClientV2", bound, credential, transport)

    def configure_async(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        bound.async_client = self._made("AsyncClientV2", bound, credential, transport)

    def usable(self, answer: Any) -> bool:
        return getattr(answer, "message", None) is not None

    def ends(self, chunk: Any) -> bool:
        if getattr(chunk, "type", None) != "message-end":
            return False
        return getattr(chunk.delta, "finish_reason", None) not in ("ERROR", "TIMEOUT")

    def model_ids(self, client: Any) -> Iterable[str]:
        return [str(model.name) for model in client.models.list().models]

    def _made(self, kind: str, bound: Any, credential: Credential, transport: Any) -> Any:
        given: dict[str, Any] = {
            # Without a key the SDK takes one from the process environment, or raises an error.
            "api_key": bound.api_key or "none",
            "base_url": credential.params.get("endpoint") or self.config.base_url,
            "httpx_client": bound.http_client or transport,
            **self.provider.client_params,
            **(bound.client_params or {}),
        }
        return getattr(importlib.import_module("cohere"), kind)(**given)
