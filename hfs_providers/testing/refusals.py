"""The errors of the four built-in providers, in their own form; a comment names the source of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any

from hfs_providers.testing.answers import Request
from hfs_providers.testing.scripts import (
    BadRequest,
    ContextTooLong,
    Forbidden,
    ModelGone,
    PaymentRequired,
    RateLimited,
    ServerError,
    Step,
    Unauthorized,
)

Answer = tuple[int, dict[str, Any], dict[str, str]]
"""Status, body, headers."""

_TOO_LONG = "Please reduce the length of the messages or completion."
_HTTP_NAMES = {500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable", 529: "Overloaded"}


def refusal(step: Step, request: Request) -> Answer | None:
    """The provider's answer for an error step, or None for another step. By default, OpenAI's."""
    return _WORDINGS.get(request.provider, _openai)(step, request)


def plain_refusal(step: Step, request: Request) -> tuple[int, str, dict[str, str]] | None:
    """Status, message and headers for an error step, for providers whose errors have no codes."""
    match step:
        case RateLimited():
            return 429, "Too many requests", wait_headers(step)
        case Unauthorized():
            return 401, "The API key is not valid", {}
        case PaymentRequired():
            return 402, "The account has no credits", {}
        case Forbidden():
            return 403, "The API key may not do this", {}
        case ModelGone():
            return 404, f"There is no model {request.model}", {}
        case ContextTooLong():
            return 400, _TOO_LONG, {}
        case BadRequest():
            return 400, "The messages are not valid", {}
        case ServerError(status=status):
            return status, _HTTP_NAMES.get(status, "Error"), {}
    return None


def go_duration(seconds: float) -> str:
    """A duration as Go prints it: `120ms`, `7.66s`, `1m0s`, `1h1m1s`."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(round(seconds, 6), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{round(rest, 6):g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def wait_headers(step: RateLimited, reset: Mapping[str, str] | None = None) -> dict[str, str]:
    """The headers of a 429 that say how long to wait.

    Args:
        step: the step of the script.
        reset: the provider's own headers, for the form `reset`; without them, that form is the plain `Retry-After`.
    """
    wait = step.retry_after
    if wait is None:
        return {}
    forms: dict[str, dict[str, str]] = {
        # Forms in whole seconds are rounded up, so that no client comes back too early.
        "seconds": {"retry-after": str(math.ceil(wait))},
        "fraction": {"retry-after": f"{wait:g}"},
        "date": {"retry-after": formatdate(math.ceil(time.time() + wait), usegmt=True)},
        "ms": {"retry-after-ms": str(round(wait * 1000))},
        "reset": dict(reset) if reset is not None else {"retry-after": str(math.ceil(wait))},
        # Only Google has one; for other providers it is the plain header.
        "retryinfo": {"retry-after": str(math.ceil(wait))},
    }
    return forms.get(step.form, {})


def limit_headers(name: str, limit: int, remaining: int, reset: str) -> dict[str, str]:
    """The headers of Groq and Cerebras that say how much of a limit is left."""
    told = {"limit": str(limit), "remaining": str(remaining), "reset": reset}
    return {f"x-ratelimit-{what}-{name}": value for what, value in told.items()}


# Groq: https://console.groq.com/docs/errors and https://console.groq.com/docs/rate-limits
def _groq(step: Step, request: Request) -> Answer | None:
    def error(status: int, message: str, kind: str, code: str | None = None, **more: str) -> Answer:
        return status, {"error": {"message": message, "type": kind, **({"code": code} if code else {}), **more}}, {}

    match step:
        case RateLimited(per=per, unit=unit, retry_after=wait):
            name = f"{unit} per {per} ({unit[0].upper()}P{per[0].upper()})"
            again = f" Please try again in {go_duration(wait)}." if wait is not None else ""
            message = (
                f"Rate limit reached for model `{request.model}` in organization `org_01` service tier `on_demand` "
                f"on {name}: Limit 30, Used 30, Requested 1.{again}"
            )
            own = limit_headers(unit, 30, 0, go_duration(wait or 0))
            return *error(429, message, unit, "rate_limit_exceeded")[:2], wait_headers(step, own)
        case Unauthorized():
            return error(401, "Invalid API Key", "invalid_request_error", "invalid_api_key")
        case PaymentRequired():
            return error(402, "Payment required", "invalid_request_error", "payment_required")
        case Forbidden(about="key"):
            return error(403, "Your organization is restricted.", "permissions_error", "organization_restricted")
        case Forbidden(about="model"):
            message = f"The model `{request.model}` is blocked at the organization level."
            return error(403, message, "permissions_error", "model_permission_blocked_org")
        case Forbidden():
            # A blocked network or region: the error has neither type nor code.
            return 403, {"error": {"message": "Access denied. Please check your network settings."}}, {}
        case ModelGone(decommissioned=False):
            message = f"The model `{request.model}` does not exist or you do not have access to it."
            return error(404, message, "invalid_request_error", "model_not_found")
        case ModelGone():
            message = (
                f"The model `{request.model}` has been decommissioned and is no longer supported. Please refer to "
                "https://console.groq.com/docs/deprecations for a recommendation on which model to use instead."
            )
            return error(400, message, "invalid_request_error", "model_decommissioned")
        case ContextTooLong():
            # The only error of Groq that has been seen with `param`: github.com/OpenHands/OpenHands/issues/1902
            return error(400, _TOO_LONG, "invalid_request_error", "context_length_exceeded", param="messages")
        case BadRequest():
            return error(400, "'messages.0' : property 'role' is missing", "invalid_request_error")
        case ServerError(status=status):
            return error(status, _HTTP_NAMES.get(status, "Error"), "internal_server_error")
    return None


