"""The anthropic SDK, through `agno.models.anthropic:Claude`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from hfs_providers.authoring import Credential, MessageRules, UsageFields
from hfs_providers.families.stainless import StainlessClients

_FROM_ENVIRONMENT = ("auth_token", "resource")


class _NoHeaders(logging.Filter):
    """Keeps request headers out of the SDK's log at DEBUG, because those for Azure contain the key."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, Mapping) and "headers" in record.args:
            record.args = {**record.args, "headers": "<not shown>"}
        return True


_NO_HEADERS = _NoHeaders("hfs-providers")


class AnthropicClients(StainlessClients):
    """Generated like openai's SDK, but the model class has no fields for the address and the retries."""

    settings: tuple[str, ...] = ("timeout", "default_headers", "client_params", "http_client")
    url_field = None
    answers = "asked"
    defaults: ClassVar = {
        # Its input tokens do not include tokens that were read from a cache or written to it.
        "usage_fields": UsageFields(
            cached=("cache_read_input_tokens",), cache_write=("cache_creation_input_tokens",), cache_apart=True
        ),
        # https://docs.anthropic.com/en/api/rate-limits#response-headers
        "limit_headers": {
            "anthropic-ratelimit-requests-limit": "rpm",
            "anthropic-ratelimit-tokens-limit": "tpm",
        },
        # The model class accepts a pydantic class, or a schema in another form than OpenAI's.
        "messages": MessageRules(json_schemas=False),
    }

    def make_transport(self) -> Any:
        logging.getLogger("anthropic._base_client").addFilter(_NO_HEADERS)
        return super().make_transport()

    def make_async_transport(self) -> Any:
        logging.getLogger("anthropic._base_client").addFilter(_NO_HEADERS)
        return super().make_async_transport()

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        params = {"max_retries": 0, **bound.client_params}
        # A class may take a second credential from the process environment, and the SDK refuses to have both.
        taken = bound._get_client_params()  # noqa: SLF001
        params = {**{name: None for name in _FROM_ENVIRONMENT if name in taken}, **params}
        address = credential.params.get("endpoint") or self.config.base_url
        if address is not None:
            params.setdefault("base_url", address)
        bound.client_params = params

    def usable(self, answer: Any) -> bool:
        # A complete answer may have no content.
        return getattr(answer, "stop_reason", None) is not None

    def ends(self, chunk: Any) -> bool:
        return getattr(chunk, "type", None) == "message_stop"
