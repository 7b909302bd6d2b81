"""How the four providers word their errors. The shapes are theirs; a comment names where each was seen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any

from hfs_providers.testing.scripts import (
    BadRequest,
    ContextTooLong,
    Forbidden,
    ModelGone,
    PaymentRequired,
    RateLimited,
    Reply,
    ServerError,
    Step,
    Unauthorized,
)

Answer = tuple[int, dict[str, Any], dict[str, str]]
"""Status, body, headers."""

_HTTP_NAMES = {500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable", 529: "Overloaded"}


def refuse(provider: str, step: Step, model: str, key: str) -> Reply | None:
    """The provider's answer for an error step, or None where the step is no error.

    Args:
        provider: a built-in provider's name; any other speaks like OpenAI.
        step: what to do.
        model: the model asked for.
        key: the caller's key, for steps that echo it.
    """
    words = _WORDINGS.get(provider, _openai)
    answer = words(step, model)
    if answer is None:
        return None
    status, body, headers = answer
    text = json.dumps(body)
    if getattr(step, "echo_key", False):
        masked = f"{key[:8]}****{key[-4:]}"
        text = text.replace("<key>", f"{key} ({masked})")
    return Reply(status, text.replace("<key>", "").encode(), {"content-type": "application/json", **headers})


def _go_duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


def _waits(step: RateLimited, reset: Mapping[str, str]) -> dict[str, str]:
    """The headers that tell the wait. `reset`: the provider's own, for the form of that name."""
    wait = step.retry_after
    if wait is None:
        return {}
    forms: dict[str, dict[str, str]] = {
        "seconds": {"retry-after": str(max(1, round(wait)) if wait >= 1 else wait)},
        "fraction": {"retry-after": f"{wait + 0.25:.2f}"},
        "date": {"retry-after": formatdate(time.time() + wait + 1, usegmt=True)},
        "ms": {"retry-after-ms": str(round(wait * 1000))},
        "reset": dict(reset),
        # Only Google has one; elsewhere the nearest is the plain header.
        "retryinfo": {"retry-after": str(round(wait))},
    }
    return forms.get(step.form, {})


# Groq: https://console.groq.com/docs/errors and https://console.groq.com/docs/rate-limits
def _groq(step: Step, model: str) -> Answer | None:
    def error(status: int, message: str, kind: str, code: str | None = None, **headers: str) -> Answer:
        inner = {"message": message, "type": kind, **({"code": code} if code else {})}
        return status, {"error": inner}, headers

    match step:
        case RateLimited(per=per, unit=unit, retry_after=wait):
            name = f"{unit} per {per} ({unit[0].upper()}P{per[0].upper()})"
            again = f" Please try again in {_go_duration(wait)}." if wait is not None else ""
            kind = "requests" if unit == "requests" else "tokens"
            status, body, _ = error(
                429,
                f"Rate limit reached for model `{model}` in organization `org_01` service tier `on_demand` on {name}: "
                f"Limit 30, Used 30, Requested 1.{again}",
                kind,
                "rate_limit_exceeded",
            )
            own = {
                f"x-ratelimit-limit-{kind}": "30",
                f"x-ratelimit-remaining-{kind}": "0",
                f"x-ratelimit-reset-{kind}": _go_duration(wait or 0),
            }
            return status, body, _waits(step, own)
        case Unauthorized():
            return error(401, "Invalid API Key <key>", "invalid_request_error", "invalid_api_key")
        case PaymentRequired():
            return error(402, "Payment required <key>", "invalid_request_error", "payment_required")
        case Forbidden():
            return error(403, "Your organization is restricted. <key>", "permissions_error", "organization_restricted")
        case ModelGone():
            return error(
                400,
                f"The model `{model}` has been decommissioned and is no longer supported. Please refer to "
                "https://console.groq.com/docs/deprecations for a recommendation on which model to use instead.",
                "invalid_request_error",
                "model_decommissioned",
            )
        case ContextTooLong():
            return error(
                400,
                "Please reduce the length of the messages or completion.",
                "invalid_request_error",
                "context_length_exceeded",
            )
        case BadRequest():
            return error(400, "'messages.0' : property 'role' is missing <key>", "invalid_request_error")
        case ServerError(status=status):
            return error(status, _HTTP_NAMES.get(status, "Error"), "internal_server_error")
    return None


# Cerebras: https://inference-docs.cerebras.ai/support/error and the SDK's issues; the body is flat.
def _cerebras(step: Step, model: str) -> Answer | None:
    def error(status: int, message: str, kind: str, code: str, param: str = "") -> Answer:
        return status, {"message": message, "type": kind, "param": param, "code": code}, {}

    match step:
        case RateLimited(per=per, unit=unit, retry_after=wait):
            status, body, _ = error(
                429,
                f"{unit.capitalize()} per {per} limit exceeded - too many {unit} sent.",
                f"too_many_{unit}_error",
                f"{unit[:-1]}_quota_exceeded",
                "quota",
            )
            own = {
                f"x-ratelimit-limit-{unit}-{per}": "30",
                f"x-ratelimit-remaining-{unit}-{per}": "0",
                f"x-ratelimit-reset-{unit}-{per}": f"{wait or 0:.6f}",
            }
            return status, body, _waits(step, own)
        case Unauthorized():
            return error(401, "Wrong API Key <key>", "invalid_request_error", "wrong_api_key", "api_key")
        case PaymentRequired():
            return error(402, "Payment required <key>", "payment_required_error", "payment_required")
        case Forbidden():
            return error(403, "Access denied <key>", "permission_denied_error", "blocked_api_access")
        case ModelGone():
            return error(
                404,
                f"Model {model} does not exist or you do not have access to it.",
                "not_found_error",
                "model_not_found",
                "model",
            )
        case ContextTooLong():
            return error(
                400,
                "Please reduce the length of the messages or completion.",
                "invalid_request_error",
                "context_length_exceeded",
                "messages",
            )
        case BadRequest():
            return error(422, "body.messages.0.role: Field required <key>", "invalid_request_error", "wrong_api_format")
        case ServerError(status=status):
            return error(status, _HTTP_NAMES.get(status, "Error"), "internal_error", "internal_error")
    return None


