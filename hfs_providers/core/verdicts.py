"""What a failed call means: for the key, for the call, and for the model id.

The provider's own code or reason decides, then the HTTP status, never words in a message: a message may quote the
user, a tool or another error. The tables below hold every rule; `docs/verdicts.md` has a row for each case, tested.

Nothing is imported to look at an error: SDK and transport errors are known by the modules that their types come from
and by the attributes that they carry. Agno wraps whatever happens in a `ModelProviderError` with status 502, so its own
status is no evidence: an error of Agno with nothing of an SDK or a transport beneath is a local bug.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from hfs_providers.core.waits import lower_headers, quota_evidence, wait_from_headers, wait_from_retry_info

Kind = Literal[
    "rate_limited",
    "dead",
    "model_gone",
    "context_overflow",
    "bad_request",
    "refused",
    "overloaded",
    "server_error",
    "transport",
    "empty",
    "interrupted",
    "local",
]
Scope = Literal["model", "key"]

MAX_MESSAGE = 2000
"""Characters of a provider's message that a verdict keeps."""

_MAX_CHAIN = 20
_MAX_BODY = 1_000_000

ROTATING: frozenset[Kind] = frozenset({"rate_limited", "dead"})
"""Another key may do."""

RETRYABLE: frozenset[Kind] = frozenset({"overloaded", "server_error", "transport", "empty"})
"""The same may succeed later, with the same key."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed call means for the key, the call and the model id.

    Args:
        kind: what happened.
        status: HTTP status, if the provider answered; inside a stream, the one that its error names.
        code: the provider's own code, reason or status string.
        message: the provider's words, at most 2 000 characters. Not scrubbed: it may quote a key.
        retry_after: seconds to wait by the provider's own evidence, or None.
        scope: whether a rate limit is the model's or the whole key's.
        credits: dead for want of credits.
        sent: whether the request can have reached the provider.
    """

    kind: Kind
    status: int | None
    code: str | None
    message: str
    retry_after: float | None = None
    scope: Scope = "model"
    credits: bool = False
    sent: bool = True

    @property
    def rotates(self) -> bool:
        """Whether another key may do, at once."""
        return self.kind in ROTATING

    @property
    def retries(self) -> bool:
        """Whether the same call may succeed later."""
        return self.kind in RETRYABLE

    @property
    def final(self) -> bool:
        """Whether neither another key nor another try helps with this provider and model."""
        return not (self.rotates or self.retries)


class Rule(NamedTuple):
    """What one code or status means."""

    kind: Kind
    scope: Scope = "model"
    credits: bool = False


_LIMITED = Rule("rate_limited")
_LIMITED_KEY = Rule("rate_limited", "key")
_DEAD = Rule("dead", "key")
_UNPAID = Rule("dead", "key", credits=True)
_GONE = Rule("model_gone")
_OVERFLOW = Rule("context_overflow")
_BAD = Rule("bad_request")
_REFUSED = Rule("refused")
_OVERLOADED = Rule("overloaded")
_SERVER = Rule("server_error")

# The same code with another status means something else. Groq answers a request that is larger than the whole
# tokens-per-minute allowance with 413 and the code of a rate limit: waiting never helps, and no key is at fault.
BY_STATUS_AND_CODE: Mapping[tuple[int, str], Rule] = {
    (413, "rate_limit_exceeded"): _OVERFLOW,
    (413, "tokens"): _OVERFLOW,
}

# google.rpc.ErrorInfo.reason, where the domain is googleapis.com: google/api/error_reason.proto.
BY_REASON: Mapping[str, Rule] = {
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
    "BILLING_DISABLED": _UNPAID,
    "RATE_LIMIT_EXCEEDED": _LIMITED,
    "RESOURCE_QUOTA_EXCEEDED": _LIMITED,
    "LOCATION_POLICY_VIOLATED": _REFUSED,
    "LOCATION_TAX_POLICY_VIOLATED": _REFUSED,
    "ORG_RESTRICTION_VIOLATION": _REFUSED,
    "SECURITY_POLICY_VIOLATED": _REFUSED,
}

