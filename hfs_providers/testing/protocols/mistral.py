"""Mistral's chat completions: OpenAI's format, with usage in the last chunk of a stream and other errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hfs_providers.testing.answers import Request
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
from hfs_providers.testing.spoken import OpenAIDialect


class MistralDialect(OpenAIDialect):
    """The SDK adds `/v1` to the base URL itself."""

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider, base_path="", key_prefix="", api_path="/v1", keyless=keyless)

    def stream(self, request: Request, answer: Ok) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        content, ending = super().stream(request, answer)
        tokens_in, tokens_out = self.usage(request, answer)
        ending[0]["usage"] = {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
        }
        return content, ending[:1]

    def models(self, ids: Sequence[str]) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "type": "base", "capabilities": {}} for name in ids]}

    def refuse(self, request: Request, step: Step) -> Answer | None:
        match step:
            case Unauthorized():
                # github.com/agent0ai/agent-zero/issues/539
                return 401, {"detail": "Unauthorized"}, {}
            case PaymentRequired():
                return 402, {"detail": "Payment required"}, {}
            case Forbidden():
                return 403, {"detail": "Forbidden"}, {}
            case RateLimited():
                # github.com/raycast/extensions/issues/31107
                return 429, _error("Rate limit exceeded", "rate_limited", "1300"), wait_headers(step)
            case ModelGone():
                # github.com/tmc/langchaingo/issues/1233
                return 400, _error(f"Invalid model: {request.model}", "invalid_model", "1500"), {}
            case ContextTooLong():
                words = "Prompt contains 200000 tokens, too large for model with 131072 maximum context length"
                return 400, _error(words, "invalid_request_error", "3000"), {}
            case BadRequest():
                # The SDK raises HTTPValidationError for it.
                wrong = {"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}
                return 422, {"detail": [wrong]}, {}
            case ServerError(status=status):
                return status, _error("Internal server error", "internal_server_error", "3000"), {}
        return None

    def stream_error(self, request: Request) -> list[bytes]:
        return [self.event(_error("Internal server error", "internal_server_error", "3000"))]


def _error(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}
