"""What the documents of keycycle and Agno show, over this library's models and wrappers, with the real SDKs."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import groq
import pytest
from agno.agent import Agent, RunContentEvent, RunOutput
from agno.db.sqlite import SqliteDb
from agno.models.base import Model
from agno.models.message import Message
from agno.run import RunContext
from agno.team import Team
from agno.tools import tool
from agno.tools.reasoning import ReasoningTools
from agno.utils.log import use_agent_logger
from agno.workflow import Parallel, Step, Workflow
from pydantic import BaseModel, Field

from hfs_providers import ProviderManager
from hfs_providers.testing import LoopbackServer, Ok, ServerError
from hfs_providers.testing.answers import Request, think

HELLO: Any = [{"role": "user", "content": "Hello"}]


class Mind:
    """What the providers say: what a test puts here, else what they say by themselves."""

    def __init__(self) -> None:
        self.says: Callable[[Request], Ok | None] = lambda request: None
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> Ok:
        self.asked.append(request)
        return self.says(request) or think(request)

    @property
    def told(self) -> list[str]:
        """The body of each request, as text."""
        return [str(request.body) for request in self.asked]


@pytest.fixture
def mind() -> Mind:
    return Mind()


@pytest.fixture
def server(mind: Mind) -> Iterator[LoopbackServer]:
    with LoopbackServer(answer=mind) as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"groq": 2, "cerebras": 1, "gemini": 1, "openrouter": 2})) as manager:
        yield manager
    # A team's run leaves Agno logging as for teams, for whoever comes next in the process.
    use_agent_logger()


# keycycle


def readme() -> list[str]:
    """The Python blocks of keycycle's README, without their import: what it names is given by the test."""
    described = metadata("keycycle")
    text = str(described.get_payload() or described["Description"])
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    # Agno's models have no such method (any more): the line fails in keycycle itself.
    call = "print(model.response(messages=[Message(role='user', content='Hello world')]).content)"
    return [
        block.replace("from keycycle import MultiProviderWrapper\n", "").replace('model.generate("Hello world")', call)
        for block in blocks
    ]


@pytest.fixture
def names(manager: ProviderManager) -> dict[str, Any]:
    """The names that the blocks use, over a wrapper of this library."""
    wrapper: Any = manager.wrappers["openrouter"]

    class MultiProviderWrapper:
        @staticmethod
        def from_env(provider: str, default_model_id: str, db_url: str | None = None, track_usage: bool = True) -> Any:
            wrapper.track_usage = track_usage
            return wrapper

    client = wrapper.get_openai_client()
    return {"MultiProviderWrapper": MultiProviderWrapper, "wrapper": wrapper, "client": client, "Message": Message}


