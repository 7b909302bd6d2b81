"""The families of SDKs that are known here, and how a plugin names one: `KeyedProvider.client`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any
from urllib.request import getproxies

from hfs_providers.clients.cache import Clients
from hfs_providers.clients.transports import newest_backend
from hfs_providers.contract.records import Credential


class StainlessClients(Clients):
    """For the SDKs of the OpenAI family (openai, groq, cerebras): `http_client`, `api_key`, `max_retries`."""

    settings = (*Clients.settings, "organization", "http_client")
    answers = "choices"

    def _sdk(self) -> Any:
        requirement = self.provider.requirement
        assert requirement is not None, "the stainless family has an SDK"
        return importlib.import_module(requirement.module)

    def make_transport(self) -> Any:
        # The SDK's own default class carries its timeouts, limits and redirects, which a plain client would lose.
        return self.shared(self._sdk().DefaultHttpxClient)

    def make_async_transport(self) -> Any:
        sdk = self._sdk()
        limits = getattr(sdk, "DEFAULT_CONNECTION_LIMITS", None)
        most = limits.max_connections if limits is not None else None
        return self.shared(sdk.DefaultAsyncHttpxClient, *([most] if most else []))

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        if credential.secret is None:
            # The SDKs refuse to be without a key, or take one out of the process environment.
            bound.api_key = "none"
        bound.max_retries = 0
        params = {**self.provider.client_params, **(bound.client_params or {})}
        if bound.http_client is None:
            # Not as `bound.http_client`: Agno takes only httpx there, and openai 3 is built on httpx2.
            params.setdefault("http_client", transport)
        bound.client_params = params

    def unrepeating(self, client: Any) -> Any:
        # `configure` has turned them off; whoever sets `client_params["max_retries"]` wants them.
        return client


class GenaiClients(Clients):
    """For google-genai: everything goes into `client_params["http_options"]`."""

    settings = ("timeout", "client_params", "vertexai", "project_id", "location", "credentials")
    url_field = None
    async_client_field = "client"
    answers = "choices"

    def make_transport(self) -> Any:
        return self.shared(newest_backend().Client, timeout=None, follow_redirects=True)

    def make_async_transport(self) -> Any:
        # The transport that a bare model would use: google-genai takes aiohttp where it is installed.
        if importlib.util.find_spec("aiohttp") is not None:
            aiohttp = importlib.import_module("aiohttp")
            return aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self.tls_context(newest_backend())),
                cookie_jar=aiohttp.DummyCookieJar(),
                # To look for a proxy, aiohttp hands each request to a thread and back.
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
            # Without these each client builds TLS contexts of its own.
            "async_client_args": {"ssl": context, "verify": context},
        }
        if bound.timeout is not None:
            # `client_params` replaces what Agno makes of `timeout`, so it is said again here, in milliseconds.
            defaults["timeout"] = int(bound.timeout * 1000)
        if self.config.base_url is not None:
            defaults["base_url"] = self.config.base_url
        return {**given, "http_options": {**defaults, **transports, **options}}


FAMILIES: Mapping[str, type[Clients]] = {"stainless": StainlessClients, "google_genai": GenaiClients, "own": Clients}
"""What `KeyedProvider.client` may name."""


def family(named: str | type[Clients]) -> type[Clients]:
    """The class that `KeyedProvider.client` means: one of `FAMILIES`, a class, or a class's `module:name`.

    Raises:
        TypeError: it means no subclass of `Clients`.
    """
    found: object = FAMILIES.get(named) if isinstance(named, str) else named
    if found is None:
        module, _, name = str(named).partition(":")
        found = getattr(importlib.import_module(module), name, None) if name else None
    if not (isinstance(found, type) and issubclass(found, Clients)):
        raise TypeError(
            f"client={named!r} is neither one of {', '.join(FAMILIES)} nor a subclass of "
            "hfs_providers.authoring.Clients"
        )
    return found
