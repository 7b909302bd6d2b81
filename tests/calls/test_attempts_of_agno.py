"""What a rotating model lets Agno see of its attempts: retries, errors, arguments of streams, logs, the end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any

import pytest
from agno.models.google.utils import MALFORMED_FUNCTION_CALL_GUIDANCE
from agno.models.groq import Groq
from agno.models.message import Message

from hfs_providers.calls.model_errors import ModelCallError, StreamInterruptedError, call_error
from hfs_providers.calls.verdicts import Verdict
from hfs_providers.clients.attempt import Attempt
from hfs_providers.contract.redaction import Redactor
from hfs_providers.testing import BadRequest, LoopbackServer, Ok, Raw, ServerError
from tests.fallback.chains import WAYS, House, ask, house, seen_by, server

__all__ = ["house", "server"]

# Agno takes such words for a prompt that is too long, whatever the status.
OVERFLOW_IN_WORDS = Raw(500, {"error": {"message": "our context window has too many tokens", "type": "server_error"}})


def asked(text: str = "hello") -> list[Message]:
    return [Message(role="user", content=text)]


@pytest.mark.parametrize("way", WAYS)
class TestAgnosRetries:
    def test_they_are_made_where_a_model_has_them(self, house: House, way: str) -> None:
        house.script("groq", ServerError(500))
        model = house.manager.get_model("groq", max_retries=0, retries=1, delay_between_retries=0)
        assert "[groq/" in ask(model, way)
        assert house.asked("groq") == 2

    def test_the_error_after_them_is_ours(self, house: House, way: str) -> None:
        house.script("groq", then=OVERFLOW_IN_WORDS)
        model = house.manager.get_model("groq", max_retries=0, retries=1, delay_between_retries=0)
        with pytest.raises(ModelCallError, match=r"groq/.*context window") as caught:
            ask(model, way)
        assert caught.value.kind == "server_error"

    def test_an_error_that_they_do_not_repeat_says_what_caused_it(self, house: House, way: str) -> None:
        house.script("groq", then=BadRequest())
        with pytest.raises(ModelCallError) as caught:
            ask(house.manager.get_model("groq", retries=1, delay_between_retries=0), way)
        assert house.asked("groq") == 1
        assert caught.value.__cause__ not in (None, caught.value)


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_needs_guidance_is_repeated_with_it(house: House, way: str, chained: bool) -> None:
    broken = {"candidates": [{"content": {"role": "model"}, "finishReason": "MALFORMED_FUNCTION_CALL", "index": 0}]}
    stream = Raw(200, f"data: {json.dumps(broken)}\n\n".encode(), {"content-type": "text/event-stream"})
    house.script("gemini", stream if "stream" in way else Raw(200, broken))
    model = house.chain("gemini", "groq") if chained else house.manager.get_model("gemini")
    requests, messages = seen_by(house), asked()
    assert "[gemini/" in ask(model, way, messages)
    assert house.asked("gemini") == 2
    assert MALFORMED_FUNCTION_CALL_GUIDANCE[:40] in json.dumps(requests[-1].body)
    assert [message.role for message in messages] == ["user", "assistant"]
    assert [event.usage.outcome for event in house.events if event.usage is not None] == ["ok", "ok"]


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_arguments_of_streams_are_added_to_those_of_the_caller(house: House, way: str) -> None:
    own = {"temperature": 0.5, "extra_body": {"user": "me", "stream_options": {"x": 1}}}
    model = house.manager.get_model("groq", request_params=own)
    requests = seen_by(house)
    ask(model, way)
    ask(house.manager.get_model("groq"), way)
    first, second = [request.body for request in requests]
    assert first["stream_options"] == {"include_usage": True, "x": 1}
    assert (first["temperature"], first["user"]) == (0.5, "me")
    assert second["stream_options"] == {"include_usage": True}
    assert own == {"temperature": 0.5, "extra_body": {"user": "me", "stream_options": {"x": 1}}}


@pytest.mark.parametrize("way", ["sync", "async"])
def test_other_calls_have_none_of_them(house: House, way: str) -> None:
    requests = seen_by(house)
    ask(house.manager.get_model("groq"), way)
    assert "stream_options" not in requests[0].body


def test_what_agno_logs_in_an_attempt_is_held_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.manager.wrapper("groq")
    logged: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: logged.append(record.getMessage()))
    monkeypatch.setattr(logging.getLogger("agno"), "handlers", [handler])
    attempt = Attempt()
    with attempt:
        logging.getLogger("agno").error("it failed")
    assert logged == []
    attempt.let_through(Redactor())
    assert logged == ["it failed"]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_logged_beside_a_call_is_not_held_back(house: House, way: str) -> None:
    logged: list[str] = []
    log = logging.getLogger("agno")
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    model = house.manager.get_model("groq")

    async def run() -> None:
        if way == "sync":
            model.response(messages=asked())
        elif way == "async":
            await model.aresponse(messages=asked())
        elif way == "stream":
            for _ in model.response_stream(messages=asked()):
                log.error("between")
        else:
            async for _ in model.aresponse_stream(messages=asked()):
                log.error("between")
        log.error("after")

    log.addHandler(handler)
    try:
        asyncio.run(run())
    finally:
        log.removeHandler(handler)
    assert logged[-1] == "after"
    assert ("between" in logged) == (way in ("stream", "astream"))


def test_an_async_stream_that_is_left_is_closed_while_its_key_is_leased(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.script("groq", then=Ok("one two three four"))
    genuine = Groq.ainvoke_stream
    in_flight: list[int] = []

    async def watched(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        try:
            async for step in genuine(self, *args, **kwargs):
                yield step
        finally:
            in_flight.append(house.manager.wrappers["groq"].pool.counts("m").in_flight)

    async def leave() -> None:
        model: Any = house.manager.get_model("groq", "m")
        async with aclosing(model.ainvoke_stream(asked(), Message(role="assistant"))) as stream:
            await anext(stream)

    monkeypatch.setattr(Groq, "ainvoke_stream", watched)
    asyncio.run(leave())
    assert in_flight == [1]


def test_so_is_another_though_somebody_still_holds_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.script("groq", then=Ok("one two three four"))
    genuine = Groq.invoke_stream
    held: list[Any] = []
    in_flight: list[int] = []

    def watched(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from genuine(self, *args, **kwargs)
        finally:
            in_flight.append(house.manager.wrappers["groq"].pool.counts("m").in_flight)

    def kept(*args: Any, **kwargs: Any) -> Any:
        held.append(watched(*args, **kwargs))
        return held[0]

    monkeypatch.setattr(Groq, "invoke_stream", kept)
    model: Any = house.manager.get_model("groq", "m")
    with closing(model.invoke_stream(asked(), Message(role="assistant"))) as stream:
        next(stream)
    assert in_flight == [1]


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_that_breaks_after_a_tool_call_is_not_begun_again(house: House, way: str) -> None:
    called = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice = {"index": 0, "delta": {"role": "assistant", "tool_calls": [called]}, "finish_reason": None}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    house.script("groq", Raw(200, f"data: {json.dumps(chunk)}\n\n".encode(), {"content-type": "text/event-stream"}))
    with pytest.raises(StreamInterruptedError) as caught:
        ask(house.manager.get_model("groq"), way)
    assert (caught.value.received, house.asked("groq")) == ("", 1)


def test_a_client_for_other_requests_needs_no_tokens(server: LoopbackServer) -> None:
    house = House(server, GROQ_LIMITS="tpm=100")
    with house.manager:
        with house.manager.wrappers["groq"].pool.acquire("m", 100) as lease:
            lease.commit(100)
        model: Any = house.manager.get_model("groq", "m", wait=False)
        assert model.get_client().api_key == house.env["GROQ_API_KEY_1"]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_answer_is_charged_as_it_says_or_else_as_it_was_estimated(house: House, way: str) -> None:
    message = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    unsaid = Raw(200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [message]})
    house.script("groq", Ok(usage=(30, 12)), unsaid)
    model = house.manager.get_model("groq")
    ask(model, way)
    ask(model, way)
    rows = [event.usage for event in house.events if event.usage is not None]
    assert [(row.tokens, row.charged) for row in rows] == [(42, 42), (0, 1000)]
    assert min(row.latency for row in rows) > 0


@pytest.mark.parametrize("estimate", [0, 700])
def test_a_stream_that_is_left_is_charged_as_it_was_estimated(house: House, estimate: int) -> None:
    steps = house.manager.get_model("groq", estimated_tokens=estimate).response_stream(messages=asked())
    next(step for step in steps if step.content)
    steps.close()
    assert [event.usage.charged for event in house.events if event.usage is not None] == [estimate]


@pytest.mark.parametrize(
    ("kind", "said", "status"),
    [
        *(("dead", None, 401), ("model_gone", None, 404), ("context_overflow", None, 400), ("bad_request", None, 400)),
        *(("refused", None, 403), ("overloaded", None, 503), ("local", None, 500), ("server_error", None, 502)),
        # Agno does not know 529, nor what is no error.
        *(("overloaded", 529, 503), ("overloaded", 200, 503), ("server_error", 399, 502), ("server_error", 600, 502)),
        *(("server_error", 400, 400), ("server_error", 599, 599), ("overloaded", 530, 530)),
    ],
)
def test_an_error_has_a_status_that_agno_understands(kind: Any, said: int | None, status: int) -> None:
    names: Any = {"provider": "groq", "model_id": "m", "key_id": "groq#1", "successor": None}
    error = call_error(Verdict(kind, said, None, ""), RuntimeError("no"), attempts=1, received=None, **names)
    assert error.status_code == status
    bare = ModelCallError("no", provider="groq", model_id="m", verdict=error.verdict)
    assert (bare.status_code, bare.attempts) == (502, 1)


def test_what_a_provider_has_not_implemented_is_not_asked_for_again(house: House) -> None:
    house.script("groq", then=Raw(501))
    with pytest.raises(ModelCallError) as caught:
        ask(house.manager.get_model("groq"))
    assert (caught.value.kind, house.asked("groq")) == ("bad_request", 1)


def test_an_error_of_an_unknown_key_tells_what_was_asked_for(server: LoopbackServer, house: House) -> None:
    with pytest.raises(Exception, match="has no key 'groq#9'") as caught:
        house.manager.get_model("groq", key_id="groq#9")
    assert caught.value.identifier == "groq#9"  # type: ignore[attr-defined]
