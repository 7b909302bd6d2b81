"""Clients that others wrote."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from hfs_providers.testing import LoopbackServer, Ok, RateLimited
from tests.gateway.served import Served

KEYS = {"groq": 2, "gemini": 1, "openrouter": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture(scope="module")
def served(server: LoopbackServer) -> Iterator[Served]:
    with Served(server.env(KEYS)) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


MESSAGES: Any = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("model", ["groq", "gemini", "openrouter", "any", "groq/llama-3.3-70b-versatile,gemini"])
def test_openai_whole_and_streamed(client: openai.OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=model, messages=MESSAGES)
    answer = raw.parse()
    assert "You said: hello" in str(answer.choices[0].message.content)
    assert answer.usage is not None
    assert raw.headers["x-hfs-key"].startswith(raw.headers["x-hfs-provider"])
    chunks = list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content
    options: Any = {"include_usage": True}
    last = list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True, stream_options=options))[-1]
    assert last.usage is not None


def test_openai_tools_and_schemas(client: openai.OpenAI) -> None:
    function = {"name": "look", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}
    tools: Any = [{"type": "function", "function": function}]
    answer = client.chat.completions.create(model="groq", messages=MESSAGES, tools=tools)
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert json.loads(calls[0].function.arguments) == {"place": "hello"}  # type: ignore[union-attr]
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": function["parameters"]}}
    answer = client.chat.completions.create(model="gemini", messages=MESSAGES, response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "") == {"place": "hello"}


def test_openai_embeddings_responses_and_models(client: openai.OpenAI, served: Served) -> None:
    found = client.embeddings.create(model="gemini/gemini-embedding-001", input=["one", "two"], encoding_format="float")
    assert [len(each.embedding) for each in found.data] == [8, 8]
    assert client.responses.create(model="groq", input="hello").output_text.endswith("You said: hello")
    events = list(client.responses.create(model="groq", input="hello", stream=True))
    assert [event.type for event in events][-1] == "response.completed"
    assert served.wait_for_rows(3)[-1][1] == "ok"
    ids = [model.id for model in client.models.list()]
    assert {"any", "groq", "groq/openai/gpt-oss-120b", "gemini/gemini-2.5-flash"} <= set(ids)
    one = client.models.retrieve("groq/openai/gpt-oss-120b")
    assert one.owned_by == "groq"
    assert one.endpoints == ["/v1/chat/completions", "/v1/responses", "/v1/messages"]  # type: ignore[attr-defined]


def test_openai_sees_our_errors_as_its_own(client: openai.OpenAI, server: LoopbackServer) -> None:
    with pytest.raises(openai.NotFoundError, match="unknown provider 'gpt-5'"):
        client.chat.completions.create(model="gpt-5", messages=MESSAGES)
    server.script("openrouter", "*", [], then=RateLimited(retry_after=50))
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="openrouter/a/b", messages=MESSAGES)
    assert 40 < int(limited.value.response.headers["retry-after"]) <= 50
    server.reset()


def test_openai_async_and_a_stream_that_is_left(served: Served, server: LoopbackServer) -> None:
    server.script("groq", "*", [Ok(chunks=50, text="word " * 50, chunk_delay=0.05)], model="left")

    async def scenario() -> None:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
            stream = await client.chat.completions.create(model="groq/left", messages=MESSAGES, stream=True)
            async for _ in stream:
                break
            await stream.close()

    rows = len(served.outcomes)
    asyncio.run(scenario())
    assert served.wait_for_rows(rows + 1)[-1][1] == "abandoned"


def test_curl(served: Served) -> None:
    sent = json.dumps({"model": "groq", "messages": MESSAGES, "stream": True})
    command = ["curl", "-sS", "-i", f"{served.url}/v1/chat/completions", "-H", "content-type: application/json"]
    got = subprocess.run([*command, "-d", sent], capture_output=True, text=True, check=True).stdout
    head, _, events = got.partition("\n\n")
    assert "content-type: text/event-stream" in head
    assert events.endswith("data: [DONE]\n\n")
    large = subprocess.run(
        [*command, "-d", "@-"], input=json.dumps({"x": "y" * 2_000_000}), capture_output=True, text=True, check=True
    ).stdout
    # curl asks before it sends so much.
    assert "HTTP/1.1 100 Continue" in large
    assert '"param":"model"' in large
