"""The mistralai SDK, through `agno.models.mistral:MistralChat`."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from hfs_providers.authoring import Clients, Credential, ErrorRules, Meaning


class MistralClients(Clients):
    """The SDK accepts HTTP clients under other names, the sync and the async one together."""

    settings = ("endpoint", "timeout", "client_params")
    url_field = "endpoint"
    # One object of the SDK serves sync and async calls.
    client_field = async_client_field = "mistral_client"
    answers = "asked"
    defaults: ClassVar = {
        "errors": ErrorRules(
            codes={"invalid_model": Meaning("model_gone")},
            # Raised if nothing was received at all.
            exceptions={"NoResponseError": Meaning("transport")},
        ),
    }

    def make_transport(self) -> Any:
        # The same client that the SDK would create.
        return self.shared(_backend().Client, follow_redirects=True)

    def make_async_transport(self) -> Any:
        return self.shared(_backend().AsyncClient, follow_redirects=True)

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        self._share(bound, client=transport)

    def configure_async(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        self._share(bound, async_client=transport)

    def async_client(self, bound: Any) -> Any:
        return bound.get_client()

    def usable(self, answer: Any) -> bool:
        return bool(getattr(answer, "choices", None))

    def ends(self, chunk: Any) -> bool:
        return any(choice.finish_reason for choice in chunk.data.choices)

    def _share(self, bound: Any, **shared: Any) -> None:
        # If one of the two clients is missing, the SDK creates it and reads all certificates again. So it gets one that
        # is never used.
        backend = _backend()
        context = self.tls_context(backend)
        spare = {"client": backend.Client, "async_client": backend.AsyncClient}
        idle = {name: make(verify=context) for name, make in spare.items() if name not in shared}
        bound.client_params = {**idle, **shared, **self.provider.client_params, **(bound.client_params or {})}


def _backend() -> Any:
    return importlib.import_module("httpx2")
