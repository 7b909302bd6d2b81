"""Gemini's Interactions API: https://ai.google.dev/api/interactions-api"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

from hfs_providers.testing.answers import Request, schema_in_words
from hfs_providers.testing.dialects import pieces
from hfs_providers.testing.refusals import Answer, plain_refusal
from hfs_providers.testing.scripts import BadRequest, Ok, Step
from hfs_providers.testing.spoken import GeminiDialect


class InteractionsDialect(GeminiDialect):
    """`POST /v1beta/interactions` and `GET /v1beta/models`. It keeps no interaction, so that none can be continued."""

    opening = 2  # the interaction, and its first step

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider, keyless)
        self._numbers = itertools.count(1)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        if method == "GET":
            return super().read(method, path, headers, body)
        if re.fullmatch(r"/v1\w*/interactions", path) is None:
            return None
        steps = _steps(body)
        said = [words for step in steps if step.get("type") == "user_input" if (words := _text(step.get("content")))]
        last = steps[-1] if steps else {}
        wanted = body.get("response_format") or {}
        schema = schema_in_words(str(body.get("system_instruction") or ""))
        if wanted.get("mime_type") == "application/json":
            schema = wanted.get("schema") or schema or {}
        return Request(
            provider=self.provider,
            key=headers.get("x-goog-api-key", ""),
            model=str(body.get("model", "")),
            path=path,
            stream=bool(body.get("stream")),
            prompt=said[-1] if said else "",
            tool_result=_text(last.get("result")) if last.get("type") == "function_result" else None,
            tools=[
                (tool["name"], tool.get("parameters") or {})
                for tool in body.get("tools") or ()
                if tool.get("type") == "function"
            ],
            schema=schema,
            body=body,
        )

    def objection(self, request: Request) -> Step | None:
        steps = _steps(request.body)
        called = {step.get("id") for step in steps if step.get("type") == "function_call"}
        results = {step.get("call_id") for step in steps if step.get("type") == "function_result"}
        return BadRequest() if results - called or "previous_interaction_id" in request.body else None

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        output = {"type": "model_output", "content": [{"type": "text", "text": answer.text or ""}]}
        return {**self._end(request, answer, self._id()), "steps": self._function_calls(answer) or [output]}

    def stream(self, request: Request, answer: Ok) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        name = self._id()
        begun = {"id": name, "object": "interaction", "model": request.model, "status": "in_progress"}
        events: list[dict[str, Any]] = [{"event_type": "interaction.created", "interaction": begun}]
        deltas: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
            ({**call, "arguments": {}}, [{"type": "arguments_delta", "arguments": json.dumps(call["arguments"])}])
            for call in self._function_calls(answer)
        ] or [({"type": "model_output"}, [{"type": "text", "text": piece} for piece in pieces(answer)])]
        for index, (step, parts) in enumerate(deltas):
            events.append({"event_type": "step.start", "index": index, "step": step})
            events += [{"event_type": "step.delta", "index": index, "delta": part} for part in parts]
            events.append({"event_type": "step.stop", "index": index})
        # The last step's end comes after its content.
        ended = {"event_type": "interaction.completed", "interaction": self._end(request, answer, name)}
        return events[:-1], [events[-1], ended]

    def event(self, data: Mapping[str, Any]) -> bytes:
        return f"event: {data['event_type']}\ndata: {json.dumps(data)}\n\n".encode()

    def last_events(self) -> list[bytes]:
        return [b"event: done\ndata: [DONE]\n\n"]

    def stream_error(self, request: Request) -> list[bytes]:
        error = {"message": "An internal error has occurred. Please retry."}
        return [self.event({"event_type": "error", "error": error})]

    def refuse(self, request: Request, step: Step) -> Answer | None:
        """Its form, and the one code that is known: github.com/allenhutchison/gemini-cli-deep-research/issues/73"""
        if (plain := plain_refusal(step, request)) is None:
            return None
        status, words, headers = plain
        code = {"code": "invalid_request"} if status == 400 else {}
        return status, {"error": {"message": words, **code}}, headers

    def _id(self) -> str:
        return f"v1_{next(self._numbers):05d}"

    def _end(self, request: Request, answer: Ok, name: str) -> dict[str, Any]:
        tokens_in, tokens_out = self.usage(request, answer)
        return {
            "id": name,
            "object": "interaction",
            "model": request.model,
            "status": "requires_action" if answer.tool_calls else "completed",
            "usage": {
                "total_input_tokens": tokens_in,
                "total_cached_tokens": answer.cached,
                "total_output_tokens": tokens_out,
                "total_thought_tokens": 0,
                "total_tokens": tokens_in + tokens_out,
            },
        }

    def _function_calls(self, answer: Ok) -> list[dict[str, Any]]:
        return [
            {"type": "function_call", "id": f"call_{next(self._numbers):05d}", "name": name, "arguments": {**arguments}}
            for name, arguments in answer.tool_calls or ()
        ]


def _steps(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is said to the model: a text alone is the user's."""
    given = body.get("input") or []
    return [{"type": "user_input", "content": given}] if isinstance(given, str) else list(given)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content or "")
