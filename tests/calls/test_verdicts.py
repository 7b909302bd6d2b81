"""Every way in which the four providers fail, through the real SDKs and Agno classes, against a transport of our own.

Each row of CASES is a row of docs/verdicts.md; a test holds the two together.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import agno.exceptions
import groq
import httpx
import httpx2
import openai
import pytest
from agno.models.base import Model
from agno.models.cerebras import Cerebras
from agno.models.google import Gemini
from agno.models.groq import Groq
from agno.models.message import Message
from agno.models.openrouter import OpenRouter

from hfs_providers.calls.model_errors import KeysExhaustedError, StreamInterruptedError
from hfs_providers.calls.verdicts import Verdict, judge
from hfs_providers.clients.families import family_of
from hfs_providers.contract.error_rules import Kind
from hfs_providers.contract.errors import PoolExhaustedError, SettingsError
from hfs_providers.plugins import cerebras, gemini, openrouter
from hfs_providers.plugins import groq as groq_plugin
from tests import warm

NOW = 1_795_262_400.0
"""2026-11-21 12:00 UTC, four in the morning in California: 20 hours before Gemini's daily quotas are reset."""

DAY = 86_400.0
TO_MIDNIGHT = 72_000.0
PLUGINS = [each.plugin for each in (cerebras, gemini, groq_plugin, openrouter)]
# With those of the family of its SDK.
RULES = {plugin.name: family_of(plugin.client).complete(plugin).errors for plugin in PLUGINS}
DOCS = Path(__file__).parents[2] / "docs" / "verdicts.md"


