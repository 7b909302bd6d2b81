"""Ollama, through `agno.models.ollama:Ollama` and the ollama SDK: no keys, but servers, each of which is one endpoint.

    NUM_OLLAMA=2 OLLAMA_ENDPOINT_1=http://gpu-1:11434 OLLAMA_ENDPOINT_2=http://gpu-2:11434

Without any of these it is the server on this machine.
"""

from hfs_providers.authoring import HttpApi, KeyedProvider, ModelDefault

plugin = KeyedProvider(
    name="ollama",
    model_class="agno.models.ollama:Ollama",
    sdk="ollama",
    base_url="http://127.0.0.1:11434",
    openai_path="/v1",
    # https://docs.ollama.com/api/openai-compatibility and https://docs.ollama.com/api/anthropic-compatibility
    http=HttpApi(openai=("chat/completions", "responses", "embeddings", "models"), messages="/v1/messages"),
    proof="models",
    models=(ModelDefault("llama3.2"), ModelDefault("llama3.1")),
    keyless=True,
    env_aliases=("OLLAMA_HOST",),
    client="ollama",
)
