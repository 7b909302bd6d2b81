"""The family of the cohere SDK: its clients are made here, with an address and over shared connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.authoring import KeyedProvider, ModelDefault
from hfs_providers.errors import ModelCallError
from hfs_providers.testing import LoopbackServer, Raw, ServerError
from hfs_providers.testing.protocols.cohere import CohereDialect

pytest.importorskip("cohere", reason="cohere is not installed")

PLUGIN = KeyedProvider(
    name="coral",
    model_class="agno.models.cohere:Cohere",
    sdk="cohere",
    client="cohere",
    base_url="https://coral.example",
    models=(ModelDefault("command-a-03-2025"),),
)


def hello() -> list[Message]:
    """What is asked; a call adds its answer."""
    return [Message(role="user", content="hello")]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[CohereDialect("coral")]) as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"coral": 2}), plugins=[PLUGIN]) as manager:
        yield manager


def test_the_sdk_sends_a_request_once(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("coral", "*", [ServerError(503)])
    with pytest.raises(ModelCallError):
        manager.get_model("coral", max_retries=0).response(messages=hello())
    assert len(server.seen) == 1


def test_a_blocked_word_is_a_refusal(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("coral", "*", [], then=Raw(498, {"message": "blocked input"}))
    with pytest.raises(ModelCallError) as caught:
        manager.get_model("coral").response(messages=hello())
    assert caught.value.kind == "refused"
    assert len(server.seen) == 1


def test_a_stream_that_ends_with_an_error_is_not_whole(manager: ProviderManager, server: LoopbackServer) -> None:
    ended = b'event: message-end\ndata: {"type": "message-end", "delta": {"finish_reason": "ERROR"}}\n\n'
    server.script("coral", "*", [Raw(200, ended, {"content-type": "text/event-stream"})])
    deltas = manager.get_model("coral").response_stream(messages=hello())
    assert "hello" in "".join(str(delta.content or "") for delta in deltas)
    assert len(server.seen) == 2


def test_an_address_of_the_callers_own_goes_first(manager: ProviderManager, server: LoopbackServer) -> None:
    model = manager.get_model("coral", client_params={"base_url": server.base_url("coral") + "/nowhere"})
    with pytest.raises(ModelCallError):
        model.response(messages=hello())
    assert server.seen == []
