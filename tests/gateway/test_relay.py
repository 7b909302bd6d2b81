"""What goes through the gateway, byte by byte, and what happens to it when a provider or a client fails."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from hfs_providers import KeyedProvider, ModelDefault, hookimpl
from hfs_providers.authoring import Credential, ProviderConfig
from hfs_providers.contract.secret import Secret
from hfs_providers.gateway import relay
from hfs_providers.gateway.reading import StreamReader
from hfs_providers.gateway.routes import Routes
from hfs_providers.testing import (
    BadRequest,
    ContextTooLong,
    EmptyBody,
    HalfStream,
    LoopbackServer,
    ModelGone,
    Ok,
    RateLimited,
    Raw,
    Reset,
    ServerError,
    Stall,
    Unauthorized,
)
from tests.gateway.served import ANSWER, CORP, DONE, HELLO, STREAM, USAGE, Served, Wire, chunked, delta, whole

EVENTS = {"content-type": "text/event-stream"}


class House:
    """The built-in providers, simulated, behind a gateway."""

    def __init__(self, **keys: int) -> None:
        self.server = LoopbackServer()
        self.server.start()
        self.env = {**self.server.env(keys), "HFS_TIER_CAREFUL": "cerebras,groq/openai/gpt-oss-120b"}
        self.served = Served(self.env)

    def script(self, key_id: str, *steps: Any, then: Any = None) -> None:
        """What a key is answered."""
        provider, _, number = key_id.partition("#")
        self.server.script(provider, self.env[f"{provider.upper()}_API_KEY_{number}"], list(steps), then=then)


@pytest.fixture
def house() -> Iterator[House]:
    made = House(groq=2, cerebras=1)
    with made.served:
        yield made
    made.server.stop()


def test_the_body_goes_up_and_the_answer_comes_down_byte_for_byte() -> None:
    answer = b' {"new" : [1,2 ],\r\n "choices":[{"message":{"content":"\xc3\xa9\\u00e9"}}],"usage":{"total_tokens":9}} '

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        headers = (
            "content-type: application/json; charset=utf-8\r\nset-cookie: a=b\r\nx-ratelimit-limit: 9\r\nserver: x"
        )
        writer.write(whole(answer, headers=f"{headers}\r\nx-request-id: r1"))

    body = (
        b'{ "later":{"model":"not this"}, "model" :"corp/mod\\u0065l/7" ,\n"messages":[ ], "x":1.50e3, "u":"\xc3\xa9"}'
    )
    with Wire(talk) as wire, Served(wire.env(), [CORP]) as served:
        got = served.post(body, authorization="Bearer mine", cookie="c=d", openai_organization="o")
        assert (got.status_code, got.content) == (200, answer)
        head, _, sent = wire.requests[0].partition(b"\r\n\r\n")
        assert sent == body.replace(b'"corp/mod\\u0065l/7"', b'"model/7"')
        lines = head.lower().split(b"\r\n")
        assert lines[0] == b"post /api/v1/chat/completions http/1.1"
        assert b"authorization: bearer corp-secret-1" in lines
        assert not [line for line in lines if line.startswith((b"cookie", b"openai", b"x-"))]
        named = {name: value for name, value in got.headers.items() if name != "content-length"}
        assert named == {
            "content-type": "application/json; charset=utf-8",
            "x-request-id": "r1",
            "x-hfs-provider": "corp",
            "x-hfs-model": "model/7",
            "x-hfs-key": "corp#1",
        }
        assert served.outcomes == [("corp#1", "ok", 9)]


def test_a_stream_comes_chunk_by_chunk_as_the_provider_sends_it() -> None:
    seen = threading.Event()

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunked(delta("one")))
        await asyncio.to_thread(seen.wait, 10)
        # An event cut in two, and two in one.
        writer.write(chunked(delta("two")[:20]))
        await writer.drain()
        writer.write(chunked(delta("two")[20:] + delta("", "stop"), DONE) + b"0\r\n\r\n")

    with (
        Wire(talk) as wire,
        Served(wire.env(), [CORP]) as served,
        httpx.stream("POST", f"{served.url}/v1/chat/completions", json={"model": "corp", "stream": True}) as got,
    ):
        parts = got.iter_raw()
        assert next(parts) == delta("one")
        seen.set()
        assert b"".join(parts) == delta("two") + delta("", "stop") + DONE


@pytest.mark.parametrize(
    ("options", "sent", "comes_down"),
    [
        ({}, {"include_usage": True}, False),
        ({"stream_options": {"include_usage": True, "x": 1}}, {"include_usage": True, "x": 1}, True),
        ({"stream_options": {"include_usage": False, "x": 1}}, {"include_usage": True, "x": 1}, False),
        ({"stream_options": None}, {"include_usage": True}, False),
    ],
)
def test_usage_of_a_stream_is_asked_for_and_taken_out_again(
    options: dict[str, Any], sent: dict[str, Any], comes_down: bool
) -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunked(delta("hi", "stop"), USAGE, DONE) + b"0\r\n\r\n")

    with Wire(talk) as wire, Served(wire.env(), [CORP]) as served:
        got = served.ask("corp", stream=True, **options)
        assert json.loads(wire.requests[0].partition(b"\r\n\r\n")[2])["stream_options"] == sent
        assert (USAGE in got.content) == comes_down
        assert got.content.replace(USAGE, b"") == delta("hi", "stop") + DONE
        assert served.outcomes == [("corp#1", "ok", 3)]


def test_a_key_that_refuses_is_followed_by_the_next_at_once(house: House) -> None:
    house.script("groq#1", RateLimited(retry_after=30))
    got = house.served.ask("groq")
    assert (got.status_code, got.headers["x-hfs-key"]) == (200, "groq#2")
    assert [key.state for key in house.served.manager.wrapper("groq").pool.statuses()] == ["cooling", "ready"]


@pytest.mark.parametrize("failure", [ServerError(503), Reset(), EmptyBody(), Raw(200, b"data: {", EVENTS)])
@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_before_its_first_event_is_served_by_the_next_entry(
    house: House, failure: Any, stream: bool
) -> None:
    house.script("cerebras#1", failure)
    got = house.served.ask("cerebras, groq", stream=stream)
    assert (got.status_code, got.headers["x-hfs-provider"]) == (200, "groq")
    assert b"You said: hello" in got.content.replace(b'"}, "finish_reason": null}]}', b"") or stream
    assert [event.kind for event in house.served.events].count("fallback_activated") == 1


@pytest.mark.parametrize("place", ["attempt", "find"])
def test_a_fault_of_the_gateway_itself_is_in_its_log(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    def fails(*_: object) -> None:
        raise TypeError("a fault of its own")

    monkeypatch.setattr(*{"attempt": (relay, "check_whole", fails), "find": (Routes, "find", fails)}[place])
    got = house.served.ask("groq")
    assert (got.status_code, got.json()["error"]["code"]) == (500, "internal_error")
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "in fails" in (record.exc_text or "")


@pytest.mark.parametrize("model", ["corp", "corp,corp/m"])
def test_a_fault_behind_the_first_part_of_an_answer_is_in_its_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    seen = threading.Event()

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunked(delta("one")))
        await asyncio.to_thread(seen.wait, 10)
        writer.write(chunked(delta("", "stop"), DONE) + b"0\r\n\r\n")

    def fails(*_: object) -> None:
        raise TypeError("a fault of its own")

    monkeypatch.setattr(StreamReader, "_read", fails)
    with (
        Wire(talk) as wire,
        Served(wire.env(), [CORP]) as served,
        httpx.stream("POST", f"{served.url}/v1/chat/completions", json={"model": model, "stream": True}) as got,
    ):
        parts = got.iter_raw()
        assert next(parts) == delta("one")
        seen.set()
        assert b"stream_interrupted" in b"".join(parts)
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "in fails" in (record.exc_text or "")


@pytest.mark.parametrize("broken", [HalfStream(chunks=2), HalfStream(chunks=2, how="reset")])
def test_a_stream_that_breaks_later_ends_with_an_error_event_and_is_not_repeated(house: House, broken: Any) -> None:
    house.script("groq#1", broken)
    got = house.served.ask("groq,cerebras", stream=True)
    events = [line for line in got.text.split("\n\n") if line]
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error["code"] == "stream_interrupted"
    assert DONE not in got.content
    assert "piece1" in got.text
    assert house.served.wait_for_rows(1)[0][:1] == ("groq#1",)
    assert len(house.served.outcomes) == 1


# Of a large body, uvicorn reads no more than it has until somebody takes it.
@pytest.mark.parametrize("size", [1, 90_000], ids=["small", "large"])
@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_goes_away_cancels_the_request_above(streams: bool, size: int) -> None:
    asked = threading.Event()

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        if streams:
            writer.write(STREAM + chunked(delta("one")))
        asked.set()
        await asyncio.sleep(60)

    with Wire(talk) as wire, Served(wire.env(), [CORP]) as served:
        body = json.dumps({"model": "corp", "stream": streams, "user": "u" * size}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            assert asked.wait(10)
            if streams:
                assert client.recv(10)
        assert wire.closed.wait(10)
        assert served.wait_for_rows(1) == [("corp#1", "abandoned", 0)]


def test_lists_tiers_and_any_are_chains(house: House) -> None:
    house.script("cerebras#1", then=ServerError(500))
    for name, served in (("any", "groq"), ("tier/careful", "groq"), ("cerebras,groq/openai/gpt-oss-120b", "groq")):
        got = house.served.ask(name)
        assert (got.status_code, got.headers["x-hfs-provider"]) == (200, served), name
    assert house.served.ask("tier/careful").headers["x-hfs-model"] == "openai/gpt-oss-120b"


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [
        (Unauthorized(echo_key=True), 503, "no_usable_key"),
        (RateLimited(retry_after=40, echo_key=True), 429, "keys_exhausted"),
        (BadRequest(echo_key=True), 400, None),
        (ContextTooLong(echo_key=True), 400, None),
        (ModelGone(echo_key=True, decommissioned=False), 404, "model_not_found"),
        (ServerError(500, echo_key=True), 502, "provider_error"),
    ],
)
def test_errors_are_in_openais_shape_and_show_no_key(house: House, step: Any, status: int, code: str | None) -> None:
    async def at_once(seconds: float) -> None:
        pass

    house.served.manager.wrapper("groq").backend.async_sleep = at_once
    for number in (1, 2):
        house.script(f"groq#{number}", then=step)
    got = house.served.ask("groq/llama-3.3-70b-versatile")
    error = got.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (got.status_code, error["code"] if code else None) == (status, code)
    assert ("retry-after" in got.headers) == (status in (429, 503))
    if status == 429:
        assert 30 < int(got.headers["retry-after"]) <= 40
    shown = f"{got.headers} {got.text}"
    for number in (1, 2):
        key = house.env[f"GROQ_API_KEY_{number}"]
        assert key not in shown
        assert key[-4:] not in shown


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("nobody/x", 404, "model_not_found"),
        ("gemini", 404, "model_not_found"),
        ("tier/unknown", 404, "model_not_found"),
        ("", 404, "model_not_found"),
        ("groq/" + "x" * 200, 400, "invalid_model"),
        ("groq/a\nb", 400, "invalid_model"),
        (",".join(["groq"] * 9), 400, "invalid_model"),
    ],
)
def test_names_that_nobody_serves(house: House, name: str, status: int, code: str) -> None:
    got = house.served.ask(name)
    assert (got.status_code, got.json()["error"]["code"], got.json()["error"]["param"]) == (status, code, "model")
    assert house.server.hits() == {}


def test_an_endpoint_that_the_provider_lacks_is_501(house: House) -> None:
    got = house.served.ask("groq/nomic-embed", "embeddings", input="hello")
    assert (got.status_code, got.json()["error"]["code"]) == (501, "endpoint_not_offered")


def test_a_provider_that_answers_with_something_else_is_not_passed_on() -> None:
    answers = iter([whole(b""), whole(b"<html>"), whole(b'{"error": {"message": "no", "code": 503}}'), whole(ANSWER)])

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(next(answers))

    async def at_once(seconds: float) -> None:
        pass

    with Wire(talk) as wire, Served(wire.env(), [CORP]) as served:
        served.manager.wrapper("corp").backend.async_sleep = at_once
        assert served.ask("corp").content == ANSWER
        assert [outcome for _, outcome, _ in served.outcomes] == ["empty", "server_error", "overloaded", "ok"]


def test_requests_that_came_at_once_on_one_connection_are_answered_in_order(house: House) -> None:
    first, second = (
        json.dumps({"model": f"groq/{name}", **HELLO, "stream": name == "b"}).encode() for name in ("a", "b")
    )
    house.server.script("groq", "*", [Ok(delay=0.2)], model="a")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n%b\r\n%b"
    lengths = [b"content-length: %d\r\n" % len(body) for body in (first, second)]
    got = house.served.raw(
        head % (lengths[0], first) + head % (lengths[1], second) + head % (lengths[0] + b"connection: close\r\n", first)
    )
    models = [line for line in got.split(b"\r\n") if line.startswith(b"x-hfs-model")]
    assert models == [b"x-hfs-model: a", b"x-hfs-model: b", b"x-hfs-model: a"]
    assert got.count(b"HTTP/1.1 200 OK") == 3


def test_a_silent_provider_is_given_up(monkeypatch: pytest.MonkeyPatch, house: House) -> None:
    monkeypatch.setattr(house.served.gateway._upstream, "first_byte_timeout", 0.3)
    house.script("cerebras#1", Stall(60))
    assert house.served.ask("cerebras,groq").headers["x-hfs-provider"] == "groq"


MESSAGE_EVENTS = [
    b'data: {"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}\n\n',
    b'event: ping\ndata: {"type":"ping"}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","delta":{},"usage":{"output_tokens":7}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
]


@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_messages_go_through_as_they_are(stream: bool) -> None:
    answer = b'{"type":"message","content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":5,"output_tokens":7}}'

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunked(*MESSAGE_EVENTS) + b"0\r\n\r\n" if stream else whole(answer))

    with Wire(talk) as wire, Served(wire.env(), [CORP]) as served:
        body = json.dumps({"model": "corp/m", **HELLO, "stream": stream, "max_tokens": 9}).encode()
        version = {"anthropic_version": "2023-06-01", "anthropic_beta": "x", "x_api_key": "mine"}
        got = served.post(body, "messages", **version)
        assert got.content == (b"".join(MESSAGE_EVENTS) if stream else answer)
        head, _, sent = wire.requests[0].partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        assert lines[0] == b"post /api/v1/messages http/1.1"
        assert {b"anthropic-version: 2023-06-01", b"anthropic-beta: x"} <= set(lines)
        assert b"mine" not in head
        assert sent == body.replace(b"corp/m", b"m")
        assert served.wait_for_rows(1) == [("corp#1", "ok", 12)]


def test_a_stream_of_messages_that_breaks_says_so_as_anthropic_does() -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> bool:
        writer.write(STREAM + chunked(MESSAGE_EVENTS[0]))
        await writer.drain()
        return True

    with Wire(talk) as wire, Served(wire.env(), [CORP]) as served:
        last = served.ask("corp/m", "messages", stream=True).text.removeprefix(MESSAGE_EVENTS[0].decode())
        name, data = last.strip().split("\n")
        assert name == "event: error"
        error = json.loads(data.removeprefix("data: "))
        assert (error["type"], error["error"]["type"]) == ("error", "api_error")


def test_an_endless_refusal_is_cut_off() -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(chunked(b"no " * 10_000))
            await writer.drain()

    with Wire(talk) as wire, Served(wire.env(), [CORP]) as served:
        got = served.ask("corp/m")
        assert got.status_code == 400
        assert got.json()["error"]["message"].startswith("corp/m: no no")
        assert len(got.content) < 5_000
        assert wire.closed.wait(10)


def test_a_conversation_keeps_its_key_by_what_begins_it_or_by_its_name() -> None:
    house = House(groq=8)
    with house.served:

        def key_of(*said: str, **members: Any) -> str:
            messages = [
                {"role": "user" if place % 2 == 0 else "assistant", "content": t} for place, t in enumerate(said)
            ]
            return house.served.ask("groq", **{**members, "messages": messages}).headers["x-hfs-key"]

        begun = {text: key_of(text) for text in map(str, range(12))}
        assert len(set(begun.values())) > 2
        assert {text: key_of(text, "answer", "and?") for text in begun} == begun
        assert len({key_of(text, user="me") for text in begun}) == 1
        assert len({key_of(text, user=text, prompt_cache_key="cached") for text in begun}) == 1
    house.server.stop()


class _OddKey(KeyedProvider):
    """A plugin that reads its variables itself, and takes a key that no header can have."""

    @hookimpl
    def configure_env(self, env: Mapping[str, str]) -> ProviderConfig:
        return replace(super().configure_env(env), credentials=(Credential("odd#1", Secret("not a header")),))


def test_a_key_that_no_header_can_have_spoils_no_list_of_models() -> None:
    odd = _OddKey(name="odd", model_class="odd:Odd", sdk="openai", openai_path="/v1", models=(ModelDefault("m"),))
    env = {"NUM_ODD": "1", "ODD_API_KEY_1": "a-secret-of-odd", "ODD_BASE_URL": "http://127.0.0.1:9"}
    with Served(env, [odd]) as served:
        got = httpx.get(f"{served.url}/v1/models")
    assert (got.status_code, [each["id"] for each in got.json()["data"]]) == (200, ["any", "odd", "odd/m"])
