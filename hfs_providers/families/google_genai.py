"""google-genai."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any
from urllib.request import getproxies

from hfs_providers.authoring import Clients, Credential
from hfs_providers.clients.transports import newest_backend


class GenaiClients(Clients):
    """Everything goes into `client_params["http_options"]`."""

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
