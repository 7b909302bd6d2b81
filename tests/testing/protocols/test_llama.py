"""The dialect of Meta's Llama API, read by the vendor's own SDK, told to take nothing that its types do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hfs_providers.testing import LoopbackServer, ModelGone, Ok, StreamError
from hfs_providers.testing.protocols.llama import LlamaDialect

llama = pytest.importorskip("llama_api_client", reason="llama-api-client is not installed")

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[LlamaDialect("llama")]) as server:
        server.set_models("llama", ["m-1", "m-2"])
        yield server


@pytest.fixture
def client(server: LoopbackServer) -> Any:
    key, address = server.new_key("llama"), server.base_url("llama")
    return llama.LlamaAPIClient(api_key=key, base_url=address, max_retries=0, _strict_response_validation=True)


def ask(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model="m-1", messages=HELLO, **more)


def test_an_answer_in_one_piece(server: LoopbackServer, client: Any) -> None:
    server.script("llama", "*", [Ok(text="hi", usage=(10, 3))])
    answer = ask(client)
    assert (answer.completion_message.content.text, answer.completion_message.stop_reason) == ("hi", "stop")
    assert {metric.metric: metric.value for metric in answer.metrics} == {
        "num_completion_tokens": 3,
        "num_prompt_tokens": 10,
        "num_total_tokens": 13,
    }


def test_a_tool_is_called_in_one_piece_and_in_a_stream(server: LoopbackServer, client: Any) -> None:
    server.script("llama", "*", [], then=Ok(tool_calls=[("a", {"x": 1}), ("b", {})]))
    calls = ask(client).completion_message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in calls] == [("a", '{"x": 1}'), ("b", "{}")]
    deltas = [chunk.event.delta for chunk in ask(client, stream=True) if chunk.event.event_type == "progress"]
    assert [(bool(delta.id), delta.function.name, delta.function.arguments) for delta in deltas] == [
        (True, "a", None),
        (False, None, '{"x": 1}'),
        (True, "b", None),
        (False, None, "{}"),
    ]


def test_a_stream_ends_with_its_usage(server: LoopbackServer, client: Any) -> None:
    server.script("llama", "*", [Ok(text="one two three", usage=(10, 3))])
    events = [chunk.event for chunk in ask(client, stream=True)]
    assert "".join(event.delta.text for event in events) == "one two three"
    assert [event.event_type for event in events[-2:]] == ["complete", "metrics"]
    assert events[-1].metrics[1].value == 10


def test_models_and_errors(server: LoopbackServer, client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["m-1", "m-2"]
    server.script("llama", "*", [ModelGone(), StreamError(chunks=1)])
    with pytest.raises(llama.NotFoundError) as caught:
        ask(client)
    assert caught.value.body["status"] == 404
    with pytest.raises(llama.APIError):
        list(ask(client, stream=True))