# Cerebras: https://inference-docs.cerebras.ai/support/error and the SDK's issues; the body is flat.
def _cerebras(step: Step, request: Request) -> Answer | None:
    def error(status: int, message: str, kind: str, code: str, param: str = "") -> Answer:
        return status, {"message": message, "type": kind, "param": param, "code": code}, {}

    match step:
        case RateLimited(per=per, unit=unit, retry_after=wait):
            # Requests are "sent", tokens "processed": github.com/continuedev/continue/issues/9800
            done = "sent" if unit == "requests" else "processed"
            message = f"{unit.capitalize()} per {per} limit exceeded - too many {unit} {done}."
            refused = error(429, message, f"too_many_{unit}_error", f"{unit[:-1]}_quota_exceeded", "quota")
            own = limit_headers(f"{unit}-{per}", 30, 0, f"{wait or 0:.6f}")
            return *refused[:2], wait_headers(step, own)
        case Unauthorized():
            return error(401, "Wrong API Key", "invalid_request_error", "wrong_api_key", "api_key")
        case PaymentRequired():
            return error(402, "Payment required", "payment_required_error", "payment_required")
        case Forbidden():
            return error(403, "Access denied", "permission_denied_error", "blocked_api_access")
        case ModelGone():
            message = f"Model {request.model} does not exist or you do not have access to it."
            return error(404, message, "not_found_error", "model_not_found", "model")
        case ContextTooLong():
            return error(400, _TOO_LONG, "invalid_request_error", "context_length_exceeded", "messages")
        case BadRequest():
            return error(422, "body.messages.0.role: Field required", "invalid_request_error", "wrong_api_format")
        case ServerError(status=status):
            return error(status, _HTTP_NAMES.get(status, "Error"), "internal_error", "internal_error")
    return None


# Gemini: google.rpc.Status; https://ai.google.dev/gemini-api/docs/troubleshooting, google/api/error_reason.proto
def google_refusal(step: Step, request: Request) -> Answer | None:
    """Google's answer for an error step, or None for another step."""

    def error(status: int, message: str, name: str, *details: dict[str, Any]) -> Answer:
        body: dict[str, Any] = {"code": status, "message": message, "status": name}
        return status, {"error": {**body, **({"details": list(details)} if details else {})}}, {}

    def detail(kind: str, **values: Any) -> dict[str, Any]:
        return {"@type": f"type.googleapis.com/google.rpc.{kind}", **values}

    def reason(name: str) -> dict[str, Any]:
        metadata = {"service": "generativelanguage.googleapis.com"}
        return detail("ErrorInfo", reason=name, domain="googleapis.com", metadata=metadata)

    match step:
        case RateLimited(per=per, unit=unit, scope=scope, retry_after=wait):
            per_model = "PerModel" if scope == "model" else ""
            # Both ids, and their order of words: github.com/google-gemini/gemini-cli/issues/8437
            window = f"Per{per.capitalize()}"
            metric, quota, value = "requests", f"GenerateRequests{window}PerProject{per_model}-FreeTier", "20"
            if unit == "tokens":
                quota = f"GenerateContentInputTokens{per_model}{window}-FreeTier"
                metric, value = "input_token_count", "250000"
            violation = {
                "quotaMetric": f"generativelanguage.googleapis.com/generate_content_free_tier_{metric}",
                "quotaId": quota,
                "quotaDimensions": {"location": "global", **({"model": request.model} if per_model else {})},
                "quotaValue": value,
            }
            link = {
                "description": "Learn more about Gemini API quotas",
                "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
            }
            details = [detail("QuotaFailure", violations=[violation]), detail("Help", links=[link])]
            headers = {}
            if wait is not None and step.form in ("seconds", "reset", "retryinfo"):
                # Google itself sends this form; proxies in front of it may send the others.
                details.append(detail("RetryInfo", retryDelay=f"{wait:.9f}s"))
            else:
                headers = wait_headers(step, {})
            message = (
                "You exceeded your current quota, please check your plan and billing details. For more information on "
                "this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."
            )
            return *error(429, message, "RESOURCE_EXHAUSTED", *details)[:2], headers
        case Unauthorized():
            # With both details: github.com/continuedev/continue/issues/10077
            message = "API key not valid. Please pass a valid API key."
            localized = detail("LocalizedMessage", locale="en-US", message=message)
            return error(400, message, "INVALID_ARGUMENT", reason("API_KEY_INVALID"), localized)
        case PaymentRequired():
            message = "This API method requires billing to be enabled."
            return error(403, message, "PERMISSION_DENIED", reason("BILLING_DISABLED"))
        case Forbidden(about="region"):
            return error(400, "User location is not supported for the API use.", "FAILED_PRECONDITION")
        case Forbidden(about="key", echo_key=True):
            # Google itself quotes the key of a suspended project: github.com/google/generative-ai-docs/issues/356
            message = f"Permission denied: Consumer 'api_key:{request.key}' has been suspended."
            return error(403, message, "PERMISSION_DENIED", reason("CONSUMER_SUSPENDED"))
        case Forbidden():
            message = "Requests to this API method are blocked."
            return error(403, message, "PERMISSION_DENIED", reason("API_KEY_SERVICE_BLOCKED"))
        case ModelGone():
            message = (
                f"models/{request.model} is not found for API version v1beta, or is not supported for generateContent. "
                "Call ListModels to see the list of available models and their supported methods."
            )
            return error(404, message, "NOT_FOUND")
        case ContextTooLong():
            message = "The input token count (1050000) exceeds the maximum number of tokens allowed (1048576)."
            return error(400, message, "INVALID_ARGUMENT")
        case BadRequest():
            return error(400, "Invalid JSON payload received.", "INVALID_ARGUMENT")
        case ServerError(status=status):
            if status in (500, 502):
                return error(status, "An internal error has occurred. Please retry.", "INTERNAL")
            return error(status, "The model is overloaded. Please try again later.", "UNAVAILABLE")
    return None


