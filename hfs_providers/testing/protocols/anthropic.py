"""Anthropic's messages, with signed thinking: https://docs.anthropic.com/en/api/messages"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hfs_providers.testing.answers import Request, count, schema_in_words
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

_CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_SERVER_ERRORS = {503: "overloaded_error", 529: "overloaded_error"}


class AnthropicDialect(Dialect):
    """`POST /v1/messages` and `GET /v1/models`, with the key in `x-api-key` or as a bearer token.

    If the request asks for thinking, the answer begins with a thinking block. Its signature is checked when the block
    comes back in a later request, as Anthropic does.

    Args:
        base_path: the end of the SDK's base URL.
        key_prefix: the beginning of the provider's keys.
        keyless: whether the provider has endpoints instead of keys.
    """

    opening = 2  # the message, and its first block

    def __init__(
        self, provider: str, base_path: str = "", key_prefix: str = "sk-ant-api03-", keyless: bool = False
    ) -> None:
        super().__init__(provider)
        self.base_path = base_path
        self.key_prefix = key_prefix
        self.keyless = keyless
        self._numbers = itertools.count(1)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        # Both are accepted; the SDK sends the second since version 2.0.
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ").strip()
        if method == "GET":
            return Request(self.provider, key, "", path, "GET") if path == f"{self.base_path}/v1/models" else None
        if path != f"{self.base_path}/v1/messages":
            return None
        messages: list[dict[str, Any]] = body.get("messages") or []
        results = [block for block in _blocks(messages[-1:]) if block.get("type") == "tool_result"]
        wanted = (body.get("output_config") or {}).get("format") or {}
        schema = wanted.get("schema") if wanted.get("type") == "json_schema" else None
        choice = (body.get("tool_choice") or {}).get("type")
        said = [_words(message.get("content")) for message in messages if message.get("role") == "user"]
        return Request(
            provider=self.provider,
            key=key,
            model=str(body.get("model", "")),
            path=path,
            stream=bool(body.get("stream")),
            prompt=next((words for words in reversed(said) if words), ""),
            tool_result=_words(results[-1].get("content")) if results else None,
            tools=[
                (tool["name"], tool["input_schema"])
                for tool in body.get("tools") or ()
                if "input_schema" in tool and choice != "none"
            ],
            schema=schema if schema is not None else schema_in_words(_words(body.get("system"))),
            body=body,
        )

    def objection(self, request: Request) -> Step | None:
        return BadRequest() if _fault(request.body) else None

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        reason = "tool_use" if answer.tool_calls else "end_turn"
        return {**self._message(request, answer, reason), "content": self._content(request, answer)}

    def stream(self, request: Request, answer: Ok) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        message = self._message(request, answer, None)
        message["usage"]["output_tokens"] = 1
        blocks = list(enumerate(self._content(request, answer)))
        events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
        for place, block in blocks:
            deltas = list(_deltas(block, answer))
            empty = {**block, **{name: {} if name == "input" else "" for delta in deltas for name in _emptied(delta)}}
            events.append({"type": "content_block_start", "index": place, "content_block": empty})
            events += [{"type": "content_block_delta", "index": place, "delta": delta} for delta in deltas]
            if place < len(blocks) - 1:
                events.append({"type": "content_block_stop", "index": place})
        reason = "tool_use" if answer.tool_calls else "end_turn"
        delta = {"stop_reason": reason, "stop_sequence": None}
        return events, [
            {"type": "content_block_stop", "index": len(blocks) - 1},
            {"type": "message_delta", "delta": delta, "usage": self._usage(request, answer)},
            {"type": "message_stop"},
        ]

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        day = "2026-01-01T00:00:00Z"
        data = [{"type": "model", "id": name, "display_name": name, "created_at": day} for name in ids]
        return {
            "data": data,
            "has_more": False,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
        }

    def event(self, data: Mapping[str, Any]) -> bytes:
        return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()

    def last_events(self) -> list[bytes]:
        return []

    def stream_error(self, request: Request) -> list[bytes]:
        return [self.event(_error("overloaded_error", "Overloaded"))]

    def refuse(self, request: Request, step: Step) -> Answer | None:
        """https://docs.anthropic.com/en/api/errors"""
        match step:
            case RateLimited(retry_after=wait):
                message = "This request would exceed your organization's rate limit of 50 requests per minute."
                spent = {
                    "anthropic-ratelimit-requests-limit": "50",
                    "anthropic-ratelimit-requests-remaining": "0",
                }
                told = {} if wait is None else spent
                return 429, _error("rate_limit_error", message), {**told, **wait_headers(step)}
            case Unauthorized():
                return 401, _error("authentication_error", "invalid x-api-key"), {}
            case PaymentRequired():
                return 402, _error("billing_error", "Your credit balance is too low."), {}
            case Forbidden():
                return 403, _error("permission_error", "Your API key may not use this resource."), {}
            case ModelGone():
                return 404, _error("not_found_error", f"model: {request.model}"), {}
            case ContextTooLong():
                message = "prompt is too long: 208310 tokens > 200000 maximum"
                return 400, _error("invalid_request_error", message), {}
            case BadRequest():
                message = _fault(request.body) or "messages.0.content: Field required"
                return 400, _error("invalid_request_error", message), {}
            case ServerError(status=status):
                return status, _error(_SERVER_ERRORS.get(status, "api_error"), "Internal server error"), {}
        return None

    def _message(self, request: Request, answer: Ok, reason: str | None) -> dict[str, Any]:
        return {
            "id": f"msg_{next(self._numbers):05d}",
            "type": "message",
            "role": "assistant",
            "model": request.model,
            "content": [],
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": self._usage(request, answer),
        }

    def _usage(self, request: Request, answer: Ok) -> dict[str, Any]:
        tokens_in, tokens_out = self.usage(request, answer)
        return {
            # Tokens from the cache are not counted as input tokens.
            "input_tokens": tokens_in - answer.cached,
            "cache_read_input_tokens": answer.cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": tokens_out,
        }

    def _content(self, request: Request, answer: Ok) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = []
        if (request.body.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
            thought = f"The user said {count(request.prompt)} words."
            content.append({"type": "thinking", "thinking": thought, "signature": signature_of(thought)})
        if answer.tool_calls:
            return content + [
                {"type": "tool_use", "id": f"toolu_{next(self._numbers):05d}", "name": name, "input": dict(arguments)}
                for name, arguments in answer.tool_calls
            ]
        return [*content, {"type": "text", "text": answer.text or ""}]


def signature_of(thought: str) -> str:
    """The signature of a thinking block."""
    return hashlib.sha256(f"signed {thought}".encode()).hexdigest()


def _fault(body: Mapping[str, Any]) -> str | None:
    """Anthropic's message if it refuses the conversation so far, or None."""
    messages: list[dict[str, Any]] = body.get("messages") or []
    called: set[object] = set()
    for number, message in enumerate(messages):
        blocks = list(_blocks([message]))
        for block in blocks:
            kind = block.get("type")
            if kind == "thinking" and block.get("signature") != signature_of(str(block.get("thinking"))):
                return f"messages.{number}: Invalid `signature` in `thinking` block"
            if kind == "tool_result" and block.get("tool_use_id") not in called:
                return f"messages.{number}: unexpected `tool_use_id` found in `tool_result` blocks"
            if kind == "tool_use" and not _CALL_ID.fullmatch(str(block.get("id"))):
                return f"messages.{number}: tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
        called = {block.get("id") for block in blocks if block.get("type") == "tool_use"}
    if called:
        return f"messages.{len(messages) - 1}: `tool_use` ids were found without `tool_result` blocks after"
    if (body.get("thinking") or {}).get("type") == "enabled" and _continues_unthought(messages):
        return "Expected `thinking` or `redacted_thinking`, but found `tool_use`."
    return None


def _continues_unthought(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last turn calls a tool without a thinking block before it. Adaptive thinking allows that."""
    if len(messages) < 2 or not any(block.get("type") == "tool_result" for block in _blocks(messages[-1:])):
        return False
    first = next(_blocks(messages[-2:-1]), {})
    return first.get("type") not in ("thinking", "redacted_thinking")


def _blocks(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            yield from (block for block in content if isinstance(block, dict))


def _words(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    return str(content or "")


def _deltas(block: Mapping[str, Any], answer: Ok) -> Iterator[dict[str, Any]]:
    match block["type"]:
        case "text":
            yield from ({"type": "text_delta", "text": piece} for piece in pieces(answer))
        case "thinking":
            yield {"type": "thinking_delta", "thinking": block["thinking"]}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case "tool_use":
            yield {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}


def _emptied(delta: Mapping[str, Any]) -> list[str]:
    """The fields of a block that a delta fills."""
    return ["input" if name == "partial_json" else name for name in delta if name != "type"]


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_01"}
