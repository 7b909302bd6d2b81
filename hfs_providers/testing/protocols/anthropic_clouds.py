"""Anthropic's messages on Bedrock and Vertex AI: with other paths, and with the clouds' own errors."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from hfs_providers.testing.answers import Request
from hfs_providers.testing.protocols.anthropic import AnthropicDialect
from hfs_providers.testing.protocols.bedrock import framed, key_of, refused
from hfs_providers.testing.refusals import Answer, wait_headers
from hfs_providers.testing.scripts import Forbidden, ModelGone, PaymentRequired, RateLimited, Step, Unauthorized

_INVOKED = re.compile(r"/model/(?P<model>[^/]+)/(?P<call>invoke|invoke-with-response-stream)")
_PREDICTED = re.compile(
    r"/v1/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/(?P<model>[^/:]+):(?:rawPredict|streamRawPredict)"
)


class AnthropicBedrockDialect(AnthropicDialect):
    """https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModelWithResponseStream.html"""

    stream_type = "application/vnd.amazon.eventstream"

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider, key_prefix="ABSK", keyless=keyless)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        found = _INVOKED.fullmatch(path)
        if found is None:
            return None
        asked = {**body, "model": unquote(found["model"]), "stream": found["call"] != "invoke"}
        return super().read(method, "/v1/messages", {"x-api-key": key_of(headers)}, asked)

    def event(self, data: Mapping[str, Any]) -> bytes:
        part = base64.b64encode(json.dumps(data).encode()).decode()
        return framed({":event-type": "chunk", ":message-type": "event"}, {"bytes": part})

    def stream_error(self, request: Request) -> list[bytes]:
        kind = {":exception-type": "modelStreamErrorException", ":message-type": "exception"}
        return [framed(kind, {"message": "The system encountered an unexpected error."})]

    def refuse(self, request: Request, step: Step) -> Answer | None:
        return refused(step)


class AnthropicVertexDialect(AnthropicDialect):
    """https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude/use-claude"""

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider, base_path="/v1", key_prefix="ya29.", keyless=keyless)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        found = _PREDICTED.fullmatch(path)
        if found is None:
            return None
        return super().read(method, "/v1/v1/messages", headers, {**body, "model": unquote(found["model"])})

    def refuse(self, request: Request, step: Step) -> Answer | None:
        """Google's own errors; the model's are Anthropic's."""
        match step:
            case RateLimited():
                refused_by = _status(429, "RESOURCE_EXHAUSTED", "Resource exhausted, please try again later.")
                return *refused_by[:2], wait_headers(step)
            case Unauthorized():
                return _status(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
            case PaymentRequired():
                return _status(403, "PERMISSION_DENIED", "This API method requires billing.", "BILLING_DISABLED")
            case Forbidden():
                return _status(403, "PERMISSION_DENIED", "Permission denied.", "IAM_PERMISSION_DENIED")
            case ModelGone():
                return _status(404, "NOT_FOUND", f"Publisher Model `{request.model}` was not found.")
        return super().refuse(request, step)


def _status(status: int, name: str, message: str, reason: str | None = None) -> Answer:
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    details = [{"@type": kind, "reason": reason, "domain": "googleapis.com"}] if reason else []
    return status, {"error": {"code": status, "message": message, "status": name, "details": details}}, {}
