"""Mistral, through `agno.models.mistral:MistralChat` and the mistralai SDK.

The SDK takes its HTTP clients under names of its own, and both at once; its streams and its errors have forms of their
own. What that means for keys, streams and errors is said here, and nowhere else.
"""

from typing import Any

from hfs_providers.authoring import Clients, Credential, ErrorRules, KeyedProvider, Meaning, ModelDefault


class MistralClients(Clients):
    """The SDK's clients, over HTTP clients that all keys share."""

    settings = ("endpoint", "timeout", "client_params")
    url_field = "endpoint"
    # One object of the SDK serves sync and async calls.
    client_field = async_client_field = "mistral_client"
    answers = "asked"

    def make_transport(self) -> Any:
        # What the SDK itself would make; imported here, because importing the plugin imports no SDK.
        import httpx2

        return self.shared(httpx2.Client, follow_redirects=True)

    def make_async_transport(self) -> Any:
        import httpx2

        return self.shared(httpx2.AsyncClient, follow_redirects=True)

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
        import httpx2

        # The SDK makes the client that it is not given, which would read all certificates anew. Nobody uses this one.
        context = self.tls_context(httpx2)
        spare = {"client": httpx2.Client, "async_client": httpx2.AsyncClient}
        idle = {name: make(verify=context) for name, make in spare.items() if name not in shared}
        bound.client_params = {**idle, **shared, **self.provider.client_params, **(bound.client_params or {})}


plugin = KeyedProvider(
    name="mistral",
    model_class="agno.models.mistral:MistralChat",
    sdk="mistralai",
    # `mistralai` alone is a namespace without code.
    sdk_module="mistralai.client",
    base_url="https://api.mistral.ai",
    openai_path="/v1",
    proof="models",
    models=(ModelDefault("mistral-small-latest"), ModelDefault("mistral-large-latest")),
    # No limits: they are shown in the account's own console. https://docs.mistral.ai/deployment/laplateforme/tier
    windows={"*": 131_072},
    client=MistralClients,
    errors=ErrorRules(
        codes={"invalid_model": Meaning("model_gone")},
        # Raised where nothing was received at all.
        exceptions={"NoResponseError": Meaning("transport")},
    ),
)
