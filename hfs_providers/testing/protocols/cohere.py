"""Cohere's chat: https://docs.cohere.com/reference/chat"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hfs_providers.testing.answers import Request, schema_in_words
from hfs_providers.testing.dialects import Dialect, pieces
from hfs_providers.testing.refusals import Answer, wait_headers
from hfs_providers.testing.scripts import (
    BadRequest,
    ContextTooLong,
    Forbidden,
    ModelGone,
    Ok,
    PaymentRequired,
    RateLimited,
    ServerError,
    Step,
    Unauthorized,
)


class CohereDialect(Dialect):
    """`POST /v2/chat` and `GET /v1/models`."""

    key_prefix = "co-"
    opening = 2  # the message, and its content

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider)
        self.keyless = keyless
        self._numbers = itertools.count(1)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        key = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if method == "GET":
            return Request(self.provider, key, "", path, "GET") if path == "/v1/models" else None
        if path != "/v2/chat":
            return None
        messages: list[dict[str, Any]] = body.get("messages") or [{}]
        wanted = body.get("response_format") or {}
        schema = schema_in_words(" ".join(_text(m.get("content")) for m in messages if m.get("role") == "system"))
        if wanted.get("type") == "json_object":
            schema = wanted.get("json_schema") or schema or {}
        last = messages[-1]
        return Request(
            provider=self.provider,
            key=key,
            model=str(body.get("model", "")),
            path=path,
            stream=bool(body.get("stream")),
            prompt=next((_text(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), ""),
            tool_result=_text(last.get("content")) if last.get("role") == "tool" else None,
            tools=[(t["function"]["name"], t["function"].get("parameters") or {}) for t in body.get("tools") or ()],
            schema=schema,
            body=body,
        )

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        content = [] if answer.tool_calls else [{"type": "text", "text": answer.text or ""}]
        calls = {"tool_calls": self._calls(answer)} if answer.tool_calls else {}
        message = {"role": "assistant", "content": content, **calls}
        return {"id": f"c-{next(self._numbers)}", "message": message, **self._end(request, answer)}

    def stream(self, request: Request, answer: Ok) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        start = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        events: list[dict[str, Any]] = [
            {"type": "message-start", "id": f"c-{next(self._numbers)}", "delta": {"message": start}}
        ]
        for place, call in enumerate(self._calls(answer)):
            said = call["function"]["arguments"]
            begun = {**call, "function": {**call["function"], "arguments": ""}}
            events += [
                _event("tool-call-start", place, {"tool_calls": begun}),
                _event("tool-call-delta", place, {"tool_calls": {"function": {"arguments": said}}}),
                {"type": "tool-call-end", "index": place},
            ]
        ending: list[dict[str, Any]] = [{"type": "message-end", "delta": self._end(request, answer)}]
        if not answer.tool_calls:
            events.append(_event("content-start", 0, {"content": {"type": "text", "text": ""}}))
            events += [_event("content-delta", 0, {"content": {"text": piece}}) for piece in pieces(answer)]
            ending.insert(0, {"type": "content-end", "index": 0})
        return events, ending

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        return {"models": [{"name": name, "endpoints": ["chat"], "is_deprecated": False} for name in ids]}

    def event(self, data: Mapping[str, Any]) -> bytes:
        return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()

    def stream_error(self, request: Request) -> list[bytes]:
        # An end whose reason is an error: https://docs.cohere.com/reference/chat-stream
        return [self.event({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "internal error"}})]

    def refuse(self, request: Request, step: Step) -> Answer | None:
        """https://docs.cohere.com/reference/errors"""
        match step:
            case RateLimited():
                message = "You are using a Trial key, which is limited to 20 API calls / minute."
                return 429, {"message": message}, wait_headers(step)
            case Unauthorized():
                return 401, {"message": "invalid api token"}, {}
            case PaymentRequired():
                return 402, {"message": "your account has reached its billing limit"}, {}
            case Forbidden():
                return 403, {"message": "this key may not use this endpoint"}, {}
            case ModelGone():
                return 404, {"message": f"model '{request.model}' was removed"}, {}
            case ContextTooLong():
                said = "total number of tokens in the prompt cannot exceed 128000 - received 200000"
                return 400, {"message": f"too many tokens: {said}. Try using a shorter prompt"}, {}
            case BadRequest():
                return 400, {"message": "invalid request: message must be at least 1 token long"}, {}
            case ServerError(status=status):
                return status, {"message": "internal server error, please try again later"}, {}
        return None

    def _calls(self, answer: Ok) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{next(self._numbers):05d}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for name, arguments in answer.tool_calls or ()
        ]

    def _end(self, request: Request, answer: Ok) -> dict[str, Any]:
        tokens_in, tokens_out = self.usage(request, answer)
        counted = {"input_tokens": tokens_in, "output_tokens": tokens_out}
        usage = {"billed_units": counted, "tokens": counted, "cached_tokens": answer.cached}
        return {"finish_reason": "TOOL_CALL" if answer.tool_calls else "COMPLETE", "usage": usage}


def _event(kind: str, place: int, message: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": kind, "index": place, "delta": {"message": dict(message)}}


def _text(content: Any) -> str:
    """The text of a message, or a tool's result in a document."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        return "".join(str(part.get("text") or (part.get("document") or {}).get("data") or "") for part in parts)
    return str(content or "")
