"""Amazon Bedrock's Converse: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html"""

from __future__ import annotations

import itertools
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

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

_PATH = re.compile(r"/model/(?P<model>[^/]+)/(?P<call>converse|converse-stream)")
_SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/")


class BedrockDialect(Dialect):
    """`Converse` and `ConverseStream`, with an API key as a bearer token. For a signed request the key is the id of the
    access key, and the signature is not checked."""

    key_prefix = "ABSK"
    opening = 1  # the message
    stream_type = "application/vnd.amazon.eventstream"

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider)
        self.keyless = keyless
        self._numbers = itertools.count(1)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        found = _PATH.fullmatch(path)
        if found is None or method != "POST":
            return None
        messages: list[dict[str, Any]] = body.get("messages") or []
        results = _parts(messages[-1:], "toolResult")
        said = _parts([message for message in messages if message.get("role") == "user"], "text")
        specs = _parts([{"content": (body.get("toolConfig") or {}).get("tools")}], "toolSpec")
        return Request(
            provider=self.provider,
            key=key_of(headers),
            model=unquote(found["model"]),
            path=path,
            stream=found["call"] == "converse-stream",
            prompt=str(said[-1]) if said else "",
            tool_result=json.dumps(results[-1].get("content")) if results else None,
            tools=[(spec["name"], spec["inputSchema"]["json"]) for spec in specs],
            schema=schema_in_words(" ".join(_parts([{"content": body.get("system")}], "text"))),
            body=body,
        )

    def objection(self, request: Request) -> Step | None:
        messages = request.body.get("messages") or []
        called = {call.get("toolUseId") for call in _parts(messages, "toolUse")}
        results = {result.get("toolUseId") for result in _parts(messages, "toolResult")}
        return BadRequest() if called != results else None

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        content: list[dict[str, Any]] = [
            {"toolUse": {**self._call(name), "input": dict(given)}} for name, given in answer.tool_calls or ()
        ]
        message = {"role": "assistant", "content": content or [{"text": answer.text or ""}]}
        return {"output": {"message": message}, "stopReason": _reason(answer), **self._counted(request, answer)}

    def stream(self, request: Request, answer: Ok) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        events: list[dict[str, Any]] = [{"messageStart": {"role": "assistant"}}]
        for place, (name, arguments) in enumerate(answer.tool_calls or ()):
            at = {"contentBlockIndex": place}
            events += [
                {"contentBlockStart": {"start": {"toolUse": self._call(name)}, **at}},
                {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(arguments)}}, **at}},
                {"contentBlockStop": at},
            ]
        ending: list[dict[str, Any]] = [
            {"messageStop": {"stopReason": _reason(answer)}},
            {"metadata": self._counted(request, answer)},
        ]
        if not answer.tool_calls:
            deltas = [{"delta": {"text": piece}, "contentBlockIndex": 0} for piece in pieces(answer)]
            events += [{"contentBlockDelta": delta} for delta in deltas]
            ending.insert(0, {"contentBlockStop": {"contentBlockIndex": 0}})
        return events, ending

    def event(self, data: Mapping[str, Any]) -> bytes:
        [(kind, payload)] = data.items()
        return framed({":event-type": kind, ":message-type": "event"}, payload)

    def last_events(self) -> list[bytes]:
        return []

    def stream_error(self, request: Request) -> list[bytes]:
        kind = {":exception-type": "modelStreamErrorException", ":message-type": "exception"}
        return [framed(kind, {"message": "The system encountered an unexpected error. Try your request again."})]

    def refuse(self, request: Request, step: Step) -> Answer | None:
        """https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html"""
        return refused(step)

    def _call(self, name: str) -> dict[str, Any]:
        return {"toolUseId": f"tooluse_{next(self._numbers):05d}", "name": name}

    def _counted(self, request: Request, answer: Ok) -> dict[str, Any]:
        tokens_in, tokens_out = self.usage(request, answer)
        usage = {
            # Tokens from the cache are not counted as input tokens.
            "inputTokens": tokens_in - answer.cached,
            "outputTokens": tokens_out,
            "totalTokens": tokens_in + tokens_out,
            "cacheReadInputTokens": answer.cached,
            "cacheWriteInputTokens": 0,
        }
        return {"usage": usage, "metrics": {"latencyMs": 1}}


def key_of(headers: Mapping[str, str]) -> str:
    """An API key, or the id of the key that a request is signed with."""
    given = headers.get("authorization", "")
    signed = _SIGNED.match(given)
    return signed[1] if signed else given.removeprefix("Bearer ").strip()


def refused(step: Step) -> Answer | None:
    """The Bedrock runtime's errors, the same for all calls."""
    match step:
        case RateLimited():
            message = "Too many requests, please wait before trying again."
            status, code, text, more = 429, "ThrottlingException", message, wait_headers(step)
        case Unauthorized():
            # As for a request that is signed with a wrong key. A wrong API key gets the code of `Forbidden`.
            text = "The security token included in the request is invalid."
            status, code, more = 403, "UnrecognizedClientException", {}
        case Forbidden() | PaymentRequired():
            text = "You don't have access to the model with the specified model ID."
            status, code, more = 403, "AccessDeniedException", {}
        case ModelGone():
            text = "This model version has reached the end of its life."
            status, code, more = 404, "ResourceNotFoundException", {}
        case ContextTooLong():
            status, code, text, more = 400, "ValidationException", "Input is too long for requested model.", {}
        case BadRequest():
            status, code, text, more = 400, "ValidationException", "The provided request is not valid", {}
        case ServerError(status=503):
            text = "Bedrock is unable to process your request."
            status, code, more = 503, "ServiceUnavailableException", {}
        case ServerError(status=given):
            status, code, text, more = given, "InternalServerException", "The system encountered an error.", {}
        case _:
            return None
    return status, {"message": text}, {"x-amzn-errortype": code, **more}


def framed(kind: Mapping[str, str], payload: Mapping[str, Any]) -> bytes:
    """https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html"""
    named = {**kind, ":content-type": "application/json"}
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in named.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack("!I", zlib.crc32(message))


def _parts(messages: Sequence[Mapping[str, Any]], kind: str) -> list[Any]:
    """The parts of one kind in the content of messages."""
    return list(_found(messages, kind))


def _found(messages: Sequence[Mapping[str, Any]], kind: str) -> Iterator[Any]:
    for message in messages:
        yield from (block[kind] for block in message.get("content") or () if kind in block)


def _reason(answer: Ok) -> str:
    return "tool_use" if answer.tool_calls else "end_turn"