class TestTheReadmeOfKeycycle:
    def test_has_the_blocks_that_are_run_here(self) -> None:
        assert len(readme()) == 6

    def test_names_a_method_that_no_agno_model_has(self) -> None:
        # Once one has it, `readme` need not replace it.
        assert not hasattr(Model, "generate")

    @pytest.mark.parametrize("block", readme(), ids=lambda block: next(filter(None, block.splitlines())))
    def test_runs(self, block: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        exec(block, names)
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("number", [0, 1])
    def test_prints_the_answer(self, number: int, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        exec(readme()[number], names)
        assert "[openrouter/gpt-4o] You said: Hello" in capsys.readouterr().out

    def test_has_an_async_client(self, names: dict[str, Any]) -> None:
        exec(readme()[0], names)
        create = names["async_client"].chat.completions.create
        answer = asyncio.run(create(messages=HELLO, model="gpt-4o"))
        assert "You said: Hello" in answer.choices[0].message.content

    def test_takes_track_usage_for_a_single_call(self, names: dict[str, Any], mind: Mind) -> None:
        exec(readme()[-1], names)
        assert "You said: Hello" in names["response"].choices[0].message.content
        # The keyword is for the wrapper, and no provider is sent it.
        assert "track_usage" not in mind.told[0]


class TestTheDocstringsOfKeycycle:
    """Examples of `get_rotating_client`, `get_api_key` and `record_key_usage`."""

    @pytest.fixture
    def wrapper(self, manager: ProviderManager) -> Any:
        return manager.wrappers["groq"]

    def test_an_sdk_s_client_rotates(self, wrapper: Any, mind: Mind) -> None:
        client: Any = wrapper.get_rotating_client(groq.Groq, base_url=wrapper.config.base_url, affinity=None)
        for _ in range(2):
            answer = client.chat.completions.create(model="llama-3.3-70b-versatile", messages=HELLO, max_tokens=100)
            assert "You said: Hello" in answer.choices[0].message.content
        assert len({request.key for request in mind.asked}) == 2

    def test_its_async_client_rotates(self, wrapper: Any, mind: Mind) -> None:
        async def main() -> None:
            client: Any = wrapper.get_rotating_client(groq.AsyncGroq, base_url=wrapper.config.base_url, affinity=None)
            for _ in range(2):
                await client.chat.completions.create(model="llama-3.3-70b-versatile", messages=HELLO)

        asyncio.run(main())
        assert len({request.key for request in mind.asked}) == 2

    def test_its_tokens_are_read_as_the_caller_says(self, wrapper: Any, manager: ProviderManager) -> None:
        rows: list[Any] = []
        manager.observe(lambda event: rows.append(event.usage) if event.usage is not None else None)
        client: Any = wrapper.get_rotating_client(
            groq.Groq, base_url=wrapper.config.base_url, usage_extractor=lambda answer: answer.usage.total_tokens + 1000
        )
        client.chat.completions.create(model="llama-3.3-70b-versatile", messages=HELLO)
        assert rows[0].tokens > 1000

    def test_a_key_is_used_elsewhere_and_its_use_recorded(self, wrapper: Any) -> None:
        key = wrapper.get_api_key(estimated_tokens=500)
        wrapper.record_key_usage(key, model_id="llama-3.3-70b-versatile", actual_tokens=450)
        assert key in {credential.secret.reveal() for credential in wrapper.pool.credentials}


# Agno


@pytest.fixture(params=["groq", "gemini", "chain"])
def make(request: pytest.FixtureRequest, manager: ProviderManager) -> Callable[..., Any]:
    """Makes the model of an agent."""

    def make(**options: Any) -> Any:
        if request.param == "chain":
            return manager.get_chain("groq", "cerebras", **options)
        return manager.get_model(request.param, **options)

    return make


class Movie(BaseModel):
    name: str = Field(description="of the film")
    characters: list[str]
    rating: int


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: where.
    """
    return f"fog in {city}"


def wait(work: Any) -> Any:
    return asyncio.run(work)


def tool_names(request: Request) -> list[str]:
    return [name for name, _ in request.tools]


class TestAnAgent:
    def test_runs(self, make: Callable[..., Any]) -> None:
        run = Agent(model=make(), instructions="Be brief.", markdown=True, telemetry=False).run("Hello there")
        assert str(run.content).endswith("] You said: Hello there")
        assert run.metrics is not None
        assert run.metrics.total_tokens > 0

    def test_runs_async_and_several_at_once(self, make: Callable[..., Any]) -> None:
        async def main() -> list[Any]:
            agent = Agent(model=make(), telemetry=False)
            return await asyncio.gather(*(agent.arun(f"number {n}") for n in range(5)))

        assert [run.content.rpartition(" ")[2] for run in wait(main())] == list("01234")

    def test_streams_events(self, make: Callable[..., Any]) -> None:
        agent = Agent(model=make(), telemetry=False)
        *events, last = agent.run("one two three", stream=True, stream_events=True, yield_run_output=True)
        text = "".join(str(event.content) for event in events if isinstance(event, RunContentEvent))
        assert isinstance(last, RunOutput)
        assert text == last.content
        kinds = [getattr(event, "event", None) for event in events]
        assert (kinds[0], kinds[-1]) == ("RunStarted", "RunCompleted")

    def test_streams_async(self, make: Callable[..., Any]) -> None:
        async def main() -> str:
            stream = Agent(model=make(), telemetry=False).arun("one two three", stream=True)
            return "".join([str(event.content) async for event in stream if isinstance(event, RunContentEvent)])

        assert wait(main()).endswith("one two three")

    def test_prints_its_response(self, make: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
        agent = Agent(model=make(), telemetry=False)
        agent.print_response("Hello there")
        agent.print_response("Hello once more", stream=True)
        shown = capsys.readouterr().out
        assert "You said: Hello there" in shown
        assert "Hello once more" in shown

    @pytest.mark.parametrize("stream", [False, True])
    def test_calls_tools(self, stream: bool, make: Callable[..., Any]) -> None:
        agent = Agent(model=make(), tools=[weather], telemetry=False)
        if stream:
            *_, run = agent.run("Paris", stream=True, yield_run_output=True)
        else:
            run = agent.run("Paris")
        assert "The tool says: " in str(run.content)
        assert "fog in Paris" in str(run.content)

    def test_waits_for_a_confirmation(self, make: Callable[..., Any]) -> None:
        launched: list[str] = []

        @tool(requires_confirmation=True)
        def launch(code: str) -> str:
            """Launch it."""
            launched.append(code)
            return "launched"

        agent = Agent(model=make(), tools=[launch], telemetry=False, db=SqliteDb(db_file="hitl.db"))
        run = agent.run("zero")
        assert run.is_paused
        assert launched == []
        for requirement in run.active_requirements:
            requirement.confirm()
        ended = agent.continue_run(run_id=run.run_id, requirements=run.requirements)
        assert launched == ["zero"]
        assert "The tool says: " in str(ended.content)

    @pytest.mark.parametrize("options", [{}, {"use_json_mode": True}])
    def test_gives_structured_output(self, options: dict[str, Any], make: Callable[..., Any]) -> None:
        run = Agent(model=make(), output_schema=Movie, telemetry=False, **options).run("A film about fog")
        assert isinstance(run.content, Movie)

    def test_gives_structured_output_through_a_parser_model(self, make: Callable[..., Any]) -> None:
        agent = Agent(model=make(), parser_model=make(), output_schema=Movie, telemetry=False)
        assert isinstance(agent.run("A film about fog").content, Movie)

    def test_gives_structured_output_in_a_stream(self, make: Callable[..., Any]) -> None:
        agent = Agent(model=make(), output_schema=Movie, telemetry=False)
        *_, run = agent.run("A film about fog", stream=True, yield_run_output=True)
        assert isinstance(run.content, Movie)

    def test_takes_structured_input(self, make: Callable[..., Any]) -> None:
        run = Agent(model=make(), input_schema=Movie, telemetry=False).run(Movie(name="Fog", characters=[], rating=1))
        assert "Fog" in str(run.content)

    def test_reasons_with_tools(self, make: Callable[..., Any], mind: Mind) -> None:
        def says(request: Request) -> Ok | None:
            if request.tool_result is None and "think" in tool_names(request):
                return Ok(tool_calls=[("think", {"title": "Begin", "thought": "Fog is water."})])
            return None

        mind.says = says
        run = Agent(model=make(), tools=[ReasoningTools(add_instructions=True)], telemetry=False).run("Why fog?")
        assert run.reasoning_steps
        assert run.reasoning_steps[0].title == "Begin"

    def test_reasons_with_a_reasoning_model(self, make: Callable[..., Any], manager: ProviderManager) -> None:
        reasoner = manager.get_model("groq", "openai/gpt-oss-120b")
        run = Agent(model=make(), reasoning_model=reasoner, telemetry=False).run("Why fog?")
        assert "gpt-oss-120b" in str(run.reasoning_content)

    def test_falls_back_as_agno_documents_it(
        self, make: Callable[..., Any], manager: ProviderManager, server: LoopbackServer
    ) -> None:
        for provider in ("groq", "cerebras", "gemini"):
            server.script(provider, "*", [], then=ServerError(500))
        agent = Agent(model=make(max_retries=0), fallback_models=[manager.get_model("openrouter")], telemetry=False)
        assert "[openrouter/" in str(agent.run("hello").content)

    def test_caches_responses(self, make: Callable[..., Any], mind: Mind, tmp_path: Path) -> None:
        agent = Agent(model=make(cache_response=True, cache_dir=str(tmp_path)), telemetry=False)
        first, second = agent.run("hello").content, agent.run("hello").content
        assert first == second
        assert len(mind.asked) == 1


class TestADatabase:
    @pytest.fixture
    def db(self, tmp_path: Path) -> SqliteDb:
        return SqliteDb(db_file=str(tmp_path / "agents.db"))

    def test_keeps_the_history_of_a_session(self, make: Callable[..., Any], mind: Mind, db: SqliteDb) -> None:
        for prompt in ("My name is Sarah", "What is my name?"):
            # A new agent each time, as in another process.
            Agent(model=make(), db=db, add_history_to_context=True, num_history_runs=3, telemetry=False).run(
                prompt, session_id="chat"
            )
        assert "My name is Sarah" in mind.told[-1]

    def test_keeps_the_state_of_a_session(self, make: Callable[..., Any], db: SqliteDb) -> None:
        def add_item(run_context: RunContext, item: str) -> str:
            """Add an item to the list."""
            assert run_context.session_state is not None
            run_context.session_state["list"].append(item)
            return "added"

        agent = Agent(model=make(), db=db, tools=[add_item], session_state={"list": []}, telemetry=False)
        agent.run("milk", session_id="shop")
        assert agent.get_session_state(session_id="shop")["list"] == ["milk"]

    @pytest.mark.parametrize("way", ["run", "arun"])
    def test_keeps_memories_of_a_user(self, way: str, make: Callable[..., Any], mind: Mind, db: SqliteDb) -> None:
        def says(request: Request) -> Ok | None:
            if request.tool_result is None and "add_memory" in tool_names(request):
                return Ok(tool_calls=[("add_memory", {"memory": "Sarah likes fog.", "topics": ["weather"]})])
            return None

        mind.says = says
        agent = Agent(model=make(), db=db, update_memory_on_run=True, telemetry=False)
        if way == "run":
            agent.run("I like fog.", user_id="sarah")
        else:
            wait(agent.arun("I like fog.", user_id="sarah"))
        memories = agent.get_user_memories(user_id="sarah")
        assert [memory.memory for memory in memories or ()] == ["Sarah likes fog."]
        agent.run("What do I like?", user_id="sarah")
        assert any("Sarah likes fog." in told for told in mind.told)

    def test_keeps_summaries_of_sessions(self, make: Callable[..., Any], db: SqliteDb) -> None:
        agent = Agent(model=make(), db=db, enable_session_summaries=True, telemetry=False)
        agent.run("hello", session_id="s")
        summary = agent.get_session_summary(session_id="s")
        assert summary is not None
        assert summary.summary

    def test_has_no_key_in_it(
        self, make: Callable[..., Any], manager: ProviderManager, db: SqliteDb, tmp_path: Path
    ) -> None:
        agent = Agent(model=make(), db=db, tools=[weather], update_memory_on_run=True, telemetry=False)
        agent.run("Paris", session_id="s", user_id="u")
        with sqlite3.connect(tmp_path / "agents.db") as connection:
            dump = "\n".join(connection.iterdump())
        connection.close()
        assert "Paris" in dump
        for wrapper in manager.wrappers.values():
            for credential in wrapper.pool.credentials:
                assert credential.secret is not None
                assert credential.secret.reveal() not in dump


def delegating(request: Request) -> Ok | None:
    """A leader that gives the first question to its member, and a text for whoever else is asked."""
    if request.tool_result is None and "delegate_task_to_member" in tool_names(request):
        return Ok(tool_calls=[("delegate_task_to_member", {"member_id": "poet", "task": "Write about fog"})])
    return None


class TestATeam:
    @pytest.fixture
    def team(self, make: Callable[..., Any], mind: Mind) -> Team:
        mind.says = delegating
        poet = Agent(name="Poet", role="Writes poems", model=make(), telemetry=False)
        return Team(name="House", members=[poet], model=make(), telemetry=False, share_member_interactions=True)

    def test_delegates(self, team: Team) -> None:
        run = team.run("A poem, please")
        (member,) = run.member_responses
        assert str(member.content).endswith("] You said: Write about fog")
        assert "Write about fog" in str(run.content)

    def test_delegates_async(self, team: Team) -> None:
        run = wait(team.arun("A poem, please"))
        assert len(run.member_responses) == 1

    def test_delegates_in_a_stream(self, team: Team) -> None:
        *_, run = team.run("A poem, please", stream=True, stream_events=True, yield_run_output=True)
        assert len(run.member_responses) == 1  # type: ignore[union-attr]


class TestAWorkflow:
    @pytest.fixture
    def workflow(self, make: Callable[..., Any], tmp_path: Path) -> Workflow:
        def agent(name: str) -> Agent:
            return Agent(name=name, model=make(), telemetry=False)

        return Workflow(
            name="Desk",
            db=SqliteDb(db_file=str(tmp_path / "workflow.db")),
            steps=[
                Parallel(Step(name="news", agent=agent("news")), Step(name="web", agent=agent("web")), name="research"),
                Step(name="write", agent=agent("writer")),
            ],
            telemetry=False,
        )

    def test_runs_its_steps(self, workflow: Workflow, mind: Mind) -> None:
        run = workflow.run(input="fog")
        assert "You said" in str(run.content)
        assert len(mind.asked) == 3

    def test_runs_async(self, workflow: Workflow, mind: Mind) -> None:
        run = wait(workflow.arun(input="fog"))
        assert "You said" in str(run.content)
        assert len(mind.asked) == 3

    def test_streams(self, workflow: Workflow) -> None:
        events = list(workflow.run(input="fog", stream=True, stream_events=True))
        assert [events[0].event, events[-1].event] == ["WorkflowStarted", "WorkflowCompleted"]