# OpenRouter: https://openrouter.ai/docs/api-reference/errors
def _openrouter(step: Step, request: Request) -> Answer | None:
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
                # github.com/HacxGPT-Official/HacxGPT-CLI/issues/31
                raw = (
                    f"{request.model} is temporarily rate-limited upstream. Please retry shortly, or add your own key "
                    "to accumulate your rate limits: https://openrouter.ai/settings/integrations"
                )
                refused = error(429, "Provider returned error", {"raw": raw, "provider_name": "Venice"})
                return *refused[:2], wait_headers(step, own)
            # github.com/Gitlawb/openclaude/issues/936; limit_source: github.com/Avarok-Cybersecurity/atlas/pull/543
            metadata: dict[str, Any] = {"provider_name": None}
            message = f"Rate limit exceeded: free-models-per-{per[:3]}."
            if per == "day":
                message += " Add 10 credits to unlock 1000 free model requests per day"
                metadata["limit_source"] = "openrouter_free_tier_daily"
            if step.form == "reset" and wait is not None:
                # The body repeats the headers in this form. In the others it must not give the wait a second time.
                metadata["headers"] = own
            return *error(429, message, metadata)[:2], wait_headers(step, own)
        case Unauthorized():
            # Neither has a user_id, because there is no user.
            message = "User not found." if request.key else "No auth credentials found"
            return 401, {"error": {"message": message, "code": 401}}, {}
        case PaymentRequired(fewer_tokens=True):
            # github.com/Gitlawb/openclaude/issues/1125
            wanted = int(request.body.get("max_tokens") or 65_536)
            message = (
                f"This request requires more credits, or fewer max_tokens. You requested up to {wanted} tokens, but "
                f"can only afford {wanted // 2}. To increase, visit https://openrouter.ai/settings/credits and upgrade "
                "to a paid account"
            )
            return error(402, message, {"provider_name": None})
        case PaymentRequired():
            # github.com/open-assistant-org/open-assistant/issues/80
            message = "Insufficient credits. Add more using https://openrouter.ai/settings/credits"
            return error(402, message, {"limit_source": "openrouter_credits"})
        case Forbidden(about="moderation"):
            # https://openrouter.ai/docs/api-reference/errors: ModerationErrorMetadata
            flagged = {"reasons": ["violence"], "flagged_input": request.prompt[:100], "provider_name": "Venice"}
            return error(403, f"{request.model} requires moderation on Venice. Your input was flagged.", flagged)
        case Forbidden():
            return error(403, "Key limit exceeded. Manage it using https://openrouter.ai/settings/keys")
        case ModelGone():
            return error(404, f"No endpoints found for {request.model}.")
        case ContextTooLong():
            return error(
                400,
                "This endpoint's maximum context length is 131072 tokens.",
                {"error_type": "context_length_exceeded", "provider_name": None},
            )
        case BadRequest():
            return error(400, "Input required: specify 'prompt' or 'messages'")
        case ServerError(status=status):
            return error(status, _HTTP_NAMES.get(status, "Error"))
    return None


# Any other provider with OpenAI's protocol: https://platform.openai.com/docs/guides/error-codes
def _openai(step: Step, request: Request) -> Answer | None:
    if isinstance(step, ModelGone):
        inner = {"message": f"The model `{request.model}` does not exist", "type": "invalid_request_error"}
        return 404, {"error": {**inner, "param": None, "code": "model_not_found"}}, {}
    return _groq(step, request)


_WORDINGS: Mapping[str, Callable[[Step, Request], Answer | None]] = {
    "groq": _groq,
    "cerebras": _cerebras,
    "openrouter": _openrouter,
}
