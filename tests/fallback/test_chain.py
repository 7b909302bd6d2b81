"""The fallback chain's turns, through the real SDKs on the loopback server."""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import Any

import pytest
from agno.agent import Agent
from agno.models.message import Message
from agno.run.base import RunStatus
from agno.team import Team

from hfs_providers import ChainExhaustedError, KeysExhaustedError, ModelCallError
from hfs_providers.testing import BadRequest, ModelGone, Ok, RateLimited, ServerError, Unauthorized
from tests.fallback.chains import WAYS, House, ask, house, lookup, server

__all__ = ["house", "server"]

DOWN = ServerError(503)


def agent(model: Any, **options: Any) -> Agent:
    return Agent(model=model, telemetry=False, **options)


@pytest.mark.parametrize("way", WAYS)
class TestATurn:
    def test_is_served_by_the_primary(self, house: House, way: str) -> None:
        chain = house.chain("groq", "cerebras")
        assert "[groq/" in ask(chain, way)
        assert house.asked("cerebras") == 0

    def test_tells_the_key_that_answered(self, house: House, way: str) -> None:
        assert served(house.chain("groq", "cerebras"), way).key_id == "groq#1"

    def test_falls_back_and_the_next_begins_at_the_primary_as_it_was(self, house: House, way: str) -> None:
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras", temperature=0.25)
        before = [dict(model.__dict__) for model in chain.entries]
        assert "[cerebras/" in ask(chain, way)
        assert "[groq/" in ask(chain, way)
        assert [dict(model.__dict__) for model in chain.entries] == before
        assert chain.entries[0].temperature == 0.25

    def test_goes_along_the_whole_chain(self, house: House, way: str) -> None:
        house.script("groq", DOWN)
        house.script("cerebras", Unauthorized())
        house.script("gemini", ModelGone())
        chain = house.chain("groq", "cerebras", "gemini/gemini-3.5-flash-lite", "openrouter")
        assert "[openrouter/" in ask(chain, way)

    def test_that_nobody_can_serve_names_each_cause_and_the_next_begins_anew(self, house: House, way: str) -> None:
        house.script("groq", DOWN)
        house.script("cerebras", ServerError(500))
        house.script("openrouter", RateLimited(retry_after=40))
        chain = house.chain("groq", "cerebras", "openrouter")
        with pytest.raises(ChainExhaustedError) as caught:
            ask(chain, way)
        assert [entry.partition("/")[0] for entry in caught.value.reasons] == ["groq", "cerebras", "openrouter"]
        assert [type(cause).__name__ for cause in caught.value.causes.values()] == [
            "ModelCallError",
            "ModelCallError",
            "KeysExhaustedError",
        ]
        assert isinstance(caught.value.__cause__, KeysExhaustedError)
        assert "[groq/" in ask(chain, way)

    def test_does_not_fall_back_from_a_request_that_is_wrong(self, house: House, way: str) -> None:
        house.script("groq", BadRequest())
        with pytest.raises(ModelCallError) as caught:
            ask(house.chain("groq", "cerebras"), way)
        assert caught.value.kind == "bad_request"
        assert caught.value.__cause__ not in (None, caught.value)
        assert house.asked("cerebras") == 0

    def test_that_fails_over_in_a_tool_loop_runs_no_tool_twice(self, house: House, way: str) -> None:
        house.script("groq", Ok(tool_calls=[("capital_of", {"country": "Nowhere"})]), DOWN)
        tool, called = lookup()
        bot = agent(house.chain("groq", "cerebras"), tools=[tool])
        content = run(bot, way)
        assert called == ["Nowhere"]
        assert "Zenith" in content
        assert "[cerebras/" in content

    def test_stays_with_its_fallback_to_its_end(self, house: House, way: str) -> None:
        house.script("groq", DOWN)
        house.script("cerebras", Ok(tool_calls=[("capital_of", {"country": "Nowhere"})]))
        tool, _ = lookup()
        assert "[cerebras/" in run(agent(house.chain("groq", "cerebras"), tools=[tool]), way)
        assert house.asked("groq") == 1

    def test_tells_who_served(self, house: House, way: str) -> None:
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras")
        seen = served(chain, way)
        assert (seen.provider, seen.model, seen.index) == ("cerebras", "gpt-oss-120b", 1)
        assert seen.others == {"groq/llama-3.3-70b-versatile": "Service Unavailable"}


def run(bot: Agent, way: str, prompt: str = "What is the capital?") -> str:
    """One run of an agent; its content."""
    if way == "sync":
        return str(bot.run(prompt).content)
    if way == "async":
        return str(asyncio.run(bot.arun(prompt)).content)
    if way == "stream":
        return "".join(str(e.content) for e in bot.run(prompt, stream=True) if e.event == "RunContent")

    async def collect() -> str:
        return "".join([str(e.content) async for e in bot.arun(prompt, stream=True) if e.event == "RunContent"])

    return asyncio.run(collect())


