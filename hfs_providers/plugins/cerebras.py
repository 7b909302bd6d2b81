"""Cerebras, through `agno.models.cerebras:Cerebras` and cerebras-cloud-sdk."""

from datetime import date

from hfs_providers.authoring import ErrorRules, KeyedProvider, Meaning, ModelDefault

_LIMITED = Meaning("rate_limited")

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
    # The SDK's warm-up request would cost each new client a round trip, or seconds if the host does not answer.
    client_params={"warm_tcp_connection": False},
    stream_params={"extra_body": {"stream_options": {"include_usage": True}}},
    proof="models",
    # https://inference-docs.cerebras.ai/support/error
    errors=ErrorRules(
        codes={
            "wrong_api_key": Meaning("dead"),
            "payment_required": Meaning("dead", credits=True),
            "request_quota_exceeded": _LIMITED,
            "token_quota_exceeded": _LIMITED,
            "too_many_requests_error": _LIMITED,
            "too_many_tokens_error": _LIMITED,
            # The provider's own queue is full: not the fault of the key.
            "queue_exceeded": Meaning("overloaded"),
        },
    ),
)
