"""The errors of Google's APIs: `google.rpc.Status` and its details, whatever SDK reads them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta, timezone, tzinfo

from hfs_providers.authoring import ErrorRules, Evidence, Meaning, next_midnight

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

# google.rpc.Code by name, as far as it means the same for each API. For NOT_FOUND, PERMISSION_DENIED and
# FAILED_PRECONDITION the HTTP status counts, unless an API gives them a meaning of its own.
_STATUSES = {
    "UNAUTHENTICATED": _DEAD,
    "RESOURCE_EXHAUSTED": _LIMITED,
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


GOOGLE_ERRORS = ErrorRules(
    decide=_decide,
    fields={"details.reason": _REASONS, "status": _STATUSES},
    # google.rpc.RetryInfo
    wait_fields=("details.retryDelay",),
)
"""What they mean for a key and a call."""
