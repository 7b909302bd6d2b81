"""The family of huggingface_hub: its clients send through connections that all keys share, and keep no stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from agno.models.message import Message

from hfs_providers import KeysExhaustedError, ProviderManager
from hfs_providers.authoring import KeyedProvider, ModelDefault
from hfs_providers.errors import ModelCallError
from hfs_providers.testing import LoopbackServer, PaymentRequired, RateLimited, StreamError
from hfs_providers.testing.protocols.huggingface import HuggingFaceDialect

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

PLUGIN = KeyedProvider(
    name="face",
    model_class="agno.models.huggingface:HuggingFace",
    sdk="huggingface_hub",
    client="huggingface",
    base_url="https://face.example/v1",
    models=(ModelDefault("m"),),
)


def hello() -> list[Message]:
    """What is asked; a call adds its answer."""
    return [Message(role="user", content="hello")]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[HuggingFaceDialect("face")]) as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"face": 2}), plugins=[PLUGIN]) as manager:
        yield manager


def test_async_calls_of_all_keys_share_a_connection(manager: ProviderManager, server: LoopbackServer) -> None:
    async def ask() -> None:
        model = manager.get_model("face", affinity=None)
        for _ in range(4):
            await model.aresponse(messages=hello())

    asyncio.run(ask())
    assert sorted(server.hits("face").values()) == [2, 2]
    assert server.connections == 1


def test_a_stream_leaves_nothing_with_its_client(manager: ProviderManager, server: LoopbackServer) -> None:
    model = manager.get_model("face")
    for _ in range(3):
        assert "hello" in "".join(str(each.content or "") for each in model.response_stream(messages=hello()))
    deltas = model.response_stream(messages=hello())
    next(deltas)
    deltas.close()  # type: ignore[attr-defined]  # the classes' streams are generators
    client = model.get_client()  # type: ignore[attr-defined]  # the classes have it
    assert not vars(client.exit_stack)["_exit_callbacks"]


def test_a_refused_stream_tells_how_long_to_wait(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("face", "*", [RateLimited(retry_after=300)], then=PaymentRequired())
    with pytest.raises(KeysExhaustedError):
        list(manager.get_model("face", affinity=None).response_stream(messages=hello()))
    first, second = manager.wrappers["face"].pool.statuses()
    assert (first.state, second.state) == ("cooling", "dead")
    assert first.free_in is not None
    assert first.free_in > 280


def test_an_error_inside_a_stream_is_the_providers(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("face", "*", [StreamError(chunks=0)])
    with pytest.raises(ModelCallError) as caught:
        list(manager.get_model("face", max_retries=0).response_stream(messages=hello()))
    assert caught.value.kind == "server_error"
