"""The family of the openai SDK's Azure clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.authoring import KeyedProvider, ModelDefault
from hfs_providers.errors import ModelCallError
from hfs_providers.testing import LoopbackServer, ServerError
from hfs_providers.testing.protocols.azure_openai import AzureOpenAIDialect

NAMES = ("AzureOpenAI", "AzureOpenAIResponses")


@pytest.fixture(params=NAMES)
def plugin(request: pytest.FixtureRequest) -> KeyedProvider:
    return KeyedProvider(
        name="cloud",
        model_class=f"agno.models.azure:{request.param}",
        sdk="openai",
        client="azure_openai",
        base_url="https://cloud.example/openai",
        models=(ModelDefault("mine"),),
    )


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[AzureOpenAIDialect("cloud")]) as server:
        yield server


def test_nothing_of_the_process_gets_in_and_a_request_is_sent_once(
    plugin: KeyedProvider, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://of-the-process.example")
    monkeypatch.setenv("AZURE_OPENAI_DEPLOYMENT", "of-the-process")
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "token-of-the-process")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "key-of-the-process")
    env = server.env({"cloud": 1})
    server.script("cloud", "*", [ServerError(500)])
    with ProviderManager(env=env, plugins=[plugin]) as manager:
        model = manager.get_model("cloud", max_retries=0, request_timeout=20)
        with pytest.raises(ModelCallError):
            model.response(messages=[Message(role="user", content="hello")])
        answer = model.response(messages=[Message(role="user", content="hello")])
    assert "[cloud/mine] You said: hello" in str(answer.content)
    assert [seen.key for seen in server.seen] == [env["CLOUD_API_KEY_1"]] * 2
