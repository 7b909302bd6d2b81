"""Checks of the plain HTTP interface that the plugin declares (`openai_path`, `http`)."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import urllib.parse
from typing import Any, get_args

import pytest

from hfs_providers import ProviderManager
from hfs_providers.authoring import Exchange
from hfs_providers.clients.families import family_of
from hfs_providers.contract.http_api import Endpoint
from hfs_providers.contract.protocols import ProviderTraits
from hfs_providers.errors import KeysExhaustedError, ModelCallError
from hfs_providers.testing.conformance.base import Base
from hfs_providers.testing.server import LoopbackServer

_PATH = re.compile(r"(/[\w.~-]+)*")
_HEADER = re.compile(r"[\w-]+")


class PlainHttpChecks(Base):
    """See `ProviderConformance`."""

    def test_what_it_offers_over_http_can_be_asked_for(self) -> None:
        traits = self._traits()
        declared = (traits.openai_path, traits.http.messages, traits.http.count_tokens)
        paths = [path for path in declared if path is not None]
        assert [path for path in paths if not _PATH.fullmatch(path)] == [], "a path needs a leading /, no trailing one"
        unknown = set(traits.http.openai) - {each for each in get_args(Endpoint) if not each.startswith("messages")}
        assert not unknown, f"`openai` names unknown endpoints: {', '.join(sorted(unknown))}"
        assert traits.base_url is not None or traits.keyless, "`base_url` is missing"
        headers = {traits.http.key_header: traits.http.key_prefix, **traits.http.headers}
        assert [name for name in headers if not _HEADER.fullmatch(name)] == [], "a header's name has invalid characters"
        assert all(value.isprintable() and value.isascii() for value in headers.values())

    def test_each_key_is_taken_over_http(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        self._offers_chats()
        for _ in keys:
            assert self._asked(manager)["choices"], "the answer has no choices"
        assert [server.hits(self.name).get(key, 0) for key in keys] == [1] * len(keys)

    def test_a_wrong_key_is_told_from_a_good_one_over_http(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        self._offers_chats()
        if self._keyless():
            pytest.skip(f"{self.name} has no keys")
        server.keys(self.name, keys[1:])
        for _ in keys:
            self._asked(manager)
        assert self._states(manager) == ["dead", *["ready"] * (len(keys) - 1)]
        server.keys(self.name, [])
        with pytest.raises((ModelCallError, KeysExhaustedError)):
            self._asked(manager)
        assert set(self._states(manager)) == {"dead"}

    def _traits(self) -> ProviderTraits:
        traits: object = self.plugin
        if not isinstance(traits, ProviderTraits) or (traits.openai_path is None and traits.http.messages is None):
            pytest.skip(f"{self.name} offers nothing over plain HTTP")
        # Including what the family of its SDK adds.
        return family_of(getattr(traits, "client", "own")).complete(traits)

    def _offers_chats(self) -> None:
        if self._traits().http_path("chat/completions") is None:
            pytest.skip(f"{self.name} offers no chat completions over plain HTTP")

    def _asked(self, manager: ProviderManager) -> Any:
        """The answer to a chat completion, without the SDK."""

        async def send(exchange: Exchange) -> Any:
            return await asyncio.to_thread(self._sent, manager, exchange)

        return asyncio.run(self._wrapper(manager).exchange("asked").run(send))

    def _sent(self, manager: ProviderManager, exchange: Exchange) -> Any:
        traits, credential = self._traits(), exchange.credential
        headers = {"content-type": "application/json", **traits.http.headers}
        if credential.secret is not None:
            headers[traits.http.key_header] = f"{traits.http.key_prefix}{credential.secret.reveal()}"
        url = urllib.parse.urlsplit(credential.params.get("endpoint") or self._wrapper(manager).config.base_url)
        path = f"{url.path.rstrip('/')}{traits.http_path('chat/completions')}"
        body = {"model": exchange.model_id, "messages": [{"role": "user", "content": "hello"}]}
        connection = http.client.HTTPConnection(url.hostname or "", url.port)
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if b"has no such path" in content:
            pytest.fail(f"the dialect of the tests does not answer {path}: see `Dialect.others`")
        if response.status >= 300:
            exchange.refuse(response.status, response.headers, content)
        return json.loads(content)