# -- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What a provider sends, and what it means.

    Args:
        provider: whose SDK and Agno class receive it.
        sends: how the documentation names it.
        status: HTTP status.
        body: JSON, or text as it is; an event of the stream where `event` is set.
        kind, scope, credits, wait, code: of the verdict; a wait in seconds.
        headers: of the answer.
        event: sent inside a stream that began with 200.
        shown: the status in the verdict, where it is not the HTTP one.
    """

    provider: str
    sends: str
    status: int
    body: Any
    kind: str
    code: str | None = None
    scope: str = "model"
    credits: bool = False
    wait: float | None = None
    headers: tuple[tuple[str, str], ...] = ()
    event: bool = False
    shown: int | None = -1

    @property
    def id(self) -> str:
        return f"{self.provider}: {self.sends}".replace("`", "")


def groq_body(code: str | None, kind: str = "invalid_request_error", **more: object) -> dict[str, Any]:
    return {"error": {"message": "as Groq words it", "type": kind, **({"code": code} if code else {}), **more}}


def cerebras_body(code: str, kind: str, param: str) -> dict[str, Any]:
    return {"message": "as Cerebras words it", "type": kind, "param": param, "code": code}


def openrouter_body(code: int, **metadata: object) -> dict[str, Any]:
    error = {"message": "as OpenRouter words it", "code": code, **({"metadata": metadata} if metadata else {})}
    return {"error": error, "user_id": "user_1"}


def google_body(code: int, status: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": "as Google words it", "status": status, "details": list(details)}}


def reason(name: str) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": name,
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }


def quota(quota_id: str, value: str | None = "20") -> dict[str, Any]:
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
        "quotaId": quota_id,
        "quotaDimensions": {"location": "global", "model": "gemini-2.5-flash"},
        **({"quotaValue": value} if value is not None else {}),
    }
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}


def retry(delay: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
FREE_HEADERS = {
    "X-RateLimit-Limit": "50",
    "X-RateLimit-Remaining": "0",
    "X-RateLimit-Reset": str(int((NOW + 43_200) * 1000)),
}
GROQ_LIMITED = (
    ("retry-after", "2"),
    ("x-ratelimit-remaining-requests", "0"),
    ("x-ratelimit-reset-requests", "1m26.4s"),
    ("x-ratelimit-remaining-tokens", "5990"),
    ("x-ratelimit-reset-tokens", "100ms"),
)
CEREBRAS_LIMITED = (
    ("x-ratelimit-remaining-requests-day", "14000"),
    ("x-ratelimit-reset-requests-day", "33011.382867"),
    ("x-ratelimit-remaining-tokens-minute", "0"),
    ("x-ratelimit-reset-tokens-minute", "11.382867"),
)

CASES = (
    Case("groq", "401 `invalid_api_key`", 401, groq_body("invalid_api_key"), "dead", "invalid_api_key", "key"),
    Case(
        "groq",
        "400 `organization_restricted`",
        400,
        groq_body("organization_restricted"),
        "dead",
        "organization_restricted",
        "key",
    ),
    Case(
        "groq",
        "403 `organization_restricted`",
        403,
        groq_body("organization_restricted"),
        "dead",
        "organization_restricted",
        "key",
    ),
    Case(
        "groq",
        "403 without a code (a blocked network or region)",
        403,
        groq_body(None),
        "rate_limited",
        "invalid_request_error",
    ),
    Case("groq", "403 of a proxy, HTML", 403, "<html>blocked</html>", "rate_limited"),
    Case(
        "groq",
        "403 `model_permission_blocked_org`",
        403,
        groq_body("model_permission_blocked_org", "permissions_error"),
        "model_gone",
        "model_permission_blocked_org",
        "key",
    ),
    Case(
        "groq",
        "403 `model_permission_blocked_project`",
        403,
        groq_body("model_permission_blocked_project", "permissions_error"),
        "model_gone",
        "model_permission_blocked_project",
        "key",
    ),
    Case(
        "groq",
        "400 `model_decommissioned`",
        400,
        groq_body("model_decommissioned"),
        "model_gone",
        "model_decommissioned",
    ),
    Case("groq", "404 `model_not_found`", 404, groq_body("model_not_found"), "model_gone", "model_not_found", "key"),
    Case(
        "groq",
        "400 `model_terms_required`",
        400,
        groq_body("model_terms_required"),
        "model_gone",
        "model_terms_required",
        "key",
    ),
    Case("groq", "404 `unknown_url` (a wrong base URL)", 404, groq_body("unknown_url"), "bad_request", "unknown_url"),
    Case("groq", "404 of something else, HTML", 404, "<html>not here</html>", "bad_request"),
    Case(
        "groq",
        "429 `rate_limit_exceeded`, type `requests`, Retry-After 2",
        429,
        groq_body("rate_limit_exceeded", "requests"),
        "rate_limited",
        "rate_limit_exceeded",
        wait=2.0,
        headers=GROQ_LIMITED,
    ),
    Case(
        "groq",
        "429 `rate_limit_exceeded`, type `tokens`, reset headers only",
        429,
        groq_body("rate_limit_exceeded", "tokens"),
        "rate_limited",
        "rate_limit_exceeded",
        wait=86.4,
        headers=GROQ_LIMITED[1:],
    ),
    Case(
        "groq",
        "429 `rate_limit_exceeded` without a wait",
        429,
        groq_body("rate_limit_exceeded", "tokens"),
        "rate_limited",
        "rate_limit_exceeded",
    ),
    Case("groq", "429 without a body", 429, "", "rate_limited"),
    Case(
        "groq",
        "413 `rate_limit_exceeded` (larger than the tokens per minute)",
        413,
        groq_body("rate_limit_exceeded", "tokens"),
        "context_overflow",
        "rate_limit_exceeded",
    ),
    Case(
        "groq", "413 `request_too_large`", 413, groq_body("request_too_large"), "context_overflow", "request_too_large"
    ),
    Case(
        "groq",
        "400 `context_length_exceeded`",
        400,
        groq_body("context_length_exceeded", param="messages"),
        "context_overflow",
        "context_length_exceeded",
    ),
    Case(
        "groq",
        "400 `tool_use_failed`",
        400,
        groq_body("tool_use_failed", failed_generation="<function"),
        "bad_request",
        "tool_use_failed",
    ),
    Case(
        "groq",
        "400 `json_validate_failed`",
        400,
        groq_body("json_validate_failed"),
        "bad_request",
        "json_validate_failed",
    ),
    Case("groq", "400 without a code", 400, groq_body(None), "bad_request", "invalid_request_error"),
    Case("groq", "422", 422, groq_body(None), "bad_request", "invalid_request_error"),
    Case("groq", "424 (a failed dependency)", 424, groq_body(None), "bad_request", "invalid_request_error"),
    Case(
        "groq", "498 `capacity_exceeded` (flex)", 498, groq_body("capacity_exceeded"), "overloaded", "capacity_exceeded"
    ),
    Case("groq", "499 (cancelled on the way)", 499, groq_body(None), "server_error", "invalid_request_error"),
    Case("groq", "408", 408, groq_body(None), "server_error", "invalid_request_error"),
    Case("groq", "409", 409, groq_body(None), "server_error", "invalid_request_error"),
    Case("groq", "425", 425, groq_body(None), "server_error", "invalid_request_error"),
    Case(
        "groq",
        "500 `internal_server_error`",
        500,
        groq_body(None, "internal_server_error"),
        "server_error",
        "internal_server_error",
    ),
    Case("groq", "502, HTML", 502, "<html>bad gateway</html>", "overloaded"),
    Case(
        "groq",
        "503 with Retry-After 5",
        503,
        groq_body(None, "service_unavailable"),
        "overloaded",
        "service_unavailable",
        wait=5.0,
        headers=(("retry-after", "5"),),
    ),
    Case("groq", "529", 529, groq_body(None), "overloaded", "invalid_request_error"),
    Case(
        "groq",
        "in a stream: `rate_limit_exceeded`",
        200,
        groq_body("rate_limit_exceeded", "tokens"),
        "rate_limited",
        "rate_limit_exceeded",
        event=True,
        shown=None,
    ),
    Case(
        "groq",
        "in a stream: `tool_use_failed`, status_code 400",
        200,
        groq_body("tool_use_failed", status_code=400),
        "bad_request",
        "tool_use_failed",
        event=True,
        shown=400,
    ),
    Case(
        "groq",
        "in a stream: an error without a code",
        200,
        groq_body(None, "server_error"),
        "server_error",
        "server_error",
        event=True,
        shown=None,
    ),
    Case("groq", "200 with an empty body", 200, "", "empty", shown=None),
    Case("groq", "200 with HTML", 200, "<html>hello</html>", "server_error", shown=None),
    Case("groq", "200 with broken JSON", 200, '{"choices": [', "server_error", shown=None),
    Case("groq", "200 with JSON that is no completion", 200, {"hello": 1}, "server_error", shown=None),
    Case(
        "cerebras",
        "401 `wrong_api_key`",
        401,
        cerebras_body("wrong_api_key", "invalid_request_error", "api_key"),
        "dead",
        "wrong_api_key",
        "key",
    ),
    Case(
        "cerebras",
        "402 `payment_required`",
        402,
        cerebras_body("payment_required", "payment_required_error", "quota"),
        "dead",
        "payment_required",
        "key",
        credits=True,
    ),
    Case("cerebras", "403 without a code", 403, {"detail": "Not authenticated"}, "rate_limited"),
    Case(
        "cerebras",
        "404 `model_not_found`",
        404,
        cerebras_body("model_not_found", "not_found_error", "model"),
        "model_gone",
        "model_not_found",
        "key",
    ),
    Case(
        "cerebras",
        "429 `request_quota_exceeded`",
        429,
        cerebras_body("request_quota_exceeded", "too_many_requests_error", "quota"),
        "rate_limited",
        "request_quota_exceeded",
        wait=4.0,
        headers=(("retry-after", "4"),),
    ),
    Case(
        "cerebras",
        "429 `token_quota_exceeded`, reset headers only",
        429,
        cerebras_body("token_quota_exceeded", "too_many_tokens_error", "quota"),
        "rate_limited",
        "token_quota_exceeded",
        wait=11.382867,
        headers=CEREBRAS_LIMITED,
    ),
    Case(
        "cerebras",
        "429 `token_quota_exceeded` of a day, Retry-After 86399",
        429,
        cerebras_body("token_quota_exceeded", "too_many_tokens_error", "quota"),
        "rate_limited",
        "token_quota_exceeded",
        wait=86_399.0,
        headers=(("retry-after", "86399"),),
    ),
    Case(
        "cerebras",
        "429 `queue_exceeded` (its own queue is full)",
        429,
        cerebras_body("queue_exceeded", "too_many_requests_error", "queue"),
        "overloaded",
        "queue_exceeded",
    ),
    Case(
        "cerebras",
        "400 `context_length_exceeded`",
        400,
        cerebras_body("context_length_exceeded", "invalid_request_error", "messages"),
        "context_overflow",
        "context_length_exceeded",
    ),
    Case(
        "cerebras",
        "422 `wrong_api_format`",
        422,
        cerebras_body("wrong_api_format", "invalid_request_error", "validation_error"),
        "bad_request",
        "wrong_api_format",
    ),
    Case("cerebras", "500", 500, {"message": "Internal server error"}, "server_error"),
    Case("cerebras", "503", 503, {"message": "Service unavailable"}, "overloaded"),
    Case(
        "cerebras",
        "in a stream: `queue_exceeded` (the SDK says 200)",
        200,
        {"error": cerebras_body("queue_exceeded", "too_many_requests_error", "queue")},
        "overloaded",
        "queue_exceeded",
        event=True,
        shown=200,
    ),
    Case(
        "cerebras",
        "in a stream: status_code 500",
        200,
        {"error": {"message": "as Cerebras words it"}, "status_code": 500},
        "server_error",
        event=True,
        shown=500,
    ),
    Case("cerebras", "200 with an empty body", 200, "", "empty", shown=None),
    Case("cerebras", "200 with broken JSON", 200, "{nope", "server_error", shown=None),
    Case(
        "gemini",
        "400 `API_KEY_INVALID`",
        400,
        google_body(400, "INVALID_ARGUMENT", reason("API_KEY_INVALID")),
        "dead",
        "API_KEY_INVALID",
        "key",
    ),
    *(
        Case("gemini", f"403 `{name}`", 403, google_body(403, "PERMISSION_DENIED", reason(name)), "dead", name, "key")
        for name in ("API_KEY_SERVICE_BLOCKED", "SERVICE_DISABLED", "CONSUMER_INVALID", "CONSUMER_SUSPENDED")
    ),
    Case(
        "gemini",
        "403 `BILLING_DISABLED`",
        403,
        google_body(403, "PERMISSION_DENIED", reason("BILLING_DISABLED")),
        "dead",
        "BILLING_DISABLED",
        "key",
        credits=True,
    ),
    Case(
        "gemini",
        "403 `PERMISSION_DENIED` without a reason (a leaked key, a barred project)",
        403,
        google_body(403, "PERMISSION_DENIED"),
        "dead",
        "PERMISSION_DENIED",
        "key",
    ),
    Case("gemini", "401 `UNAUTHENTICATED`", 401, google_body(401, "UNAUTHENTICATED"), "dead", "UNAUTHENTICATED", "key"),
    Case(
        "gemini",
        "400 `FAILED_PRECONDITION` (no free tier here, a file not ready)",
        400,
        google_body(400, "FAILED_PRECONDITION"),
        "rate_limited",
        "FAILED_PRECONDITION",
        "key",
    ),
    Case("gemini", "403 without a body of Google's", 403, "<html>blocked</html>", "rate_limited", "Forbidden"),
    Case("gemini", "404 `NOT_FOUND`", 404, google_body(404, "NOT_FOUND"), "model_gone", "NOT_FOUND"),
    Case("gemini", "404 of something else, HTML", 404, "<html>no</html>", "bad_request", "Not Found"),
    Case(
        "gemini",
        "400 `INVALID_ARGUMENT` (also a prompt that is too long)",
        400,
        google_body(400, "INVALID_ARGUMENT"),
        "bad_request",
        "INVALID_ARGUMENT",
    ),
    Case(
        "gemini",
        "429 per minute and model, RetryInfo 34.07 s",
        429,
        google_body(429, "RESOURCE_EXHAUSTED", quota(PER_MINUTE), retry("34.074824224s")),
        "rate_limited",
        "RESOURCE_EXHAUSTED",
        wait=34.074824224,
    ),
    Case(
        "gemini",
        "429 per day and model, RetryInfo 34.07 s",
        429,
        google_body(429, "RESOURCE_EXHAUSTED", quota(PER_DAY), retry("34.074824224s")),
        "rate_limited",
        "RESOURCE_EXHAUSTED",
        wait=TO_MIDNIGHT,
    ),
    Case(
        "gemini",
        "429 per day and model, no RetryInfo",
        429,
        google_body(429, "RESOURCE_EXHAUSTED", quota(PER_DAY)),
        "rate_limited",
        "RESOURCE_EXHAUSTED",
        wait=TO_MIDNIGHT,
    ),
    Case(
        "gemini",
        "429 per day, all models",
        429,
        google_body(429, "RESOURCE_EXHAUSTED", quota("GenerateRequestsPerDayPerProject-FreeTier")),
        "rate_limited",
        "RESOURCE_EXHAUSTED",
        "key",
        wait=TO_MIDNIGHT,
    ),
    Case(
        "gemini",
        "429 with `quotaValue` 0 (a model outside the free tier)",
        429,
        google_body(429, "RESOURCE_EXHAUSTED", quota(PER_MINUTE, "0"), retry("20s")),
        "rate_limited",
        "RESOURCE_EXHAUSTED",
        wait=DAY,
    ),
    Case(
        "gemini",
        "429 without details",
        429,
        google_body(429, "RESOURCE_EXHAUSTED"),
        "rate_limited",
        "RESOURCE_EXHAUSTED",
    ),
    Case("gemini", "499 `CANCELLED`", 499, google_body(499, "CANCELLED"), "server_error", "CANCELLED"),
    Case("gemini", "500 `INTERNAL`", 500, google_body(500, "INTERNAL"), "server_error", "INTERNAL"),
    Case("gemini", "501 `UNIMPLEMENTED`", 501, google_body(501, "UNIMPLEMENTED"), "bad_request", "UNIMPLEMENTED"),
    Case("gemini", "503 `UNAVAILABLE`", 503, google_body(503, "UNAVAILABLE"), "overloaded", "UNAVAILABLE"),
    Case(
        "gemini",
        "504 `DEADLINE_EXCEEDED`",
        504,
        google_body(504, "DEADLINE_EXCEEDED"),
        "server_error",
        "DEADLINE_EXCEEDED",
    ),
    Case(
        "gemini",
        "in a stream: `UNAVAILABLE`",
        200,
        google_body(503, "UNAVAILABLE"),
        "overloaded",
        "UNAVAILABLE",
        event=True,
        shown=503,
    ),
    Case(
        "gemini",
        "in a stream: `RESOURCE_EXHAUSTED` per day",
        200,
        google_body(429, "RESOURCE_EXHAUSTED", quota(PER_DAY)),
        "rate_limited",
        "RESOURCE_EXHAUSTED",
        wait=TO_MIDNIGHT,
        event=True,
        shown=429,
    ),
    Case("gemini", "200 with broken JSON", 200, "{nope", "server_error", shown=None),
    Case("openrouter", "401", 401, openrouter_body(401), "dead", scope="key"),
    Case(
        "openrouter",
        "401 passed on from an upstream provider",
        401,
        openrouter_body(401, provider_name="X", raw="no"),
        "overloaded",
    ),
    Case("openrouter", "402", 402, openrouter_body(402), "dead", scope="key", credits=True),
    Case(
        "openrouter",
        "402, limit_source `openrouter_credits`",
        402,
        openrouter_body(402, limit_source="openrouter_credits"),
        "dead",
        "openrouter_credits",
        "key",
        credits=True,
    ),
    Case(
        "openrouter",
        "402, limit_source `openrouter_key_limit`",
        402,
        openrouter_body(402, limit_source="openrouter_key_limit"),
        "dead",
        "openrouter_key_limit",
        "key",
        credits=True,
    ),
    Case(
        "openrouter",
        "402, limit_source `openrouter_in_flight_budget`",
        402,
        openrouter_body(402, limit_source="openrouter_in_flight_budget"),
        "rate_limited",
        "openrouter_in_flight_budget",
        "key",
        wait=3.0,
        headers=(("retry-after", "3"),),
    ),
    Case(
        "openrouter",
        "402 past routing (`provider_name` null): more credits or fewer max_tokens",
        402,
        openrouter_body(402, provider_name=None, previous_errors=[]),
        "bad_request",
    ),
    Case(
        "openrouter",
        "403 moderation (`reasons`, `flagged_input`)",
        403,
        openrouter_body(403, reasons=["violence"], flagged_input="...", provider_name="X", model_slug="m"),
        "refused",
    ),
    Case(
        "openrouter", "403 passed on from an upstream provider", 403, openrouter_body(403, provider_name="X"), "refused"
    ),
    Case(
        "openrouter",
        "403 `permission_denied` (the key, or a guardrail)",
        403,
        openrouter_body(403, error_type="permission_denied"),
        "rate_limited",
        "permission_denied",
    ),
    Case("openrouter", "403 without metadata", 403, openrouter_body(403), "rate_limited"),
    Case("openrouter", "404 (no endpoints found)", 404, openrouter_body(404), "model_gone"),
    Case("openrouter", "404 of something else, HTML", 404, "<html>no</html>", "bad_request"),
    Case("openrouter", "400 (also: not a valid model ID)", 400, openrouter_body(400), "bad_request"),
    Case(
        "openrouter",
        "400 `context_length_exceeded`",
        400,
        openrouter_body(400, error_type="context_length_exceeded"),
        "context_overflow",
        "context_length_exceeded",
    ),
    Case(
        "openrouter",
        "400 `content_policy_violation`",
        400,
        openrouter_body(400, error_type="content_policy_violation"),
        "refused",
        "content_policy_violation",
    ),
    Case("openrouter", "408", 408, openrouter_body(408), "server_error"),
    Case(
        "openrouter",
        "429 `openrouter_free_tier_daily`, reset in the body's headers",
        429,
        openrouter_body(429, headers=FREE_HEADERS, limit_source="openrouter_free_tier_daily"),
        "rate_limited",
        "openrouter_free_tier_daily",
        "key",
        wait=43_200.0,
    ),
    Case(
        "openrouter",
        "429 with the account's X-RateLimit-* in the body only",
        429,
        openrouter_body(429, headers=FREE_HEADERS),
        "rate_limited",
        None,
        "key",
        wait=43_200.0,
    ),
    Case(
        "openrouter",
        "429 with the account's X-RateLimit-* in the answer",
        429,
        openrouter_body(429),
        "rate_limited",
        None,
        "key",
        wait=43_200.0,
        headers=tuple(FREE_HEADERS.items()),
    ),
    Case(
        "openrouter",
        "429 `upstream_provider_shared_pool`",
        429,
        openrouter_body(
            429, provider_name="X", raw="busy", is_byok=False, limit_source="upstream_provider_shared_pool"
        ),
        "rate_limited",
        "upstream_provider_shared_pool",
        wait=7.0,
        headers=(("retry-after", "7"),),
    ),
    Case(
        "openrouter",
        "429 passed on from an upstream provider (`provider_name`)",
        429,
        openrouter_body(429, provider_name="X", raw="busy"),
        "rate_limited",
    ),
    Case("openrouter", "502 upstream", 502, openrouter_body(502, provider_name="X", raw="{}"), "overloaded"),
    Case("openrouter", "503", 503, openrouter_body(503), "overloaded"),
    Case(
        "openrouter",
        "200 with an error of 502 in its body",
        200,
        openrouter_body(502, provider_name="X"),
        "overloaded",
        shown=502,
    ),
    Case(
        "openrouter",
        "200 with an error of 429 in its body",
        200,
        openrouter_body(429, provider_name="X"),
        "rate_limited",
        shown=429,
    ),
    Case(
        "openrouter",
        "in a stream: 502 `provider_unavailable`",
        200,
        openrouter_body(502, error_type="provider_unavailable"),
        "overloaded",
        "provider_unavailable",
        event=True,
        shown=502,
    ),
    Case("openrouter", "200 with an empty body", 200, "", "empty", shown=None),
    Case("openrouter", "200 with HTML", 200, "<html>hello</html>", "server_error", shown=None),
    Case("openrouter", "200 without choices", 200, {"id": "gen-1", "choices": []}, "server_error", shown=None),
)


# -- real clients on a transport of our own ---------------------------------------------------------------------------

Handler = Callable[[Any], Any]


def answer(library: Any, case: Case) -> Handler:
    def handle(request: Any) -> Any:
        headers = dict(case.headers)
        if case.event:
            headers["content-type"] = "text/event-stream"
            return library.Response(200, headers=headers, content=f"data: {json.dumps(case.body)}\n\n".encode())
        if isinstance(case.body, str):
            markup = case.body.startswith("<")
            headers["content-type"] = "text/html" if markup else "application/json"
            return library.Response(case.status, headers=headers, content=case.body.encode())
        return library.Response(case.status, headers=headers, json=case.body)

    return handle


def library_of(provider: str) -> Any:
    return httpx2 if provider == "gemini" else httpx


def build(provider: str, handler: Handler, *, asynchronous: bool = False) -> Model:
    """The bare Agno model of a provider over a transport that answers with `handler`."""
    library = library_of(provider)
    transport = library.MockTransport(handler)
    client = library.AsyncClient(transport=transport) if asynchronous else library.Client(transport=transport)
    if provider == "groq":
        return Groq(id="m", api_key="k", http_client=client, max_retries=0)
    if provider == "cerebras":
        quirks = {"warm_tcp_connection": False}
        return Cerebras(id="m", api_key="k", http_client=client, max_retries=0, client_params=quirks)
    if provider == "openrouter":
        return OpenRouter(id="m", api_key="k", http_client=client, max_retries=0)
    options = {"httpx_async_client" if asynchronous else "httpx_client": client, "retry_options": {"attempts": 1}}
    return Gemini(id="m", api_key="k", client_params={"http_options": options})


def fail(model: Model, way: str) -> Exception:
    """The exception that a call of the model raises."""
    arguments: dict[str, Any] = {
        "messages": [Message(role="user", content="x")],
        "assistant_message": Message(role="assistant"),
    }

    async def drain() -> None:
        async for _ in model.ainvoke_stream(**arguments):
            pass

    async def ask() -> None:
        await model.ainvoke(**arguments)

    calls: dict[str, Callable[[], object]] = {
        "sync": lambda: model.invoke(**arguments),
        "stream": lambda: list(model.invoke_stream(**arguments)),
        "async": lambda: asyncio.run(ask()),
        "async stream": lambda: asyncio.run(drain()),
    }
    with pytest.raises(Exception) as caught:  # noqa: PT011  whatever it is, the verdict is what is looked at
        calls[way]()
    return caught.value


def verdict_of(provider: str, handler: Handler, way: str = "sync") -> Verdict:
    error = fail(build(provider, handler, asynchronous=way.startswith("async")), way)
    return judge(error, RULES[provider], now=lambda: NOW)


def ways(case: Case) -> tuple[str, ...]:
    if case.event:
        return ("stream", "async stream")
    # A 200 that is no event stream ends a stream silently: that is for the caller of the stream to see.
    return ("sync", "async") if case.status == 200 else ("sync", "stream", "async", "async stream")


@pytest.mark.parametrize(
    ("case", "way"), [pytest.param(case, way, id=f"{case.id}, {way}") for case in CASES for way in ways(case)]
)
def test_a_providers_error_gets_its_verdict(case: Case, way: str) -> None:
    verdict = verdict_of(case.provider, answer(library_of(case.provider), case), way)
    status = case.status if case.shown == -1 else case.shown
    assert (verdict.kind, verdict.status, verdict.code, verdict.scope, verdict.credits) == (
        case.kind,
        status,
        case.code,
        case.scope,
        case.credits,
    )
    assert verdict.retry_after == (None if case.wait is None else pytest.approx(case.wait))
    assert verdict.sent


def test_a_verdict_tells_the_providers_own_words() -> None:
    case = Case("cerebras", "", 429, cerebras_body("queue_exceeded", "", "queue"), "overloaded")
    assert verdict_of("cerebras", answer(httpx, case)).message == "as Cerebras words it"
    case = Case("openrouter", "", 502, openrouter_body(502, raw="the upstream's own"), "overloaded")
    assert verdict_of("openrouter", answer(httpx, case)).message == "as OpenRouter words it: the upstream's own"


def test_a_message_is_bounded() -> None:
    body = {"error": {"message": "x" * 100_000, "code": "invalid_api_key"}}
    assert len(verdict_of("groq", answer(httpx, Case("groq", "", 401, body, "dead"))).message) == 2000


# -- the table and the documentation ----------------------------------------------------------------------------------

WHAT_WE_DO = {
    "rate_limited model": "key cools down for this model; another key is used at once",
    "rate_limited key": "key cools down for all models; another key is used at once",
    "dead": "key counts as dead for an hour; another key is used at once",
    "dead, credits": "key counts as dead for a day; another key is used at once",
    "model_gone": "key stays in use; a default model is replaced by its successor, a named one raises an error",
    "model_gone key": "another key is used at once; if three keys lack the model, as for `model_gone`",
    "context_overflow": "key stays in use; a chain entry with a larger window may answer",
    "bad_request": "key stays in use; the error is raised at once",
    "refused": "key stays in use; the error is raised at once",
    "overloaded": "key stays in use; the request is repeated after a pause",
    "server_error": "key stays in use; the request is repeated after a pause",
    "empty": "key stays in use; the request is repeated after a pause",
}


def row(case: Case) -> str:
    if case.kind == "rate_limited" or (case.kind == "model_gone" and case.scope == "key"):
        meaning = f"{case.kind} {case.scope}"
    else:
        meaning = "dead, credits" if case.credits else case.kind
    waits = {None: "", TO_MIDNIGHT: "midnight Pacific", DAY: "1 day"}
    wait = waits.get(case.wait, f"{case.wait or 0:.6g} s")
    return f"| {case.provider} | {case.sends} | {meaning} | {wait} | {WHAT_WE_DO[meaning]} |"


def test_the_documentation_has_a_row_for_each_case_and_no_other() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    names = ("groq", "cerebras", "gemini", "openrouter")
    assert [line for line in lines if line.startswith(tuple(f"| {name} |" for name in names))] == list(map(row, CASES))


def test_every_case_is_named_once() -> None:
    names = [case.id for case in CASES]
    assert sorted(names) == sorted(set(names))


# -- transport --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["groq", "cerebras", "gemini", "openrouter"])
@pytest.mark.parametrize("way", ["sync", "async", "stream", "async stream"])
@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("ReadTimeout", True),
        ("ReadError", True),
        ("WriteError", True),
        ("WriteTimeout", True),
        ("RemoteProtocolError", True),
        ("ConnectTimeout", False),
        ("ConnectError", False),
        ("PoolTimeout", False),
        ("ProxyError", False),
    ],
)
def test_a_transport_error_is_one_and_says_whether_anything_was_sent(
    provider: str, way: str, name: str, sent: bool
) -> None:
    def handle(request: Any) -> Any:
        raise getattr(library_of(provider), name)("broken", request=request)

    verdict = verdict_of(provider, handle, way)
    assert (verdict.kind, verdict.sent, verdict.status) == ("transport", sent, None)
    assert verdict.retries
    assert not verdict.rotates


@pytest.mark.parametrize(("text", "kind"), [(" ", "empty"), ("<html>", "server_error")])
def test_a_text_in_place_of_a_completion_is_an_empty_answer_where_it_is_blank(text: str, kind: str) -> None:
    assert verdict_of("groq", lambda request: httpx.Response(200, text=text)).kind == kind


@pytest.mark.parametrize("provider", ["groq", "cerebras", "gemini", "openrouter"])
def test_a_stream_that_is_cut_is_a_transport_error(provider: str) -> None:
    library = library_of(provider)

    class Cut(library.SyncByteStream):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Any:
            yield b"data: "
            raise library.ReadError("cut")

    def handle(request: Any) -> Any:
        return library.Response(200, headers={"content-type": "text/event-stream"}, stream=Cut())

    assert verdict_of(provider, handle, "stream").kind == "transport"


@pytest.mark.parametrize("provider", ["groq", "cerebras", "gemini", "openrouter"])
@pytest.mark.parametrize("name", ["LocalProtocolError", "UnsupportedProtocol"])
def test_a_transport_that_refuses_what_it_was_given_is_a_local_error(provider: str, name: str) -> None:
    def handle(request: Any) -> Any:
        raise getattr(library_of(provider), name)("illegal header value", request=request)

    verdict = verdict_of(provider, handle)
    assert (verdict.kind, verdict.sent) == ("local", False)


def foreign(name: str, module: str, *bases: type[BaseException]) -> BaseException:
    """An error of a library that need not be installed."""
    error: BaseException = type(name, bases or (Exception,), {"__module__": module})("broken")
    return error


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("ServerDisconnectedError", True),
        ("ClientPayloadError", True),
        ("ClientOSError", True),
        ("SocketTimeoutError", True),
        ("ServerTimeoutError", True),
        ("ClientConnectionError", True),
        ("ClientConnectionResetError", True),
        ("ClientConnectorError", False),
        ("ClientConnectorDNSError", False),
        ("ClientConnectorSSLError", False),
        ("ClientConnectorCertificateError", False),
        ("ClientProxyConnectionError", False),
        ("ClientHttpProxyError", False),
        ("ServerFingerprintMismatch", False),
        ("ConnectionTimeoutError", False),
    ],
)
def test_aiohttps_errors_are_known_beneath_agnos(name: str, sent: bool) -> None:
    error = agno.exceptions.ModelProviderError("wrapped")
    error.__cause__ = foreign(name, "aiohttp.client_exceptions")
    assert judge(error) == Verdict("transport", None, None, "broken", sent=sent)


def test_a_request_that_was_refused_here_was_not_sent_whatever_failed_before() -> None:
    error = foreign("LocalProtocolError", "httpx")
    error.__cause__ = foreign("ReadError", "httpcore")
    assert judge(error).kind == "local"


@pytest.mark.parametrize("name", ["BrokenResourceError", "ClosedResourceError", "EndOfStream"])
def test_a_request_may_have_been_sent_before_one_of_anyios(name: str) -> None:
    assert judge(foreign(name, "anyio")) == Verdict("transport", None, None, "broken")


@pytest.mark.parametrize(
    ("module", "name", "sent"),
    [
        ("requests", "ChunkedEncodingError", True),
        ("requests", "ConnectionError", True),
        ("requests", "SSLError", False),
        ("urllib3", "ReadTimeoutError", True),
        ("urllib3", "ProtocolError", True),
        ("urllib3", "IncompleteRead", True),
        ("urllib3", "NewConnectionError", False),
        ("urllib3", "ConnectTimeoutError", False),
        ("urllib3", "MaxRetryError", False),
    ],
)
def test_so_are_those_of_requests(module: str, name: str, sent: bool) -> None:
    assert judge(foreign(name, f"{module}.exceptions")) == Verdict("transport", None, None, "broken", sent=sent)


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (Verdict("rate_limited", 429, "tokens", "words"), "tokens"),
        (Verdict("bad_request", 400, None, "words"), "HTTP 400"),
        (Verdict("server_error", 200, None, "words"), "server_error"),
        (Verdict("transport", None, None, "words"), "transport"),
    ],
)
def test_the_reason_is_the_provider_s_code_or_without_words_of_others(verdict: Verdict, reason: str) -> None:
    assert verdict.reason == reason


def test_a_timeout_beneath_a_transport_is_one_of_the_transport() -> None:
    frames: dict[str, Any] = {"__name__": "aiohttp.helpers"}
    exec("def leave():\n    raise TimeoutError", frames)
    error = agno.exceptions.ModelProviderError("wrapped")
    try:
        frames["leave"]()
    except TimeoutError as timeout:
        error.__cause__ = timeout
    assert judge(error).kind == "transport"


def test_a_timeout_of_a_tool_is_local() -> None:
    error = agno.exceptions.ModelProviderError("wrapped")
    try:
        raise TimeoutError("the tool's own")
    except TimeoutError as timeout:
        error.__cause__ = timeout
    assert judge(error).kind == "local"


# -- local errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["groq", "cerebras", "gemini", "openrouter"])
def test_agnos_502_around_a_local_bug_is_a_local_bug(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(provider, lambda request: pytest.fail("nothing is sent"))

    def broken(*_: object, **__: object) -> None:
        raise ValueError("429 rate limit, invalid api key, context length")

    monkeypatch.setattr(model, "get_client", broken)
    error = fail(model, "sync")
    # Agno's Cerebras class wraps nothing.
    assert getattr(error, "status_code", None) == (None if provider == "cerebras" else 502)
    verdict = judge(error)
    assert (verdict.kind, verdict.sent, verdict.rotates, verdict.retries) == ("local", False, False, False)


def test_json_that_local_code_could_not_read_is_local() -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{nope")
    error = agno.exceptions.ModelProviderError("wrapped")
    error.__cause__ = caught.value
    assert judge(error).kind == "local"


def test_an_argument_that_an_sdk_does_not_take_is_local() -> None:
    model = build("groq", lambda request: pytest.fail("nothing is sent"))
    assert isinstance(model, Groq)
    model.request_params = {"no_such_argument": 1}
    assert judge(fail(model, "sync")).kind == "local"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), asyncio.CancelledError()])
def test_what_stops_a_program_is_local(error: BaseException) -> None:
    assert judge(error).kind == "local"


def test_a_missing_key_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    assert judge(fail(Groq(id="m"), "sync")).kind == "local"


# -- the chain --------------------------------------------------------------------------------------------------------


def status_error(status: int, body: object, message: str = "as worded", **headers: str) -> groq.APIStatusError:
    response = httpx.Response(status, headers=headers, request=httpx.Request("POST", "https://api.groq.com"))
    error = groq.APIStatusError(message, response=response, body=body)
    error.status_code = status
    return error


def test_context_overflow_that_agno_recognised_is_believed_where_the_provider_has_no_code() -> None:
    error = agno.exceptions.ContextWindowExceededError("too long")
    error.__cause__ = status_error(400, {"error": {"message": "the input token count exceeds", "code": 400}})
    assert judge(error).kind == "context_overflow"
    assert judge(agno.exceptions.ContextWindowExceededError("too long")).kind == "context_overflow"


def test_context_overflow_that_agno_read_into_words_does_not_hide_a_dead_key() -> None:
    error = agno.exceptions.ContextWindowExceededError("max_tokens")
    error.__cause__ = status_error(401, groq_body("invalid_api_key"))
    assert judge(error).kind == "dead"


def test_the_context_counts_where_it_is_not_suppressed() -> None:
    error = RuntimeError("while handling")
    error.__context__ = status_error(401, groq_body("invalid_api_key"))
    assert judge(error).kind == "dead"
    error.__suppress_context__ = True
    assert judge(error).kind == "local"


def test_a_cyclic_chain_ends() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert judge(first).kind == "local"


def test_an_error_that_already_has_its_verdict_keeps_it() -> None:
    given = Verdict("dead", 401, "invalid_api_key", "no")
    error = RuntimeError("wrapped")
    error.verdict = given  # type: ignore[attr-defined]
    assert judge(error) is given


def test_this_librarys_own_errors_say_what_they_are() -> None:
    given = Verdict("interrupted", None, None, "broke off")
    interrupted = StreamInterruptedError("cut", provider="p", model_id="m", verdict=given, received="half")
    assert judge(interrupted) is given
    exhausted = KeysExhaustedError(PoolExhaustedError("p", "m", total=2, cooling=2, free_in=12.5))
    assert judge(exhausted) == Verdict("rate_limited", 429, None, str(exhausted), 12.5, sent=False)
    assert judge(SettingsError("no such setting")).kind == "local"


def test_a_body_can_be_bytes_a_string_a_list_or_only_in_the_response() -> None:
    document = groq_body("invalid_api_key")
    for body in (document, json.dumps(document), json.dumps(document).encode(), [document], document["error"]):
        assert judge(status_error(401, body)).code == "invalid_api_key"
    response = httpx.Response(401, json=document, request=httpx.Request("POST", "https://api.groq.com"))
    assert judge(groq.APIStatusError("no body", response=response, body=None)).code == "invalid_api_key"


def test_a_response_that_was_never_read_is_not_read() -> None:
    stream = httpx.ByteStream(b"{}")
    response = httpx.Response(503, stream=stream, request=httpx.Request("POST", "https://api.groq.com"))
    assert judge(groq.APIStatusError("unread", response=response, body=None)).kind == "overloaded"
    assert not response.is_stream_consumed


# -- never raising ----------------------------------------------------------------------------------------------------


class Hostile(Exception):
    """Every attribute raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError("str")

    @property
    def response(self) -> Any:
        raise ValueError("response")

    @property
    def status_code(self) -> int:
        raise ValueError("status_code")


