"""The families' models against a server that others wrote, https://github.com/CopilotKit/aimock."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agno.agent import Agent

from hfs_providers import ProviderManager
from hfs_providers.authoring import KeyedProvider, ModelDefault, UsageRow
from hfs_providers.families.model_classes import SDKS

MODULES = os.environ.get("HFS_TEST_AIMOCK")
pytestmark = pytest.mark.skipif(
    not MODULES, reason="needs aimock; set HFS_TEST_AIMOCK to the node_modules that have it"
)

# What is added to the server's address, by model class.
CLASSES = {
    "openai:OpenAIChat": "/v1",
    "openai:OpenAIResponses": "/v1",
    "groq:Groq": "",
    "anthropic:Claude": "",
    "google:Gemini": "",
    "mistral:MistralChat": "",
    "cohere:Cohere": "",
    "ollama:Ollama": "",
}
# What aimock does otherwise than the vendor, by test and model class.
LACKING = {
    ("test_an_answer_and_its_tokens", "ollama:Ollama"): "counts no tokens for Ollama",
    ("test_a_stream_and_its_tokens", "ollama:Ollama"): "counts no tokens for Ollama",
    ("test_a_stream_and_its_tokens", "mistral:MistralChat"): "tells a stream's tokens only to whom asks as OpenAI's do",
    ("test_a_tool_call_and_the_answer_to_its_result", "mistral:MistralChat"): "streams tool calls in OpenAI's pieces",
}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
CALL = {"name": "capital_of", "arguments": json.dumps({"country": "Zubrowka"})}
SLOW = {"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
FIXTURES = [
    {"match": {"userMessage": "hello"}, "response": {"content": "Hi there, all of you", "usage": USAGE}},
    {"match": {"userMessage": "capital", "hasToolResult": True}, "response": {"content": "It is Lutz"}},
    {"match": {"userMessage": "capital"}, "response": {"toolCalls": [CALL]}},
    *(
        {"match": {"userMessage": f"hurry {name}", **match}, "response": response}
        for name in CLASSES
        for match, response in (
            ({"sequenceIndex": 0}, {"error": SLOW, "status": 429, "retryAfter": 40}),
            ({}, {"content": "At last"}),
        )
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address."""
    fixtures = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    fixtures.write_text(json.dumps({"fixtures": FIXTURES}))
    program = Path(MODULES or "") / "@copilotkit" / "aimock" / "dist" / "cli.js"
    command = ["node", str(program), "--port", "0", "--strict", "--fixtures", str(fixtures)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        finally:
            server.kill()


@pytest.fixture(params=CLASSES)
def manager(request: pytest.FixtureRequest, url: str) -> Iterator[ProviderManager]:
    """One provider with two keys, or endpoints."""
    sdk = SDKS[request.param]
    path = CLASSES[request.param]
    plugin = KeyedProvider(
        name="other",
        model_class=f"agno.models.{request.param}",
        sdk=sdk.distribution,
        sdk_module=sdk.module,
        client=sdk.client,
        base_url=url + path,
        models=(ModelDefault("m"),),
        model_params=sdk.params,
        stream_params=sdk.streams,
        # It knows no other path of Gemini's.
        client_params={"http_options": {"api_version": "v1beta"}} if sdk.client == "google_genai" else {},
        keyless=sdk.client == "ollama",
    )
    keys = (
        (url, url.replace("127.0.0.1", "localhost")) if plugin.keyless else ("other-1-0123456789", "other-2-0123456789")
    )
    what = "ENDPOINT" if plugin.keyless else "API_KEY"
    env = {f"OTHER_{what}_{number}": key for number, key in enumerate(keys, 1)}
    with ProviderManager(env={"NUM_OTHER": "2", **env}, plugins=[plugin]) as manager:
        yield manager


@pytest.fixture
def rows(manager: ProviderManager) -> list[UsageRow]:
    seen: list[UsageRow] = []
    manager.observe(lambda event: seen.append(event.usage) if event.usage is not None else None)
    return seen


@pytest.fixture(autouse=True)
def _spoken(request: pytest.FixtureRequest) -> None:
    name = (request.node.originalname, request.node.callspec.params["manager"])
    if name in LACKING and request.node.callspec.params.get("streamed", True):
        pytest.skip(f"aimock {LACKING[name]}")


def text_of(events: Iterable[Any]) -> str:
    """What a streamed run said."""
    return "".join(event.content or "" for event in events if event.event == "RunContent")


def capital_of(country: str) -> str:
    """Give the capital of a country."""
    return f"Lutz, of {country}"


def test_an_answer_and_its_tokens(manager: ProviderManager, rows: list[UsageRow]) -> None:
    run = Agent(model=manager.get_model("other"), telemetry=False).run("hello")
    assert run.content == "Hi there, all of you"
    assert [(row.tokens_in, row.tokens_out) for row in rows] == [(7, 3)]


def test_a_stream_and_its_tokens(manager: ProviderManager, rows: list[UsageRow]) -> None:
    events = Agent(model=manager.get_model("other"), telemetry=False).run("hello", stream=True)
    assert text_of(events) == "Hi there, all of you"
    assert [(row.tokens_in, row.tokens_out) for row in rows] == [(7, 3)]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_tool_call_and_the_answer_to_its_result(manager: ProviderManager, streamed: bool) -> None:
    agent = Agent(model=manager.get_model("other"), tools=[capital_of], telemetry=False)
    said = text_of(agent.run("the capital?", stream=True)) if streamed else str(agent.run("the capital?").content)
    assert "It is Lutz" in said


def test_a_key_that_is_told_to_wait_gives_way_to_the_next(
    manager: ProviderManager, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["manager"]
    run = Agent(model=manager.get_model("other"), telemetry=False).run(f"hurry {name}")
    assert run.content == "At last"
    assert sorted(key.state for key in manager.health("other").keys) == ["cooling", "ready"]
