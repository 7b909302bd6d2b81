"""Portkey's gateway: https://portkey.ai/docs/api-reference/inference-api/headers"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfs_providers.testing.answers import Request
from hfs_providers.testing.spoken import OpenAIDialect


class PortkeyDialect(OpenAIDialect):
    """OpenAI's protocol, with the key in `x-portkey-api-key`."""

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider, key_prefix="", keyless=keyless)

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        bearer = f"Bearer {headers.get('x-portkey-api-key', '')}"
        return super().read(method, path, {**headers, "authorization": bearer}, body)
