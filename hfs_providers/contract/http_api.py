"""What a provider offers over plain HTTP, as data that its plugin brings: `KeyedProvider.http`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

Endpoint = Literal["chat/completions", "responses", "embeddings", "models", "messages"]
"""The gateway's endpoints below `/v1/`: OpenAI's, and `messages`, another protocol."""


@dataclass(frozen=True, kw_only=True)
class HttpApi:
    """What a provider offers to those who send requests without its SDK, as the gateway does.

    Args:
        openai: which of OpenAI's endpoints there are, below the provider's `openai_path`.
        messages: the path of a `messages` endpoint, added to the base URL; None if there is none: then it is asked for
            chat completions instead.
        key_header: the header that holds the key.
        key_prefix: what stands before the key in it.
        headers: others that each request needs.
        usage_on_request: whether a stream of chat completions reports its usage only if `stream_options` asks for it.
    """

    openai: Collection[Endpoint] = ("chat/completions", "models")
    messages: str | None = None
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    usage_on_request: bool = True
