"""The dialects of the built-in providers: OpenAI's, and Gemini's."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hfs_providers.testing.answers import Request, schema_in_words
from hfs_providers.testing.dialects import Dialect, pieces
from hfs_providers.testing.endpoints import EMBEDDINGS, RESPONSES, asked_of, embeddings, response, response_events
from hfs_providers.testing.refusals import Answer, google_refusal
from hfs_providers.testing.scripts import BadRequest, Ok, Step

# google-genai sends the last one as its users write it.
_PARAMETERS = ("parameters", "parametersJsonSchema", "parameters_json_schema")

_CALL_FIELDS = frozenset({"id", "type", "function", "index"})


class OpenAIDialect(Dialect):
    """Chat completions of OpenAI, Groq, Cerebras and OpenRouter; embeddings and responses of OpenAI.

    Args:
        base_path: the end of the SDK's base URL.
        key_prefix: the beginning of the provider's keys.
        api_path: what the SDK adds between that and `/chat/completions`.
        unasked_usage: whether a stream reports its usage even if the request does not ask for it.
        keyless: whether the provider has endpoints instead of keys.
    """

    opening = 1  # the delta with the role

    def __init__(
        self,
        provider: str,
        base_path: str = "/v1",
        key_prefix: str = "sk-",
        api_path: str = "",
        unasked_usage: bool = False,
        keyless: bool = False,
    ) -> None:
        super().__init__(provider)
        self.base_path = base_path
        self.key_prefix = key_prefix
        self.keyless = keyless
        self._api = base_path + api_path
        self._unasked_usage = unasked_usage
        self._numbers = itertools.count(1)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        key = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if method == "GET":
            # `/key` is OpenRouter's, and describes the key itself.
            known = (f"{self._api}/models", f"{self._api}/key")
            return Request(self.provider, key, "", path, "GET") if path in known else None
        model = str(body.get("model", ""))
        if path.startswith(self._api) and (asked := asked_of(path.removeprefix(self._api), body)) is not None:
            return Request(self.provider, key, model, path, stream=bool(body.get("stream")), body=body, **asked)
        if path != f"{self._api}/chat/completions":
            return None
        messages: list[dict[str, Any]] = body.get("messages") or []
        wanted = body.get("response_format") or {}
        system = "\n".join(_text(m.get("content")) for m in messages if m.get("role") in ("system", "developer"))
        schema = schema_in_words(system)
        if wanted.get("type") in ("json_schema", "json_object"):
            schema = wanted.get("json_schema", {}).get("schema") or schema or {}
        tools = [] if body.get("tool_choice") == "none" else body.get("tools") or []
        return Request(
            provider=self.provider,
            key=key,
            model=model,
            path=path,
            stream=bool(body.get("stream")),
            prompt=next((_text(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), ""),
            tool_result=_text(messages[-1].get("content")) if messages and messages[-1].get("role") == "tool" else None,
            tools=[(t["function"]["name"], t["function"].get("parameters") or {}) for t in tools],
            schema=schema,
            body=body,
            wants_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        )

    def objection(self, request: Request) -> Step | None:
        # Refused: unknown fields, as by Groq ("property ... is unsupported"), and a tool's result without its call.
        messages: list[dict[str, Any]] = request.body.get("messages") or []
        calls = [call for message in messages for call in message.get("tool_calls") or ()]
        results = {message.get("tool_call_id") for message in messages if message.get("role") == "tool"}
        unknown = results - {call.get("id") for call in calls}
        return BadRequest() if unknown or any(call.keys() - _CALL_FIELDS for call in calls) else None

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        if request.path.endswith(EMBEDDINGS):
            return embeddings(request, self._usage(request, answer))
        if request.path.endswith(RESPONSES):
            return response(request, answer, self._usage(request, answer))
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.tool_calls:
            message["tool_calls"] = self._calls(answer)
        choice = {"index": 0, "message": message, "finish_reason": self._reason(answer), "logprobs": None}
        return {**self._frame(request, "chat.completion"), "choices": [choice], "usage": self._usage(request, answer)}

    def stream(self, request: Request, answer: Ok) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if request.path.endswith(RESPONSES):
            return response_events(request, answer, pieces(answer), self._usage(request, answer))
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if answer.tool_calls:
            deltas += [{"tool_calls": [{"index": n, **call}]} for n, call in enumerate(self._calls(answer))]
        else:
            deltas += [{"content": piece} for piece in pieces(answer)]
        frame = self._frame(request, "chat.completion.chunk")
        events = [{**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        last: dict[str, Any] = {
            **frame,
            "choices": [{"index": 0, "delta": {}, "finish_reason": self._reason(answer)}],
        }
        usage = self._usage(request, answer)
        ending = [last]
        told = request.wants_usage or self._unasked_usage
        if self.provider == "groq":
            # Always sent, in its own field; the standard chunk follows if the request asks for it.
            last["x_groq"] = {"id": "req_01", "usage": usage}
        if self.provider == "cerebras":
            # In the chunk with the finish reason, not in one without choices.
            last["time_info"] = {"queue_time": 0.0, "prompt_time": 0.0, "completion_time": 0.0, "total_time": 0.0}
            last |= {"usage": usage} if told else {}
        elif told:
            ending.append({**frame, "choices": [], "usage": usage})
        return events, ending

    def first_events(self) -> list[bytes]:
        # A comment, so that no client times out: https://openrouter.ai/docs/api-reference/streaming
        return [b": OPENROUTER PROCESSING\n\n"] if self.provider == "openrouter" else []

    def stream_error(self, request: Request) -> list[bytes]:
        message = "Encountered a server error, please try again."
        if self.provider == "openrouter":
            # With choices that end with the reason `error`: https://openrouter.ai/docs/api-reference/streaming
            broken = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
            error = {"code": "server_error", "message": "Provider disconnected unexpectedly"}
            frame = self._frame(request, "chat.completion.chunk")
            return [self.event({**frame, "provider": "Loopback", "error": error, "choices": [broken]})]
        if self.provider == "cerebras":
            # The SDK's `ErrorChunkResponse`.
            error = {"message": message, "type": "server_error", "param": "", "code": ""}
            return [self.event({"error": error, "status_code": 500})]
        return [self.event({"error": {"message": message, "type": "internal_server_error"}})]

    def _frame(self, request: Request, kind: str) -> dict[str, Any]:
        # Without a fingerprint the Cerebras SDK does not recognise the type of a chunk and returns a plain dict.
        return {
            "id": f"chatcmpl-{next(self._numbers)}",
            "object": kind,
            "created": 1_700_000_000,
            "model": request.model,
            "system_fingerprint": "fp_1",
        }

    def _calls(self, answer: Ok) -> list[dict[str, Any]]:
        return [
            # No id may occur twice, because a conversation keeps the calls of all its turns.
            {
                "id": f"call_{next(self._numbers):09d}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for name, arguments in answer.tool_calls or ()
        ]

    def _reason(self, answer: Ok) -> str:
        return "tool_calls" if answer.tool_calls else "stop"

    def _usage(self, request: Request, answer: Ok) -> dict[str, Any]:
        tokens_in, tokens_out = self.usage(request, answer)
        total = tokens_in + tokens_out
        details = {"prompt_tokens_details": {"cached_tokens": answer.cached}} if answer.cached else {}
        return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": total, **details}


class _GoogleOpenAIDialect(OpenAIDialect):
    def refuse(self, request: Request, step: Step) -> Answer | None:
        return google_refusal(step, request)


class GeminiDialect(Dialect):
    """`generateContent` and `streamGenerateContent` of the Gemini API, and its endpoints in OpenAI's protocol."""

    key_prefix = "AIza"
    _path = re.compile(r"/v1(?:beta|alpha)?/models/(?P<model>[^:]+):(?P<call>generateContent|streamGenerateContent)")

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider)
        self.keyless = keyless
        # https://ai.google.dev/gemini-api/docs/openai
        self.others = (_GoogleOpenAIDialect(provider, "/v1beta/openai", self.key_prefix, keyless=keyless),)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        key = headers.get("x-goog-api-key", "")
        if method == "GET":
            return Request(self.provider, key, "", path, "GET") if re.fullmatch(r"/v1\w*/models", path) else None
        found = self._path.fullmatch(path)
        if found is None:
            return None
        contents: list[dict[str, Any]] = body.get("contents") or []
        config = body.get("generationConfig") or {}
        last_parts = contents[-1].get("parts", []) if contents else []
        results = [part["functionResponse"] for part in last_parts if "functionResponse" in part]
        said = [p["text"] for c in contents if c.get("role") == "user" for p in c.get("parts", []) if "text" in p]
        system = "\n".join(part.get("text", "") for part in (body.get("systemInstruction") or {}).get("parts", []))
        schema = schema_in_words(system)
        if config.get("responseMimeType") == "application/json":
            schema = config.get("responseSchema") or config.get("responseJsonSchema") or schema or {}
        calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
        tools = [] if calling.get("mode") == "NONE" else body.get("tools") or []
        return Request(
            provider=self.provider,
            key=key,
            model=found["model"],
            path=path,
            stream=found["call"] == "streamGenerateContent",
            prompt=said[-1] if said else "",
            tool_result=json.dumps(results[-1].get("response")) if results else None,
            tools=[
                (item["name"], next((item[name] for name in _PARAMETERS if item.get(name)), {}))
                for tool in tools
                for item in tool.get("functionDeclarations", [])
            ],
            schema=schema,
            body=body,
        )

    def objection(self, request: Request) -> Step | None:
        # https://ai.google.dev/gemini-api/docs/thought-signatures: the first of a model's calls needs one.
        turns = [[part for part in c["parts"] if "functionCall" in part] for c in request.body.get("contents") or ()]
        unsigned = any(calls and "thoughtSignature" not in calls[0] for calls in turns)
        return BadRequest() if unsigned and "gemini-3" in request.model else None

    def refuse(self, request: Request, step: Step) -> Answer | None:
        return google_refusal(step, request)

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        parts = self._calls(request, answer) or [{"text": answer.text}]
        return self._frame(request, answer, parts, "STOP")

    def stream(self, request: Request, answer: Ok) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        parts = self._calls(request, answer) or [{"text": piece} for piece in pieces(answer)]
        # Each event has the tokens so far; only the last one's count is complete.
        events = [self._frame(request, answer, [part], None) for part in parts]
        for number, event in enumerate(events):
            event["usageMetadata"]["candidatesTokenCount"] = number
        return events, [self._frame(request, answer, [{"text": ""}], "STOP")]

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        methods = ["generateContent", "countTokens"]
        return {
            "models": [
                {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods} for name in ids
            ]
        }

    def event(self, data: Mapping[str, Any]) -> bytes:
        return b"data: " + json.dumps(data).encode() + b"\r\n\r\n"

    def last_events(self) -> list[bytes]:
        return []

    def stream_error(self, request: Request) -> list[bytes]:
        error = {"code": 503, "message": "The model is overloaded. Please try again later.", "status": "UNAVAILABLE"}
        return [self.event({"error": error})]

    def _frame(
        self, request: Request, answer: Ok, parts: Sequence[Mapping[str, Any]], reason: str | None
    ) -> dict[str, Any]:
        tokens_in, tokens_out = self.usage(request, answer)
        candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
        if reason is not None:
            candidate["finishReason"] = reason
        return {
            "candidates": [candidate],
            "usageMetadata": {
                "promptTokenCount": tokens_in,
                "candidatesTokenCount": tokens_out,
                "totalTokenCount": tokens_in + tokens_out,
                **({"cachedContentTokenCount": answer.cached} if answer.cached else {}),
            },
            "modelVersion": request.model,
            "responseId": "r1",
        }

    def _calls(self, request: Request, answer: Ok) -> list[dict[str, Any]]:
        # Gemini 3 requires its signature with each of its tool calls that comes back to it.
        signed = "gemini-3" in request.model
        signature = {"thoughtSignature": base64.b64encode(b"signed").decode()} if signed else {}
        return [
            {"functionCall": {"name": name, "args": dict(arguments)}, **signature}
            for name, arguments in answer.tool_calls or ()
        ]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def built_in() -> dict[str, Dialect]:
    """The dialects of the built-in providers, with the paths that their SDKs add to their base URLs."""
    return {
        "cerebras": OpenAIDialect("cerebras", "", "csk-", "/v1", unasked_usage=True),
        "groq": OpenAIDialect("groq", "", "gsk_", "/openai/v1"),
        "gemini": GeminiDialect("gemini"),
        "openrouter": OpenAIDialect("openrouter", "/api/v1", "sk-or-v1-", unasked_usage=True),
    }
