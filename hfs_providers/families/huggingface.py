"""The inference clients of huggingface_hub, through `agno.models.huggingface:HuggingFace`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar

from hfs_providers.authoring import Clients, Credential, ErrorRules, Meaning
from hfs_providers.clients.transports import backend_of


class HuggingFaceClients(Clients):
    """Replaces the SDK's clients, which use connections of the whole process and keep each stream that they open.

    The address ends with `/v1`, like that of the router or of your own endpoint.
    """

    settings = ("base_url", "timeout", "client_params")
    answers = "asked"
    defaults: ClassVar = {
        "errors": ErrorRules(
            # An error inside a stream, which has no status.
            exceptions={
                "OverloadedError": Meaning("overloaded"),
                "GenerationError": Meaning("server_error"),
                "IncompleteGenerationError": Meaning("server_error"),
                "UnknownError": Meaning("server_error"),
            },
        ),
    }

    def make_transport(self) -> Any:
        return self.shared(_backend().Client, timeout=None, follow_redirects=True)

    def make_async_transport(self) -> Any:
        return self.shared(_backend().AsyncClient, timeout=None, follow_redirects=True)

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        if credential.secret is None:
            # Without a key the SDK takes one from the process environment or from a file.
            bound.api_key = "none"
        bound.client_params = {**self.provider.client_params, **(bound.client_params or {})}
        kind, field = _KINDS[hasattr(transport, "aclose")]
        client = _sending(kind)(**bound.get_client_params())
        client.transport = transport
        setattr(bound, field, client)

    def usable(self, answer: Any) -> bool:
        return bool(answer.choices)

    def ends(self, chunk: Any) -> bool:
        return any(choice.finish_reason for choice in chunk.choices or ())

    def model_ids(self, client: Any) -> Iterable[str]:
        headers = {"authorization": f"Bearer {client.token}"}
        response = client.transport.get(f"{client.model.rstrip('/')}/models", headers=headers)
        _checked(response)
        return [str(model["id"]) for model in response.json()["data"]]


_KINDS = (("InferenceClient", "client"), ("AsyncInferenceClient", "async_client"))


def _backend() -> Any:
    """The SDK's HTTP library: httpx, or httpx2 since its version 2.0."""
    return backend_of(importlib.import_module("huggingface_hub.errors").HfHubHTTPError)


def _checked(response: Any) -> None:
    importlib.import_module("huggingface_hub.utils").hf_raise_for_status(response)


@cache
def _sending(kind: str) -> Any:
    """A subclass of one of the SDK's clients that sends through its `transport`."""
    base = getattr(importlib.import_module("huggingface_hub"), kind)

    def request_of(client: Any, wanted: Any) -> Any:
        return client.transport.build_request(
            "POST",
            wanted.url,
            json=wanted.json,
            content=wanted.data,
            headers=wanted.headers,
            cookies=client.cookies,
            timeout=client.timeout,
        )

    def send(self: Any, request_parameters: Any, *, stream: bool = False) -> Any:
        response = self.transport.send(request_of(self, request_parameters), stream=stream)
        if stream and response.is_error:
            response.read()
        _checked(response)
        return response.iter_lines() if stream else response.content

    async def asend(self: Any, request_parameters: Any, *, stream: bool = False) -> Any:
        response = await self.transport.send(request_of(self, request_parameters), stream=stream)
        if stream and response.is_error:
            await response.aread()
        _checked(response)
        return response.aiter_lines() if stream else response.content

    return type(kind, (base,), {"_inner_post": asend if kind.startswith("Async") else send})