# Gemini: google.rpc.Status; https://ai.google.dev/gemini-api/docs/troubleshooting, google/api/error_reason.proto
def _gemini(step: Step, model: str) -> Answer | None:
    def error(status: int, message: str, name: str, *details: dict[str, Any]) -> Answer:
        body: dict[str, Any] = {"code": status, "message": message, "status": name}
        return status, {"error": {**body, **({"details": list(details)} if details else {})}}, {}

    def reason(name: str) -> dict[str, Any]:
        return {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": name,
            "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"},
        }

    match step:
        case RateLimited(per=per, unit=unit, scope=scope, retry_after=wait):
            per_model = "PerModel" if scope == "model" else ""
            quota = "Requests" if unit == "requests" else "InputTokens"
            failure = {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [
                    {
                        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                        "quotaId": f"Generate{quota}Per{per.capitalize()}PerProject{per_model}-FreeTier",
                        "quotaDimensions": {"location": "global", "model": model},
                        "quotaValue": "20",
                    }
                ],
            }
            details = [failure]
            headers = {}
            if wait is not None and step.form in ("seconds", "reset", "retryinfo"):
                # What Google really sends; the other forms are for those who proxy it.
                details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait:.9f}s"})
            else:
                headers = _waits(step, {})
            status, body, _ = error(
                429,
                "You exceeded your current quota, please check your plan and billing details. For more information on "
                "this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.",
                "RESOURCE_EXHAUSTED",
                *details,
            )
            return status, body, headers
        case Unauthorized():
            message = "API key not valid. Please pass a valid API key. <key>"
            return error(400, message, "INVALID_ARGUMENT", reason("API_KEY_INVALID"))
        case PaymentRequired():
            message = "This API method requires billing to be enabled. <key>"
            return error(403, message, "PERMISSION_DENIED", reason("BILLING_DISABLED"))
        case Forbidden():
            message = "Requests to this API method are blocked. <key>"
            return error(403, message, "PERMISSION_DENIED", reason("API_KEY_SERVICE_BLOCKED"))
        case ModelGone():
            return error(
                404,
                f"models/{model} is not found for API version v1beta, or is not supported for generateContent.",
                "NOT_FOUND",
            )
        case ContextTooLong():
            return error(
                400,
                "The input token count (1050000) exceeds the maximum number of tokens allowed (1048576).",
                "INVALID_ARGUMENT",
            )
        case BadRequest():
            return error(400, "Invalid JSON payload received. <key>", "INVALID_ARGUMENT")
        case ServerError(status=status):
            name = "INTERNAL" if status == 500 else "UNAVAILABLE"
            return error(status, "The model is overloaded. Please try again later.", name)
    return None


# OpenRouter: https://openrouter.ai/docs/api-reference/errors
def _openrouter(step: Step, model: str) -> Answer | None:
    def error(status: int, message: str, metadata: dict[str, Any] | None = None) -> Answer:
        inner = {"message": message, "code": status, **({"metadata": metadata} if metadata else {})}
        return status, {"error": inner, "user_id": "user_01"}, {}

    match step:
        case RateLimited(per=per, scope=scope, retry_after=wait):
            own = {
                "X-RateLimit-Limit": "20",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(round((time.time() + (wait or 0)) * 1000)),
            }
            if scope == "model":
                name = {"provider_name": "Venice", "raw": f"{model} is temporarily rate-limited upstream."}
                status, body, _ = error(429, "Provider returned error", name)
            else:
                word = "free-models-per-day" if per == "day" else "free-models-per-min"
                status, body, _ = error(429, f"Rate limit exceeded: {word}.", {"headers": own})
            return status, body, _waits(step, own)
        case Unauthorized():
            return error(401, "User not found. <key>")
        case PaymentRequired():
            return error(402, "Insufficient credits. Add more using https://openrouter.ai/settings/credits <key>")
        case Forbidden():
            return error(403, "Key limit exceeded. Manage it using https://openrouter.ai/settings/keys <key>")
        case ModelGone():
            return error(404, f"No endpoints found for {model}.")
        case ContextTooLong():
            return error(
                400,
                "This endpoint's maximum context length is 131072 tokens.",
                {"error_type": "context_length_exceeded", "provider_name": None},
            )
        case BadRequest():
            return error(400, "Input required: specify 'prompt' or 'messages' <key>")
        case ServerError(status=status):
            return error(status, _HTTP_NAMES.get(status, "Error"))
    return None


# Anything else that speaks like OpenAI: https://platform.openai.com/docs/guides/error-codes
def _openai(step: Step, model: str) -> Answer | None:
    if isinstance(step, ModelGone):
        inner = {"message": f"The model `{model}` does not exist", "type": "invalid_request_error"}
        return 404, {"error": {**inner, "param": None, "code": "model_not_found"}}, {}
    return _groq(step, model)


_WORDINGS: Mapping[str, Callable[[Step, str], Answer | None]] = {
    "groq": _groq,
    "cerebras": _cerebras,
    "gemini": _gemini,
    "openrouter": _openrouter,
}
