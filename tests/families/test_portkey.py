"""The family for Portkey's gateway, whose key has a header of its own."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.authoring import KeyedProvider, ModelDefault
from hfs_providers.testing import LoopbackServer, Request
from hfs_providers.testing.protocols.portkey import PortkeyDialect
from tests.cli.conftest import Cli
from tests.cli.conftest import bare_env as bare_env
from tests.cli.conftest import cli as cli

pytest.importorskip("portkey_ai", reason="portkey-ai is not installed")

CLASS = "agno.models.portkey:Portkey"
PLUGIN = KeyedProvider(
    name="quay",
    model_class=CLASS,
    sdk="openai",
    client="portkey",
    base_url="https://quay.example/v1",
    openai_path="",
    models=(ModelDefault("m"),),
)


class Noting(PortkeyDialect):
    """Keeps what the requests said besides."""

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self.headers: list[tuple[str | None, str | None]] = []

    def read(self, method, path, headers, body) -> Request | None:  # type: ignore[no-untyped-def]
        self.headers.append((headers.get("authorization"), headers.get("x-portkey-virtual-key")))
        return super().read(method, path, headers, body)


def test_each_key_has_a_virtual_key_of_its_own() -> None:
    dialect = Noting("quay")
    with LoopbackServer(dialects=[dialect]) as server:
        env = {**server.env({"quay": 2}), "QUAY_VIRTUAL_KEY_1": "openai-1"}
        with ProviderManager(env=env, plugins=[PLUGIN]) as manager:
            for key_id in ("quay#1", "quay#2"):
                model = manager.get_model("quay", key_id=key_id, virtual_key="for-all")
                model.response(messages=[Message(role="user", content="hello")])
            with pytest.raises(TypeError, match="portkey_api_key"):
                manager.get_model("quay", portkey_api_key="mine")
        assert [seen.key for seen in server.seen] == [env["QUAY_API_KEY_1"], env["QUAY_API_KEY_2"]]
    # The key stands in no other header.
    assert dialect.headers == [("Bearer not-needed", "openai-1"), ("Bearer not-needed", "for-all")]


def test_a_new_plugin_asks_for_all_that_the_class_imports(cli: Cli, tmp_path: Path) -> None:
    done = cli("new-plugin", "newly-made", "--model-class", CLASS)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "hfs-providers-newly-made" / "pyproject.toml").read_text()
    needed = tomllib.loads(text)["project"]["optional-dependencies"]["newly-made"]
    assert {each.partition(">=")[0] for each in needed} == {"openai", "portkey-ai"}
