"""Answers with status 200 that are none: errors in them, nothing in them, or something else than a completion."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from agno.models.message import Message

from hfs_providers import KeyedProvider, ModelDefault, ProviderManager
from hfs_providers.calls.model_errors import ModelCallError
from hfs_providers.testing import LoopbackServer, Ok, OpenAIDialect, Raw, Request

PROVIDERS = ("groq", "cerebras", "openrouter")
JSON = {"content-type": "application/json"}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env(dict.fromkeys((*PROVIDERS, "gemini"), 2))) as manager:
        for wrapper in manager.wrappers.values():
            wrapper.backend.sleep = lambda seconds: None  # type: ignore[attr-defined]
        yield manager


def raw(body: Any, status: int = 200) -> Raw:
    return Raw(status, json.dumps(body).encode(), JSON)


def ask(model: Any) -> str:
    answer = model.response(messages=[Message(role="user", content="hello")])
    return str(answer.content)


def outcomes(manager: ProviderManager, provider: str) -> list[str]:
    return [key.state for key in manager.wrappers[provider].pool.statuses()]


def fails(manager: ProviderManager, provider: str, max_retries: int = 0) -> ModelCallError:
    with pytest.raises(ModelCallError) as caught:
        ask(manager.get_model(provider, max_retries=max_retries))
    return caught.value


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("rest", [{"choices": []}, {}])
def test_a_rate_limit_in_a_200_pauses_the_key(
    manager: ProviderManager, server: LoopbackServer, provider: str, rest: dict[str, Any]
) -> None:
    limited = {"error": {"code": 429, "message": "slow down"}, **rest}
    server.script(provider, "*", [raw(limited)])
    assert "hello" in ask(manager.get_model(provider))
    assert sorted(outcomes(manager, provider)) == ["cooling", "ready"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_refused_key_in_a_200_leaves(manager: ProviderManager, server: LoopbackServer, provider: str) -> None:
    server.script(provider, "*", [raw({"error": {"code": 401, "message": "who are you"}, "choices": []})])
    assert "hello" in ask(manager.get_model(provider))
    assert sorted(outcomes(manager, provider)) == ["dead", "ready"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ({"error": {"code": 502, "message": "upstream is gone"}, "choices": []}, "overloaded", "upstream is gone"),
        ({"error": {"message": "no code at all"}}, "server_error", "no code at all"),
        ({"error": "in plain words"}, "server_error", "in plain words"),
        ({"object": "error", "message": "flat", "code": 503}, "overloaded", "flat"),
        ({"error": {"code": "context_length_exceeded", "message": "too long"}}, "context_overflow", "too long"),
    ],
)
def test_an_error_in_a_200_is_read_as_that_error(
    manager: ProviderManager, server: LoopbackServer, provider: str, body: Any, kind: str, words: str
) -> None:
    server.script(provider, "*", [], then=raw(body))
    error = fails(manager, provider)
    assert error.kind == kind
    assert words in str(error)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_choice_with_an_error_is_read_as_that_error(
    manager: ProviderManager, server: LoopbackServer, provider: str
) -> None:
    message = {"role": "assistant", "content": ""}
    choice = {"index": 0, "message": message, "finish_reason": "error", "error": {"code": 429, "message": "slow down"}}
    server.script(provider, "*", [raw({"id": "1", "choices": [choice]})])
    assert "hello" in ask(manager.get_model(provider))
    assert sorted(outcomes(manager, provider)) == ["cooling", "ready"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "body", [[1, 2], 5, {"choices": [None]}, {"choices": ["x"]}, {"choices": 5}, {"choices": {"a": 1}}, "text"]
)
def test_a_body_that_is_no_completion_is_the_providers_fault(
    manager: ProviderManager, server: LoopbackServer, provider: str, body: Any
) -> None:
    server.script(provider, "*", [raw(body)])
    assert fails(manager, provider).kind == "server_error"
    # So it is asked again.
    server.script(provider, "*", [raw(body)])
    assert "hello" in ask(manager.get_model(provider))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_choice_that_is_none_is_said_to_be_none(
    manager: ProviderManager, server: LoopbackServer, provider: str
) -> None:
    server.script(provider, "*", [raw({"choices": [None]})])
    assert "the answer is not a completion" in str(fails(manager, provider))


def test_gemini_is_read_so_too(manager: ProviderManager, server: LoopbackServer) -> None:
    for body in ([1, 2], 5, {"candidates": []}):
        server.script("gemini", "*", [raw(body)])
        assert fails(manager, "gemini").kind in ("server_error", "empty")


def test_a_choice_of_a_stream_with_an_error_breaks_it(manager: ProviderManager, server: LoopbackServer) -> None:
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": {"code": 429, "message": "slow"}}
    events = f"data: {json.dumps({'id': '1', 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
    server.script("groq", "*", [Raw(200, events.encode(), {"content-type": "text/event-stream"})])
    model = manager.get_model("groq")
    steps = list(model.response_stream(messages=[Message(role="user", content="hello")]))
    assert "hello" in "".join(str(getattr(step, "content", "") or "") for step in steps)
    assert sorted(outcomes(manager, "groq")) == ["cooling", "ready"]


# -- the Responses API ------------------------------------------------------------------------------------------------


class ResponsesDialect(OpenAIDialect):
    """As far as Raw needs it: the requests of OpenAI's Responses API."""

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        if not path.endswith("/responses"):
            return super().read(method, path, headers, body)
        key = headers.get("authorization", "").removeprefix("Bearer ")
        return Request(self.provider, key, str(body["model"]), path, stream=bool(body.get("stream")))

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        return response()