# OpenRouter's metadata.error_type, "stable across all API formats": openrouter.ai/docs/client-sdks, APIErrorType.
# `permission_denied` is not here: it is given for a key that lacks a permission and for a guardrail alike.
BY_ERROR_TYPE: Mapping[str, Rule] = {
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

# OpenRouter's metadata.limit_source: whose limit a 402 or a 429 is about.
BY_LIMIT_SOURCE: Mapping[str, Rule] = {
    "openrouter_free_tier_daily": _LIMITED_KEY,
    "openrouter_free_tier_per_minute": _LIMITED_KEY,
    "openrouter_in_flight_budget": _LIMITED_KEY,
    "openrouter_key_limit": _UNPAID,
    "openrouter_credits": _UNPAID,
    "upstream_provider_shared_pool": _LIMITED,
}

# With metadata.provider_name OpenRouter passes on what an upstream provider said to OpenRouter's own key there.
BY_UPSTREAM_STATUS: Mapping[int, Rule] = {
    401: _OVERLOADED,
    403: _REFUSED,
    429: _LIMITED,
}

# The `code` of Groq, Cerebras, OpenAI and those that speak like them.
BY_CODE: Mapping[str, Rule] = {
    "invalid_api_key": _DEAD,
    "wrong_api_key": _DEAD,
    "expired_api_key": _DEAD,
    "organization_restricted": _DEAD,
    "account_deactivated": _DEAD,
    "insufficient_quota": _UNPAID,
    "billing_hard_limit_reached": _UNPAID,
    "billing_not_active": _UNPAID,
    "blocked_api_access": _UNPAID,
    "payment_required": _UNPAID,
    "rate_limit_exceeded": _LIMITED,
    "request_quota_exceeded": _LIMITED,
    "token_quota_exceeded": _LIMITED,
    "queue_exceeded": _OVERLOADED,
    "capacity_exceeded": _OVERLOADED,
    "model_decommissioned": _GONE,
    "model_not_found": _GONE,
    "model_not_active": _GONE,
    "model_terms_required": _GONE,
    "model_permission_blocked_org": _GONE,
    "model_permission_blocked_project": _GONE,
    "context_length_exceeded": _OVERFLOW,
    "request_too_large": _OVERFLOW,
    "content_policy_violation": _REFUSED,
    "content_filter": _REFUSED,
    "unsupported_country_region_territory": _REFUSED,
    "tool_use_failed": _BAD,
    "json_validate_failed": _BAD,
    "unknown_url": _BAD,
}

# The `type` of a body, where it says more than the family of the error (`invalid_request_error` says nothing: Groq and
# Cerebras give it to a wrong key as well).
BY_TYPE: Mapping[str, Rule] = {
    "authentication_error": _DEAD,
    "insufficient_quota": _UNPAID,
    "payment_required_error": _UNPAID,
    "billing_error": _UNPAID,
    "rate_limit_error": _LIMITED,
    "too_many_requests_error": _LIMITED,
    "too_many_tokens_error": _LIMITED,
    "overloaded_error": _OVERLOADED,
}

# google.rpc.Code by name, the `status` of a Google error. PERMISSION_DENIED without a reason is what a leaked key or a
# barred project gets. FAILED_PRECONDITION is the free tier where it is not offered (a paid key would do) or a file that
# is not ready yet: the key pauses, and another is tried.
BY_GOOGLE_STATUS: Mapping[str, Rule] = {
    "UNAUTHENTICATED": _DEAD,
    "PERMISSION_DENIED": _DEAD,
    "RESOURCE_EXHAUSTED": _LIMITED,
    "FAILED_PRECONDITION": _LIMITED_KEY,
    "NOT_FOUND": _GONE,
    "INVALID_ARGUMENT": _BAD,
    "OUT_OF_RANGE": _BAD,
    "ALREADY_EXISTS": _BAD,
    "UNIMPLEMENTED": _BAD,
    "UNAVAILABLE": _OVERLOADED,
    "ABORTED": _SERVER,
    "CANCELLED": _SERVER,
    "DEADLINE_EXCEEDED": _SERVER,
    "INTERNAL": _SERVER,
    "DATA_LOSS": _SERVER,
    "UNKNOWN": _SERVER,
}

# A status alone. 403 without a reason may be the key, the model, the region or a proxy: the key pauses for the model,
# it does not die. 409 and 425 ask for another try (a lock, a replay); 408 and 499 were given up on the way.
BY_STATUS: Mapping[int, Rule] = {
    401: _DEAD,
    402: _UNPAID,
    403: _LIMITED,
    408: _SERVER,
    409: _SERVER,
    410: _GONE,
    413: _OVERFLOW,
    425: _SERVER,
    429: _LIMITED,
    451: _REFUSED,
    498: _OVERLOADED,
    499: _SERVER,
    501: _BAD,
    502: _OVERLOADED,
    503: _OVERLOADED,
    529: _OVERLOADED,
}

_SDK_ROOTS = frozenset({"groq", "openai", "cerebras", "google", "anthropic", "mistralai", "cohere", "together"})
_TRANSPORT_ROOTS = frozenset({"httpx", "httpcore", "httpx2", "httpcore2", "aiohttp", "requests", "urllib3", "anyio"})

# Errors of a transport, by type name, and whether the request can have reached the provider.
TRANSPORT: Mapping[str, bool] = {
    "ReadTimeout": True,
    "WriteTimeout": True,
    "ReadError": True,
    "WriteError": True,
    "CloseError": True,
    "NetworkError": True,
    "TimeoutException": True,
    "RemoteProtocolError": True,
    "ServerDisconnectedError": True,
    "ServerTimeoutError": True,
    "SocketTimeoutError": True,
    "ClientOSError": True,
    "ClientConnectionError": True,
    "ClientConnectionResetError": True,
    "ClientPayloadError": True,
    "ClosedResourceError": True,
    "BrokenResourceError": True,
    "EndOfStream": True,
    "ReadTimeoutError": True,
    "ProtocolError": True,
    "ChunkedEncodingError": True,
    "ConnectionError": True,
    "IncompleteRead": True,
    "APIConnectionError": True,
    "APITimeoutError": True,
    "ConnectTimeout": False,
    "ConnectError": False,
    "PoolTimeout": False,
    "ProxyError": False,
    "ConnectionTimeoutError": False,
    "ClientConnectorError": False,
    "ClientConnectorDNSError": False,
    "ClientConnectorSSLError": False,
    "ClientConnectorCertificateError": False,
    "ClientProxyConnectionError": False,
    "ClientHttpProxyError": False,
    "ServerFingerprintMismatch": False,
    "NewConnectionError": False,
    "ConnectTimeoutError": False,
    "MaxRetryError": False,
    "SSLError": False,
}

# A transport's complaints about what it was given: nothing was sent, nothing will get better.
_LOCAL_TRANSPORT = frozenset({"LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "InvalidUrlClientError"})

# A standard library error that a transport lets through, where it was raised beneath one.
_STDLIB_TRANSPORT: tuple[type[BaseException], ...] = (TimeoutError, ConnectionError)

# Errors of reading an answer, and the functions beneath which one of them is the answer's fault.
_UNREADABLE = frozenset(
    {
        "JSONDecodeError",
        "UnicodeDecodeError",
        "DecodingError",
        "UnknownApiResponseError",
        "APIResponseValidationError",
        "ContentTypeError",
    }
)
_READ_FAILURES = frozenset({"AttributeError", "TypeError", "IndexError", "KeyError", "ValidationError"})
_READERS = frozenset(
    {
        "_parse_provider_response",
        "_parse_provider_response_delta",
        "_from_response",
        "_process_response",
        "_process_response_data",
        "_load_json_from_response",
    }
)
_READER_ROOTS = _SDK_ROOTS | _TRANSPORT_ROOTS | {"agno"}

_KINDS: Mapping[str, Kind] = {kind: kind for kind in get_args(Kind)}


def judge(error: BaseException, *, now: Callable[[], float] = time.time, model_id: str | None = None) -> Verdict:
    """What the error of a call means. Never raises, whatever it is given.

    Args:
        error: what a model's call raised.
        now: wall clock, seconds since the epoch, for waits that are given as an instant.
        model_id: the model that was asked for. No rule needs it today: every provider's codes say by themselves whether
            the model is meant.
    """
    try:
        return _judge(error, now)
    except Exception:  # a hostile object: it says nothing about a provider
        return Verdict("local", None, None, _words(error), sent=False)


def _judge(error: BaseException, now: Callable[[], float]) -> Verdict:
    overflow = False
    for link in _chain(error):
        given = _get(link, "verdict")
        if isinstance(given, Verdict):
            return given
        name, root = _type_of(link)
        if root == "hfs_providers" and (own := _judge_own(link)):
            return own
        if name == "ContextWindowExceededError":
            # Agno reads a provider's code (or its words) and says so by this type.
            overflow = True
            continue
        verdict = _judge_link(link, name, root, now)
        if verdict is not None:
            return replace(verdict, kind="context_overflow") if overflow and verdict.kind == "bad_request" else verdict
    if overflow:
        return Verdict("context_overflow", _int(_get(error, "status_code")), None, _words(error))
    return Verdict("local", None, None, _words(error), sent=False)


def _judge_own(link: BaseException) -> Verdict | None:
    """What an error of this library already says about itself."""
    kind = _KINDS.get(str(_get(link, "kind")))
    if kind is not None:
        return Verdict(kind, _int(_get(link, "status_code")), None, _words(link), sent=kind != "local")
    if hasattr(link, "free_in"):
        free_in = _get(link, "free_in")
        wait = float(free_in) if isinstance(free_in, (int, float)) else None
        return Verdict("rate_limited", 429, None, _words(link), wait, sent=False)
    return None


def _judge_link(link: BaseException, name: str, root: str, now: Callable[[], float]) -> Verdict | None:
    """The verdict that one error of the chain allows by itself, or None where it says nothing."""
    if root in ("agno", "hfs_providers"):
        answer = _answer_error(link)
        return _judge_answer(None, answer, {}, link, now) if answer else None
    if name in _LOCAL_TRANSPORT and root in _TRANSPORT_ROOTS:
        return Verdict("local", None, None, _words(link), sent=False)
    if name in TRANSPORT and root in _TRANSPORT_ROOTS | _SDK_ROOTS:
        return _judge_transport(link, name)
    if name in _UNREADABLE or name in _READ_FAILURES:
        return _judge_unreadable(link, name, root)
    if _answered(link, root):
        return _judge_answer(_status(link), _body(link), _headers(link), link, now)
    if isinstance(link, _STDLIB_TRANSPORT) and root == "builtins" and _beneath_transport(link):
        return Verdict("transport", None, None, _words(link))
    return None


# -- transport and unreadable answers ---------------------------------------------------------------------------------


def _judge_transport(link: BaseException, name: str) -> Verdict:
    sent = TRANSPORT[name]
    # An SDK's connection error says less than what it wraps: whether anything was sent, or that the SDK wrapped a
    # complaint about the request itself.
    for inner in _chain(link):
        inner_name, root = _type_of(inner)
        if root not in _TRANSPORT_ROOTS:
            continue
        if inner_name in _LOCAL_TRANSPORT:
            return Verdict("local", None, None, _words(inner), sent=False)
        if inner_name in TRANSPORT:
            sent = TRANSPORT[inner_name]
            break
    return Verdict("transport", None, None, _words(link), sent=sent)


def _judge_unreadable(link: BaseException, name: str, root: str) -> Verdict | None:
    frames = list(_frames(link))
    read = any(function in _READERS and frame_root in _READER_ROOTS for frame_root, function, _ in frames)
    if name in _READ_FAILURES and not read:
        return None
    if name in _UNREADABLE and root not in _READER_ROOTS and frames:
        # JSON is decoded by local code too: only what an SDK or a transport was reading came from the provider.
        inner = next((r for r, _, _ in reversed(frames) if r not in ("json", "pydantic", "pydantic_core")), "")
        if inner not in _READER_ROOTS - {"agno"}:
            return None
    nothing = any(isinstance(text := _get(part, "doc"), str) and not text.strip() for part in _chain(link))
    blank = isinstance(seen := _get(link, "obj"), str) and name == "AttributeError" and not seen.strip()
    body = _get(link, "body")
    empty = nothing or blank or (name == "APIResponseValidationError" and isinstance(body, str) and not body.strip())
    return Verdict("empty" if empty else "server_error", _int(_get(link, "status_code")), None, _words(link))


def _beneath_transport(link: BaseException) -> bool:
    roots = [root for root, _, _ in _frames(link)]
    # Without a traceback (a copy, another process) the benefit of the doubt: it is what aiohttp lets through.
    return not roots or any(root in _TRANSPORT_ROOTS or root in _SDK_ROOTS for root in roots)


def _answer_error(link: BaseException) -> Mapping[str, Any] | None:
    """The error in a 200's body, which Agno raises as words: its parser still holds the answer that it came in."""
    for root, function, frame in _frames(link):
        if root == "agno" and function in _READERS:
            for variable in ("response", "response_delta"):
                found = _get(frame.f_locals.get(variable), "error")
                if isinstance(found, Mapping):
                    return found
    return None


# -- answers ----------------------------------------------------------------------------------------------------------


def _answered(link: BaseException, root: str) -> bool:
    """Whether an error is an SDK's account of an answer of its provider."""
    if root in _SDK_ROOTS and (_get(link, "body") is not None or _get(link, "details") is not None):
        return True
    has_response = any(_get(link, name) is not None for name in ("response", "body", "details"))
    return _status(link) is not None and (root in _SDK_ROOTS or has_response)


def _judge_answer(
    status: int | None,
    body: object,
    headers: Mapping[str, list[str]],
    link: BaseException,
    now: Callable[[], float],
) -> Verdict:
    payload = _payload(body)
    if status is None or status < 400:
        # An error event inside a stream, or in the body of a 200: the body's own status is the true one.
        inner = _int(payload.get("status_code")) or _int(payload.get("code"))
        status = inner if inner is not None and 400 <= inner < 600 else status
    metadata = _mapping(payload.get("metadata"))
    details = [_mapping(item) for item in _list(payload.get("details"))]
    rule, code = _decide(status, payload, metadata, details, headers)
    message = _message(payload, metadata, body, link)
    verdict = Verdict(rule.kind, status, code, message, None, rule.scope, rule.credits)
    if not payload and isinstance(body, str) and not body.strip() and status is not None and status < 400:
        return replace(verdict, kind="empty")
    if rule.kind not in ("rate_limited", "overloaded", "server_error"):
        return verdict
    moment = now()
    waits = [
        wait_from_headers(headers, moment),
        wait_from_headers(_mapping(metadata.get("headers")), moment),
        *(wait_from_retry_info(item.get("retryDelay")) for item in details if "retryDelay" in item),
    ]
    wait = max((wait for wait in waits if wait is not None), default=None)
    if rule.kind == "rate_limited":
        violations = [_mapping(item) for detail in details for item in _list(detail.get("violations"))]
        quota_wait, scope = quota_evidence(violations, moment)
        wait = max((seconds for seconds in (wait, quota_wait) if seconds is not None), default=None)
        verdict = replace(verdict, scope=scope or verdict.scope)
    return replace(verdict, retry_after=wait)


def _decide(
    status: int | None,
    payload: Mapping[str, Any],
    metadata: Mapping[str, Any],
    details: list[Mapping[str, Any]],
    headers: Mapping[str, list[str]],
) -> tuple[Rule, str | None]:
    code = _name(payload.get("code"))
    kind = _name(payload.get("type"))
    google = _name(payload.get("status"))
    error_type = _name(metadata.get("error_type"))
    source = _name(metadata.get("limit_source"))
    reasons: list[str | None] = [_name(item.get("reason")) for item in details]
    said = next((name for name in (*reasons, error_type, source, code, google, kind) if name), None)

    if status is not None:
        for name in (code, kind):
            if name is not None and (found := BY_STATUS_AND_CODE.get((status, name))):
                return found, name
    if special := _openrouter(status, payload, metadata, headers):
        return special, said
    tables: tuple[tuple[Mapping[str, Rule], list[str | None]], ...] = (
        (BY_REASON, reasons),
        (BY_ERROR_TYPE, [error_type]),
        (BY_CODE, [code]),
        (BY_GOOGLE_STATUS, [google]),
        (BY_TYPE, [kind]),
    )
    for table, names in tables:
        for name in names:
            if name is not None and name in table:
                return table[name], name
    return _by_status(status, payload), said


def _openrouter(
    status: int | None,
    payload: Mapping[str, Any],
    metadata: Mapping[str, Any],
    headers: Mapping[str, list[str]],
) -> Rule | None:
    """What OpenRouter's metadata adds to a status that has several meanings."""
    source = _name(metadata.get("limit_source")) or ""
    if status == 402:
        # A body that has a provider's name, even null, is past routing: the balance is there, and too small for
        # `max_tokens`. Without one it is the credits, or the limit that `limit_source` names.
        return _BAD if "provider_name" in metadata else BY_LIMIT_SOURCE.get(source)
    if status == 403 and ("reasons" in metadata or "flagged_input" in metadata):
        return _REFUSED
    if status == 429 and source:
        return BY_LIMIT_SOURCE.get(source, _LIMITED_KEY if source.startswith("openrouter_") else _LIMITED)
    if metadata.get("provider_name") and status is not None and (rule := BY_UPSTREAM_STATUS.get(status)):
        return rule
    if status == 429 and _int(payload.get("code")) == 429:
        # An unsuffixed X-RateLimit-* is OpenRouter's own and counts the account; others name what they count.
        told = lower_headers(_mapping(metadata.get("headers"))) or headers
        if any(name in told for name in ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")):
            return _LIMITED_KEY
    return None


def _by_status(status: int | None, payload: Mapping[str, Any]) -> Rule:
    if status is None or status < 400:
        # An error event in a stream that names nothing: it was the provider that failed.
        return _SERVER if status is None or status < 300 else _BAD
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status == 404 and _int(payload.get("code")) == 404:
        # OpenRouter ("No endpoints found") and Google speak of the model; a wrong base URL has no such body.
        return _GONE
    return _SERVER if status >= 500 else _BAD


# -- reading foreign objects ------------------------------------------------------------------------------------------


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while isinstance(link, BaseException) and id(link) not in seen and len(seen) < _MAX_CHAIN:
        seen.add(id(link))
        yield link
        cause = link.__cause__
        link = cause if cause is not None else None if link.__suppress_context__ else link.__context__


def _frames(link: BaseException) -> Iterator[tuple[str, str, Any]]:
    trace = link.__traceback__
    for _ in range(200):
        if trace is None:
            return
        frame = trace.tb_frame
        yield str(frame.f_globals.get("__name__", "")).partition(".")[0], frame.f_code.co_name, frame
        trace = trace.tb_next


def _type_of(link: BaseException) -> tuple[str, str]:
    return type(link).__name__, str(type(link).__module__).partition(".")[0]


def _get(thing: object, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:  # a property of a foreign object
        return None


def _int(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6:
        return int(value)
    return None


def _name(value: object) -> str | None:
    return value[:100] if isinstance(value, str) and value and not value.isdigit() else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return list(value[:50]) if isinstance(value, (list, tuple)) else []


def _status(link: BaseException) -> int | None:
    response = _get(link, "response")
    for value in (
        _get(link, "status_code"),
        _get(link, "code"),
        _get(response, "status_code"),
        _get(response, "status"),
        _get(link, "status"),
    ):
        status = _int(value)
        if status is not None and 100 <= status < 600:
            return status
    return None


def _headers(link: BaseException) -> dict[str, list[str]]:
    return lower_headers(_get(_get(link, "response"), "headers") or _get(link, "headers"))


def _body(link: BaseException) -> object:
    """The decoded body, from wherever an SDK keeps it. Never read from the network, never awaited."""
    response = _get(link, "response")
    for source, name in ((link, "body"), (link, "details"), (response, "content"), (response, "text")):
        value = _get(source, name)
        if isinstance(value, (Mapping, list)):
            return value
        if isinstance(value, (str, bytes)) and len(value) <= _MAX_BODY:
            return _decoded(value)
    return None


def _decoded(value: str | bytes) -> object:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _payload(body: object) -> Mapping[str, Any]:
    """The innermost error object: Groq, OpenRouter and Google wrap it in `error`, Cerebras does not."""
    for _ in range(4):
        if isinstance(body, list):
            body = body[0] if body else None
        inner = _mapping(body).get("error")
        if not isinstance(inner, (Mapping, list)):
            break
        body = inner
    return _mapping(body)


def _message(payload: Mapping[str, Any], metadata: Mapping[str, Any], body: object, link: BaseException) -> str:
    said = payload.get("message") or payload.get("error")
    if not isinstance(said, str) or not said:
        return body[:MAX_MESSAGE] if isinstance(body, str) and body.strip() else _words(link)
    raw = metadata.get("raw")  # OpenRouter: the upstream provider's own words under its "Provider returned error"
    return (f"{said}: {raw}" if isinstance(raw, str) and raw else said)[:MAX_MESSAGE]


def _words(error: object) -> str:
    try:
        said = _get(error, "message")
        return (said if isinstance(said, str) and said else str(error))[:MAX_MESSAGE] or type(error).__name__
    except Exception:
        return type(error).__name__