class Endless(dict[str, Any]):
    def get(self, key: str, default: Any = None) -> Any:
        return self


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"\xff\xfe{",
        b"{" * 100_000,
        "[" * 100_000,
        [],
        [[[]]],
        {"error": None},
        {"error": []},
        {"error": {"error": {"error": {"error": {"error": 1}}}}},
        {"error": {"code": True, "type": 3, "status": [], "message": {"a": 1}, "details": "x", "metadata": 7}},
        {"error": {"code": 10**400, "details": [None, 3, {"violations": [None, {"quotaId": 4}]}]}},
        {"error": {"metadata": {"headers": 5, "provider_name": object()}, "code": 429}},
        {"error": {"details": [{"retryDelay": float("nan")}, {"retryDelay": {"seconds": "x"}}], "status": "x" * 9999}},
        {"error": {"code": "x" * 100_000}},
        "x" * 3_000_000,
        Endless(),
        object(),
    ],
    ids=lambda body: f"{str(body)[:20]!r}",
)
@pytest.mark.parametrize("status", [200, 400, 402, 403, 404, 429, 500, 0, -1, 10**30])
def test_judging_never_raises(status: int, body: object) -> None:
    verdict = judge(status_error(status, body, **{"retry-after": "later", "x-ratelimit-reset": "-1"}))
    assert verdict.kind
    assert len(verdict.message) <= 2000
    assert len(verdict.code or "") <= 100