def response(**changes: Any) -> dict[str, Any]:
    text = {"type": "output_text", "text": "hello", "annotations": []}
    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
    fixed = {"id": "r", "object": "response", "created_at": 1, "model": "m", "parallel_tool_calls": True}
    return {**fixed, "tools": [], "tool_choice": "auto", "status": "completed", "output": [item], **changes}


def events(*each: dict[str, Any]) -> Raw:
    lines = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in each)
    return Raw(200, lines.encode(), {"content-type": "text/event-stream"})


DELTA = {
    "type": "response.output_text.delta",
    "delta": "hello",
    "item_id": "m",
    "output_index": 0,
    "content_index": 0,
    "sequence_number": 1,
    "logprobs": [],
}
DONE = {"type": "response.completed", "sequence_number": 2, "response": response()}
FAILED = {
    "type": "response.failed",
    "sequence_number": 1,
    "response": response(status="failed", output=[], error={"code": "rate_limit_exceeded", "message": "slow down"}),
}
plugin = KeyedProvider(
    name="replies",
    model_class="agno.models.openai.responses:OpenAIResponses",
    sdk="openai",
    models=(ModelDefault("m"),),
)


@pytest.fixture
def replies() -> Iterator[tuple[LoopbackServer, ProviderManager]]:
    with (
        LoopbackServer(dialects=[ResponsesDialect("replies")]) as server,
        ProviderManager(env=server.env({"replies": 2}), plugins=[plugin]) as manager,
    ):
        yield server, manager


def streamed(model: Any, way: str) -> str:
    messages = [Message(role="user", content="hello")]

    async def drain() -> list[Any]:
        return [step async for step in model.aresponse_stream(messages=messages)]

    steps = asyncio.run(drain()) if way == "async" else list(model.response_stream(messages=messages))
    return "".join(str(getattr(step, "content", "") or "") for step in steps)


def test_the_responses_api_answers(replies: tuple[LoopbackServer, ProviderManager]) -> None:
    assert ask(replies[1].get_model("replies")) == "hello"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_responses_api_streams(replies: tuple[LoopbackServer, ProviderManager], way: str) -> None:
    server, manager = replies
    server.script("replies", "*", [events(DELTA, DONE)])
    assert streamed(manager.get_model("replies"), way) == "hello"


def test_a_stream_of_the_responses_api_without_its_end_is_interrupted(
    replies: tuple[LoopbackServer, ProviderManager],
) -> None:
    server, manager = replies
    server.script("replies", "*", [events(DELTA)])
    with pytest.raises(ModelCallError) as caught:
        streamed(manager.get_model("replies"), "sync")
    assert caught.value.kind == "interrupted"


def test_a_response_that_failed_is_read_as_its_error(replies: tuple[LoopbackServer, ProviderManager]) -> None:
    server, manager = replies
    server.script("replies", "*", [events(FAILED), events(DELTA, DONE)])
    assert streamed(manager.get_model("replies"), "sync") == "hello"
    assert sorted(outcomes(manager, "replies")) == ["cooling", "ready"]


def test_a_whole_response_that_failed_is_read_as_its_error(replies: tuple[LoopbackServer, ProviderManager]) -> None:
    server, manager = replies
    server.script("replies", "*", [raw(FAILED["response"])])
    assert ask(manager.get_model("replies")) == "hello"
    assert sorted(outcomes(manager, "replies")) == ["cooling", "ready"]
