"""The wire protocols that the loopback server speaks. A provider that speaks none of them gets a `Dialect` of its own:

class AcmeDialect(Dialect):
    def read(self, method, path, headers, body): ...  # the HTTP request as a `Request`
    def whole(self, request, answer): ...             # the body of an answer that is not streamed
    def stream(self, request, answer): ...            # the events of a streamed answer

LoopbackServer(dialects=[AcmeDialect("acme")])
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hfs_providers.testing.answers import Request, count
from hfs_providers.testing.refusals import Answer, refusal
from hfs_providers.testing.scripts import EmptyBody, ErrorStep, Garbage, HalfStream, Ok, Raw, Reply, Step, StreamError

_JSON = {"content-type": "application/json"}


class Dialect:
    """How one provider's requests are read and its answers written.

    A subclass defines at least `read`, `whole` and `stream`. The rest has usable defaults: server-sent events, and
    OpenAI's errors and list of models.
    """

    base_path = ""
    """The end of the SDK's base URL, after the provider's own prefix."""

    key_prefix = "key-"
    """The beginning of the provider's keys."""

    opening = 0
    """The number of a stream's events before the first with content."""

    stream_type = "text/event-stream"
    """The content type of a stream."""

    others: Sequence[Dialect] = ()
    """Further protocols of the provider, each on its own paths."""

    keyless = False
    """Whether the provider has endpoints instead of keys. Then each endpoint has its own path on the server, whose last
    part takes the place of the key: the server adds it to the request that `read` returns."""

    def __init__(self, provider: str) -> None:
        self.provider = provider

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        """The request, or None if the path does not belong to the provider.

        Args:
            path: the path below the provider's prefix, without the query.
            headers: by lower-case name.
        """
        raise LookupError(f"{type(self).__name__} does not define `read`")

    def objection(self, request: Request) -> Step | None:
        """The refusal of a request whose messages the provider does not accept; None if it accepts them."""
        return None

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        raise LookupError(f"{type(self).__name__} does not define `whole`")

    def stream(self, request: Request, answer: Ok) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The events of a streamed answer: those with content, then those that end it."""
        raise LookupError(f"{type(self).__name__} does not define `stream`")

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        """The body that lists the models."""
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": self.provider} for name in ids]}

    def event(self, data: Mapping[str, Any]) -> bytes:
        """The bytes of one event of a stream."""
        return b"data: " + json.dumps(data).encode() + b"\n\n"

    def first_events(self) -> list[bytes]:
        """The bytes that a stream sends before its first event."""
        return []

    def last_events(self) -> list[bytes]:
        """The bytes that a complete stream sends after its last event."""
        return [b"data: [DONE]\n\n"]

    def usage(self, request: Request, answer: Ok) -> tuple[int, int]:
        """Tokens in and out."""
        said = answer.text if answer.text is not None else json.dumps(answer.tool_calls)
        return answer.usage or (count(json.dumps(request.body)), count(said or ""))

    def reply(self, request: Request, step: Step) -> Reply:
        """The reply for any step except silence and a reset."""
        match step:
            case Ok():
                return self._answer(request, step)
            case Garbage():
                return Reply(headers=_JSON, body=b"<html>this is not what you asked for</html>")
            case EmptyBody():
                return Reply(headers=self._stream_headers if request.stream else _JSON, body=b"")
            case Raw():
                return step.reply()
            case HalfStream() | StreamError():
                return self._broken(request, step)
        answer = self.refuse(request, step)
        if answer is None:
            raise ValueError(f"the loopback server does not know how to answer {type(step).__name__}")
        status, body, headers = answer
        if isinstance(step, ErrorStep) and step.echo_key:
            body = _with_key(body, request.key)
        return Reply(status, json.dumps(body).encode(), {**_JSON, **headers})

    def refuse(self, request: Request, step: Step) -> Answer | None:
        """Status, body and headers of the provider's answer for an error step.

        Args:
            request: the request that is answered.
            step: `RateLimited` (whose headers `wait_headers` makes), `Unauthorized`, `BadRequest` and so on.

        Returns:
            None for a step that is not an error.
        """
        return refusal(step, request)

    @property
    def _stream_headers(self) -> dict[str, str]:
        return {"content-type": self.stream_type}

    def _answer(self, request: Request, answer: Ok) -> Reply:
        tokens = sum(self.usage(request, answer))
        if not request.stream:
            body = json.dumps(self.whole(request, answer)).encode()
            return Reply(headers={**_JSON, **answer.headers}, body=body, delay=answer.delay, tokens=tokens)
        content, end = self.stream(request, answer)
        chunks = [*self.first_events(), *map(self.event, (*content, *end)), *self.last_events()]
        return Reply(
            headers={**self._stream_headers, **answer.headers},
            body=None,
            chunks=chunks,
            delay=answer.delay,
            chunk_delay=answer.chunk_delay,
            tokens=tokens,
        )

    def _broken(self, request: Request, step: HalfStream | StreamError) -> Reply:
        if not request.stream:
            # Half of an answer that is not streamed is half a JSON document.
            body = json.dumps(self.whole(request, Ok(text="half of an answer"))).encode()
            return Reply(headers=_JSON, body=body[: len(body) // 2])
        # One piece more than is sent, so that the text is not complete.
        text = " ".join(f"piece{number}" for number in range(step.chunks + 1))
        content, _ = self.stream(request, Ok(text=text, chunks=step.chunks + 1))
        chunks = [*self.first_events(), *map(self.event, content[: step.chunks + self.opening])]
        if isinstance(step, StreamError):
            return Reply(headers=self._stream_headers, body=None, chunks=[*chunks, *self.stream_error(request)])
        return Reply(headers=self._stream_headers, body=None, chunks=chunks, ending=step.how, stall=step.seconds)

    def stream_error(self, request: Request) -> list[bytes]:
        """The events that report inside a stream that the provider failed."""
        return [self.event({"error": {"message": "Internal server error", "type": "server_error", "code": 500}})]


def pieces(answer: Ok) -> list[str]:
    """The text, cut into the pieces of a stream."""
    text = answer.text or ""
    words = re.findall(r"\S+\s*", text) or [text]
    size = max(1, -(-len(words) // max(1, answer.chunks)))
    return ["".join(words[start : start + size]) for start in range(0, len(words), size)]


def _with_key(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A body whose error message quotes the caller's key, as those of some providers do."""
    quoted = f" (API key {key}, {key[:8]}****{key[-4:]})"
    for name in ("message", "detail", "error"):
        if isinstance(said := body.get(name), str):
            return {**body, name: said + quoted}
    inner = body.get("error")
    return {**body, "error": _with_key(inner, key)} if isinstance(inner, Mapping) else {**body, "message": quoted}
