"""google-genai."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal
from urllib.request import getproxies

from hfs_providers.authoring import Clients, Credential, ErrorRules, Meaning, MessageRules, UsageFields
from hfs_providers.clients.transports import newest_backend
from hfs_providers.families.google_status import GOOGLE_ERRORS

# The signature for a tool call that another model made: https://ai.google.dev/gemini-api/docs/thought-signatures
_UNSIGNED = base64.b64encode(b"skip_thought_signature_validator").decode("ascii")
_BEFORE_3 = re.compile(r"gemini-[12](\.|-|$)")


def sign_tool_calls(model_id: str, calls: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Tool calls with the signature that Gemini 3 requires: on the first of parallel calls only."""
    if "thought_signature" in calls[0] or _BEFORE_3.match(model_id):
        return calls
    return [{**calls[0], "thought_signature": _UNSIGNED}, *calls[1:]]


class GenaiClients(Clients):
    """Sets everything in `client_params["http_options"]`."""

    settings = ("timeout", "client_params", "vertexai", "project_id", "location", "credentials")
    url_field = None
    async_client_field = "client"
    answers: Literal["unknown", "choices", "asked"] = "choices"
    defaults: ClassVar = {
        "usage_fields": UsageFields(cached=("cached_content_token_count",), reasoning_apart=True),
        "errors": ErrorRules(
            readers=(
                "_from_response",
                "_load_json_from_response",
                "_GenerateContentResponse_from_mldev",
                "_GenerateContentResponse_from_vertex",
            )
        ).over(GOOGLE_ERRORS),
        # Agno's class accepts only a pydantic class as a schema.
        "messages": MessageRules(tool_calls=sign_tool_calls, json_schemas=False),
    }

    def make_transport(self) -> Any:
        return self.shared(newest_backend().Client, timeout=None, follow_redirects=True)

    def make_async_transport(self) -> Any:
        # The transport that a bare model would use: google-genai uses aiohttp if it is installed.
        if importlib.util.find_spec("aiohttp") is not None:
            aiohttp = importlib.import_module("aiohttp")
            return aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self.tls_context(newest_backend())),
                cookie_jar=aiohttp.DummyCookieJar(),
                # With `trust_env`, aiohttp uses a thread for each request to look for a proxy.
                trust_env=bool(getproxies()),
                read_bufsize=2**22,
            )
        return self.shared(newest_backend().AsyncClient, timeout=None, follow_redirects=True)

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        bound.client_params = self._params(bound, {"httpx_client": transport})

    def configure_async(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        with self._lock:
            if self._transport is None:
                self._transport = self.make_transport()
        kind = "aiohttp_client" if type(transport).__module__.startswith("aiohttp") else "httpx_async_client"
        bound.client_params = self._params(bound, {"httpx_client": self._transport, kind: transport})

    def async_client(self, bound: Any) -> Any:
        return bound.get_client()

    def _params(self, bound: Any, transports: Mapping[str, Any]) -> dict[str, Any]:
        given = {**self.provider.client_params, **(bound.client_params or {})}
        options = given.get("http_options") or {}
        if not isinstance(options, dict):
            options = options.model_dump(exclude_none=True)
        context = self.tls_context(newest_backend())
        defaults: dict[str, Any] = {
            "retry_options": {"attempts": 1},
            # Without these, each client creates its own TLS contexts.
            "async_client_args": {"ssl": context, "verify": context},
        }
        if bound.timeout is not None:
            # `client_params` replaces what Agno sets for `timeout`, so it is set again here, in milliseconds.
            defaults["timeout"] = int(bound.timeout * 1000)
        if self.config.base_url is not None:
            defaults["base_url"] = self.config.base_url
        return {**given, "http_options": {**defaults, **transports, **options}}


class InteractionsClients(GenaiClients):
    """`client.interactions`, which sends by httpx alone."""

    answers = "asked"
    defaults: ClassVar = {
        "usage_fields": UsageFields(reasoning_apart=True),
        # The model, or this key's access to it: a wrong address has the same status.
        "errors": ErrorRules(statuses={404: Meaning("model_gone", scope="key")}).over(GOOGLE_ERRORS),
        # It takes no schema in OpenAI's wrapping.
        "messages": MessageRules(json_schemas=False),
    }

    def make_async_transport(self) -> Any:
        return self.shared(newest_backend().AsyncClient, timeout=None, follow_redirects=True)

    def usable(self, answer: Any) -> bool:
        return bool(getattr(answer, "steps", None)) and answer.status not in ("failed", "cancelled")

    def ends(self, chunk: Any) -> bool:
        # After `requires_continuation` the SDK asks for the rest by itself.
        ended = chunk.event_type == "interaction.completed"
        return ended and chunk.interaction.status in ("completed", "incomplete", "requires_action")
