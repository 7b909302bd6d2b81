"""Ollama's chat: its own paths, streams with one JSON object per line, and errors with a single field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hfs_providers.testing.answers import Request
from hfs_providers.testing.dialects import Dialect, pieces
from hfs_providers.testing.refusals import Answer, wait_headers
from hfs_providers.testing.scripts import (
    Forbidden,
    ModelGone,
    Ok,
    PaymentRequired,
    RateLimited,
    ServerError,
    Step,
    Unauthorized,
)
from hfs_providers.testing.spoken import OpenAIDialect


class OllamaDialect(Dialect):
    """https://docs.ollama.com/api/chat, for servers without keys and for the cloud."""

    key_prefix = "gpu-"
    stream_type = "application/x-ndjson"

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider)
        self.keyless = keyless
        # https://docs.ollama.com/api/openai-compatibility
        self.others = (OpenAIDialect(provider, "/v1", keyless=keyless),)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        key = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if method == "GET":
            return Request(self.provider, key, "", path, "GET") if path == "/api/tags" else None
        if path != "/api/chat":
            return None
        messages: list[dict[str, Any]] = body.get("messages") or [{}]
        said = [str(message.get("content")) for message in messages if message.get("role") == "user"]
        last = messages[-1]
        wanted = body.get("format")
        return Request(
            self.provider,
            key,
            str(body.get("model", "")),
            path,
            stream=bool(body.get("stream")),
            prompt=said[-1] if said else "",
            tool_result=str(last.get("content")) if last.get("role") == "tool" else None,
            tools=[
                (tool["function"]["name"], tool["function"].get("parameters") or {}) for tool in body.get("tools") or []
            ],
            schema=wanted if isinstance(wanted, Mapping) else {} if wanted == "json" else None,
            body=body,
        )

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        return {**self._line(request, answer.text or "", self._calls(answer)), **self._end(request, answer)}

    def stream(self, request: Request, answer: Ok) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        calls = self._calls(answer)
        lines = [self._line(request, "", calls)] if calls else [self._line(request, piece) for piece in pieces(answer)]
        return lines, [{**self._line(request, ""), **self._end(request, answer)}]

    def event(self, data: Mapping[str, Any]) -> bytes:
        return json.dumps(data).encode() + b"\n"

    def last_events(self) -> list[bytes]:
        return []

    def stream_error(self, request: Request) -> list[bytes]:
        # The status cannot change any more: https://docs.ollama.com/api/errors
        return [self.event({"error": "an error was encountered while running the model"})]

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        return {"models": [{"name": name, "model": name, "size": 1} for name in ids]}

    def refuse(self, request: Request, step: Step) -> Answer | None:
        match step:
            case ModelGone():
                return 404, {"error": f"model '{request.model}' not found"}, {}
            case RateLimited():
                return 429, {"error": "too many requests"}, wait_headers(step)
            case Unauthorized():
                return 401, {"error": "unauthorized"}, {}
            case PaymentRequired():
                return 402, {"error": "payment required"}, {}
            case Forbidden():
                return 403, {"error": "forbidden"}, {}
            case ServerError(status=status):
                return status, {"error": "the model failed to generate a response"}, {}
        # BadRequest. ContextTooLong too: a real server would silently truncate the messages.
        return 400, {"error": "invalid options"}, {}

    def _line(self, request: Request, text: str, calls: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {})}
        return {"model": request.model, "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False}

    def _calls(self, answer: Ok) -> list[dict[str, Any]]:
        return [{"function": {"name": name, "arguments": dict(given)}} for name, given in answer.tool_calls or ()]

    def _end(self, request: Request, answer: Ok) -> dict[str, Any]:
        tokens_in, tokens_out = self.usage(request, answer)
        return {"done": True, "done_reason": "stop", "prompt_eval_count": tokens_in, "eval_count": tokens_out}
