"""The dialect of Gemini's Interactions API, read by the vendor's own SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hfs_providers.testing import LoopbackServer, ModelGone, Ok, StreamError
from hfs_providers.testing.protocols.interactions import InteractionsDialect

genai = pytest.importorskip("google.genai", reason="google-genai is not installed")

TOOL = {"type": "function", "name": "capital_of", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function_call", "id": "c-1", "name": "capital_of", "arguments": {}}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[InteractionsDialect("acts")]) as server:
        server.set_models("acts", ["m-1", "m-2"])
        yield server


@pytest.fixture
def client(server: LoopbackServer) -> Any:
    options = {"base_url": server.base_url("acts"), "retry_options": {"attempts": 1}}
    return genai.Client(api_key=server.new_key("acts"), http_options=options)


def ask(client: Any, said: object = "hello", **more: Any) -> Any:
    return client.interactions.create(model="m-1", input=said, store=False, **more)


def test_an_answer_in_one_piece(server: LoopbackServer, client: Any) -> None:
    server.script("acts", "*", [Ok(text="hi", usage=(10, 3), cached=4)])
    answer = ask(client)
    assert (answer.output_text, answer.status, answer.model) == ("hi", "completed", "m-1")
    usage = answer.usage
    assert (usage.total_input_tokens, usage.total_output_tokens, usage.total_cached_tokens) == (10, 3, 4)


def test_a_stream_ends_with_its_usage(server: LoopbackServer, client: Any) -> None:
    server.script("acts", "*", [Ok(text="one two three", usage=(10, 3))])
    events = list(ask(client, stream=True))
    assert [event.event_type for event in events[:2]] == ["interaction.created", "step.start"]
    assert "".join(event.delta.text for event in events if event.event_type == "step.delta") == "one two three"
    assert [event.event_type for event in events[-2:]] == ["step.stop", "interaction.completed"]
    assert events[-1].interaction.id == events[0].interaction.id
    assert events[-1].interaction.usage.total_tokens == 13


def test_a_tool_is_called_in_one_piece_and_in_a_stream(server: LoopbackServer, client: Any) -> None:
    server.script("acts", "*", [], then=Ok(tool_calls=[("a", {"x": 1}), ("b", {})]))
    answer = ask(client)
    assert answer.status == "requires_action"
    assert [(step.name, step.arguments) for step in answer.steps] == [("a", {"x": 1}), ("b", {})]
    events = list(ask(client, stream=True))
    assert [event.step.name for event in events if event.event_type == "step.start"] == ["a", "b"]
    deltas = [event for event in events if event.event_type == "step.delta"]
    assert [(event.index, event.delta.arguments) for event in deltas] == [(0, '{"x": 1}'), (1, "{}")]


def test_tools_their_results_and_schemas_are_read(client: Any) -> None:
    [call] = ask(client, tools=[TOOL]).steps
    assert call.name == "capital_of"
    result = {"type": "function_result", "call_id": "c-1", "name": "capital_of", "result": "Lutz"}
    said = {"type": "user_input", "content": [{"type": "text", "text": "hello"}]}
    assert ask(client, [said, CALL, result], tools=[TOOL]).output_text.endswith("The tool says: Lutz")
    schema = {"type": "object", "properties": {"said": {"type": "string"}}}
    wanted = {"type": "text", "mime_type": "application/json", "schema": schema}
    assert ask(client, response_format=wanted).output_text == '{"said": "hello"}'


@pytest.mark.parametrize(
    "given",
    [
        {"input": [{"type": "function_result", "call_id": "c-1", "result": "of no call"}]},
        {"input": "hello", "previous_interaction_id": "v1_00001"},
    ],
    ids=["result", "previous"],
)
def test_what_it_does_not_know_is_refused(client: Any, given: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="invalid_request") as caught:
        client.interactions.create(model="m-1", **given)
    assert caught.value.status_code == 400  # type: ignore[attr-defined]


def test_models_and_errors(server: LoopbackServer, client: Any) -> None:
    assert [model.name for model in client.models.list()] == ["models/m-1", "models/m-2"]
    server.script("acts", "*", [ModelGone(), StreamError(chunks=1)])
    with pytest.raises(Exception, match="There is no model m-1"):
        ask(client)
    assert list(ask(client, stream=True))[-1].error.message == "An internal error has occurred. Please retry."
