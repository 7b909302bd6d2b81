"""OpenAI's other endpoints on the loopback server: embeddings and the Responses API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hfs_providers.testing.answers import Request, schema_in_words
from hfs_providers.testing.scripts import Ok

EMBEDDINGS = "/embeddings"
RESPONSES = "/responses"
_DIMENSIONS = 8
_SYSTEM = ("system", "developer")


def asked_of(path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request to one of these endpoints, as fields of `Request`; None for any other path.

    Args:
        path: the endpoint's path, below the API's.
    """
    if path not in (EMBEDDINGS, RESPONSES):
        return None
    given = body.get("input")
    if path == EMBEDDINGS or not isinstance(given, list):
        last = given[-1] if isinstance(given, list) and given else given
        return {"prompt": str(last or "")}
    items = [item for item in given if isinstance(item, Mapping)]
    last = items[-1] if items else {}
    said = [_text(item.get("content")) for item in items if item.get("role") == "user"]
    wanted = (body.get("text") or {}).get("format") or {}
    tools = [] if body.get("tool_choice") == "none" else body.get("tools") or []
    schema = schema_in_words(" ".join(_text(i.get("content")) for i in items if i.get("role") in _SYSTEM))
    if wanted.get("type") in ("json_schema", "json_object"):
        schema = wanted.get("schema") or schema or {}
    return {
        "prompt": said[-1] if said else "",
        "tool_result": _text(last.get("output")) if last.get("type") == "function_call_output" else None,
        "tools": [(t["name"], t.get("parameters") or {}) for t in tools if t.get("type") == "function"],
        "schema": schema,
    }


def embeddings(request: Request, usage: Mapping[str, Any]) -> dict[str, Any]:
    """The same numbers for the same text."""
    given = request.body.get("input")
    texts = given if isinstance(given, list) else [given]
    data = [
        {"object": "embedding", "index": place, "embedding": _numbers(str(text))} for place, text in enumerate(texts)
    ]
    told = {"prompt_tokens": usage["prompt_tokens"], "total_tokens": usage["prompt_tokens"]}
    return {"object": "list", "data": data, "model": request.model, "usage": told}


def response(request: Request, answer: Ok, usage: Mapping[str, Any], status: str = "completed") -> dict[str, Any]:
    """An object of the Responses API."""
    told = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
    cached = {"cached_tokens": answer.cached}
    details = {"input_tokens_details": cached, "output_tokens_details": {"reasoning_tokens": 0}}
    done = status == "completed"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "model": request.model,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": _output(request, answer) if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": {**told, **details, "total_tokens": usage["total_tokens"]} if done else None,
    }


def _output(request: Request, answer: Ok) -> list[dict[str, Any]]:
    if not answer.tool_calls:
        content = [{"type": "output_text", "text": answer.text or "", "annotations": []}]
        return [{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": content}]
    # No id may occur twice, because a conversation keeps the calls of all its turns.
    before = len(request.body.get("input") or ())
    return [
        {
            "type": "function_call",
            "id": f"fc_{before}_{place}",
            "call_id": f"call_{before}_{place}",
            "name": name,
            "arguments": json.dumps(arguments),
            "status": "completed",
        }
        for place, (name, arguments) in enumerate(answer.tool_calls)
    ]


def response_events(
    request: Request, answer: Ok, texts: Sequence[str], usage: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The events of a stream of the Responses API: those with content, then those that end it."""
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response(request, answer, usage, "in_progress")}
    ]
    if answer.tool_calls:
        for place, item in enumerate(_output(request, answer)):
            begun = {**item, "arguments": "", "status": "in_progress"}
            delta = {"item_id": item["id"], "output_index": place, "delta": item["arguments"]}
            events += [
                {"type": "response.output_item.added", "output_index": place, "item": begun},
                {"type": "response.function_call_arguments.delta", **delta},
                {"type": "response.output_item.done", "output_index": place, "item": item},
            ]
    else:
        where = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
        events += [{"type": "response.output_text.delta", **where, "delta": text} for text in texts]
    events.append({"type": "response.completed", "response": response(request, answer, usage)})
    for number, event in enumerate(events):
        event["sequence_number"] = number
    return events[:-1], events[-1:]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")


def _numbers(text: str) -> list[float]:
    return [byte / 256 for byte in hashlib.sha256(text.encode()).digest()[:_DIMENSIONS]]
