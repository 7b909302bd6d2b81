"""What a failed call means: for the key, for the call, and for the model id.

The provider's own code or reason decides, then the HTTP status, never words in a message: a message may quote the
user, a tool or another error. The tables of `verdict_rules` hold every rule; `docs/verdicts.md` has a row for each
case, tested.

Nothing is imported to look at an error: SDK and transport errors are known by the modules that their types come from
and by the attributes that they carry. Agno wraps whatever happens in a `ModelProviderError` with status 502, so its own
status is no evidence: an error of Agno with nothing of an SDK or a transport beneath is a local bug.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from hfs_providers.calls.evidence import (
    as_int,
    as_list,
    as_mapping,
    as_name,
    body_of,
    chain_of,
    frames_of,
    get,
    headers_of,
    message_of,
    payload_of,
    status_of,
    type_of,
    words_of,
)
from hfs_providers.calls.retry_after import lower_headers, quota_evidence, wait_from_headers, wait_from_retry_info
from hfs_providers.calls.server_rules import BY_SDK_AND_STATUS, BY_SERVER_CODE
from hfs_providers.calls.verdict_names import (
    ANSWERED,
    LOCAL_TRANSPORT,
    READ_FAILURES,
    READER_ROOTS,
    READERS,
    SDK_ROOTS,
    STDLIB_TRANSPORT,
    TRANSPORT,
    TRANSPORT_ROOTS,
    UNREADABLE,
)
from hfs_providers.calls.verdict_rules import (
    BAD,
    BY_CODE,
    BY_ERROR_TYPE,
    BY_GOOGLE_STATUS,
    BY_LIMIT_SOURCE,
    BY_REASON,
    BY_STATUS,
    BY_STATUS_AND_CODE,
    BY_TYPE,
    BY_UPSTREAM_STATUS,
    GONE,
    LIMITED,
    LIMITED_KEY,
    REFUSED,
    SERVER,
    Rule,
)
from hfs_providers.contract.error_rules import Kind, Scope

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
        scope: whether a rate limit is the model's or the whole key's; of `model_gone`, `key` where the key's account
            lacks the model and that of another may have it.
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


_Kinds = Mapping[str | int, Kind]
_NONE: _Kinds = {}


def know_sdk(module: str) -> None:
    """Let the errors of an SDK be read as a provider's answers.

    Args:
        module: of the SDK.
    """
    root = module.partition(".")[0]
    SDK_ROOTS.add(root)
    READER_ROOTS.add(root)


def judge(
    error: BaseException,
    *,
    now: Callable[[], float] = time.time,
    kinds: _Kinds = _NONE,
    wait_headers: Collection[str] = (),
) -> Verdict:
    """What the error of a call means. Never raises, whatever it is given.

    Args:
        error: what a model's call raised.
        now: wall clock, seconds since the epoch, for waits that are given as an instant.
        kinds: what the plugin says about errors: `KeyedProvider.errors`.
        wait_headers: the provider's own headers that say how long to wait: `KeyedProvider.wait_headers`.
    """
    try:
        return _judge(error, _Reading(now, kinds, wait_headers))
    except Exception:  # a hostile object: it says nothing about a provider
        return Verdict("local", None, None, words_of(error), sent=False)


class _Reading(NamedTuple):
    """How a provider's errors are read: the arguments of `judge`."""

    now: Callable[[], float]
    kinds: _Kinds
    wait_headers: Collection[str]


def _judge(error: BaseException, reading: _Reading) -> Verdict:
    overflow = False
    for link in chain_of(error):
        given = get(link, "verdict")
        if isinstance(given, Verdict):
            return given
        name, root = type_of(link)
        if root == "hfs_providers" and isinstance(body := get(link, "body"), Mapping):
            # The provider's error in the body of a 200.
            return _judge_answer(200, body, {}, link, reading)
        if name == "ContextWindowExceededError":
            # Agno reads a provider's code (or its words) and says so by this type.
            overflow = True
            continue
        verdict = _judge_link(link, name, root, reading)
        if verdict is not None:
            return replace(verdict, kind="context_overflow") if overflow and verdict.kind == "bad_request" else verdict
    if overflow:
        return Verdict("context_overflow", as_int(get(error, "status_code")), None, words_of(error))
    return Verdict("local", None, None, words_of(error), sent=False)


