"""An agent's run, a stream, a tool, cached tokens and limits; and a chain through three providers, with thinking."""

from collections.abc import Iterator

import pytest
from agno.agent import Agent
from agno.models.message import Message
from hfs_providers_anthropic import plugin

from hfs_providers import ProviderManager
from hfs_providers.authoring import UsageRow
from hfs_providers.plugins import gemini, groq
from hfs_providers.testing import AnthropicDialect, LoopbackServer, Ok, RateLimited, Request, ServerError

ADAPTIVE = {"thinking": {"type": "adaptive"}}


class Recording(AnthropicDialect):
    """Keeps the requests that were read."""

    def __init__(self) -> None:
        super().__init__("anthropic")
        self.bodies: list[Request] = []

    def objection(self, request: Request):
        self.bodies.append(request)
        return super().objection(request)


@pytest.fixture
def anthropic() -> Recording:
    return Recording()


@pytest.fixture
def server(anthropic: Recording) -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[anthropic]) as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    env = server.env({"groq": 1, "anthropic": 2, "gemini": 1})
    with ProviderManager(env=env, plugins=[groq.plugin, plugin, gemini.plugin]) as manager:
        yield manager


@pytest.fixture
def rows(manager: ProviderManager) -> list[UsageRow]:
    seen: list[UsageRow] = []
    manager.observe(lambda event: seen.append(event.usage) if event.usage is not None else None)
    return seen


def capital_of(country: str) -> str:
    """Give the capital of a country."""
    return "the capital is Zenith"


def said(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message.role == "assistant"]


def test_an_agent_thinks_calls_a_tool_and_sends_its_signed_thinking_back(
    manager: ProviderManager, anthropic: Recording
) -> None:
    model = manager.get_model("anthropic", **ADAPTIVE)
    run = Agent(model=model, tools=[capital_of], telemetry=False).run("What is the capital?")
    assert "Zenith" in str(run.content)
    blocks = [block["type"] for block in anthropic.bodies[-1].body["messages"][1]["content"]]
    assert blocks == ["thinking", "tool_use"]


def test_an_agent_streams_with_a_tool(manager: ProviderManager, anthropic: Recording) -> None:
    model = manager.get_model("anthropic", **ADAPTIVE)
    events = Agent(model=model, tools=[capital_of], telemetry=False).run("What is the capital?", stream=True)
    assert "Zenith" in "".join(str(event.content) for event in events if event.event == "RunContent")
    assert anthropic.bodies[-1].body["messages"][1]["content"][0]["type"] == "thinking"


def test_cached_tokens_are_among_those_that_a_row_counts(
    manager: ProviderManager, server: LoopbackServer, rows: list[UsageRow]
) -> None:
    server.script("anthropic", "*", [Ok(text="hi", usage=(1000, 5), cached=800)] * 2)
    agent = Agent(model=manager.get_model("anthropic"), telemetry=False)
    agent.run("hello")
    list(agent.run("hello", stream=True))
    assert [(row.tokens_in, row.tokens_out, row.tokens_cached) for row in rows] == [(1000, 5, 800)] * 2


def test_the_limits_in_its_headers_are_kept(manager: ProviderManager, server: LoopbackServer) -> None:
    shown = {"anthropic-ratelimit-requests-limit": "1", "anthropic-ratelimit-tokens-limit": "90000"}
    server.script("anthropic", "*", [], then=Ok(text="hi", headers=shown))
    agent = Agent(model=manager.get_model("anthropic", affinity=None), telemetry=False)
    for _ in range(2):
        agent.run("hello")
    assert [key.state for key in manager.health("anthropic").keys] == ["limited", "limited"]


def test_an_overloaded_anthropic_gives_way_to_the_next_entry(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("anthropic", "*", [], then=ServerError(529))
    chain = manager.get_chain("anthropic", "gemini")
    Agent(model=chain, telemetry=False).run("hello")
    assert chain.served_by is not None
    assert chain.served_by.provider == "gemini"
    assert [key.state for key in manager.health("anthropic").keys] == ["ready", "ready"]


def test_each_model_of_a_chain_gets_its_own_signed_thinking_alone(
    manager: ProviderManager, server: LoopbackServer, anthropic: Recording
) -> None:
    """Groq, Anthropic and Gemini answer in turn, and all of them see the whole conversation."""
    chain = manager.get_chain("groq", {"provider": "anthropic", **ADAPTIVE}, "gemini/gemini-3.5-flash-lite")
    messages: list[Message] = []
    for provider, limited in (
        ("groq", ()),
        ("anthropic", ("groq",)),
        ("gemini", ("groq", "anthropic")),
        ("anthropic", ("groq",)),
    ):
        server.reset()
        for name in limited:
            server.script(name, "*", [], then=RateLimited(retry_after=0.001))
        agent = Agent(model=chain, tools=[capital_of], telemetry=False)
        run = agent.run([*messages, Message(role="user", content="What is the capital?")])
        assert "Zenith" in str(run.content)
        assert chain.served_by is not None
        assert chain.served_by.provider == provider
        messages = [message for message in run.messages or [] if message.role != "system"]
    sent = anthropic.bodies[-1].body["messages"]
    thinking = [
        [block["type"] for block in turn["content"]].count("thinking") for turn in sent if turn["role"] == "assistant"
    ]
    # Groq's call and answer, Anthropic's, Gemini's, and Anthropic's call of the last turn.
    assert thinking == [0, 0, 1, 1, 0, 0, 1]
