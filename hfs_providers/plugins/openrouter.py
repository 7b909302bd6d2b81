"""OpenRouter, through `agno.models.openrouter:OpenRouter` and the openai SDK."""

from hfs_providers.authoring import ErrorRules, Evidence, HttpApi, KeyedProvider, Limits, Meaning, ModelDefault

_LIMITED = Meaning("rate_limited")
_LIMITED_KEY = Meaning("rate_limited", scope="key")
_DEAD = Meaning("dead")
_UNPAID = Meaning("dead", credits=True)
_GONE = Meaning("model_gone")
_OVERFLOW = Meaning("context_overflow")
_BAD = Meaning("bad_request")
_REFUSED = Meaning("refused")
_OVERLOADED = Meaning("overloaded")
_SERVER = Meaning("server_error")

# The limit that caused a 402 or a 429.
_LIMIT_SOURCES = {
    "openrouter_free_tier_daily": _LIMITED_KEY,
    "openrouter_free_tier_per_minute": _LIMITED_KEY,
    "openrouter_in_flight_budget": _LIMITED_KEY,
    "openrouter_key_limit": _UNPAID,
    "openrouter_credits": _UNPAID,
    "upstream_provider_shared_pool": _LIMITED,
}

# "Stable across all API formats": https://openrouter.ai/docs/client-sdks, APIErrorType. `permission_denied` is left
# out: it is sent both for a key that lacks a permission and by a guardrail.
_ERROR_TYPES = {
    "authentication": _DEAD,
    "payment_required": _UNPAID,
    "rate_limit_exceeded": _LIMITED,
    "provider_overloaded": _OVERLOADED,
    "provider_unavailable": _OVERLOADED,
    "not_found": _GONE,
    "context_length_exceeded": _OVERFLOW,
    "payload_too_large": _OVERFLOW,
    "content_policy_violation": _REFUSED,
    "refusal": _REFUSED,
    "max_tokens_exceeded": _BAD,
    "token_limit_exceeded": _BAD,
    "string_too_long": _BAD,
    "invalid_request": _BAD,
    "invalid_prompt": _BAD,
    "precondition_failed": _BAD,
    "unprocessable": _BAD,
    "invalid_image": _BAD,
    "image_too_large": _BAD,
    "image_too_small": _BAD,
    "unsupported_image_format": _BAD,
    "image_not_found": _BAD,
    "image_download_failed": _BAD,
    "server": _SERVER,
    "timeout": _SERVER,
}

# With `provider_name`, OpenRouter passes on an upstream provider's answer to OpenRouter's own key there.
_UPSTREAM = {401: _OVERLOADED, 403: _REFUSED, 429: _LIMITED}

# Headers without a suffix are OpenRouter's own, for the whole account; a suffix names what the header counts.
_OF_THE_ACCOUNT = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


def _decide(evidence: Evidence) -> Meaning | None:
    """The meaning of a status that has several, by the metadata of the error."""
    status = evidence.status
    if status == 402 and evidence.has("metadata.provider_name"):
        # The request got past routing, even if the name is null: there are credits, but too few for `max_tokens`.
        return _BAD
    if status == 403 and (evidence.has("metadata.reasons") or evidence.has("metadata.flagged_input")):
        return _REFUSED
    if status == 429 and (sources := evidence.values("metadata.limit_source")):
        own = str(sources[0]).startswith("openrouter_")
        return _LIMIT_SOURCES.get(sources[0], _LIMITED_KEY if own else _LIMITED)
    if status in _UPSTREAM and evidence.values("metadata.provider_name"):
        return _UPSTREAM[status]
    return _LIMITED_KEY if status == 429 and _counts_the_account(evidence) else None


def _counts_the_account(evidence: Evidence) -> bool:
    if str(evidence.error.get("code")) != "429":
        return False
    repeated = [headers for headers in evidence.values("metadata.headers") if headers]
    shown = {str(name).lower() for headers in repeated or [evidence.headers] for name in headers}
    return not shown.isdisjoint(_OF_THE_ACCOUNT)


plugin = KeyedProvider(
    name="openrouter",
    model_class="agno.models.openrouter:OpenRouter",
    sdk="openai",
    base_url="https://openrouter.ai/api/v1",
    openai_path="",
    # https://openrouter.ai/docs/client-sdks/python/components/endpoint
    http=HttpApi(openai=("chat/completions", "responses", "embeddings", "models"), messages="/messages"),
    models=(
        ModelDefault("meta-llama/llama-3.3-70b-instruct:free"),
        ModelDefault("openrouter/free"),
    ),
    # For free models only, counted together per account: https://openrouter.ai/docs/api-reference/limits
    limits={
        "*:free": Limits(rpm=20, rpd=50, shared=True),
        "openrouter/free": Limits(rpm=20, rpd=50, shared=True),
    },
    windows={"*": 131_072},
    aggregator=True,
    # Its list of models needs no key: https://openrouter.ai/docs/api/api-reference/api-keys/get-current-key
    proof="/key",
    # https://openrouter.ai/docs/api-reference/errors
    errors=ErrorRules(
        decide=_decide,
        fields={"metadata.limit_source": _LIMIT_SOURCES, "metadata.error_type": _ERROR_TYPES},
        header_fields=("metadata.headers",),
        # The upstream provider's own message, behind "Provider returned error".
        message_fields=("metadata.raw",),
    ),
)
