"""Anthropic's SDK with providers that have only chat completions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anthropic
import pytest

from hfs_providers.authoring import HttpApi, KeyedProvider, ModelDefault
from hfs_providers.gateway.reading import event_data
from hfs_providers.gateway.refusals import Refusal
from hfs_providers.gateway.translation import MessageStream, chat_request
from hfs_providers.testing import BadRequest, HalfStream, LoopbackServer, Ok, RateLimited
from tests.gateway.hostile import ODD
from tests.gateway.served import CORP, DONE, STREAM, USAGE, Served, Wire, chunked, delta, whole

MESSAGES: Any = [{"role": "user", "content": "hello"}]
LOOK: Any = {
    "name": "look",
    "description": "Look at a place.",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}
PLAIN = KeyedProvider(
    name="corp",
    model_class="agno.models.openai.like:OpenAILike",
    sdk="openai",
    openai_path="/v1",
    http=HttpApi(),
    models=(ModelDefault("first"),),
)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def served(server: LoopbackServer) -> Iterator[Served]:
    with Served(server.env({"groq": 2})) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="unused", max_retries=0) as client:
        yield client


def test_whole_and_streamed(client: anthropic.Anthropic, served: Served, server: LoopbackServer) -> None:
    server.script("groq", "*", [], then=Ok(text="It is well.", usage=(7, 3), cached=2))
    answer = client.messages.create(model="groq", max_tokens=50, messages=MESSAGES)
    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": "It is well."}]
    assert (answer.role, answer.stop_reason, answer.model) == ("assistant", "end_turn", "llama-3.3-70b-versatile")
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (5, 2, 3)
    with client.messages.stream(model="groq", max_tokens=50, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream) == "It is well."
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 3)
    assert [row[1:] for row in served.wait_for_rows(2)] == [("ok", 10), ("ok", 10)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_read(client: anthropic.Anthropic, stream: bool) -> None:
    def ask(messages: Any) -> Any:
        asked: Any = {"model": "groq", "max_tokens": 50, "messages": messages, "tools": [LOOK]}
        if not stream:
            return client.messages.create(**asked)
        with client.messages.stream(**asked) as events:
            return events.get_final_message()

    first = ask(MESSAGES)
    assert first.stop_reason == "tool_use"
    (call,) = first.content
    assert (call.name, call.input) == ("look", {"place": "hello"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "a tree"}]}
    said = [*MESSAGES, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    assert ask(said).content[0].text.endswith("The tool says: a tree")


def test_what_a_provider_is_sent() -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"choices":[{"message":{"content":"hi"},"finish_reason":"length"}]}'))

    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    linked = {"type": "image", "source": {"type": "url", "url": "https://x.example/y.png"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "seen"}, image]}
    call = {"type": "tool_use", "id": "t1", "name": "look", "input": {"place": "é"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    with Wire(talk) as wire, Served(wire.env(), [PLAIN]) as served:
        client = anthropic.Anthropic(base_url=served.url, api_key="mine", max_retries=0)
        answer = client.messages.create(
            model="corp/m",
            max_tokens=9,
            system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            messages=[
                {"role": "user", "content": [{"type": "text", "text": "look"}, image, linked]},  # type: ignore[list-item]
                {"role": "assistant", "content": [thought, {"type": "text", "text": "yes"}, call]},  # type: ignore[list-item]
                {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},  # type: ignore[list-item]
            ],
            tools=[LOOK],
            tool_choice={"type": "tool", "name": "look", "disable_parallel_tool_use": True},
            stop_sequences=["END"],
            extra_body={"temperature": 0.5, "top_k": 3},
        )
        assert answer.stop_reason == "max_tokens"
        head, _, sent = wire.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /api/v1/chat/completions ")
        assert b"mine" not in head
        assert b"anthropic" not in head
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    function = {"name": "look", "arguments": '{"place":"é"}'}
    assert json.loads(sent) == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["END"],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    shown,
                    {"type": "image_url", "image_url": {"url": "https://x.example/y.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": "yes",
                "tool_calls": [{"id": "t1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "seen"},
            {"role": "user", "content": [shown, {"type": "text", "text": "and?"}]},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "look",
                    "description": "Look at a place.",
                    "parameters": LOOK["input_schema"],
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
    }


def test_a_schema_is_asked_for() -> None:
    schema = {"type": "object"}
    output = {"format": {"type": "json_schema", "schema": schema}}
    made = json.loads(chat_request({"messages": MESSAGES, "output_config": output}))
    assert made["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": schema, "strict": True},
    }


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"messages": 5}, 400),
        ({}, 400),
        ({"messages": [5]}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400),
        ({"messages": [], "tools": [{"name": "x"}]}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, 501),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]}, 501),
        ({"messages": [], "tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 501),
    ],
)
def test_what_cannot_be_translated_is_refused(body: Any, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        chat_request(body)
    assert refused.value.status == status


def test_what_cannot_be_translated_goes_to_who_has_the_protocol() -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"content":[{"type":"text","text":"read"}]}'))

    document: Any = [{"role": "user", "content": [{"type": "document", "source": {}}]}]
    with Wire(talk) as wire:
        env = {**wire.env(), "PLAIN_API_KEY": "x", "PLAIN_BASE_URL": f"http://127.0.0.1:{wire.port}"}
        with Served(env, [CORP, replace(PLAIN, name="plain")]) as served:
            for model in ("corp/m,plain/m", "plain/m,corp/m", "any"):
                got = served.ask(model, "messages", messages=document)
                assert (got.status_code, got.headers["x-hfs-provider"]) == (200, "corp"), got.text
            got = served.ask("plain/m,plain/n", "messages", messages=document)
            assert got.status_code == 501
            assert "document" in got.json()["error"]["message"]
            # What can be translated is answered by the first.
            assert b"/v1/chat/completions" not in b"".join(wire.requests)
            served.ask("plain/m,corp/m", "messages")
            assert b"/v1/chat/completions" in b"".join(wire.requests)


def test_members_of_any_type_are_translated_or_refused() -> None:
    statuses: set[int] = set()
    for member in ("messages", "system", "tools", "tool_choice", "stop_sequences", "output_config", "max_tokens"):
        for value in ODD:
            try:
                chat_request({"messages": [], member: value})
            except Refusal as refusal:
                statuses.add(refusal.status)
    assert statuses == {400}


def test_deep_tool_input_is_refused_or_sent(served: Served) -> None:
    for depth in (200, *range(900, 1000, 9)):
        call = b'{"type":"tool_use","id":"t","name":"x","input":{"a":%b}}' % (b"[" * depth + b"]" * depth)
        body = b'{"model":"groq","messages":[{"role":"assistant","content":[%b]}]}' % call
        assert served.post(body, "messages").status_code in (200, 400), depth


def test_keys_rotate_and_errors_are_anthropics(
    client: anthropic.Anthropic, served: Served, server: LoopbackServer
) -> None:
    server.script("groq", "*", [RateLimited(retry_after=30)])
    raw = client.messages.with_raw_response.create(model="groq", max_tokens=50, messages=MESSAGES)
    assert raw.headers["x-hfs-key"] == "groq#2"
    server.script("groq", "*", [BadRequest()])
    with pytest.raises(anthropic.BadRequestError) as failed:
        client.messages.create(model="groq", max_tokens=50, messages=MESSAGES)
    assert failed.value.body["type"] == "error"  # type: ignore[index]


def test_a_chain_of_both_kinds() -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        chat = request.startswith(b"POST /api/v1/chat/completions ")
        writer.write(whole() if chat else whole(b"{}", "503 Service Unavailable"))

    with Wire(talk) as wire:
        env = {**wire.env(), **{name.replace("CORP", "PLAIN"): value for name, value in wire.env().items()}}
        with Served(env, [CORP, replace(PLAIN, name="plain")]) as served:
            got = served.ask("corp,plain", "messages", max_tokens=9)
        assert (got.status_code, got.headers["x-hfs-provider"]) == (200, "plain")
        assert got.json()["content"] == [{"type": "text", "text": "hi"}]
        assert [request.split(b" ", 2)[1] for request in wire.requests] == [
            b"/api/v1/messages",
            b"/api/v1/chat/completions",
        ]


def test_a_stream_that_breaks_says_so(client: anthropic.Anthropic, server: LoopbackServer) -> None:
    server.script("groq", "*", [HalfStream(chunks=2)])
    with (
        pytest.raises(anthropic.APIStatusError),
        client.messages.stream(model="groq", max_tokens=50, messages=MESSAGES) as stream,
    ):
        stream.get_final_message()


def test_blocks_follow_one_another_in_a_stream() -> None:
    def call(number: int, **function: str) -> bytes:
        named = {"id": f"t{number}"} if "name" in function else {}
        calls = [{"index": number, **named, "function": function}]
        return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]}).encode() + b"\n\n"

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        parts = [delta("on"), delta("e"), call(0, name="a"), call(0, arguments='{"x"'), call(0, arguments=":1}")]
        parts += [call(1, name="b", arguments="{}"), delta("", "tool_calls"), USAGE, DONE]
        writer.write(STREAM + chunked(*parts) + b"0\r\n\r\n")

    with Wire(talk) as wire, Served(wire.env(), [PLAIN]) as served:
        client = anthropic.Anthropic(base_url=served.url, api_key="mine", max_retries=0)
        with client.messages.stream(model="corp/m", max_tokens=9, messages=MESSAGES) as stream:
            kinds = [event.type for event in stream if event.type.startswith("content_block_st")]
            final = stream.get_final_message()
        assert kinds == ["content_block_start", "content_block_stop"] * 3
        assert [block.to_dict() for block in final.content] == [
            {"type": "text", "text": "one"},
            {"type": "tool_use", "id": "t0", "name": "a", "input": {"x": 1}},
            {"type": "tool_use", "id": "t1", "name": "b", "input": {}},
        ]
        assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("tool_use", 1, 2)
        assert json.loads(wire.requests[0].partition(b"\r\n\r\n")[2])["stream_options"] == {"include_usage": True}


def test_a_stream_without_an_end_mark_is_ended_once() -> None:
    translation = MessageStream()
    events = translation.feed(delta("hi", "stop")) + translation.close() + translation.feed(DONE) + translation.close()
    kinds = [json.loads(data)["type"] for data in event_data(events)]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert MessageStream().close() == b""
