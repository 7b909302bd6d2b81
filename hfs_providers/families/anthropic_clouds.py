"""The anthropic SDK's clients for Bedrock and Vertex AI, through `agno.models.aws:Claude` and `vertexai:Claude`."""

from __future__ import annotations

import base64
import importlib
import json
from typing import Any, ClassVar

from hfs_providers.authoring import Credential, ErrorRules, Evidence, Meaning
from hfs_providers.families.anthropic import AnthropicClients
from hfs_providers.families.bedrock import pair_of, place_of
from hfs_providers.families.google_status import GOOGLE_ERRORS

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_WRONG_KEYS = frozenset(
    {
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    }
)


def _by_header(evidence: Evidence) -> Meaning | None:
    """Reads Bedrock's codes from a header, because the SDK's errors have no other."""
    code = next(iter(evidence.headers.get("x-amzn-errortype", ())), "").partition(":")[0]
    if code in _WRONG_KEYS:
        return Meaning("dead")
    return Meaning("model_gone", scope="key") if code == "ResourceNotFoundException" else None


class AnthropicBedrockClients(AnthropicClients):
    """Keys are those of `bedrock`. The model class accepts no API key, so this class creates the SDK's clients."""

    settings: tuple[str, ...] = (*AnthropicClients.settings, "aws_region")
    secret_fields = ("aws_access_key", "aws_secret_key", "aws_session_token", "session")
    defaults: ClassVar = {**AnthropicClients.defaults, "limit_headers": {}, "errors": ErrorRules(decide=_by_header)}

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        bound.client = self._made("AnthropicBedrock", bound, credential, transport)

    def configure_async(self, bound: Any, credential: Credential, transport: Any) -> None:
        bound.async_client = self._made("AsyncAnthropicBedrock", bound, credential, transport)

    def _made(self, kind: str, bound: Any, credential: Credential, transport: Any) -> Any:
        key = credential.secret.reveal() if credential.secret is not None else "none"
        region, address = place_of(credential.params.get("endpoint") or self.config.base_url, bound.aws_region)
        given = {
            # Always set; otherwise the SDK takes a token from the process environment.
            "api_key": key,
            "aws_region": region,
            "base_url": address,
            "http_client": bound.http_client or transport,
            "max_retries": 0,
            "default_headers": bound.default_headers,
            **({"timeout": bound.timeout} if bound.timeout is not None else {}),
            **self.provider.client_params,
            **(bound.client_params or {}),
        }
        client = getattr(importlib.import_module("anthropic"), kind)(**given)
        if pair := pair_of(key):
            client.api_key = None
            client.aws_access_key = pair["access_key_id"]
            client.aws_secret_key = pair["secret_access_key"]
            client.aws_session_token = pair.get("session_token")
        return client


class AnthropicVertexClients(AnthropicClients):
    """A key is an access token, or a service account's JSON in base64, for which the SDK gets and renews tokens."""

    settings: tuple[str, ...] = (*AnthropicClients.settings, "region", "project_id")
    defaults: ClassVar = {**AnthropicClients.defaults, "limit_headers": {}, "errors": GOOGLE_ERRORS}

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        # Always set; otherwise the SDK looks for credentials on the machine.
        token: dict[str, Any] = {"access_token": bound.api_key}
        if (account := _account_in(bound.api_key)) is not None:
            accounts = importlib.import_module("google.oauth2.service_account").Credentials
            token = {"credentials": accounts.from_service_account_info(account, scopes=[_SCOPE])}
        bound.client_params = {**token, **bound.client_params}


def _account_in(key: str) -> dict[str, Any] | None:
    """The service account in a key, or None if the key is an access token, which has dots."""
    try:
        found = json.loads(base64.b64decode(key, validate=True))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
