"""Amazon Bedrock's Converse in boto3, and in aiobotocore for async calls, through `agno.models.aws:AwsBedrock`.

A key is a Bedrock API key, or a pair: `ID:SECRET`, or `ID:SECRET:SESSION_TOKEN`.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from hfs_providers.authoring import Clients, Credential, ErrorRules, UsageFields
from hfs_providers.clients.attempt import running

REGION = "us-east-1"
"""The region if the address names none."""

_SERVICE = "bedrock-runtime"
_REGION = re.compile(r"(?<=\bbedrock-runtime\.)[a-z0-9-]+(?=\.amazonaws\.)")
_PAIR = re.compile(r"(?P<access_key_id>[A-Z0-9]{16,128}):(?P<secret_access_key>[^:\s]+)(?::(?P<session_token>\S+))?")
_CALLS = ("converse", "converse_stream", "count_tokens")
# The SDK's own settings, with more connections.
_HTTP = {"timeout": 60, "max_pool_connections": 100}


class _NoTalk(logging.Filter):
    """Drops the SDK's DEBUG messages during our calls, because they contain whole answers and signed requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG or running.get() is None


_NO_TALK = _NoTalk("hfs-providers")
_TALKS = ("botocore.parsers", "botocore.auth", "botocore.endpoint")


def pair_of(key: str) -> dict[str, str]:
    """The parts of a pair; empty for an API key."""
    found = _PAIR.fullmatch(key)
    return {name: text for name, text in found.groupdict().items() if text} if found else {}


def place_of(address: str | None, region: str | None) -> tuple[str, str | None]:
    """The region and the address. If the caller sets a region, an address of AWS gets it."""
    if address and region:
        address = _REGION.sub(region, address)
    found = _REGION.search(address or "")
    return region or (found[0] if found else REGION), address


class BedrockClients(Clients):
    """Creates the SDK's clients: all use one HTTP session, and none uses the AWS keys of the process."""

    settings = ("aws_region",)
    url_field = None
    secret_fields = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "session", "async_session")
    answers = "asked"
    defaults: ClassVar = {
        # https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html
        "usage_fields": UsageFields(
            cached=("cacheReadInputTokens",), cache_write=("cacheWriteInputTokens",), cache_apart=True
        ),
        "errors": ErrorRules(modules=("botocore", "aiobotocore")),
    }

    def make_transport(self) -> Any:
        return _Shared("botocore", "URLLib3Session", self.config.base_url)

    def make_async_transport(self) -> Any:
        return _Shared("aiobotocore", "AIOHTTPSession", self.config.base_url)

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        arguments, bearer = self._asked(bound, credential)

        def send(request: Any, **_: Any) -> Any:
            request.headers.update(bearer)
            response = transport.http.send(request)
            attempt = running.get()
            if attempt is not None and request.stream_output:
                attempt.responses.append(response.raw)
            return response

        bound.client = transport.session.create_client(_SERVICE, **arguments)
        bound.client.meta.events.register(f"before-send.{_SERVICE}", send)

    def configure_async(self, bound: Any, credential: Credential, transport: Any) -> None:
        arguments, bearer = self._asked(bound, credential)

        async def send(request: Any, **_: Any) -> Any:
            request.headers.update(bearer)
            return await transport.http.send(request)

        async def make() -> Any:
            client = await transport.session.create_client(_SERVICE, **arguments).__aenter__()
            client.meta.events.register(f"before-send.{_SERVICE}", send)
            return client

        bound.async_client = _AsyncClient(make)

    def async_client(self, bound: Any) -> Any:
        return bound.async_client

    def usable(self, answer: Any) -> bool:
        return "message" in (answer.get("output") or {})

    def ends(self, chunk: Any) -> bool:
        return "messageStop" in chunk

    def _asked(self, bound: Any, credential: Credential) -> tuple[dict[str, Any], dict[str, str]]:
        """The arguments of a key's client, and the additional headers of its requests."""
        core = importlib.import_module("botocore")
        key = credential.secret.reveal() if credential.secret is not None else ""
        pair = pair_of(key)
        region, address = place_of(credential.params.get("endpoint") or self.config.base_url, bound.aws_region)
        config = importlib.import_module("botocore.config").Config(
            retries={"total_max_attempts": 1},
            # Set, so that the SDK uses no token from the process environment.
            signature_version="v4" if pair else core.UNSIGNED,
        )
        arguments: dict[str, Any] = {
            **{f"aws_{name}": text for name, text in pair.items()},
            "region_name": region,
            "endpoint_url": address,
            "config": config,
            **self.provider.client_params,
        }
        return arguments, {"Authorization": f"Bearer {key}"} if key and not pair else {}


class _Shared:
    """A session of the SDK, which caches the description of the service, and the HTTP session that it uses."""

    def __init__(self, package: str, http: str, address: str | None) -> None:
        for name in _TALKS:
            logging.getLogger(name).addFilter(_NO_TALK)
        self.session = importlib.import_module(f"{package}.session").get_session()
        make = getattr(importlib.import_module(f"{package}.httpsession"), http)
        self.http = make(
            verify=self.session.get_config_variable("ca_bundle") or True,
            proxies=importlib.import_module("botocore.utils").get_environ_proxies(address or ""),
            **_HTTP,
        )

    def close(self) -> Any:
        """Close the connections; the result for an async session must be awaited."""
        return self.http.close()


class _AsyncClient:
    """A client of aiobotocore. The first call creates it, because that needs an await."""

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self._make = make
        self._client: Any = None

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name not in _CALLS:
            raise AttributeError(name)

        async def call(**asked: Any) -> Any:
            if self._client is None:
                self._client = await self._make()
            return await getattr(self._client, name)(**asked)

        return call
