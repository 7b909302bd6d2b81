"""The rules of verdicts, as tables: what each provider's code, reason, type or status means.

Read from the most telling evidence to the least; `verdicts` says in which order. `server_rules` has the codes that one
server alone gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hfs_providers.contract.error_rules import Kind, Scope


class Rule(NamedTuple):
    """What one code or status means."""

    kind: Kind
    scope: Scope = "model"
    credits: bool = False


LIMITED = Rule("rate_limited")
LIMITED_KEY = Rule("rate_limited", "key")
DEAD = Rule("dead", "key")
UNPAID = Rule("dead", "key", credits=True)
GONE = Rule("model_gone")
# This key's account lacks the model; that of another may have it.
GONE_HERE = Rule("model_gone", "key")
OVERFLOW = Rule("context_overflow")
BAD = Rule("bad_request")
REFUSED = Rule("refused")
OVERLOADED = Rule("overloaded")
SERVER = Rule("server_error")

# The same code with another status means something else. Groq answers a request that is larger than the whole
# tokens-per-minute allowance with 413 and the code of a rate limit: waiting never helps, and no key is at fault.
BY_STATUS_AND_CODE: Mapping[tuple[int, str], Rule] = {
    (413, "rate_limit_exceeded"): OVERFLOW,
    (413, "tokens"): OVERFLOW,
    # Fireworks: the account is suspended. github.com/pollinations/pollinations/issues/12136
    (412, "PRECONDITION_FAILED"): UNPAID,
    # Ollama on its OpenAI-compatible path. github.com/netease-youdao/QAnything/issues/555
    (404, "api_error"): GONE,
}

# google.rpc.ErrorInfo.reason, where the domain is googleapis.com: google/api/error_reason.proto.
BY_REASON: Mapping[str, Rule] = {
    "API_KEY_INVALID": DEAD,
    "API_KEY_EXPIRED": DEAD,
    "API_KEY_SERVICE_BLOCKED": DEAD,
    "API_KEY_HTTP_REFERRER_BLOCKED": DEAD,
    "API_KEY_IP_ADDRESS_BLOCKED": DEAD,
    "API_KEY_ANDROID_APP_BLOCKED": DEAD,
    "API_KEY_IOS_APP_BLOCKED": DEAD,
    "SERVICE_DISABLED": DEAD,
    "CONSUMER_INVALID": DEAD,
    "CONSUMER_SUSPENDED": DEAD,
    "GCP_SUSPENDED": DEAD,
    "SERVICE_NOT_VISIBLE": DEAD,
    "USER_BLOCKED_BY_ADMIN": DEAD,
    "USER_PROJECT_DENIED": DEAD,
    "RESOURCE_PROJECT_INVALID": DEAD,
    "ACCOUNT_STATE_INVALID": DEAD,
    "ACCESS_TOKEN_EXPIRED": DEAD,
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": DEAD,
    "ACCESS_TOKEN_TYPE_UNSUPPORTED": DEAD,
    "CREDENTIALS_MISSING": DEAD,
    "BILLING_DISABLED": UNPAID,
    "RATE_LIMIT_EXCEEDED": LIMITED,
    "RESOURCE_QUOTA_EXCEEDED": LIMITED,
    "LOCATION_POLICY_VIOLATED": REFUSED,
    "LOCATION_TAX_POLICY_VIOLATED": REFUSED,
    "ORG_RESTRICTION_VIOLATION": REFUSED,
    "SECURITY_POLICY_VIOLATED": REFUSED,
}

# OpenRouter's metadata.error_type, "stable across all API formats": openrouter.ai/docs/client-sdks, APIErrorType.
# `permission_denied` is not here: it is given for a key that lacks a permission and for a guardrail alike.
BY_ERROR_TYPE: Mapping[str, Rule] = {
    "authentication": DEAD,
    "payment_required": UNPAID,
    "rate_limit_exceeded": LIMITED,
    "provider_overloaded": OVERLOADED,
    "provider_unavailable": OVERLOADED,
    "not_found": GONE,
    "context_length_exceeded": OVERFLOW,
    "payload_too_large": OVERFLOW,
    "content_policy_violation": REFUSED,
    "refusal": REFUSED,
    "max_tokens_exceeded": BAD,
    "token_limit_exceeded": BAD,
    "string_too_long": BAD,
    "invalid_request": BAD,
    "invalid_prompt": BAD,
    "precondition_failed": BAD,
    "unprocessable": BAD,
    "invalid_image": BAD,
    "image_too_large": BAD,
    "image_too_small": BAD,
    "unsupported_image_format": BAD,
    "image_not_found": BAD,
    "image_download_failed": BAD,
    "server": SERVER,
    "timeout": SERVER,
}

# OpenRouter's metadata.limit_source: whose limit a 402 or a 429 is about.
BY_LIMIT_SOURCE: Mapping[str, Rule] = {
    "openrouter_free_tier_daily": LIMITED_KEY,
    "openrouter_free_tier_per_minute": LIMITED_KEY,
    "openrouter_in_flight_budget": LIMITED_KEY,
    "openrouter_key_limit": UNPAID,
    "openrouter_credits": UNPAID,
    "upstream_provider_shared_pool": LIMITED,
}

# With metadata.provider_name OpenRouter passes on what an upstream provider said to OpenRouter's own key there.
BY_UPSTREAM_STATUS: Mapping[int, Rule] = {
    401: OVERLOADED,
    403: REFUSED,
    429: LIMITED,
}

# The `code` of Groq, Cerebras, OpenAI and those that speak like them. `model_not_found` is a model that does not exist
# or that the key may not use.
BY_CODE: Mapping[str, Rule] = {
    "invalid_api_key": DEAD,
    "wrong_api_key": DEAD,
    "expired_api_key": DEAD,
    "organization_restricted": DEAD,
    "account_deactivated": DEAD,
    "insufficient_quota": UNPAID,
    "billing_hard_limit_reached": UNPAID,
    "billing_not_active": UNPAID,
    "blocked_api_access": UNPAID,
    "payment_required": UNPAID,
    "rate_limit_exceeded": LIMITED,
    "request_quota_exceeded": LIMITED,
    "token_quota_exceeded": LIMITED,
    "queue_exceeded": OVERLOADED,
    "capacity_exceeded": OVERLOADED,
    "model_decommissioned": GONE,
    "model_not_found": GONE_HERE,
    "model_not_active": GONE,
    "model_terms_required": GONE_HERE,
    "model_permission_blocked_org": GONE_HERE,
    "model_permission_blocked_project": GONE_HERE,
    "context_length_exceeded": OVERFLOW,
    "request_too_large": OVERFLOW,
    "content_policy_violation": REFUSED,
    "content_filter": REFUSED,
    "unsupported_country_region_territory": REFUSED,
    "tool_use_failed": BAD,
    "json_validate_failed": BAD,
    "unknown_url": BAD,
}

# The `type` of a body, where it says more than the family of the error (`invalid_request_error` says nothing: Groq and
# Cerebras give it to a wrong key as well).
BY_TYPE: Mapping[str, Rule] = {
    "authentication_error": DEAD,
    "insufficient_quota": UNPAID,
    "payment_required_error": UNPAID,
    "billing_error": UNPAID,
    "rate_limit_error": LIMITED,
    "too_many_requests_error": LIMITED,
    "too_many_tokens_error": LIMITED,
    "overloaded_error": OVERLOADED,
}

# google.rpc.Code by name, the `status` of a Google error. PERMISSION_DENIED without a reason is what a leaked key or a
# barred project gets. FAILED_PRECONDITION is the free tier where it is not offered (a paid key would do) or a file that
# is not ready yet: the key pauses, and another is tried.
BY_GOOGLE_STATUS: Mapping[str, Rule] = {
    "UNAUTHENTICATED": DEAD,
    "PERMISSION_DENIED": DEAD,
    "RESOURCE_EXHAUSTED": LIMITED,
    "FAILED_PRECONDITION": LIMITED_KEY,
    "NOT_FOUND": GONE,
    "INVALID_ARGUMENT": BAD,
    "OUT_OF_RANGE": BAD,
    "ALREADY_EXISTS": BAD,
    "UNIMPLEMENTED": BAD,
    "UNAVAILABLE": OVERLOADED,
    "ABORTED": SERVER,
    "CANCELLED": SERVER,
    "DEADLINE_EXCEEDED": SERVER,
    "INTERNAL": SERVER,
    "DATA_LOSS": SERVER,
    "UNKNOWN": SERVER,
}

# A status alone. 403 without a reason may be the key, the model, the region or a proxy: the key pauses for the model,
# it does not die. 409 and 425 ask for another try (a lock, a replay); 408 and 499 were given up on the way.
BY_STATUS: Mapping[int, Rule] = {
    401: DEAD,
    402: UNPAID,
    403: LIMITED,
    408: SERVER,
    409: SERVER,
    410: GONE,
    413: OVERFLOW,
    425: SERVER,
    429: LIMITED,
    451: REFUSED,
    498: OVERLOADED,
    499: SERVER,
    501: BAD,
    502: OVERLOADED,
    503: OVERLOADED,
    529: OVERLOADED,
}
