"""The gateway's error answers: in the format of the client's protocol, without keys."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from hfs_providers.calls.model_errors import (
    BudgetExceededError,
    ChainExhaustedError,
    KeysExhaustedError,
    ModelCallError,
    StreamInterruptedError,
)
from hfs_providers.calls.verdicts import judge
from hfs_providers.contract.error_rules import Kind
from hfs_providers.contract.http_api import Endpoint

RawHeaders = list[tuple[bytes, bytes]]
CLOSE: RawHeaders = [(b"connection", b"close")]

_log = logging.getLogger("hfs_providers")


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: the HTTP status.
        code: the code for programs.
        message: the message for people.
        param: the member of the body that is wrong, or None.
        retry_after: seconds after which it may succeed, or None.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: RawHeaders | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.headers = headers or []

    def body(self, endpoint: Endpoint | None = None) -> bytes:
        """The error as JSON, in the format of the endpoint's protocol: Anthropic's or OpenAI's."""
        kind = _TYPES.get(self.status) or ("api_error" if self.status >= 500 else "invalid_request_error")
        if endpoint in ("messages", "messages/count_tokens"):
            return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": self.message}})
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def raw_headers(self) -> RawHeaders:
        """The headers of the answer, except for its length."""
        waits = [] if self.retry_after is None else [(b"retry-after", b"%d" % max(1, math.ceil(self.retry_after)))]
        # OpenAI's and Anthropic's SDKs ask again after any status from 500 up, unless they are told not to.
        final = [(b"x-should-retry", b"false")] if self.status == 501 else []
        return [(b"content-type", b"application/json"), *waits, *final, *self.headers]


_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class _Said(NamedTuple):
    status: int
    code: str


# The answer for each kind of verdict. The provider's own status is passed on only if the request caused it: a 401 would
# look as if the client's own token were wrong.
_OF_KIND: Mapping[Kind, _Said] = {
    "rate_limited": _Said(429, "rate_limit_exceeded"),
    "dead": _Said(503, "no_usable_key"),
    "model_gone": _Said(404, "model_not_found"),
    "context_overflow": _Said(400, "context_length_exceeded"),
    "bad_request": _Said(400, "invalid_request"),
    "refused": _Said(400, "content_policy_violation"),
    "overloaded": _Said(503, "provider_overloaded"),
    "server_error": _Said(502, "provider_error"),
    "transport": _Said(502, "provider_unreachable"),
    "empty": _Said(502, "provider_error"),
    "interrupted": _Said(502, "stream_interrupted"),
    "local": _Said(500, "internal_error"),
}
_ABOUT_THE_REQUEST = frozenset({"bad_request", "refused", "context_overflow"})
_NOT_PASSED_ON = frozenset({401, 402, 403, 407, 429})


def refusal_of(error: Exception) -> Refusal:
    """The answer for an error. Unexpected errors are written to the log."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ModelCallError):
        return _of_call(error)
    if isinstance(error, KeysExhaustedError):
        return _of_keys(error)
    if isinstance(error, ChainExhaustedError):
        return _of_chain(error)
    _log.error("a request failed in the gateway", exc_info=error)
    return Refusal(500, "internal_error", "The gateway failed; its log says why.")


def _of_call(error: ModelCallError) -> Refusal:
    verdict = error.verdict
    status, code = _OF_KIND[verdict.kind]
    # The verdict on a broken stream does not show its cause.
    cause = error.__cause__ if isinstance(error, StreamInterruptedError) else None
    if "local" in (verdict.kind, cause and judge(cause).kind):
        _log.error("a request failed in the gateway", exc_info=error)
    if isinstance(error, BudgetExceededError):
        code = "budget_exceeded"
    if verdict.kind in _ABOUT_THE_REQUEST:
        given = verdict.status
        if given is not None and 400 <= given < 500 and given not in _NOT_PASSED_ON:
            status = given
        code = verdict.code or code
    served = [(b"x-hfs-provider", error.provider), (b"x-hfs-model", error.model_id), (b"x-hfs-key", error.key_id or "")]
    headers = [(name, header_value(text)) for name, text in served if text]
    return Refusal(status, code, str(error), retry_after=verdict.retry_after, headers=headers)


def _of_keys(error: KeysExhaustedError) -> Refusal:
    if error.free_in is None or error.dead >= error.total_keys:
        return Refusal(503, "no_usable_key", str(error), retry_after=error.free_in)
    return Refusal(429, "keys_exhausted", str(error), retry_after=error.free_in)


def _of_chain(error: ChainExhaustedError) -> Refusal:
    causes = [refusal_of(cause) for cause in error.causes.values() if isinstance(cause, Exception)]
    waits = [cause.retry_after for cause in causes if cause.retry_after is not None]
    wait = min(waits, default=None)
    if causes and len(causes) == len(error.reasons) and all(cause.status == 429 for cause in causes):
        return Refusal(429, "keys_exhausted", str(error), retry_after=wait)
    return Refusal(503, "chain_exhausted", str(error), retry_after=wait)


def header_value(text: str) -> bytes:
    """A text as the value of a header."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return text.encode("ascii", "backslashreplace").translate(None, bytes(range(32)) + b"\x7f")
