"""The ollama SDK, through `agno.models.ollama:Ollama`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, ClassVar

from hfs_providers.authoring import Clients, Credential, ErrorRules, Meaning


class OllamaClients(Clients):
    """It makes its HTTP client itself; what is shared is the transport beneath."""

    settings = ("host", "timeout", "client_params")
    url_field = "host"
    answers = "asked"
    defaults: ClassVar = {
        "errors": ErrorRules(
            # "model not found, try pulling it first"; a wrong address has another body, and the same status. Another
            # endpoint may have the model.
            statuses={404: Meaning("model_gone", scope="key")},
            # Without a status: an error inside a stream.
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