def _judge_link(link: BaseException, name: str, root: str, reading: _Reading) -> Verdict | None:
    """The verdict that one error of the chain allows by itself, or None where it says nothing."""
    if root in ("agno", "hfs_providers"):
        answer = _answer_error(link)
        return _judge_answer(None, answer, {}, link, reading) if answer else None
    if name in LOCAL_TRANSPORT and root in TRANSPORT_ROOTS:
        return Verdict("local", None, None, words_of(link), sent=False)
    if name in TRANSPORT and root in TRANSPORT_ROOTS | SDK_ROOTS:
        return _judge_transport(link, name)
    if name in UNREADABLE or name in READ_FAILURES:
        return _judge_unreadable(link, name, root)
    if _answered(link, root):
        return _judge_answer(status_of(link), body_of(link), headers_of(link), link, reading)
    if name in reading.kinds and root in SDK_ROOTS:
        return Verdict(reading.kinds[name], None, None, words_of(link))
    if isinstance(link, STDLIB_TRANSPORT) and root == "builtins" and _beneath_transport(link):
        return Verdict("transport", None, None, words_of(link))
    return None


# -- transport and unreadable answers ---------------------------------------------------------------------------------


def _judge_transport(link: BaseException, name: str) -> Verdict:
    sent = TRANSPORT[name]
    # An SDK's connection error says less than what it wraps: whether anything was sent, or that the SDK wrapped a
    # complaint about the request itself.
    for inner in chain_of(link):
        inner_name, root = type_of(inner)
        if root not in TRANSPORT_ROOTS:
            continue
        if inner_name in LOCAL_TRANSPORT:
            return Verdict("local", None, None, words_of(inner), sent=False)
        if inner_name in TRANSPORT:
            sent = TRANSPORT[inner_name]
            break
    return Verdict("transport", None, None, words_of(link), sent=sent)


def _judge_unreadable(link: BaseException, name: str, root: str) -> Verdict | None:
    frames = list(frames_of(link))
    read = any(function in READERS and frame_root in READER_ROOTS for frame_root, function, _ in frames)
    if name in READ_FAILURES and not read:
        return None
    if name in UNREADABLE and root not in READER_ROOTS and frames:
        # JSON is decoded by local code too: only what an SDK or a transport was reading came from the provider.
        inner = next((r for r, _, _ in reversed(frames) if r not in ("json", "pydantic", "pydantic_core")), "")
        if inner not in READER_ROOTS - {"agno", "hfs_providers"}:
            return None
    nothing = any(isinstance(text := get(part, "doc"), str) and not text.strip() for part in chain_of(link))
    blank = isinstance(seen := get(link, "obj"), str) and name == "AttributeError" and not seen.strip()
    body = get(link, "body")
    empty = nothing or blank or (name == "APIResponseValidationError" and isinstance(body, str) and not body.strip())
    return Verdict("empty" if empty else "server_error", as_int(get(link, "status_code")), None, words_of(link))


def _beneath_transport(link: BaseException) -> bool:
    roots = [root for root, _, _ in frames_of(link)]
    # Without a traceback (a copy, another process) the benefit of the doubt: it is what aiohttp lets through.
    return not roots or any(root in TRANSPORT_ROOTS or root in SDK_ROOTS for root in roots)


def _answer_error(link: BaseException) -> Mapping[str, Any] | None:
    """The error in a 200's body, which Agno raises as words: its own frames still hold the answer that it came in."""
    for root, function, frame in frames_of(link):
        if root == "agno" and (function in READERS or function in ANSWERED):
            for variable in ("response", "response_delta", "provider_response"):
                found = get(frame.f_locals.get(variable), "error")
                if isinstance(found, Mapping):
                    return found
                if callable(dump := get(found, "model_dump")):
                    return as_mapping(dump())
    return None


# -- answers ----------------------------------------------------------------------------------------------------------


def _answered(link: BaseException, root: str) -> bool:
    """Whether an error is an SDK's account of an answer of its provider."""
    if root in SDK_ROOTS and (get(link, "body") is not None or get(link, "details") is not None):
        return True
    if root in SDK_ROOTS and "Error" in as_mapping(get(link, "response")):
        # botocore's, which has no status inside a stream.
        return True
    has_response = any(get(link, name) is not None for name in ("response", "body", "details"))
    return status_of(link) is not None and (root in SDK_ROOTS or has_response)


