"""Ollama, through `agno.models.ollama:Ollama` and the ollama SDK: no keys, but servers, each of which is one endpoint.

    NUM_OLLAMA=2 OLLAMA_ENDPOINT_1=http://gpu-1:11434 OLLAMA_ENDPOINT_2=http://gpu-2:11434

Without any of these it is the server on this machine.
"""

from typing import Any

from hfs_providers.authoring import Clients, Credential, ErrorRules, KeyedProvider, Meaning, ModelDefault


class OllamaClients(Clients):
    """The SDK makes its HTTP client itself; what is shared is the transport beneath."""

    settings = ("host", "timeout", "client_params")
    url_field = "host"
    answers = "asked"

    def make_transport(self) -> Any:
        # Imported here, because importing the plugin imports no more than it needs.
        import httpx

        return self.shared(httpx.HTTPTransport)

    def make_async_transport(self) -> Any:
        import httpx

        return self.shared(httpx.AsyncHTTPTransport)

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        bound.client_params = {"transport": transport, **self.provider.client_params, **(bound.client_params or {})}

    def usable(self, answer: Any) -> bool:
        return answer.get("message") is not None

    def ends(self, chunk: Any) -> bool:
        return bool(chunk.get("done"))

    def model_ids(self, client: Any) -> list[str]:
        return [str(model.model) for model in client.list().models]


plugin = KeyedProvider(
    name="ollama",
    model_class="agno.models.ollama:Ollama",
    sdk="ollama",
    base_url="http://127.0.0.1:11434",
    openai_path="/v1",
    proof="models",
    models=(ModelDefault("llama3.2"), ModelDefault("llama3.1")),
    keyless=True,
    env_aliases=("OLLAMA_HOST",),
    client=OllamaClients,
    errors=ErrorRules(
        # "model not found, try pulling it first"; a wrong address has another body, and the same status. Another
        # endpoint may have the model.
        statuses={404: Meaning("model_gone", scope="key")},
        # Without a status: an error inside a stream.
        exceptions={"ResponseError": Meaning("server_error")},
    ),
)
