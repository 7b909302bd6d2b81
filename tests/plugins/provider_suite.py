"""What every built-in provider has to do, through its real SDK and Agno class, against the loopback server."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from agno.agent import Agent
from agno.exceptions import ModelRateLimitError
from agno.models.message import Message
from agno.run.base import RunStatus

from hfs_providers import (
    Event,
    KeysExhaustedError,
    ModelCallError,
    ModelNotFoundError,
    ProviderManager,
    StreamInterruptedError,
)
from hfs_providers.testing import (
    EmptyBody,
    Forbidden,
    Garbage,
    HalfStream,
    LoopbackServer,
    ModelGone,
    Ok,
    PaymentRequired,
    RateLimited,
    Reset,
    ServerError,
    Stall,
    Unauthorized,
)

KEYS = 3


def capital_of(country: str) -> str:
    """Give the capital of a country.

    Args:
        country: its English name.
    """
    CALLED.append(country)
    return "the capital is Zenith"


CALLED: list[str] = []


def run(model: Any, prompt: str = "hello") -> Any:
    """One agent run; fails the test where the run ended in an error, which Agno does not raise."""
    result = Agent(model=model, telemetry=False).run(prompt)
    assert result.status == RunStatus.completed, result.content
    return result


def ask(model: Any, **kwargs: Any) -> str:
    """One call below the agent, where errors are raised."""
    return str(model.response(messages=[Message(role="user", content="hello")], **kwargs).content)


def stream(model: Any) -> list[str]:
    """One stream below the agent."""
    deltas = model.response_stream(messages=[Message(role="user", content="hello")])
    return [delta.content for delta in deltas if isinstance(delta.content, str) and delta.content]


class ProviderSuite:
    """Subclass it with the provider's name."""

    name: ClassVar[str]

    @pytest.fixture
    def server(self) -> Iterator[LoopbackServer]:
        with LoopbackServer() as server:
            yield server

    @pytest.fixture
    def env(self, server: LoopbackServer) -> dict[str, str]:
        return dict(server.env({self.name: KEYS}))

    @pytest.fixture
    def keys(self, env: dict[str, str]) -> list[str]:
        return [env[f"{self.name.upper()}_API_KEY_{n}"] for n in range(1, KEYS + 1)]

    @pytest.fixture
    def manager(self, env: dict[str, str]) -> Iterator[ProviderManager]:
        with ProviderManager(env=env) as manager:
            self.wrapper(manager).sleep = lambda seconds: None
            yield manager

    @pytest.fixture
    def events(self, manager: ProviderManager) -> list[Event]:
        seen: list[Event] = []
        manager.observe(seen.append)
        return seen

    def wrapper(self, manager: ProviderManager) -> Any:
        return manager.wrappers[self.name]

    def states(self, manager: ProviderManager) -> list[str]:
        return [status.state for status in self.wrapper(manager).pool.statuses()]

    def nothing_held(self, manager: ProviderManager) -> bool:
        counts = self.wrapper(manager).pool.counts(manager.default_model(self.name))
        return (counts.in_flight, counts.reserved_tokens) == (0, 0)

    # Answers

    def test_an_agent_runs(self, manager: ProviderManager) -> None:
        assert "hello" in run(manager.get_model(self.name)).content

    def test_an_agent_runs_async(self, manager: ProviderManager) -> None:
        result = asyncio.run(Agent(model=manager.get_model(self.name), telemetry=False).arun("hello"))
        assert "hello" in result.content

    def test_one_model_serves_two_event_loops_in_turn(self, manager: ProviderManager) -> None:
        agent = Agent(model=manager.get_model(self.name), telemetry=False)
        answers = [asyncio.run(agent.arun(word)).content for word in ("first", "second")]
        assert "first" in answers[0]
        assert "second" in answers[1]

    def test_an_agent_streams(self, manager: ProviderManager) -> None:
        agent = Agent(model=manager.get_model(self.name), telemetry=False)
        chunks = [event.content for event in agent.run("hello", stream=True) if event.event == "RunContent"]
        assert len(chunks) > 1
        assert "hello" in "".join(chunks)

    def test_an_agent_streams_async(self, manager: ProviderManager) -> None:
        async def collect() -> list[str]:
            agent = Agent(model=manager.get_model(self.name), telemetry=False)
            return [e.content async for e in agent.arun("hello", stream=True) if e.event == "RunContent"]

        assert "hello" in "".join(asyncio.run(collect()))

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_tool_is_called_once_and_its_result_is_used(self, manager: ProviderManager, streamed: bool) -> None:
        CALLED.clear()
        agent = Agent(model=manager.get_model(self.name), tools=[capital_of], telemetry=False)
        if streamed:
            events = agent.run("What is the capital?", stream=True)
            content = "".join(e.content for e in events if e.event == "RunContent")
        else:
            content = agent.run("What is the capital?").content
        assert len(CALLED) == 1
        assert "Zenith" in content

    def test_calls_spread_over_the_keys(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        model = manager.get_model(self.name)
        for _ in range(2 * KEYS):
            ask(model)
        assert server.hits(self.name) == dict.fromkeys(keys, 2)

    def test_rotated_calls_share_one_connection(self, manager: ProviderManager, server: LoopbackServer) -> None:
        model = manager.get_model(self.name)
        for _ in range(2 * KEYS):
            ask(model)
        assert server.connections == 1

    def test_usage_is_what_the_provider_counted(self, manager: ProviderManager, events: list[Event]) -> None:
        ask(manager.get_model(self.name))
        stream(manager.get_model(self.name))
        rows = [event.usage for event in events if event.usage is not None]
        assert len(rows) == 2
        assert all(row.outcome == "ok" and row.tokens == row.tokens_in + row.tokens_out > 0 for row in rows)

    def test_streamed_usage_reaches_agno_once(self, manager: ProviderManager, server: LoopbackServer) -> None:
        agent = Agent(model=manager.get_model(self.name), telemetry=False)
        events = list(agent.run("hello", stream=True, yield_run_output=True))
        assert events[-1].metrics.total_tokens == server.seen[-1].tokens

    # Keys that fail

    @pytest.mark.parametrize("form", ["seconds", "fraction", "date", "ms", "reset", "retryinfo", "none"])
    def test_a_limited_key_cools_and_the_next_answers(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str], form: Any
    ) -> None:
        server.script(self.name, keys[0], [RateLimited(retry_after=40, form=form)])
        assert "hello" in ask(manager.get_model(self.name))
        status = self.wrapper(manager).pool.statuses()[0]
        assert status.state == "cooling"
        assert 20 < status.free_in <= 86_400

    @pytest.mark.parametrize("step", [Unauthorized(), PaymentRequired()])
    def test_a_refused_key_dies_and_the_next_answers(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str], step: Any
    ) -> None:
        server.script(self.name, keys[0], [step])
        assert "hello" in ask(manager.get_model(self.name))
        assert self.states(manager) == ["dead", "ready", "ready"]

    def test_a_forbidden_key_leaves_rotation_and_the_next_answers(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, keys[0], [Forbidden()])
        assert "hello" in ask(manager.get_model(self.name))
        assert self.states(manager)[0] != "ready"

    def test_a_stream_rotates_before_its_first_content(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, keys[0], [RateLimited(retry_after=40)])
        server.script(self.name, keys[1], [Unauthorized()])
        assert "hello" in "".join(stream(manager.get_model(self.name)))
        assert self.states(manager) == ["cooling", "dead", "ready"]

    def test_an_exhausted_pool_says_how_many_and_when(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, "*", [], then=RateLimited(retry_after=40))
        server.script(self.name, keys[0], [], then=Unauthorized())
        model = manager.get_model(self.name)
        with pytest.raises(KeysExhaustedError):
            ask(model)
        with pytest.raises(ModelRateLimitError) as caught:
            ask(model)
        error: Any = caught.value
        assert (error.total_keys, error.cooling_down, error.dead) == (3, 2, 1)
        assert 30 < error.free_in <= 40

    def test_an_exhausted_call_keeps_its_cause(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [], then=RateLimited(retry_after=40))
        with pytest.raises(KeysExhaustedError) as caught:
            ask(manager.get_model(self.name))
        assert caught.value.__cause__ is not None

    def test_agno_falls_back_when_the_pool_is_exhausted(self, manager: ProviderManager, server: LoopbackServer) -> None:
        class Elsewhere(type(manager.get_model(self.name))):  # type: ignore[misc]
            def invoke(self, *args: Any, **kwargs: Any) -> Any:
                from agno.models.response import ModelResponse

                return ModelResponse(content="from elsewhere")

        fallback = Elsewhere(id="elsewhere")
        server.script(self.name, "*", [], then=Unauthorized())
        agent = Agent(model=manager.get_model(self.name), fallback_models=[fallback], telemetry=False)
        assert agent.run("hello").content == "from elsewhere"

    # Calls that fail

    @pytest.mark.parametrize("step", [ServerError(500), ServerError(503), Reset(), Garbage(), EmptyBody()])
    def test_a_transient_failure_is_repeated(self, manager: ProviderManager, server: LoopbackServer, step: Any) -> None:
        server.script(self.name, "*", [step])
        assert "hello" in ask(manager.get_model(self.name))
        assert self.states(manager) == ["ready"] * KEYS

    def test_repetition_has_an_end(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [], then=ServerError(503))
        with pytest.raises(ModelCallError) as caught:
            ask(manager.get_model(self.name, max_retries=2))
        assert caught.value.attempts == 3
        assert sum(server.hits(self.name).values()) == 3

    def test_a_silent_provider_ends_in_an_error(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [], then=Stall(5))
        with pytest.raises(ModelCallError) as caught:
            ask(manager.get_model(self.name, max_retries=0, request_timeout=0.2))
        assert caught.value.kind == "transport"

    def test_a_named_model_that_is_gone_is_not_replaced(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [], then=ModelGone())
        with pytest.raises(ModelNotFoundError) as caught:
            ask(manager.get_model(self.name, "once-was"))
        assert caught.value.model_id == "once-was"
        assert sum(server.hits(self.name).values()) == 1

    def test_a_default_model_that_is_gone_gives_way_to_its_successor(
        self, env: dict[str, str], server: LoopbackServer
    ) -> None:
        with ProviderManager(env=env) as manager:
            wrapper = self.wrapper(manager)
            first, last = wrapper.plugin.models[0].id, wrapper.plugin.models[-1].id
            server.retire(self.name, first)
            assert last in ask(wrapper.get_model(first, named=False))
            assert last in ask(wrapper.get_model(first, named=False))
            assert [seen.model for seen in server.seen].count(first) == 1

    def test_a_default_of_the_users_that_is_gone_is_not_replaced(
        self, env: dict[str, str], server: LoopbackServer
    ) -> None:
        with ProviderManager(env={**env, f"{self.name.upper()}_MODEL": "mine"}) as manager:
            server.retire(self.name, "mine")
            with pytest.raises(ModelNotFoundError):
                ask(manager.get_model(self.name))

    @pytest.mark.parametrize("how", ["eof", "reset"])
    def test_a_stream_that_breaks_is_never_repeated_silently(
        self, manager: ProviderManager, server: LoopbackServer, how: Any
    ) -> None:
        server.script(self.name, "*", [HalfStream(chunks=2, how=how)])
        received: list[str] = []
        deltas = manager.get_model(self.name).response_stream(messages=[Message(role="user", content="hello")])
        with pytest.raises(StreamInterruptedError) as caught:
            received.extend(delta.content or "" for delta in deltas)
        assert caught.value.received == "".join(received) != ""
        assert sum(server.hits(self.name).values()) == 1

    def test_an_empty_stream_is_repeated(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [EmptyBody()])
        assert "hello" in "".join(stream(manager.get_model(self.name)))

    # Leases end

    def test_nothing_is_held_after_any_ending(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [Ok(), RateLimited(retry_after=0.001), ServerError(500), Garbage(), Reset()])
        model = manager.get_model(self.name, max_retries=0)
        for _ in range(5):
            try:
                ask(model)
            except ModelCallError:
                continue
        assert self.nothing_held(manager)

    def test_a_dropped_stream_ends_its_lease(self, manager: ProviderManager) -> None:
        deltas = manager.get_model(self.name).response_stream(messages=[Message(role="user", content="hello")])
        next(deltas)
        deltas.close()
        gc.collect()
        assert self.nothing_held(manager)

    def test_a_cancelled_call_ends_its_lease(self, manager: ProviderManager, server: LoopbackServer) -> None:
        async def cancelled() -> None:
            model = manager.get_model(self.name)
            with server.hold() as gate:
                call = asyncio.ensure_future(model.aresponse(messages=[Message(role="user", content="hello")]))
                await asyncio.to_thread(gate.wait_for, 1, timeout=5)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

        asyncio.run(cancelled())
        assert self.nothing_held(manager)

    def test_many_tasks_share_one_model(self, manager: ProviderManager, server: LoopbackServer) -> None:
        async def many() -> list[str]:
            model = manager.get_model(self.name)
            calls = [model.aresponse(messages=[Message(role="user", content=f"word{n}")]) for n in range(50)]
            return [str(answer.content) for answer in await asyncio.gather(*calls)]

        answers = asyncio.run(many())
        assert all(f"word{n}" in answer for n, answer in enumerate(answers))

    # The model as an object

    def test_the_class_keeps_its_name(self, manager: ProviderManager) -> None:
        model = manager.get_model(self.name)
        assert type(model).__name__ == self.wrapper(manager).model_class.__name__

    @pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
    def test_a_copy_shares_the_pool(self, manager: ProviderManager, server: LoopbackServer, how: Any) -> None:
        model = how(manager.get_model(self.name))
        ask(model)
        assert sum(server.hits(self.name).values()) == 1

    def test_no_model_is_written_to_by_a_call(self, manager: ProviderManager) -> None:
        model = manager.get_model(self.name)
        before = dict(model.__dict__)
        ask(model)
        assert model.__dict__ == before

    def test_a_model_of_an_explicit_environment_refuses_to_be_pickled(self, manager: ProviderManager) -> None:
        with pytest.raises(TypeError, match="explicit environment"):
            pickle.dumps(manager.get_model(self.name))

    def test_a_pickled_model_serves_in_another_process(
        self, env: dict[str, str], keys: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        for variable, value in env.items():
            monkeypatch.setenv(variable, value)
        with ProviderManager() as manager:
            data = pickle.dumps(manager.get_model(self.name, temperature=0.3))
        assert not any(key.encode() in data for key in keys)
        (tmp_path / "model").write_bytes(data)
        program = (
            "import pickle, sys; from agno.models.message import Message\n"
            "model = pickle.load(open(sys.argv[1], 'rb'))\n"
            "print(model.temperature, model.response(messages=[Message(role='user', content='hello')]).content)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "model")], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.startswith("0.3 "), done.stderr
        assert "hello" in done.stdout

    def test_a_model_takes_no_key_of_its_own(self, manager: ProviderManager) -> None:
        with pytest.raises(TypeError, match="api_key"):
            manager.get_model(self.name, api_key="anything")

    def test_it_lends_a_client_for_what_is_no_answer(self, manager: ProviderManager, server: LoopbackServer) -> None:
        page = manager.get_model(self.name).get_client().models.list()
        assert len(list(getattr(page, "data", page))) == len(server.models(self.name))
        assert self.nothing_held(manager)

    # Secrets

    @pytest.mark.parametrize("step", [Unauthorized(echo_key=True), Forbidden(echo_key=True)])
    def test_no_key_is_shown(
        self,
        manager: ProviderManager,
        server: LoopbackServer,
        keys: list[str],
        events: list[Event],
        step: Any,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        import traceback

        server.script(self.name, "*", [], then=step)
        caplog.set_level("DEBUG")
        model = manager.get_model(self.name)
        with pytest.raises(KeysExhaustedError) as caught:
            ask(model)
        agent_run = Agent(model=model, telemetry=False).run("hello")
        shown = [
            "".join(traceback.format_exception(caught.value)),
            repr(caught.value),
            repr(agent_run),
            repr(model),
            repr(model.__dict__),
            repr(manager),
            repr(manager.wrappers),
            repr(manager.survey),
            repr(self.wrapper(manager).__dict__),
            repr(events),
            repr(manager.environment_status),
            caplog.text,
            *capfd.readouterr(),
        ]
        parts = [key[:12] for key in keys] + [key[-6:] for key in keys]
        assert not [part for part in parts for text in shown if part in text]

    # The wrapper

    def test_models_are_listed_live(self, manager: ProviderManager, server: LoopbackServer) -> None:
        listed = self.wrapper(manager).list_models()
        assert set(server.models(self.name)) == set(listed)

    def test_health_is_told_offline(self, manager: ProviderManager, server: LoopbackServer) -> None:
        assert manager.health(self.name).usable
        assert server.connections == 0

    def test_live_health_finds_a_dead_key(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, keys[1], [], then=Unauthorized())
        health = manager.health(self.name, live=True)
        assert [key.state for key in health.keys] == ["ready", "dead", "ready"]

    def test_a_provider_without_a_living_key_is_unhealthy(
        self, manager: ProviderManager, server: LoopbackServer
    ) -> None:
        server.script(self.name, "*", [], then=Unauthorized())
        assert manager.is_provider_healthy(self.name)
        with pytest.raises(KeysExhaustedError):
            ask(manager.get_model(self.name))
        assert not manager.is_provider_healthy(self.name)
