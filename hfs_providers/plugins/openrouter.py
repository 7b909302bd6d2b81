"""OpenRouter, through `agno.models.openrouter:OpenRouter` and the openai SDK."""

from hfs_providers.authoring import KeyedProvider, Limits, ModelDefault

plugin = KeyedProvider(
    name="openrouter",
    model_class="agno.models.openrouter:OpenRouter",
    sdk="openai",
    base_url="https://openrouter.ai/api/v1",
    openai_path="",
    models=(
        ModelDefault("meta-llama/llama-3.3-70b-instruct:free"),
        ModelDefault("openrouter/free"),
    ),
    # https://openrouter.ai/docs/api-reference/limits: free models only, counted together for the account.
    limits={
        "*:free": Limits(rpm=20, rpd=50, shared=True),
        "openrouter/free": Limits(rpm=20, rpd=50, shared=True),
    },
    windows={"*": 131_072},
    aggregator=True,
    # Its list of models is public: https://openrouter.ai/docs/api/api-reference/api-keys/get-current-key
    proof="/key",
)
