"""The dialect of Azure AI model inference, read by the vendor's own SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hfs_providers.testing import LoopbackServer, ModelGone, Ok, RateLimited, Step, Unauthorized
from hfs_providers.testing.protocols.azure_inference import AzureInferenceDialect

inference = pytest.importorskip("azure.ai.inference", reason="azure-ai-inference is not installed")

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "capital_of", "parameters": {"properties": {"country": {}}}}}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[AzureInferenceDialect("foundry")]) as server:
        yield server


@pytest.fixture
def client(server: LoopbackServer) -> Any:
    from azure.core.credentials import AzureKeyCredential

    credential = AzureKeyCredential(server.new_key("foundry"))
    return inference.ChatCompletionsClient(server.base_url("foundry"), credential, model="m-1", retry_total=0)


def test_an_answer_in_one_piece(server: LoopbackServer, client: Any) -> None:
    server.script("foundry", "*", [Ok(text="hi", usage=(10, 3))])
    answer = client.complete(messages=HELLO)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("hi", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 3)


def test_a_stream_tells_its_usage_if_it_is_asked(server: LoopbackServer, client: Any) -> None:
    server.script("foundry", "*", [], then=Ok(text="one two three", usage=(10, 3)))
    asked = {"stream_options": {"include_usage": True}}
    chunks = list(client.complete(messages=HELLO, stream=True, model_extras=asked))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two three"
    assert chunks[-1].usage.completion_tokens == 3
    assert not any(chunk.usage for chunk in client.complete(messages=HELLO, stream=True))


def test_a_tool_and_its_result(client: Any) -> None:
    [call] = client.complete(messages=HELLO, tools=[TOOL]).choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("capital_of", '{"country": "hello"}')
    turns = [*HELLO, {"role": "assistant", "tool_calls": [call.as_dict()]}]
    turns.append({"role": "tool", "tool_call_id": call.id, "content": "Zenith"})
    assert "The tool says: Zenith" in client.complete(messages=turns, tools=[TOOL]).choices[0].message.content


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [(Unauthorized(), 401, "401"), (ModelGone(), 404, "unknown_model"), (RateLimited(retry_after=7), 429, "429")],
    ids=lambda given: type(given).__name__ if isinstance(given, Step) else None,
)
def test_an_error_is_one_that_the_sdk_knows(
    server: LoopbackServer, client: Any, step: Step, status: int, code: str
) -> None:
    from azure.core.exceptions import HttpResponseError

    server.script("foundry", "*", [step])
    with pytest.raises(HttpResponseError) as caught:
        client.complete(messages=HELLO)
    assert (caught.value.status_code, caught.value.error.code) == (status, code)
    if isinstance(step, RateLimited):
        assert caught.value.response.headers["retry-after"] == "7"
