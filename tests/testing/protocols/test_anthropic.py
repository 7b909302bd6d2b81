"""The dialect of Anthropic's messages, read by the vendor's own SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hfs_providers.testing import (
    AnthropicDialect,
    BadRequest,
    ContextTooLong,
    Forbidden,
    LoopbackServer,
    ModelGone,
    Ok,
    PaymentRequired,
    RateLimited,
    ServerError,
    Step,
    StreamError,
    Unauthorized,
)

anthropic = pytest.importorskip("anthropic", reason="anthropic is not installed")

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"name": "capital_of", "input_schema": {"type": "object", "properties": {"country": {"type": "string"}}}}
THINKING = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[AnthropicDialect("anthropic")]) as server:
        server.set_models("anthropic", ["m-1", "m-2"])
        yield server


@pytest.fixture
def client(server: LoopbackServer) -> Any:
    key = server.new_key("anthropic")
    return anthropic.Anthropic(api_key=key, base_url=server.base_url("anthropic"), max_retries=0)


def ask(client: Any, **more: Any) -> Any:
    return client.messages.create(**{"model": "m-1", "max_tokens": 99, "messages": HELLO, **more})


def test_an_answer_in_one_piece(server: LoopbackServer, client: Any) -> None:
    server.script("anthropic", "*", [Ok(text="hi", usage=(10, 3), cached=4)])
    answer = ask(client)
    assert (answer.content[0].text, answer.stop_reason, answer.role) == ("hi", "end_turn", "assistant")
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (6, 4, 3)


def test_a_stream_adds_up_to_the_same_answer(server: LoopbackServer, client: Any) -> None:
    server.script("anthropic", "*", [Ok(text="one two three", usage=(10, 3))])
    with client.messages.stream(model="m-1", max_tokens=99, messages=HELLO, thinking=THINKING) as stream:
        words = list(stream.text_stream)
        answer = stream.get_final_message()
    assert (len(words) > 1, "".join(words)) == (True, "one two three")
    thought, text = answer.content
    assert (thought.type, text.text, answer.stop_reason) == ("thinking", "one two three", "end_turn")
    assert thought.signature
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 3)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_and_its_result(client: Any, streamed: bool) -> None:
    given: dict[str, Any] = {"model": "m-1", "max_tokens": 99, "tools": [TOOL], "thinking": THINKING}
    if streamed:
        with client.messages.stream(messages=HELLO, **given) as stream:
            called = stream.get_final_message()
    else:
        called = client.messages.create(messages=HELLO, **given)
    call = called.content[-1]
    assert (called.stop_reason, call.name, call.input) == ("tool_use", "capital_of", {"country": "hello"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Zenith"}
    turns = [*HELLO, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    assert "The tool says: Zenith" in client.messages.create(messages=turns, **given).content[-1].text


@pytest.mark.parametrize(
    ("content", "thinking", "words"),
    [
        ([{"type": "thinking", "thinking": "x", "signature": "forged"}], None, "Invalid `signature`"),
        ([{"type": "tool_use", "id": "call_1", "name": "f", "input": {}}], THINKING, "Expected `thinking`"),
        ([{"type": "tool_use", "id": "call.1", "name": "f", "input": {}}], None, "should match pattern"),
        ([{"type": "text", "text": "no call"}], None, "unexpected `tool_use_id`"),
    ],
    ids=["forged", "unthought", "id", "no call"],
)
def test_a_history_that_anthropic_refuses(client: Any, content: Any, thinking: Any, words: str) -> None:
    result = [{"type": "tool_result", "tool_use_id": "call_1", "content": "Zenith"}]
    turns = [*HELLO, {"role": "assistant", "content": content}, {"role": "user", "content": result}]
    with pytest.raises(anthropic.BadRequestError, match=words):
        ask(client, messages=turns, **({"thinking": thinking} if thinking else {}))


def test_a_call_without_its_result_is_refused(client: Any) -> None:
    call = [{"type": "tool_use", "id": "call_1", "name": "f", "input": {}}]
    with pytest.raises(anthropic.BadRequestError, match="without `tool_result` blocks"):
        ask(client, messages=[*HELLO, {"role": "assistant", "content": call}])


@pytest.mark.parametrize(
    ("step", "error", "kind"),
    [
        (Unauthorized(), "AuthenticationError", "authentication_error"),
        (PaymentRequired(), "APIStatusError", "billing_error"),
        (Forbidden(), "PermissionDeniedError", "permission_error"),
        (ModelGone(), "NotFoundError", "not_found_error"),
        (BadRequest(), "BadRequestError", "invalid_request_error"),
        (ContextTooLong(), "BadRequestError", "invalid_request_error"),
        (RateLimited(retry_after=7), "RateLimitError", "rate_limit_error"),
        (ServerError(500), "InternalServerError", "api_error"),
        (ServerError(529), "OverloadedError", "overloaded_error"),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Step) else None,
)
def test_an_error_is_one_that_the_sdk_knows(
    server: LoopbackServer, client: Any, step: Step, error: str, kind: str
) -> None:
    server.script("anthropic", "*", [step])
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(client)
    assert error in {base.__name__ for base in type(caught.value).__mro__}
    assert caught.value.body["error"]["type"] == kind
    if isinstance(step, RateLimited):
        headers = caught.value.response.headers
        assert (headers["retry-after"], headers["anthropic-ratelimit-requests-remaining"]) == ("7", "0")


def test_an_error_inside_a_stream(server: LoopbackServer, client: Any) -> None:
    server.script("anthropic", "*", [StreamError(chunks=1)])
    with (
        pytest.raises(anthropic.APIStatusError, match="Overloaded"),
        client.messages.stream(model="m-1", max_tokens=99, messages=HELLO) as stream,
    ):
        list(stream)


def test_the_models_are_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["m-1", "m-2"]
