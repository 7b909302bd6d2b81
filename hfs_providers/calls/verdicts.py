"""What a failed call means: for the key, for the call, and for the model id.

The provider's own code or reason decides, then the HTTP status, never words in a message: a message may quote the
user, a tool or another error. The meaning of a provider's codes is data of its plugin (`ErrorRules`); `common_codes`
has the codes that many servers share. `docs/verdicts.md` has a tested row for each case.

No SDK is imported to read an error: errors of SDKs and transports are recognised by the module of their type and by
their attributes. Agno wraps every error in a `ModelProviderError` with status 502, so its own status proves nothing: an
error of Agno that wraps no error of an SDK or a transport is a local bug.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hfs_providers.calls.common_codes import meaning_of
from hfs_providers.calls.error_types import (
    ANSWERED,
    LOCAL_TRANSPORT,
    READ_FAILURES,
    READERS,
    STDLIB_TRANSPORT,
    TRANSPORT,
    TRANSPORT_ROOTS,
    UNREADABLE,
)
from hfs_providers.calls.evidence import (
    as_int,
    as_mapping,
    chain_of,
    evidence_in,
    evidence_of,
    frames_of,
    get,
    message_of,
    status_of,
    type_of,
    words_of,
)
from hfs_providers.calls.retry_after import parse_duration, wait_from_headers, wait_in
from hfs_providers.contract.error_rules import NO_RULES, ErrorRules, Evidence, Kind, Meaning, Scope

ROTATING: frozenset[Kind] = frozenset({"rate_limited", "dead"})
"""Another key may succeed."""

RETRYABLE: frozenset[Kind] = frozenset({"overloaded", "server_error", "transport", "empty"})
"""The same key may succeed later."""


_REFUSED = 400


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed call means for the key, the call and the model id.

    Args:
        kind: what happened.
        status: the HTTP status, if the provider answered; inside a stream, the status that its error names.
        code: the provider's own code, reason or status string.
        message: the provider's message, at most 2 000 characters. It may quote a key, which is not removed.
        retry_after: seconds to wait, as the provider said, or None.
        scope: whether a rate limit is the model's or the whole key's. For `model_gone`, `key` means that this key's
            account lacks the model, but another key's account may have it.
        credits: whether the key is dead because it has no credits.
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

    def scrubbed(self, scrub: Callable[[str], str]) -> Verdict:
        """The verdict with keys removed from its texts."""
        return replace(self, code=self.code and scrub(self.code), message=scrub(self.message))

    @property
    def reason(self) -> str:
        """The provider's code, the HTTP status or the kind. It contains nothing that a caller sent."""
        return self.code or (f"HTTP {self.status}" if self.status and self.status >= _REFUSED else self.kind)

    @property
    def rotates(self) -> bool:
        """Whether another key may succeed at once."""
        return self.kind in ROTATING

    @property
    def retries(self) -> bool:
        """Whether the same call may succeed later."""
        return self.kind in RETRYABLE


_WAITS: frozenset[Kind] = frozenset({"rate_limited", "overloaded", "server_error"})


def judge(error: BaseException, rules: ErrorRules = NO_RULES, *, now: Callable[[], float] = time.time) -> Verdict:
    """What the error of a call means, by the rules of its provider's plugin. Never raises."""
    try:
        return _Judge(rules, now).verdict(error)
    except Exception:  # an object that cannot be read says nothing about a provider
        return _local(error)


def _local(error: BaseException) -> Verdict:
    return Verdict("local", None, None, words_of(error), sent=False)


