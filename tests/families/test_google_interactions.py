"""The family of google-genai's Interactions API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.authoring import KeyedProvider, ModelDefault, UsageRow
from hfs_providers.errors import ModelCallError
from hfs_providers.testing import LoopbackServer, Ok, Raw, ServerError, StreamError
from hfs_providers.testing.protocols.interactions import InteractionsDialect

pytest.importorskip("google.genai", reason="google-genai is not installed")

PLUGIN = KeyedProvider(
    name="acts",
    model_class="agno.models.google:GeminiInteractions",
    sdk="google-genai",
    sdk_module="google.genai",
    client="google_interactions",
    base_url="https://acts.example",
    model_params={"store": False},
    models=(ModelDefault("m"),),
)


def hello() -> list[Message]:
    """What is asked; a call adds its answer."""
    return [Message(role="user", content="hello")]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[InteractionsDialect("acts")]) as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"acts": 2}), plugins=[PLUGIN]) as manager:
        yield manager


def test_the_sdk_sends_a_request_once(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("acts", "*", [], then=ServerError(503))
    model = manager.get_model("acts", max_retries=0)
    with pytest.raises(ModelCallError):
        model.response(messages=hello())
    with pytest.raises(ModelCallError):
        asyncio.run(model.aresponse(messages=hello()))
    assert len(server.seen) == 2


def test_thoughts_count_as_output_once(manager: ProviderManager, server: LoopbackServer) -> None:
    rows: list[UsageRow] = []
    manager.observe(lambda event: rows.append(event.usage) if event.usage else None)
    steps = [{"type": "model_output", "content": [{"type": "text", "text": "hi"}]}]
    usage = {"total_input_tokens": 7, "total_output_tokens": 20, "total_thought_tokens": 22, "total_tokens": 49}
    body = {"id": "v1_1", "model": "m", "status": "completed", "steps": steps, "usage": usage}
    server.script("acts", "*", [Raw(200, body)])
    assert manager.get_model("acts").response(messages=hello()).content == "hi"
    assert (rows[-1].tokens_in, rows[-1].tokens_out, rows[-1].tokens) == (7, 42, 49)


def test_an_error_within_a_stream_is_the_providers(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("acts", "*", [StreamError(chunks=0)], then=Ok(text="hi there"))
    deltas = manager.get_model("acts").response_stream(messages=hello())
    assert "".join(str(delta.content or "") for delta in deltas) == "hi there"
    assert [seen.outcome for seen in server.seen] == ["StreamError", "Ok"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_an_interaction_that_failed_is_asked_again(
    manager: ProviderManager, server: LoopbackServer, status: str
) -> None:
    steps = [{"type": "model_output", "content": [{"type": "text", "text": "half of"}]}]
    server.script("acts", "*", [Raw(200, {"id": "v1_1", "status": status, "steps": steps})], then=Ok(text="hi"))
    assert manager.get_model("acts").response(messages=hello()).content == "hi"


def test_a_model_that_is_missing_is_gone_for_the_key(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("acts", "*", [], then=Raw(404, {"error": {"message": "there is no such model"}}))
    with pytest.raises(ModelCallError) as caught:
        manager.get_model("acts").response(messages=hello())
    assert (caught.value.kind, len(server.seen)) == ("model_gone", 2)