def served(chain: Any, way: str) -> Any:
    """`served_by` after a turn, read where the turn was called."""
    messages = [Message(role="user", content="hello")]

    async def within() -> Any:
        if way == "async":
            await chain.aresponse(messages=messages)
        else:
            async for _ in chain.aresponse_stream(messages=messages):
                pass
        return chain.served_by

    if way in ("async", "astream"):
        return asyncio.run(within())
    ask(chain, way)
    return chain.served_by


class TestWhatItShows:
    def test_is_the_primary_before_the_first_turn(self, house: House) -> None:
        chain = house.chain("groq", "cerebras")
        assert (chain.id, chain.name, chain.provider) == (chain.primary.id, "Groq", "Groq")
        assert (chain.active, chain.fallback_index, chain.is_fallback_active) == (chain.primary, 0, False)
        assert chain.served_by is None

    def test_follows_the_last_turn(self, house: House) -> None:
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras")
        ask(chain)
        assert (chain.active, chain.fallback_index, chain.is_fallback_active) == (chain.entries[1], 1, True)
        assert (chain.id, chain.provider) == (chain.primary.id, "Groq")
        ask(chain)
        assert (chain.active, chain.fallback_index, chain.is_fallback_active) == (chain.primary, 0, False)

    def test_is_each_context_s_own(self, house: House) -> None:
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras")

        async def turn() -> int:
            await chain.aresponse(messages=[Message(role="user", content="hello")])
            return int(chain.fallback_index)

        async def both() -> tuple[int, int]:
            first = await asyncio.create_task(turn())
            return first, await asyncio.create_task(turn())

        assert asyncio.run(both()) == (1, 0)
        assert chain.fallback_index == 0

    def test_shows_no_key(self, house: House) -> None:
        chain = house.chain("groq", "cerebras")
        assert repr(chain) == "FallbackChain(groq/llama-3.3-70b-versatile -> cerebras/gpt-oss-120b)"
        assert house.env["GROQ_API_KEY_1"] not in repr(vars(chain))


class TestManyTurnsAtOnce:
    def test_fifty_do_not_disturb_one_another(self, house: House) -> None:
        def answer(request: Any) -> Ok:
            return Ok(text=f"{request.provider} {request.prompt}")

        house.server._answer = answer
        # Every other request finds the primary down.
        house.script("groq", *[step for _ in range(25) for step in (DOWN, Ok())])
        chain = house.chain("groq", "cerebras", restore="always", timeout=30.0)

        async def turn(number: int) -> tuple[str, int, str]:
            result = await chain.aresponse(messages=[Message(role="user", content=f"turn-{number}")])
            return str(result.content), chain.fallback_index, chain.served_by.provider

        async def all_of_them() -> list[tuple[str, int, str]]:
            return await asyncio.gather(*(asyncio.create_task(turn(number)) for number in range(50)))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hfs_providers.calls.circuit.FAILURES", 1000)
            results = asyncio.run(all_of_them())
        assert sorted(index for _, index, _ in results) == [0] * 25 + [1] * 25
        for index, provider in [(index, provider) for _, index, provider in results]:
            assert provider == ("groq", "cerebras")[index]

    def test_interleaved_streams_have_each_their_own(self, house: House) -> None:
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras")
        streams = [chain.response_stream(messages=[Message(role="user", content=word)]) for word in ("one", "two")]
        texts = ["", ""]
        live = {0, 1}
        while live:
            for number in sorted(live):
                step = next(streams[number], None)
                if step is None:
                    live.discard(number)
                else:
                    texts[number] += step.content or ""
        assert "[cerebras/" in texts[0]
        assert "one" in texts[0]
        assert "[groq/" in texts[1]
        assert "two" in texts[1]

    def test_a_turn_inside_a_tool_is_its_own(self, house: House) -> None:
        house.script("groq", DOWN)
        house.script("cerebras", Ok(tool_calls=[("consult", {"question": "why"})]))
        chain = house.chain("groq", "cerebras")
        seen: list[Any] = []

        def consult(question: str) -> str:
            """Ask somebody else.

            Args:
                question: what to ask.
            """
            before = chain.fallback_index
            answer = ask(chain, prompt=question)
            seen.append((before, answer, chain.fallback_index))
            return "because"

        run = agent(chain, tools=[consult]).run("ask")
        assert seen[0][0] == 1
        assert "[groq/" in seen[0][1]
        assert seen[0][2] == 1
        assert "[cerebras/" in run.content
        assert chain.fallback_index == 1


