"""Checks that the provider answers (sync, async, streamed, with a tool, over its keys), and checks its usage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agno.agent import Agent
from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.authoring import Event
from hfs_providers.testing.conformance.base import KEYS, Base, ask, contents, needs, run, stream
from hfs_providers.testing.scripts import Unauthorized
from hfs_providers.testing.server import LoopbackServer


def _tool() -> tuple[Callable[[str], str], list[str]]:
    """A tool for an agent, and a list of the arguments that it was called with."""
    called: list[str] = []

    def capital_of(country: str) -> str:
        """Give the capital of a country."""
        called.append(country)
        return "the capital is Zenith"

    return capital_of, called


class AnswerChecks(Base):
    """See `ProviderConformance`."""

    def test_an_agent_runs(self, manager: ProviderManager) -> None:
        assert "hello" in run(manager.get_model(self.name)).content

    @needs("async")
    def test_an_agent_runs_async(self, manager: ProviderManager) -> None:
        result = asyncio.run(Agent(model=manager.get_model(self.name), telemetry=False).arun("hello"))
        assert "hello" in str(result.content)

    @needs("async")
    def test_one_model_serves_two_event_loops_in_turn(self, manager: ProviderManager) -> None:
        agent = Agent(model=manager.get_model(self.name), telemetry=False)
        answers = [str(asyncio.run(agent.arun(word)).content) for word in ("first", "second")]
        assert "first" in answers[0]
        assert "second" in answers[1]

    @needs("streaming")
    def test_an_agent_streams(self, manager: ProviderManager) -> None:
        agent = Agent(model=manager.get_model(self.name), telemetry=False)
        chunks = contents(agent.run("hello", stream=True))
        assert len(chunks) > 1
        assert "hello" in "".join(chunks)

    @needs("async", "streaming")
    def test_an_agent_streams_async(self, manager: ProviderManager) -> None:
        async def collect() -> list[str]:
            agent = Agent(model=manager.get_model(self.name), telemetry=False)
            return contents([event async for event in agent.arun("hello", stream=True)])

        assert "hello" in "".join(asyncio.run(collect()))

    @needs("tools")
    def test_a_tool_is_called_once_and_its_result_is_used(self, manager: ProviderManager) -> None:
        capital_of, called = _tool()
        result = run(manager.get_model(self.name), "What is the capital?", tools=[capital_of])
        assert len(called) == 1
        assert "Zenith" in result.content

    @needs("tools", "streaming")
    def test_a_tool_is_called_once_in_a_stream_too(self, manager: ProviderManager) -> None:
        capital_of, called = _tool()
        agent = Agent(model=manager.get_model(self.name), tools=[capital_of], telemetry=False)
        said = contents(agent.run("What is the capital?", stream=True))
        assert len(called) == 1
        assert "Zenith" in "".join(said)

    @needs("async")
    def test_many_tasks_share_one_model(self, manager: ProviderManager) -> None:
        async def many() -> list[str]:
            model = manager.get_model(self.name)
            calls = [model.aresponse(messages=[Message(role="user", content=f"word{n}")]) for n in range(50)]
            return [str(answer.content) for answer in await asyncio.gather(*calls)]

        answers = asyncio.run(many())
        assert all(f"word{n}" in answer for n, answer in enumerate(answers))

    # Keys

    def test_calls_spread_over_the_keys(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        model = manager.get_model(self.name, affinity=None)
        for _ in range(2 * KEYS):
            ask(model)
        assert server.hits(self.name) == dict.fromkeys(keys, 2)

    def test_a_conversation_keeps_its_key(self, manager: ProviderManager, server: LoopbackServer) -> None:
        model = manager.get_model(self.name)
        for _ in range(KEYS):
            ask(model)
        assert list(server.hits(self.name).values()) == [KEYS]

    @needs("shared_connections")
    def test_rotated_calls_share_one_connection(self, manager: ProviderManager, server: LoopbackServer) -> None:
        model = manager.get_model(self.name, affinity=None)
        for _ in range(2 * KEYS):
            ask(model)
        assert server.connections == 1

    # Usage

    def test_each_request_leaves_a_row(self, manager: ProviderManager, events: list[Event], keys: list[str]) -> None:
        model = manager.get_model(self.name, affinity=None)
        for _ in range(KEYS):
            ask(model)
        rows = [event.usage for event in events if event.usage is not None]
        assert [(row.provider, row.model, row.outcome) for row in rows] == [(self.name, model.id, "ok")] * KEYS
        assert {row.key_id for row in rows} == {f"{self.name}#{number}" for number in range(1, KEYS + 1)}

    @needs("usage")
    def test_usage_is_what_the_provider_counted(
        self, manager: ProviderManager, server: LoopbackServer, events: list[Event]
    ) -> None:
        ask(manager.get_model(self.name))
        [row] = [event.usage for event in events if event.usage is not None]
        assert row.tokens == row.tokens_in + row.tokens_out == server.seen[-1].tokens > 0

    @needs("streaming", "stream_usage")
    def test_so_is_that_of_a_stream(
        self, manager: ProviderManager, server: LoopbackServer, events: list[Event]
    ) -> None:
        stream(manager.get_model(self.name))
        [row] = [event.usage for event in events if event.usage is not None]
        assert row.tokens == row.tokens_in + row.tokens_out == server.seen[-1].tokens > 0

    @needs("streaming", "stream_usage")
    def test_streamed_usage_reaches_agno_once(self, manager: ProviderManager, server: LoopbackServer) -> None:
        agent = Agent(model=manager.get_model(self.name), telemetry=False)
        last = list(agent.run("hello", stream=True, yield_run_output=True))[-1]
        metrics = getattr(last, "metrics", None)
        assert metrics is not None
        assert metrics.total_tokens == server.seen[-1].tokens

    # Models and health

    @needs("model_listing")
    def test_models_are_listed_live(self, manager: ProviderManager, server: LoopbackServer) -> None:
        assert set(self._wrapper(manager).list_models()) == set(server.models(self.name))
        assert self._nothing_held(manager)

    def test_live_health_finds_a_dead_key(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, keys[1], [], then=Unauthorized())
        health = manager.health(self.name, live=True)
        assert [key.state for key in health.keys] == ["ready", "dead", "ready"]

    def test_health_is_told_offline(self, manager: ProviderManager, server: LoopbackServer) -> None:
        assert manager.health(self.name).usable
        assert server.connections == 0

    def test_a_client_is_lent_for_what_is_no_answer(self, manager: ProviderManager, server: LoopbackServer) -> None:
        assert manager.get_model(self.name).get_client() is not None  # type: ignore[attr-defined]  # the classes have it
        assert self._nothing_held(manager)
        assert server.hits(self.name) == {}
