"""The family of the azure-ai-inference SDK: its clients share a transport, and send a request once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager, StreamInterruptedError
from hfs_providers.authoring import KeyedProvider, ModelDefault
from hfs_providers.errors import ModelCallError
from hfs_providers.testing import HalfStream, LoopbackServer, Ok, Reset, ServerError
from hfs_providers.testing.protocols.azure_inference import AzureInferenceDialect

pytest.importorskip("azure.ai.inference", reason="azure-ai-inference is not installed")

PLUGIN = KeyedProvider(
    name="foundry",
    model_class="agno.models.azure:AzureAIFoundry",
    sdk="azure-ai-inference",
    sdk_module="azure.ai.inference",
    client="azure_inference",
    base_url="https://foundry.example/models",
    models=(ModelDefault("mine"),),
)


def hello() -> list[Message]:
    """What is asked; a call adds its answer."""
    return [Message(role="user", content="hello")]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[AzureInferenceDialect("foundry")]) as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"foundry": 2}), plugins=[PLUGIN]) as manager:
        yield manager


@pytest.mark.parametrize("step", [ServerError(503), Reset()], ids=["503", "reset"])
def test_the_sdk_sends_a_request_once(manager: ProviderManager, server: LoopbackServer, step: ServerError) -> None:
    server.script("foundry", "*", [Ok()], then=step)
    model = manager.get_model("foundry", max_retries=0)
    model.response(messages=hello())
    with pytest.raises(ModelCallError):
        model.response(messages=hello())
    assert len(server.seen) == 2


def test_nothing_of_the_process_gets_in(
    manager: ProviderManager, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_API_KEY", "key-of-the-process")
    monkeypatch.setenv("AZURE_ENDPOINT", "https://of-the-process.example")
    assert "hello" in str(manager.get_model("foundry").response(messages=hello()).content)
    assert "key-of-the-process" not in server.hits("foundry")


def test_no_cookie_is_kept(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("foundry", "*", [Ok(headers={"set-cookie": "whose=mine"})])
    model = manager.get_model("foundry")
    model.response(messages=hello())
    transport = model.get_client()._client._pipeline._transport  # type: ignore[attr-defined]  # the SDK's client
    assert list(transport.session.cookies) == []


def test_an_async_stream_that_is_cut_off_is_known(manager: ProviderManager, server: LoopbackServer) -> None:
    async def read() -> None:
        async for _ in manager.get_model("foundry").aresponse_stream(messages=hello()):
            pass

    server.script("foundry", "*", [HalfStream(chunks=2)])
    with pytest.raises(StreamInterruptedError):
        asyncio.run(read())


def test_async_calls_of_two_keys_share_one_connection(manager: ProviderManager, server: LoopbackServer) -> None:
    async def twice() -> None:
        model = manager.get_model("foundry", affinity=None)
        for _ in range(2):
            await model.aresponse(messages=hello())

    asyncio.run(twice())
    assert (len(server.hits("foundry")), server.connections) == (2, 1)