def _judge_answer(
    status: int | None,
    body: object,
    headers: Mapping[str, list[str]],
    link: BaseException,
    reading: _Reading,
) -> Verdict:
    payload = payload_of(body)
    if status is None or status < 400:
        # An error event inside a stream, or in the body of a 200: the body's own status is the true one.
        inner = as_int(payload.get("status_code")) or as_int(payload.get("code"))
        status = inner if inner is not None and 400 <= inner < 600 else status
    metadata = as_mapping(payload.get("metadata"))
    details = [as_mapping(item) for item in as_list(payload.get("details"))]
    told = _told(status, payload, reading.kinds)
    if told is None and not payload and (by_sdk := BY_SDK_AND_STATUS.get((type_of(link)[1], status or 0))):
        told = by_sdk, None
    rule, code = told or _decide(status, payload, metadata, details, headers)
    message = message_of(payload, metadata, body, link)
    verdict = Verdict(rule.kind, status, code, message, None, rule.scope, rule.credits)
    if not payload and isinstance(body, str) and not body.strip() and status is not None and status < 400:
        return replace(verdict, kind="empty")
    if rule.kind not in ("rate_limited", "overloaded", "server_error"):
        return verdict
    moment = reading.now()
    waits = [
        wait_from_headers(headers, moment, reading.wait_headers),
        wait_from_headers(as_mapping(metadata.get("headers")), moment),
        *(wait_from_retry_info(item.get("retryDelay")) for item in details if "retryDelay" in item),
    ]
    wait = max((wait for wait in waits if wait is not None), default=None)
    if rule.kind == "rate_limited":
        violations = [as_mapping(item) for detail in details for item in as_list(detail.get("violations"))]
        quota_wait, scope = quota_evidence(violations, moment)
        wait = max((seconds for seconds in (wait, quota_wait) if seconds is not None), default=None)
        verdict = replace(verdict, scope=scope or verdict.scope)
    return replace(verdict, retry_after=wait)


def _told(status: int | None, payload: Mapping[str, Any], kinds: _Kinds) -> tuple[Rule, str | None] | None:
    """The plugin's own reading of a code, a type or a status."""
    for name in (payload.get("code"), payload.get("type"), status):
        if isinstance(name, (str, int)) and (kind := kinds.get(name) or kinds.get(str(name))) is not None:
            return Rule(kind, "key" if kind == "dead" else "model"), as_name(payload.get("type")) or str(name)
    return None


def _decide(
    status: int | None,
    payload: Mapping[str, Any],
    metadata: Mapping[str, Any],
    details: list[Mapping[str, Any]],
    headers: Mapping[str, list[str]],
) -> tuple[Rule, str | None]:
    code = as_name(payload.get("code"))
    kind = as_name(payload.get("type"))
    google = as_name(payload.get("status"))
    error_type = as_name(metadata.get("error_type"))
    source = as_name(metadata.get("limit_source"))
    reasons: list[str | None] = [as_name(item.get("reason")) for item in details]
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
        (BY_SERVER_CODE, [code, kind]),
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
    source = as_name(metadata.get("limit_source")) or ""
    if status == 402:
        # A body that has a provider's name, even null, is past routing: the balance is there, and too small for
        # `max_tokens`. Without one it is the credits, or the limit that `limit_source` names.
        return BAD if "provider_name" in metadata else BY_LIMIT_SOURCE.get(source)
    if status == 403 and ("reasons" in metadata or "flagged_input" in metadata):
        return REFUSED
    if status == 429 and source:
        return BY_LIMIT_SOURCE.get(source, LIMITED_KEY if source.startswith("openrouter_") else LIMITED)
    if metadata.get("provider_name") and status is not None and (rule := BY_UPSTREAM_STATUS.get(status)):
        return rule
    if status == 429 and as_int(payload.get("code")) == 429:
        # An unsuffixed X-RateLimit-* is OpenRouter's own and counts the account; others name what they count.
        told = lower_headers(as_mapping(metadata.get("headers"))) or headers
        if any(name in told for name in ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")):
            return LIMITED_KEY
    return None


def _by_status(status: int | None, payload: Mapping[str, Any]) -> Rule:
    if status is None or status < 400:
        # An error event in a stream that names nothing: it was the provider that failed.
        return SERVER if status is None or status < 300 else BAD
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status == 404 and as_int(payload.get("code")) == 404:
        # OpenRouter ("No endpoints found") and Google speak of the model; a wrong base URL has no such body.
        return GONE
    return SERVER if status >= 500 else BAD
