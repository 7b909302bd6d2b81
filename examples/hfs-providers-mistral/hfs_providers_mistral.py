"""Mistral, through `agno.models.mistral:MistralChat` and the mistralai SDK."""

from hfs_providers.authoring import HttpApi, KeyedProvider, ModelDefault

plugin = KeyedProvider(
    name="mistral",
    model_class="agno.models.mistral:MistralChat",
    sdk="mistralai",
    # `mistralai` alone is a namespace without code.
    sdk_module="mistralai.client",
    base_url="https://api.mistral.ai",
    openai_path="/v1",
    # Its streams tell their usage unasked, and it refuses `stream_options`.
    http=HttpApi(openai=("chat/completions", "embeddings", "models"), usage_on_request=False),
    proof="models",
    models=(ModelDefault("mistral-small-latest"), ModelDefault("mistral-large-latest")),
    # No limits: they are shown in the account's own console. https://docs.mistral.ai/deployment/laplateforme/tier
    windows={"*": 131_072},
    client="mistral",
)