class TestATurnThatIsGivenUp:
    def held(self, house: House) -> list[int]:
        return [
            wrapper.pool.counts(house.manager.default_model(name)).in_flight
            for name, wrapper in house.manager.wrappers.items()
        ]

    def test_holds_no_key_where_its_stream_is_dropped(self, house: House) -> None:
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras")
        steps = chain.response_stream(messages=[Message(role="user", content="hello")])
        assert next(step for step in steps if step.content)
        steps.close()
        assert self.held(house) == [0] * 4
        assert "[groq/" in ask(chain)

    def test_gives_its_probe_back_where_it_is_cancelled(self, house: House) -> None:
        house.script("groq", *[DOWN] * 3)
        chain = house.chain("groq", "cerebras")
        for _ in range(3):
            ask(chain)
        house.now += 61

        async def cancelled() -> None:
            with house.server.hold() as gate:
                call = asyncio.create_task(chain.aresponse(messages=[Message(role="user", content="hello")]))
                assert await asyncio.to_thread(gate.wait_for, 1)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

        asyncio.run(cancelled())
        assert self.held(house) == [0] * 4
        assert "[groq/" in ask(chain)


class TestAgentsAndTeams:
    def test_the_run_says_who_served(self, house: House) -> None:
        house.script("groq", DOWN)
        bot = agent(house.chain("groq", "cerebras"))
        first, second = bot.run("hello"), bot.run("hello")
        assert (first.model, first.model_provider) == ("gpt-oss-120b", "Cerebras")
        assert (second.model, second.model_provider) == ("llama-3.3-70b-versatile", "Groq")

    def test_a_run_that_nobody_can_serve_ends_in_an_error_that_names_each(self, house: House) -> None:
        house.script("groq", DOWN)
        house.script("cerebras", DOWN)
        bot = agent(house.chain("groq", "cerebras"))
        result = bot.run("hello")
        assert result.status == RunStatus.error
        assert "groq/" in result.content
        assert "cerebras/" in result.content
        assert bot.run("hello").status == RunStatus.completed

    def test_a_team_shares_one_chain(self, house: House) -> None:
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras")
        team = Team(members=[agent(chain, name="helper")], model=chain, telemetry=False)
        result = team.run("hello")
        assert result.status == RunStatus.completed
        assert result.model_provider in ("Cerebras", "Groq")

    def test_has_none_of_the_private_attributes_of_its_primary(self, house: House) -> None:
        chain = house.chain("groq", "cerebras")
        assert chain.base_url == chain.primary.base_url
        assert not hasattr(chain, "_hfs")

    def test_a_copy_serves_as_the_original_does(self, house: House) -> None:
        chain = copy.deepcopy(house.chain("groq", "cerebras"))
        house.script("groq", DOWN)
        assert "[cerebras/" in ask(chain)
        assert "[groq/" in ask(chain)

    def test_an_error_on_the_fallback_leaves_the_primary_s_keys_alone(self, house: House) -> None:
        house.script("groq", DOWN)
        house.script("cerebras", Unauthorized())
        with pytest.raises(ChainExhaustedError):
            ask(house.chain("groq", "cerebras"))
        states = {name: w.pool.statuses()[0].state for name, w in house.manager.wrappers.items()}
        assert (states["groq"], states["cerebras"]) == ("ready", "dead")

    def test_events_tell_of_the_fallback_and_of_the_end(self, house: House) -> None:
        house.script("groq", DOWN)
        house.script("cerebras", DOWN)
        with pytest.raises(ChainExhaustedError):
            ask(house.chain("groq", "cerebras"))
        assert house.kinds() == ["fallback_activated", "chain_exhausted"]
        activated = next(event for event in house.events if event.kind == "fallback_activated")
        assert activated.provider == "cerebras"
        assert activated.reason == "groq/llama-3.3-70b-versatile: Service Unavailable"

    def test_what_agno_logs_of_the_last_failure_is_logged_if_no_entry_answers(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: list[logging.LogRecord] = []
        handler = logging.Handler()
        monkeypatch.setattr(handler, "emit", said.append)
        monkeypatch.setattr(logging.getLogger("agno"), "handlers", [handler])
        house.script("groq", DOWN)
        house.script("openrouter", DOWN)
        with pytest.raises(ChainExhaustedError):
            ask(house.chain("groq", "openrouter"))
        assert [record.levelname for record in said] == ["ERROR"]

    def test_attempts_that_another_entry_makes_good_print_nothing_of_agno_s(
        self, house: House, capfd: pytest.CaptureFixture[str]
    ) -> None:
        house.script("groq", DOWN)
        ask(house.chain("groq", "cerebras"))
        assert capfd.readouterr().out == ""
