"""Meta's Llama API, by the types of its SDK: https://llama.developer.meta.com/docs/api/chat"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hfs_providers.testing.answers import Request
from hfs_providers.testing.dialects import pieces
from hfs_providers.testing.refusals import Answer, plain_refusal
from hfs_providers.testing.scripts import Ok, Step
from hfs_providers.testing.spoken import OpenAIDialect

_TITLES = {400: "Bad request", 401: "Unauthorized", 403: "Forbidden", 404: "Not found", 429: "Too many requests"}


class LlamaDialect(OpenAIDialect):
    """OpenAI's requests, with other answers, streams and errors."""

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider, key_prefix="LLM|", keyless=keyless)

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "stop_reason": self._reason(answer)}
        if answer.tool_calls:
            message["tool_calls"] = [{k: call[k] for k in ("id", "function")} for call in self._calls(answer)]
        else:
            message["content"] = {"type": "text", "text": answer.text or ""}
        return {"id": "c-1", "completion_message": message, "metrics": self._metrics(request, answer)}

    def stream(self, request: Request, answer: Ok) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        deltas: list[dict[str, Any]] = [{"type": "text", "text": piece} for piece in pieces(answer)]
        if answer.tool_calls:
            deltas = []
            for call in self._calls(answer):
                # The id and the name come first, then the arguments without them.
                named, said = {"name": call["function"]["name"]}, {"arguments": call["function"]["arguments"]}
                deltas.append({"type": "tool_call", "id": call["id"], "function": named})
                deltas.append({"type": "tool_call", "function": said})
        return [_event("start"), *(_event("progress", delta) for delta in deltas)], [
            _event("complete", stop_reason=self._reason(answer)),
            _event("metrics", metrics=self._metrics(request, answer)),
        ]

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        return {"data": [{"id": name, "created": 0, "object": "model", "owned_by": "meta"} for name in ids]}

    def last_events(self) -> list[bytes]:
        return []

    def stream_error(self, request: Request) -> list[bytes]:
        return [b"event: error\n" + self.event(_problem(500, "Internal server error"))]

    def refuse(self, request: Request, step: Step) -> Answer | None:
        refused = plain_refusal(step, request)
        if refused is None:
            return None
        status, words, headers = refused
        return status, _problem(status, words), headers

    def _metrics(self, request: Request, answer: Ok) -> Sequence[Mapping[str, Any]]:
        tokens_in, tokens_out = self.usage(request, answer)
        counts = {"completion": tokens_out, "prompt": tokens_in, "total": tokens_in + tokens_out}
        return [{"metric": f"num_{name}_tokens", "value": n, "unit": "tokens"} for name, n in counts.items()]


def _event(kind: str, delta: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c-1", "event": {"event_type": kind, "delta": delta or {"type": "text", "text": ""}, **more}}


def _problem(status: int, words: str) -> dict[str, Any]:
    return {"title": _TITLES.get(status, "Internal server error"), "detail": words, "status": status}
