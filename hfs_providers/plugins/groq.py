"""Groq, through `agno.models.groq:Groq` and the groq SDK."""

from hfs_providers.authoring import ErrorRules, HttpApi, KeyedProvider, Limits, Meaning, ModelDefault

# This key's organization or project may not use the model; another key's may.
_NOT_WITH_THIS_KEY = Meaning("model_gone", scope="key")

plugin = KeyedProvider(
    name="groq",
    model_class="agno.models.groq:Groq",
    sdk="groq",
    base_url="https://api.groq.com",
    openai_path="/openai/v1",
    # https://console.groq.com/docs/openai
    http=HttpApi(openai=("chat/completions", "responses", "models")),
    models=(
        ModelDefault("llama-3.3-70b-versatile"),
        ModelDefault("openai/gpt-oss-120b"),
    ),
    # The free plan: https://console.groq.com/docs/rate-limits. Paid keys set GROQ_LIMITS.
    limits={
        "llama-3.3-70b-versatile": Limits(rpm=30, rpd=1_000, tpm=12_000, tpd=100_000),
        "llama-3.1-8b-instant": Limits(rpm=30, rpd=14_400, tpm=6_000, tpd=500_000),
        "openai/gpt-oss-*": Limits(rpm=30, rpd=1_000, tpm=8_000, tpd=200_000),
        "qwen/qwen3-32b": Limits(rpm=60, rpd=1_000, tpm=6_000, tpd=500_000),
    },
    # https://console.groq.com/docs/rate-limits: these names mean a day and a minute.
    limit_headers={"x-ratelimit-limit-requests": "rpd", "x-ratelimit-limit-tokens": "tpm"},
    windows={"*": 131_072},
    # In `request_params`, because Agno's class has no field for `extra_body`.
    stream_params={"request_params": {"extra_body": {"stream_options": {"include_usage": True}}}},
    proof="models",
    # https://console.groq.com/docs/errors
    errors=ErrorRules(
        codes={
            "organization_restricted": Meaning("dead"),
            "model_terms_required": _NOT_WITH_THIS_KEY,
            "model_permission_blocked_org": _NOT_WITH_THIS_KEY,
            "model_permission_blocked_project": _NOT_WITH_THIS_KEY,
            "capacity_exceeded": Meaning("overloaded"),
            "tool_use_failed": Meaning("bad_request"),
            "json_validate_failed": Meaning("bad_request"),
        },
        # Sent with the code of a rate limit if the request alone exceeds the tokens per minute: waiting does not help.
        statuses={413: Meaning("context_overflow")},
    ),
)
