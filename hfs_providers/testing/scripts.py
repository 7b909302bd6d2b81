"""The steps of `LoopbackServer.script`: how a simulated provider answers one request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

WaitForm = Literal["seconds", "fraction", "date", "ms", "reset", "retryinfo", "none"]


@dataclass(frozen=True)
class Step:
    """One answer to one request."""


@dataclass(frozen=True)
class Ok(Step):
    """An answer.

    Args:
        text: the text of the answer; None lets the server choose one.
        tool_calls: pairs of a tool's name and its arguments; they replace the text.
        delay: seconds before the first byte.
        chunk_delay: seconds between the chunks of a stream.
        chunks: how many chunks a streamed text is cut into.
        usage: tokens in and out; None counts words.
        headers: HTTP headers besides the usual ones.
        cached: how many of the tokens in were read from the cache, according to the answer.
    """

    text: str | None = None
    tool_calls: Sequence[tuple[str, Mapping[str, Any]]] | None = None
    delay: float = 0.0
    chunk_delay: float = 0.0
    chunks: int = 4
    usage: tuple[int, int] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cached: int = 0


@dataclass(frozen=True)
class ErrorStep(Step):
    """An error in the provider's own form; `echo_key` puts the caller's key into the message, as some providers do."""

    echo_key: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class RateLimited(ErrorStep):
    """429, in the provider's own form.

    Args:
        retry_after: the seconds to wait that the answer names; None names no time.
        form: how it names them: `Retry-After` as whole `seconds`, a `fraction` or a `date`; `retry-after-ms`; the
            provider's own `reset` header; Google's `retryinfo` in the body; `none`.
        per: the window that is used up.
        scope: whether the limit is the model's or the whole key's.
        unit: what is counted.
    """

    retry_after: float | None = None
    form: WaitForm = "seconds"
    per: Literal["minute", "day"] = "minute"
    scope: Literal["model", "key"] = "model"
    unit: Literal["requests", "tokens"] = "requests"


@dataclass(frozen=True)
class Unauthorized(ErrorStep):
    """The key is wrong: 401, and Gemini's 400 with API_KEY_INVALID."""


@dataclass(frozen=True)
class PaymentRequired(ErrorStep):
    """402: no credits left. Gemini has no 402 and answers 403 with BILLING_DISABLED.

    Args:
        fewer_tokens: OpenRouter's other 402: there are credits, but too few for the request's `max_tokens`.
    """

    fewer_tokens: bool = False


@dataclass(frozen=True)
class Forbidden(ErrorStep):
    """403: the key may not do this. Gemini answers 400 with FAILED_PRECONDITION about a region.

    Args:
        about: what is forbidden. If a provider has only some of these errors, the others look like `key`.
    """

    about: Literal["key", "model", "region", "moderation"] = "key"


@dataclass(frozen=True)
class ModelGone(ErrorStep):
    """The model is retired: 404, and Groq's 400 with model_decommissioned.

    Args:
        decommissioned: False for Groq's 404 with model_not_found, for a model that never existed.
    """

    decommissioned: bool = True


@dataclass(frozen=True)
class BadRequest(ErrorStep):
    """400: the request is wrong."""


@dataclass(frozen=True)
class ContextTooLong(ErrorStep):
    """The messages do not fit into the context window."""


@dataclass(frozen=True)
class ServerError(ErrorStep):
    """The provider failed, with status 500, 502, 503 or 529."""

    status: int = 500


@dataclass(frozen=True)
class Reset(Step):
    """The connection is reset before the first byte of an answer."""


@dataclass(frozen=True)
class Stall(Step):
    """Silence for `seconds`, then the connection is closed."""

    seconds: float = 60.0


@dataclass(frozen=True)
class Garbage(Step):
    """200 with a body that is not JSON."""


@dataclass(frozen=True)
class EmptyBody(Step):
    """200 with an empty body."""


@dataclass(frozen=True)
class HalfStream(Step):
    """A stream that ends before the answer is complete.

    Args:
        chunks: how many chunks with content are sent first.
        how: whether the body ends (`eof`), the connection is reset (`reset`), or nothing more comes (`stall`).
        seconds: the duration of the silence.
    """

    chunks: int = 2
    how: Literal["eof", "reset", "stall"] = "eof"
    seconds: float = 60.0


@dataclass(frozen=True)
class StreamError(Step):
    """A stream that reports after `chunks` chunks with content that the provider failed."""

    chunks: int = 1


@dataclass(frozen=True)
class Raw(Step):
    """Any answer.

    Args:
        status: HTTP status.
        body: sent as it is; a mapping is sent as JSON.
        headers: besides Content-Length; with a mapping, Content-Type is `application/json` unless they set it.

    Raises:
        TypeError: `body` is neither bytes nor a mapping that can be written as JSON.
    """

    status: int
    body: bytes | Mapping[str, Any] = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Here the error reaches the test; in the server it would become an answer with status 500.
        self.reply()

    def reply(self) -> Reply:
        """The reply that is sent."""
        if isinstance(self.body, bytes):
            return Reply(self.status, self.body, dict(self.headers))
        if not isinstance(self.body, Mapping):
            raise TypeError(f"the body of Raw must be bytes or a mapping, not {type(self.body).__name__}")
        named = {name.lower() for name in self.headers}
        kind = {} if "content-type" in named else {"content-type": "application/json"}
        return Reply(self.status, json.dumps(dict(self.body)).encode(), {**kind, **self.headers})


@dataclass(frozen=True)
class Reply:
    """What is sent for a step.

    Args:
        body: the whole body, or None for a stream.
        headers: the headers, except those for the body's length.
        chunks: the chunks of a stream.
        chunk_delay: seconds before each further chunk.
        ending: how the answer ends: normally, by a reset of the connection (`reset`), or in silence (`stall`).
        stall: seconds of silence.
        tokens: the tokens in and out that the answer reports.
    """

    status: int = 200
    body: bytes | None = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: Sequence[bytes] = ()
    delay: float = 0.0
    chunk_delay: float = 0.0
    ending: Literal["whole", "eof", "reset", "stall"] = "whole"
    stall: float = 0.0
    tokens: int = 0