class _Judge:
    """Reads errors by the rules of one provider."""

    def __init__(self, rules: ErrorRules, now: Callable[[], float]) -> None:
        self._rules = rules
        self._now = now
        self._sdks = frozenset(rules.modules)
        self._remote = self._sdks | TRANSPORT_ROOTS
        self._readers = READERS.union(rules.readers)

    def verdict(self, error: BaseException) -> Verdict:
        overflow = False
        for link in chain_of(error):
            given = get(link, "verdict")
            if isinstance(given, Verdict):
                return given
            shown = get(link, "evidence")
            if isinstance(shown, Evidence):
                return self._of_answer(shown, link)
            name, root = type_of(link)
            if name == "ContextWindowExceededError":
                # Agno uses this type if the provider's code (or message) says so.
                overflow = True
                continue
            verdict = self._of_link(link, name, root)
            if verdict is not None:
                overflows = overflow and verdict.kind == "bad_request"
                return replace(verdict, kind="context_overflow") if overflows else verdict
        if overflow:
            return Verdict("context_overflow", as_int(get(error, "status_code")), None, words_of(error))
        return _local(error)

    def _of_link(self, link: BaseException, name: str, root: str) -> Verdict | None:
        """The verdict from one error of the chain alone, or None if it shows nothing."""
        if root in ("agno", "hfs_providers"):
            return self._of_inner_error(link, root)
        if name in LOCAL_TRANSPORT and root in TRANSPORT_ROOTS:
            return _local(link)
        if name in TRANSPORT and root in self._remote:
            return _of_transport(link, name)
        if name in UNREADABLE or name in READ_FAILURES:
            return self._of_unreadable(link, name, root)
        if self._answered(link, root):
            return self._of_answer(evidence_of(link, self._now()), link)
        return self._of_type(link, name, root)

    def _of_type(self, link: BaseException, name: str, root: str) -> Verdict | None:
        """The verdict for an error without an answer: by its type alone."""
        if root in self._sdks and (meaning := self._rules.exceptions.get(name)):
            return self._verdict(meaning, None, None, words_of(link))
        if isinstance(link, STDLIB_TRANSPORT) and root == "builtins" and self._beneath_transport(link):
            return Verdict("transport", None, None, words_of(link))
        return None

    # Answers

    def _answered(self, link: BaseException, root: str) -> bool:
        """Whether an error describes an answer of the provider."""
        shows = any(get(link, name) is not None for name in ("body", "details"))
        if root not in self._sdks:
            return status_of(link) is not None and (shows or get(link, "response") is not None)
        # botocore's errors inside a stream have no status.
        return shows or status_of(link) is not None or "Error" in as_mapping(get(link, "response"))

    def _of_inner_error(self, link: BaseException, root: str) -> Verdict | None:
        """The verdict for an error of Agno or ours that was raised for an error in the body of a 200."""
        body = get(link, "body")
        if root == "hfs_providers" and isinstance(body, Mapping):
            return self._of_answer(evidence_in(body, self._now(), 200), link)
        if inner := self._inner_error(link):
            return self._of_answer(evidence_in(inner, self._now(), None), link)
        return None

    def _inner_error(self, link: BaseException) -> Mapping[str, Any] | None:
        """The error in the body of a 200. Agno raises only its text, but Agno's stack frames still hold the answer."""
        for root, function, frame in frames_of(link):
            if root == "agno" and (function in self._readers or function in ANSWERED):
                for variable in ("response", "response_delta", "provider_response", "stream_event"):
                    found = get(frame.f_locals.get(variable), "error")
                    if isinstance(found, Mapping):
                        return found
                    if callable(dump := get(found, "model_dump")):
                        return as_mapping(dump())
        return None

    def _of_answer(self, evidence: Evidence, link: BaseException) -> Verdict:
        rules, status = self._rules, evidence.status
        meaning, code = meaning_of(evidence, rules)
        verdict = self._verdict(meaning, status, code, message_of(evidence, link, rules.message_fields))
        blank = isinstance(evidence.body, str) and not evidence.body.strip()
        if blank and status is not None and status < 400:
            return replace(verdict, kind="empty")
        if meaning.kind not in _WAITS:
            return verdict
        waits = [
            wait_from_headers(evidence.headers, evidence.now, rules.wait_headers),
            *(
                wait_from_headers(value, evidence.now)
                for path in rules.header_fields
                for value in evidence.values(path)
            ),
            *(wait_in(value) for path in rules.wait_fields for value in evidence.values(path)),
            parse_duration(meaning.retry_after),
        ]
        return replace(verdict, retry_after=max((wait for wait in waits if wait is not None), default=None))

    def _verdict(self, meaning: Meaning, status: int | None, code: str | None, message: str) -> Verdict:
        scope: Scope = "key" if meaning.kind == "dead" else meaning.scope
        return Verdict(meaning.kind, status, code, message, None, scope, meaning.credits)

    # Answers that cannot be read

    def _of_unreadable(self, link: BaseException, name: str, root: str) -> Verdict | None:
        frames = list(frames_of(link))
        reading = self._remote | {"agno", "hfs_providers"}
        read = any(function in self._readers and frame_root in reading for frame_root, function, _ in frames)
        if name in READ_FAILURES and not read:
            return None
        if name in UNREADABLE and root not in reading and frames:
            # Local code decodes JSON too. Only what an SDK or a transport was reading came from the provider.
            inner = next((r for r, _, _ in reversed(frames) if r not in ("json", "pydantic", "pydantic_core")), "")
            if inner not in self._remote:
                return None
        return Verdict("empty" if _was_blank(link, name) else "server_error", _status(link), None, words_of(link))

    def _beneath_transport(self, link: BaseException) -> bool:
        roots = [root for root, _, _ in frames_of(link)]
        # An error without a traceback (a copy, another process) counts as one: aiohttp raises such errors.
        return not roots or any(root in self._remote for root in roots)


def _status(link: BaseException) -> int | None:
    return as_int(get(link, "status_code"))


def _was_blank(link: BaseException, name: str) -> bool:
    """Whether the unreadable text was empty."""
    texts = [get(part, "doc") for part in chain_of(link)]
    if name == "AttributeError":
        texts.append(get(link, "obj"))
    if name == "APIResponseValidationError":
        texts.append(get(link, "body"))
    return any(isinstance(text, str) and not text.strip() for text in texts)


def _of_transport(link: BaseException, name: str) -> Verdict:
    sent = TRANSPORT[name]
    # The wrapped error says more than an SDK's connection error: whether anything was sent, or that the request itself
    # was invalid.
    for inner in chain_of(link):
        inner_name, root = type_of(inner)
        if root not in TRANSPORT_ROOTS:
            continue
        if inner_name in LOCAL_TRANSPORT:
            return _local(inner)
        if inner_name in TRANSPORT:
            sent = TRANSPORT[inner_name]
            break
    return Verdict("transport", None, None, words_of(link), sent=sent)
