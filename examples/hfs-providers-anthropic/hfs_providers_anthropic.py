"""Anthropic, through `agno.models.anthropic:Claude` and the anthropic SDK."""

from hfs_providers.authoring import HttpApi, KeyedProvider, ModelDefault

plugin = KeyedProvider(
    name="anthropic",
    model_class="agno.models.anthropic:Claude",
    sdk="anthropic",
    client="anthropic",
    base_url="https://api.anthropic.com",
    # https://docs.anthropic.com/en/api/overview
    http=HttpApi(
        openai=(),
        messages="/v1/messages",
        count_tokens="/v1/messages/count_tokens",
        key_header="x-api-key",
        key_prefix="",
        headers={"anthropic-version": "2023-06-01"},
    ),
    proof="models",
    models=(ModelDefault("claude-sonnet-5-5"), ModelDefault("claude-haiku-4-5")),
    # No limits: they depend on the account's tier, and its answers show them in their headers.
    windows={"*": 200_000},
)
