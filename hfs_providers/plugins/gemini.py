"""Gemini, through `agno.models.google:Gemini` and google-genai."""

import base64
import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta, timezone, tzinfo
from typing import Any

from hfs_providers.authoring import (
    ErrorRules,
    Evidence,
    HttpApi,
    KeyedProvider,
    Meaning,
    MessageRules,
    ModelDefault,
    UsageFields,
    next_midnight,
)

_DAY = 86_400.0

_LIMITED = Meaning("rate_limited")
_DEAD = Meaning("dead")
_REFUSED = Meaning("refused")
_BAD = Meaning("bad_request")
_SERVER = Meaning("server_error")

# google.rpc.ErrorInfo.reason, for the domain googleapis.com: google/api/error_reason.proto.
_REASONS = {
    "API_KEY_INVALID": _DEAD,
    "API_KEY_EXPIRED": _DEAD,
    "API_KEY_SERVICE_BLOCKED": _DEAD,
    "API_KEY_HTTP_REFERRER_BLOCKED": _DEAD,
    "API_KEY_IP_ADDRESS_BLOCKED": _DEAD,
    "API_KEY_ANDROID_APP_BLOCKED": _DEAD,
    "API_KEY_IOS_APP_BLOCKED": _DEAD,
    "SERVICE_DISABLED": _DEAD,
    "CONSUMER_INVALID": _DEAD,
    "CONSUMER_SUSPENDED": _DEAD,
    "GCP_SUSPENDED": _DEAD,
    "SERVICE_NOT_VISIBLE": _DEAD,
    "USER_BLOCKED_BY_ADMIN": _DEAD,
    "USER_PROJECT_DENIED": _DEAD,
    "RESOURCE_PROJECT_INVALID": _DEAD,
    "ACCOUNT_STATE_INVALID": _DEAD,
    "ACCESS_TOKEN_EXPIRED": _DEAD,
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": _DEAD,
    "ACCESS_TOKEN_TYPE_UNSUPPORTED": _DEAD,
    "CREDENTIALS_MISSING": _DEAD,
    "BILLING_DISABLED": Meaning("dead", credits=True),
    "RATE_LIMIT_EXCEEDED": _LIMITED,
    "RESOURCE_QUOTA_EXCEEDED": _LIMITED,
    "LOCATION_POLICY_VIOLATED": _REFUSED,
    "LOCATION_TAX_POLICY_VIOLATED": _REFUSED,
    "ORG_RESTRICTION_VIOLATION": _REFUSED,
    "SECURITY_POLICY_VIOLATED": _REFUSED,
}

# google.rpc.Code by name. PERMISSION_DENIED without a reason is sent for a leaked key or a blocked project.
# FAILED_PRECONDITION is sent where the free tier is not offered (a paid key would work) and for a file that is not
# ready yet: the key pauses, and another is tried.
_STATUSES = {
    "UNAUTHENTICATED": _DEAD,
    "PERMISSION_DENIED": _DEAD,
    "RESOURCE_EXHAUSTED": _LIMITED,
    "FAILED_PRECONDITION": Meaning("rate_limited", scope="key"),
    "NOT_FOUND": Meaning("model_gone"),
    "INVALID_ARGUMENT": _BAD,
    "OUT_OF_RANGE": _BAD,
    "ALREADY_EXISTS": _BAD,
    "UNIMPLEMENTED": _BAD,
    "UNAVAILABLE": Meaning("overloaded"),
    "ABORTED": _SERVER,
    "CANCELLED": _SERVER,
    "DEADLINE_EXCEEDED": _SERVER,
    "INTERNAL": _SERVER,
    "DATA_LOSS": _SERVER,
    "UNKNOWN": _SERVER,
}


def _decide(evidence: Evidence) -> Meaning | None:
    """What the violations of a google.rpc.QuotaFailure say about a refusal: how long it lasts, and for which models.

    The refusal for a daily quota also has a RetryInfo of a few seconds, which is not when the quota is reset.
    """
    violations = [item for item in evidence.values("details.violations") if isinstance(item, Mapping)]
    quotas = [quota for item in violations if isinstance(quota := item.get("quotaId"), str)]
    spent = any(str(item.get("quotaValue")).strip() == "0" for item in violations)
    if evidence.status != 429 or not (quotas or spent):
        return None
    wait = until_pacific_midnight(evidence.now) if any("PerDay" in quota for quota in quotas) else None
    # A quota of 0: the key cannot use this model at all, not even tomorrow.
    wait = _DAY if spent else wait
    per_model = all("PerModel" in quota or "PerBaseModel" in quota for quota in quotas)
    return Meaning("rate_limited", "model" if per_model else "key", retry_after=wait)


def until_pacific_midnight(now: float) -> float:
    """Seconds until the daily quotas are reset (midnight in America/Los_Angeles; 25 h at most).

    Args:
        now: wall clock, seconds since the epoch.
    """
    zone: tzinfo
    try:
        from zoneinfo import ZoneInfo  # not at the top, because it reads a file

        zone = ZoneInfo("America/Los_Angeles")
    except Exception:  # no time zone data on this machine: with winter time, at most an hour late and never early
        zone = timezone(timedelta(hours=-8))
    try:
        return next_midnight(zone, now) - now
    except (ValueError, OverflowError, OSError):
        return _DAY


# The signature for a tool call that another model made: https://ai.google.dev/gemini-api/docs/thought-signatures
_UNSIGNED = base64.b64encode(b"skip_thought_signature_validator").decode("ascii")
_BEFORE_3 = re.compile(r"gemini-[12](\.|-|$)")


def sign_tool_calls(model_id: str, calls: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Tool calls with the signature that Gemini 3 requires: on the first of parallel calls only."""
    if "thought_signature" in calls[0] or _BEFORE_3.match(model_id):
        return calls
    return [{**calls[0], "thought_signature": _UNSIGNED}, *calls[1:]]


plugin = KeyedProvider(
    name="gemini",
    model_class="agno.models.google:Gemini",
    sdk="google-genai",
    sdk_module="google.genai",
    base_url="https://generativelanguage.googleapis.com",
    openai_path="/v1beta/openai",
    # https://ai.google.dev/gemini-api/docs/openai
    http=HttpApi(openai=("chat/completions", "embeddings", "models")),
    models=(
        # https://ai.google.dev/gemini-api/docs/deprecations
        ModelDefault("gemini-2.5-flash", retires=date(2026, 12, 1)),
        ModelDefault("gemini-3.5-flash-lite"),
    ),
    # No limits: Google publishes no table, only each project's limits in AI Studio. Its answers say how long to wait.
    windows={"gemini-*": 1_048_576},
    env_aliases=("GOOGLE_API_KEY",),
    client="google_genai",
    proof="models",
    usage_fields=UsageFields(cached=("cached_content_token_count",), reasoning_apart=True),
    errors=ErrorRules(
        decide=_decide,
        fields={"details.reason": _REASONS, "status": _STATUSES},
        # google.rpc.RetryInfo
        wait_fields=("details.retryDelay",),
        readers=(
            "_from_response",
            "_load_json_from_response",
            "_GenerateContentResponse_from_mldev",
            "_GenerateContentResponse_from_vertex",
        ),
    ),
    # Agno's class accepts only a pydantic class as a schema.
    messages=MessageRules(tool_calls=sign_tool_calls, json_schemas=False),
    price_id="google",
)
