"""Translates Anthropic's messages to chat completions, for providers that have only these: requests, answers, streams.

Chat completions have no `top_k`, `thinking`, `metadata` and `cache_control`, so these are left out. Content that chat
completions cannot contain is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from hfs_providers.calls.answers import UnusableAnswerError
from hfs_providers.gateway.reading import event_data
from hfs_providers.gateway.refusals import Refusal

Json = dict[str, Any]

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_SAME = ("max_tokens", "temperature", "top_p", "stream")


def chat_request(body: Mapping[str, Any]) -> bytes:
    """A request for chat completions, without the name of the model.

    Raises:
        Refusal: the body is not a request for messages, or has content that chat completions cannot contain.
    """
    try:
        return msgspec.json.encode(_chat_request(body))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        message = "The body is not a valid request for Anthropic's messages."
        raise Refusal(400, "invalid_request", message, param="messages") from None


def _chat_request(body: Mapping[str, Any]) -> Json:
    made: Json = {name: body[name] for name in _SAME if body.get(name) is not None}
    system = body.get("system")
    made["messages"] = [{"role": "system", "content": _text(system)}] if system else []
    for message in body["messages"]:
        made["messages"] += _chat_messages(message["role"], message["content"])
    if body.get("stop_sequences"):
        made["stop"] = body["stop_sequences"]
    if body.get("tools"):
        made["tools"] = [_chat_tool(tool) for tool in body["tools"]]
    if choice := body.get("tool_choice"):
        named = choice["type"] == "tool"
        made["tool_choice"] = (
            {"type": "function", "function": {"name": choice["name"]}} if named else _CHOICES[choice["type"]]
        )
        if choice.get("disable_parallel_tool_use"):
            made["parallel_tool_calls"] = False
    output = (body.get("output_config") or {}).get("format") or body.get("output_format")
    if output:
        schema = {"name": "output", "schema": output["schema"], "strict": True}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    return made


def _text(content: Any) -> str:
    """The text of a string or of blocks of text."""
    if isinstance(content, str):
        return content
    return "\n".join(str(block["text"]) if block["type"] == "text" else _unknown(block) for block in content)


def _unknown(block: Mapping[str, Any]) -> str:
    message = f"A provider without /v1/messages does not accept {block['type']!r:.50}."
    raise Refusal(501, "not_translated", message, param="messages")


def _chat_messages(role: str, content: Any) -> list[Json]:
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    return [_assistant(content)] if role == "assistant" else _user(role, content)


def _assistant(blocks: list[Json]) -> Json:
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": _dumped(block["input"])},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]
    said = [block for block in blocks if block["type"] not in ("tool_use", "thinking", "redacted_thinking")]
    message: Json = {"role": "assistant", "content": _text(said) if said else None}
    return {**message, "tool_calls": calls} if calls else message


def _user(role: str, blocks: list[Json]) -> list[Json]:
    results: list[Json] = []
    parts: list[Json] = []
    for block in blocks:
        if block["type"] == "tool_result":
            inner = block.get("content") or ""
            media = [] if isinstance(inner, str) else [each for each in inner if each["type"] == "image"]
            said = inner if isinstance(inner, str) else [each for each in inner if each["type"] != "image"]
            results.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": _text(said)})
            parts += map(_part, media)
        else:
            parts.append(_part(block))
    return [*results, {"role": role, "content": parts}] if parts else results


def _part(block: Json) -> Json:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    source = block["source"] if block["type"] == "image" else {"type": _unknown(block)}
    if source["type"] not in ("base64", "url"):
        _unknown({"type": f"image by {source['type']}"})
    url = source["url"] if source["type"] == "url" else f"data:{source['media_type']};base64,{source['data']}"
    return {"type": "image_url", "image_url": {"url": url}}


def _chat_tool(tool: Json) -> Json:
    if tool.get("type", "custom") != "custom":
        _unknown(tool)
    described = {"description": tool["description"]} if tool.get("description") else {}
    return {"type": "function", "function": {"name": tool["name"], **described, "parameters": tool["input_schema"]}}


def _dumped(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def message_answer(body: bytes) -> bytes:
    """An answer of chat completions, as a message.

    Raises:
        UnusableAnswerError: it is not a chat completion.
    """
    try:
        answer = msgspec.json.decode(body)
        choice = answer["choices"][0]
        said = choice["message"]
        content: list[Json] = [{"type": "text", "text": said["content"]}] if said.get("content") else []
        for call in said.get("tool_calls") or ():
            arguments = msgspec.json.decode(call["function"]["arguments"] or "{}")
            name = call["function"]["name"]
            content.append({"type": "tool_use", "id": call["id"], "name": name, "input": arguments})
        message = _message(answer, content, _STOP_REASONS.get(choice.get("finish_reason") or "", "end_turn"))
        return msgspec.json.encode({**message, "usage": _usage(answer.get("usage"))})
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError):
        raise UnusableAnswerError("server_error", "the answer is not a chat completion") from None


def _message(answer: Json, content: list[Json], stop_reason: str | None) -> Json:
    return {
        "id": f"msg_{answer.get('id') or ''}",
        "type": "message",
        "role": "assistant",
        "model": answer.get("model") or "",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }


def _usage(counted: Any) -> Json:
    if not isinstance(counted, dict):
        counted = {}
    cached = (counted.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    prompt, completion = counted.get("prompt_tokens") or 0, counted.get("completion_tokens") or 0
    return {"input_tokens": prompt - cached, "output_tokens": completion, "cache_read_input_tokens": cached}


class MessageStream:
    """Translates the events of a stream of chat completions into those of a stream of messages."""

    __slots__ = ("_begun", "_block", "_ended", "_index", "_stop_reason", "_tool", "_usage")

    def __init__(self) -> None:
        self._begun = False
        self._ended = False
        self._index = -1
        self._block = ""
        self._tool: Any = None
        self._stop_reason = "end_turn"
        self._usage = _usage(None)

    def feed(self, events: bytes) -> bytes:
        """Translate complete events.

        Raises:
            UnusableAnswerError: they are not chat completions.
        """
        made: list[bytes] = []
        for data in event_data(events):
            if data.strip() == b"[DONE]":
                made += self._end()
                continue
            try:
                made += self._chunk(msgspec.json.decode(data))
            except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError):
                raise UnusableAnswerError("server_error", "an event is not part of a chat completion") from None
        return b"".join(made)

    def close(self) -> bytes:
        """The events for the end, if `[DONE]` has not arrived."""
        return b"".join(self._end())

    def _chunk(self, chunk: Json) -> Iterator[bytes]:
        if not self._begun:
            self._begun = True
            message = {**_message(chunk, [], None), "usage": _usage(None)}
            yield _event("message_start", message=message)
        if chunk.get("usage"):
            self._usage = _usage(chunk["usage"])
        for choice in chunk.get("choices") or ():
            if choice.get("index"):
                continue
            delta = choice.get("delta") or {}
            if delta.get("content"):
                yield from self._open("text", None, {"type": "text", "text": ""})
                yield self._delta(type="text_delta", text=delta["content"])
            for call in delta.get("tool_calls") or ():
                yield from self._call(call)
            if choice.get("finish_reason"):
                self._stop_reason = _STOP_REASONS.get(choice["finish_reason"], "end_turn")

    def _call(self, call: Json) -> Iterator[bytes]:
        function = call.get("function") or {}
        number = call.get("index", call.get("id"))
        if self._block != "tool_use" or number != self._tool:
            block = {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
            yield from self._open("tool_use", number, block)
        if function.get("arguments"):
            yield self._delta(type="input_json_delta", partial_json=function["arguments"])

    def _open(self, kind: str, tool: Any, block: Json) -> Iterator[bytes]:
        if (self._block, self._tool) == (kind, tool):
            return
        yield from self._close_block()
        self._block, self._tool = kind, tool
        self._index += 1
        yield _event("content_block_start", index=self._index, content_block=block)

    def _close_block(self) -> Iterator[bytes]:
        if self._block:
            self._block = ""
            yield _event("content_block_stop", index=self._index)

    def _delta(self, **delta: str) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _end(self) -> Iterator[bytes]:
        if self._ended or not self._begun:
            return
        self._ended = True
        yield from self._close_block()
        delta = {"stop_reason": self._stop_reason, "stop_sequence": None}
        yield _event("message_delta", delta=delta, usage=self._usage)
        yield _event("message_stop")


def _event(kind: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **members}))
