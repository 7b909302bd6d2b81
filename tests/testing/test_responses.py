"""The Responses API of the loopback server, read by the openai SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from hfs_providers.testing import LoopbackServer, Ok, OpenAIDialect
from hfs_providers.testing.protocols.azure_openai import AzureOpenAIDialect

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "capital_of",
    "parameters": {"type": "object", "properties": {"country": {"type": "string"}}},
}
HELLO: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[OpenAIDialect("acme"), AzureOpenAIDialect("azure")]) as server:
        yield server


@pytest.fixture
def client(server: LoopbackServer) -> Any:
    return openai.OpenAI(api_key=server.new_key("acme"), base_url=server.base_url("acme"), max_retries=0)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_and_its_result(client: Any, streamed: bool) -> None:
    given: dict[str, Any] = {"model": "m", "tools": [TOOL]}
    if streamed:
        events = list(client.responses.create(input=HELLO, stream=True, **given))
        [called] = [event.item for event in events if event.type == "response.output_item.done"]
        assert events[-1].response.output == [called]
    else:
        [called] = client.responses.create(input=HELLO, **given).output
    assert (called.name, called.arguments) == ("capital_of", '{"country": "hello"}')
    result = {"type": "function_call_output", "call_id": called.call_id, "output": "Zenith"}
    answer = client.responses.create(input=[*HELLO, called.model_dump(), result], **given)
    assert "The tool says: Zenith" in answer.output_text


def test_a_schema_and_cached_tokens(server: LoopbackServer, client: Any) -> None:
    wanted = {"type": "json_schema", "name": "City", "schema": TOOL["parameters"]}
    answer = client.responses.create(model="m", input=HELLO, text={"format": wanted})
    assert answer.output_text == '{"country": "hello"}'
    server.script("acme", "*", [Ok(text="hi", usage=(100, 2), cached=64)])
    usage = client.responses.create(model="m", input="hello").usage
    assert (usage.input_tokens, usage.input_tokens_details.cached_tokens) == (100, 64)


def test_azure_has_the_deployment_in_its_path(server: LoopbackServer) -> None:
    key = server.new_key("azure")
    client = openai.AzureOpenAI(api_key=key, base_url=server.base_url("azure"), api_version="v", max_retries=0)
    messages: Any = [{"role": "user", "content": "hello"}]
    answer = client.chat.completions.create(model="mine", messages=messages)
    assert answer.choices[0].message.content == "[azure/mine] You said: hello"
    [seen] = server.seen
    assert (seen.key, seen.model, seen.path) == (key, "mine", "/openai/chat/completions")
