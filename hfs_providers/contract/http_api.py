"""What a provider offers over plain HTTP, as data of its plugin: `KeyedProvider.http`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

Endpoint = Literal["chat/completions", "responses", "embeddings", "models", "messages", "messages/count_tokens"]
"""The gateway's endpoints below `/v1/`: OpenAI's, and `messages` with its token counts, which is another protocol."""


@dataclass(frozen=True, kw_only=True)
class HttpApi:
    """What a provider offers over plain HTTP, for requests without its SDK, such as the gateway's.

    Args:
        openai: which of OpenAI's endpoints there are, below the provider's `openai_path`.
        messages: the path of a `messages` endpoint, added to the base URL; None if there is none: then requests are
            translated to chat completions.
        count_tokens: the path of an endpoint that counts the tokens of such a request, added to the base URL; None if
            there is none.
        key_header: the header that holds the key.
        key_prefix: the text before the key in it.
        headers: other headers that each request needs.
        usage_on_request: whether a stream of chat completions reports its usage only if `stream_options` asks for it.
    """

    openai: Collection[Endpoint] = ("chat/completions", "models")
    messages: str | None = None
    count_tokens: str | None = None
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    usage_on_request: bool = True