@pytest.mark.parametrize(
    "make", [Hostile, object, lambda: None, lambda: 3, lambda: Exception, lambda: ExceptionGroup("g", [Hostile()])]
)
def test_whatever_it_is_given_there_is_a_verdict(make: Callable[[], Any]) -> None:
    assert judge(make()).kind == "local"


def test_a_hostile_error_in_the_chain_is_passed_over() -> None:
    error, hostile = RuntimeError("outer"), Hostile()
    error.__cause__, hostile.__cause__ = hostile, status_error(429, groq_body("rate_limit_exceeded"))
    assert judge(error).kind == "rate_limited"


def test_a_clock_that_fails_gives_no_verdict_on_a_key() -> None:
    def broken() -> float:
        raise OSError("no clock")

    assert judge(status_error(429, {}), now=broken).kind == "local"


# -- properties of a verdict ------------------------------------------------------------------------------------------


def test_what_rotates_does_not_retry_and_the_rest_is_final() -> None:
    for kind in get_args(Kind):
        verdict = Verdict(kind, None, None, "")
        rotates = kind in ("rate_limited", "dead")
        retries = kind in ("overloaded", "server_error", "transport", "empty")
        assert (verdict.rotates, verdict.retries) == (rotates, retries)


def test_a_verdict_pickles() -> None:
    verdict = judge(status_error(429, groq_body("rate_limit_exceeded")))
    assert pickle.loads(pickle.dumps(verdict)) == verdict


