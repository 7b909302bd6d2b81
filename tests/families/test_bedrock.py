"""The family of boto3 for Bedrock: API keys and pairs, shared connections, and nothing of the process's settings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager, StreamInterruptedError
from hfs_providers.authoring import KeyedProvider, ModelDefault, UsageRow
from hfs_providers.errors import ModelCallError
from hfs_providers.families.bedrock import pair_of
from hfs_providers.testing import HalfStream, LoopbackServer, Ok, ServerError
from hfs_providers.testing.protocols.bedrock import BedrockDialect

pytest.importorskip("boto3", reason="boto3 is not installed")

ID = "AKIAIOSFODNN7EXAMPLE"
PLUGIN = KeyedProvider(
    name="rock",
    model_class="agno.models.aws:AwsBedrock",
    sdk="boto3",
    client="bedrock",
    base_url="https://bedrock-runtime.us-west-2.amazonaws.com",
    models=(ModelDefault("some.model-v1:0"),),
)


def hello() -> list[Message]:
    """What is asked; a call adds its answer."""
    return [Message(role="user", content="hello")]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[BedrockDialect("rock")]) as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"rock": 2}), plugins=[PLUGIN]) as manager:
        yield manager


@pytest.mark.parametrize(
    ("key", "pair"),
    [
        (f"{ID}:a/b+c", {"access_key_id": ID, "secret_access_key": "a/b+c"}),
        (f"{ID}:a/b+c:t:x=", {"access_key_id": ID, "secret_access_key": "a/b+c", "session_token": "t:x="}),
        ("ABSKQmVkcm9ja0FQSUtleQ==", {}),
        (f"{ID}:", {}),
        ("a:b", {}),
    ],
    ids=["pair", "session", "key", "half", "short"],
)
def test_a_key_is_a_pair_if_it_looks_like_one(key: str, pair: dict[str, str]) -> None:
    assert pair_of(key) == pair


def test_a_pair_signs_and_is_not_logged(server: LoopbackServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    env = server.env({"rock": [f"{ID}:the-secret:the-session-token"]})
    with ProviderManager(env=env, plugins=[PLUGIN]) as manager:
        assert "hello" in str(manager.get_model("rock").response(messages=hello()).content)
    assert server.hits("rock") == {ID: 1}
    assert [word for word in (ID, "the-secret", "the-session-token") if word in caplog.text] == []


def test_nothing_of_the_process_gets_in(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "AWS_BEARER_TOKEN_BEDROCK": "token-of-the-process",
        "AWS_ACCESS_KEY_ID": "id-of-the-process",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-process",
        "AWS_ENDPOINT_URL": "https://of-the-process.example",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    env = server.env({"rock": [f"{ID}:the-secret", "ABSK-an-api-key"]})
    with ProviderManager(env=env, plugins=[PLUGIN]) as manager:
        model = manager.get_model("rock", affinity=None)
        for _ in range(2):
            model.response(messages=hello())
        assert server.hits("rock") == {ID: 1, "ABSK-an-api-key": 1}
        for name in ("aws_secret_access_key", "session"):
            with pytest.raises(TypeError, match=name):
                manager.get_model("rock", **{name: "mine"})


def test_a_request_is_sent_once_over_one_connection(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("rock", "*", [Ok(), ServerError(503), ServerError(500)])
    model = manager.get_model("rock", affinity=None, max_retries=0)
    model.response(messages=hello())
    for _ in range(2):
        with pytest.raises(ModelCallError):
            model.response(messages=hello())
    assert (len(server.seen), server.connections) == (3, 1)


def test_a_region_of_the_models_own_changes_the_address() -> None:
    env = {"NUM_ROCK": "1", "ROCK_API_KEY_1": "ABSK-an-api-key"}
    with ProviderManager(env=env, plugins=[PLUGIN]) as manager:
        of_plugin, own = (manager.get_model("rock", **given) for given in ({}, {"aws_region": "eu-west-1"}))
        metas = [model.get_client().meta for model in (of_plugin, own)]  # type: ignore[attr-defined]
    assert [meta.region_name for meta in metas] == ["us-west-2", "eu-west-1"]
    assert [meta.endpoint_url.split(".")[1] for meta in metas] == ["us-west-2", "eu-west-1"]


def test_cached_tokens_are_counted_once(manager: ProviderManager, server: LoopbackServer) -> None:
    rows: list[UsageRow] = []
    manager.observe(lambda event: rows.append(event.usage) if event.usage else None)
    server.script("rock", "*", [], then=Ok(text="hi", usage=(100, 5), cached=60))
    model = manager.get_model("rock")
    model.response(messages=hello())
    list(model.response_stream(messages=hello()))
    assert [(row.tokens_in, row.tokens_out, row.tokens, row.tokens_cached) for row in rows] == [(100, 5, 105, 60)] * 2


def test_async_calls_of_two_keys_share_one_connection(manager: ProviderManager, server: LoopbackServer) -> None:
    pytest.importorskip("aiobotocore", reason="aiobotocore is not installed")

    async def asked() -> None:
        model = manager.get_model("rock", affinity=None)
        for _ in range(2):
            await model.aresponse(messages=hello())
        server.script("rock", "*", [HalfStream(chunks=2)])
        with pytest.raises(StreamInterruptedError):
            async for _ in model.aresponse_stream(messages=hello()):
                pass

    asyncio.run(asked())
    assert (len(server.hits("rock")), server.connections) == (2, 1)
