"""The ollama SDK, through `agno.models.ollama:Ollama`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, ClassVar

from hfs_providers.authoring import Clients, Credential, ErrorRules, Meaning


class OllamaClients(Clients):
    """The SDK creates its HTTP clients itself; they share the transport."""

    settings = ("host", "timeout", "client_params")
    url_field = "host"
    answers = "asked"
    defaults: ClassVar = {
        "errors": ErrorRules(
            # "model not found, try pulling it first". Another endpoint may have the model. A wrong address has the same
            # status, with another body.
            statuses={404: Meaning("model_gone", scope="key")},
            # An error inside a stream, which has no status.
            exceptions={"ResponseError": Meaning("server_error")},
        ),
    }

    def make_transport(self) -> Any:
        return self.shared(importlib.import_module("httpx").HTTPTransport)

    def make_async_transport(self) -> Any:
        return self.shared(importlib.import_module("httpx").AsyncHTTPTransport)

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        bound.client_params = {"transport": transport, **self.provider.client_params, **(bound.client_params or {})}

    def usable(self, answer: Any) -> bool:
        return answer.get("message") is not None

    def ends(self, chunk: Any) -> bool:
        return bool(chunk.get("done"))

    def model_ids(self, client: Any) -> Iterable[str]:
        return [str(model.model) for model in client.list().models]
