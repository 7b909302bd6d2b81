"""Cerebras, through `agno.models.cerebras:Cerebras` and cerebras-cloud-sdk."""

from datetime import date

from hfs_providers.authoring import KeyedProvider, ModelDefault

plugin = KeyedProvider(
    name="cerebras",
    model_class="agno.models.cerebras:Cerebras",
    sdk="cerebras-cloud-sdk",
    sdk_module="cerebras.cloud.sdk",
    base_url="https://api.cerebras.ai",
    openai_path="/v1",
    models=(
        # https://inference-docs.cerebras.ai/support/deprecation
        ModelDefault("llama-3.3-70b", retires=date(2026, 2, 16)),
        ModelDefault("gpt-oss-120b"),
    ),
    windows={"gpt-oss-120b": 131_072, "llama*": 65_536},
    # The SDK's warm-up request would cost each new client a round trip, and seconds where the host is silent.
    client_params={"warm_tcp_connection": False},
    stream_params={"extra_body": {"stream_options": {"include_usage": True}}},
    proof="models",
)