def test_looking_at_an_error_imports_no_sdk() -> None:
    program = """
        import sys
        import hfs_providers.calls.verdicts, hfs_providers.calls.retry_after
        heavy = {"agno", "httpx", "httpx2", "groq", "openai", "cerebras", "google.genai", "pydantic", "aiohttp"}
        print(sorted(heavy & set(sys.modules)))
    """
    assert run(program, Path.cwd(), sys.executable) == ["[]"]


# -- the way that reads words -----------------------------------------------------------------------------------------


def run(program: str, cwd: Path, python: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [python, "-c", textwrap.dedent(program)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


MISREAD = {
    "a tool call's id that holds 403": (400, "No tool call found for call_40312", "bad_request"),
    "a session that expired on the server": (500, "worker lease expired, restarting", "server_error"),
    "a user's text about keys": (400, "messages[0]: 'why is my invalid api key unauthorized?'", "bad_request"),
    "a count that holds 401": (503, "401 requests are queued before yours", "overloaded"),
}


def test_reading_words_kills_keys_that_codes_and_statuses_leave_alone(tmp_path: Path) -> None:
    # keycycle in a process of its own: importing it takes over logging and writes to the working directory.
    program = f"""
        import httpx, groq
        from keycycle.core.utils import is_auth_error
        for status, words, _ in {list(MISREAD.values())!r}:
            response = httpx.Response(status, request=httpx.Request("POST", "https://api.groq.com"))
            body = {{"error": {{"message": words}}}}
            error = groq.APIStatusError(f"Error code: {{status}} - {{body}}", response=response, body=body)
            print("kills", bool(is_auth_error(error)))
    """
    killed = [line for line in run(program, tmp_path, warm.python()) if line.startswith("kills")]
    assert killed == ["kills True"] * len(MISREAD)
    for status, words, kind in MISREAD.values():
        body = {"error": {"message": words}}
        assert judge(status_error(status, body, f"Error code: {status} - {body}")).kind == kind


@pytest.mark.parametrize(
    "words",
    [
        "rate limit reached",
        "context length exceeded",
        "Invalid API Key",
        "model has been decommissioned",
        "quota exceeded",
    ],
)
def test_no_words_change_a_verdict(words: str) -> None:
    assert judge(status_error(422, {"error": {"message": words}}, words)).kind == "bad_request"
    assert judge(status_error(500, {"error": {"message": words}}, words)).kind == "server_error"
    wrapped = agno.exceptions.ModelProviderError(words, 429)
    assert judge(wrapped).kind == "local"


def test_the_stamp_of_agno_is_no_evidence() -> None:
    for status in (401, 402, 429, 502, 503):
        assert judge(agno.exceptions.ModelProviderError("stamped", status)).kind == "local"


def test_openais_streamed_error_has_its_status_in_its_code() -> None:
    request = httpx2.Request("POST", "https://openrouter.ai")
    error = openai.APIError("Provider returned error", request=request, body={"code": 429, "message": "busy"})
    assert (judge(error).kind, judge(error).status) == ("rate_limited", 429)
