"""Transport recovery, restore, circuits and streams that begin again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from agno.agent import Agent
from agno.models.message import Message
from agno.team import Team

from hfs_providers import ChainExhaustedError, ModelCallError, StreamInterruptedError
from hfs_providers.calls.circuit import Circuit
from hfs_providers.fallback.controls import is_recoverable, recovery_wait
from hfs_providers.testing import BadRequest, HalfStream, Ok, RateLimited, Reset, ServerError, Stall
from tests.fallback.chains import WAYS, House, ask, house, server

__all__ = ["house", "server"]

DOWN = ServerError(503)
DIRECT = ("cerebras", "groq", "gemini")


@pytest.mark.parametrize("way", WAYS)
class TestAHiccupOnTheWire:
    @pytest.mark.parametrize("provider", DIRECT)
    def test_costs_one_connection_and_one_wait_and_no_fallback(self, house: House, way: str, provider: str) -> None:
        chain = house.chain(provider, "openrouter")
        house.script(provider, Reset())
        assert f"[{provider}/" in ask(chain, way)
        assert house.server.connections == 2
        assert house.waits == [3.0]
        assert house.asked("openrouter") == 0
        assert house.kinds() == ["transport_recovered"]

    def test_of_an_aggregator_goes_straight_to_the_fallback(self, house: House, way: str) -> None:
        house.script("openrouter", Reset())
        assert "[groq/" in ask(house.chain("openrouter", "groq"), way)
        assert (house.waits, house.asked("openrouter")) == ([], 1)

    def test_on_a_fallback_goes_straight_to_the_next(self, house: House, way: str) -> None:
        house.script("groq", DOWN)
        house.script("cerebras", Reset())
        assert "[gemini/" in ask(house.chain("groq", "cerebras", "gemini"), way)
        assert (house.waits, house.asked("cerebras")) == ([], 1)

    def test_is_recovered_from_once_per_call(self, house: House, way: str) -> None:
        house.script("groq", Reset(), Reset())
        assert "[cerebras/" in ask(house.chain("groq", "cerebras"), way)
        assert (house.waits, house.asked("groq")) == ([3.0], 2)

    def test_falls_back_where_no_new_connection_can_be_made(
        self, house: House, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        chain = house.chain("groq", "cerebras")
        ask(chain, way)
        clients: Any = house.manager.wrappers["groq"].backend.clients  # type: ignore[attr-defined]
        name = "make_transport" if way in ("sync", "stream") else "make_async_transport"
        whole = getattr(clients, name)
        # The loop of an async call is new, so there the first transport is made and the second is not.
        made = iter([whole] if name == "make_async_transport" else [])

        def broken() -> Any:
            make = next(made, None)
            if make is None:
                raise OSError("no more sockets")
            return make()

        monkeypatch.setattr(clients, name, broken)
        house.script("groq", Reset())
        assert "[cerebras/" in ask(chain, way)
        assert house.waits == []
        assert "gets no new connection: OSError: no more sockets" in caplog.text

    def test_that_is_a_read_timeout_is_recovered_from(self, house: House, way: str) -> None:
        house.script("groq", Stall(30))
        assert "[groq/" in ask(house.chain("groq", "cerebras", request_timeout=0.2), way)
        assert (house.waits, house.asked("cerebras")) == ([3.0], 0)
        assert house.server.connections == 2

    def test_that_is_a_read_timeout_of_an_aggregator_is_not(self, house: House, way: str) -> None:
        house.script("openrouter", Stall(30))
        assert "[groq/" in ask(house.chain("openrouter", "groq", request_timeout=0.2), way)
        assert house.waits == []


class TestRenewal:
    def test_lets_calls_in_flight_finish(self, house: House) -> None:
        chain = house.chain("groq", "cerebras")

        async def while_in_flight() -> list[str]:
            with house.server.hold() as gate:
                calls = [
                    asyncio.create_task(chain.aresponse(messages=[Message(role="user", content="hello")]))
                    for _ in range(3)
                ]
                assert await asyncio.to_thread(gate.wait_for, 3)
                assert await chain.arecover_transport(httpx.ReadTimeout("slow"))
            return [(await call).content for call in calls]

        assert all("[groq/" in text for text in asyncio.run(while_in_flight()))
        assert (house.asked("groq"), house.waits) == (3, [3.0])

    def test_of_the_sync_client_lets_calls_in_flight_finish(self, house: House) -> None:
        from concurrent.futures import ThreadPoolExecutor

        chain = house.chain("groq", "cerebras")
        with ThreadPoolExecutor() as pool:
            with house.server.hold() as gate:
                calls = [pool.submit(ask, chain) for _ in range(3)]
                assert gate.wait_for(3)
                assert chain.recover_transport(httpx.ReadTimeout("slow"))
            assert all("[groq/" in call.result() for call in calls)

    def test_happens_once_where_many_calls_fail_together(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        chain = house.chain("groq", "cerebras")
        ask(chain)
        clients: Any = house.manager.wrappers["groq"].backend.clients  # type: ignore[attr-defined]
        made: list[Any] = []
        whole = clients.make_transport
        monkeypatch.setattr(clients, "make_transport", lambda: made.append(1) or whole())
        for _ in range(5):
            assert chain.recover_transport(httpx.ConnectError("refused"))
        assert made == [1]

    @pytest.mark.parametrize(("retry_count", "seconds"), [(0, 3.0), (1, 4.0), (4, 7.0), (5, 8.0), (50, 8.0)])
    def test_waits_by_the_formula(self, house: House, retry_count: int, seconds: float) -> None:
        assert recovery_wait(retry_count) == seconds
        assert house.chain("groq", "cerebras").recover_transport(httpx.ReadError("cut"), retry_count, 60)
        assert house.waits == [seconds]

    @pytest.mark.parametrize(
        "name",
        [
            "ReadTimeout",
            "ConnectTimeout",
            "PoolTimeout",
            "ConnectError",
            "ReadError",
            "WriteError",
            "RemoteProtocolError",
            "APIConnectionError",
            "APITimeoutError",
        ],
    )
    def test_is_for_these_errors_anywhere_along_the_cause_chain(self, name: str) -> None:
        inner = type(name, (Exception,), {})("inner")
        outer = RuntimeError("outer")
        outer.__cause__ = ValueError("middle")
        outer.__cause__.__cause__ = inner
        assert is_recoverable(inner)
        assert is_recoverable(outer)

    def test_is_for_no_other_error(self, house: House) -> None:
        assert not is_recoverable(ValueError("ReadTimeout"))
        assert not house.chain("groq", "cerebras").recover_transport(ValueError("ReadTimeout"))
        assert not house.chain("openrouter", "groq").recover_transport(httpx.ReadTimeout("slow"))
        assert house.waits == []


class TestWhereATurnBegins:
    def test_not_at_a_primary_that_is_limited_until_it_is_free(self, house: House) -> None:
        house.script("groq", RateLimited(retry_after=40))
        chain = house.chain("groq", "cerebras")
        assert "[cerebras/" in ask(chain)
        assert "[cerebras/" in ask(chain)
        assert house.asked("groq") == 1
        assert "no key free for 40 s" in chain.served_by.others["groq/llama-3.3-70b-versatile"]
        house.now += 41
        assert "[groq/" in ask(chain)
        assert not chain.is_fallback_active

    def test_always_at_the_primary_where_that_is_wanted(self, house: House) -> None:
        house.script("groq", RateLimited(retry_after=40))
        chain = house.chain("groq", "cerebras", restore="always")
        ask(chain)
        ask(chain)
        # Its key is cooling, so no request is spent; but it is asked first, and the events say so.
        assert house.kinds() == ["fallback_activated", "fallback_activated"]
        assert chain.is_fallback_active

    def test_where_the_last_left_off_where_that_is_wanted(self, house: House) -> None:
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras", restore="never")
        ask(chain)
        assert "[cerebras/" in ask(chain)
        assert chain.restore_primary()
        assert "[groq/" in ask(chain)

    def test_at_the_primary_where_nobody_can_answer(self, house: House) -> None:
        for name in ("groq", "cerebras"):
            house.script(name, RateLimited(retry_after=40))
        chain = house.chain("groq", "cerebras")
        for _ in range(2):
            with pytest.raises(ChainExhaustedError) as caught:
                ask(chain)
            assert len(caught.value.reasons) == 2
        assert (house.asked("groq"), house.asked("cerebras")) == (1, 1)

    def test_with_an_unknown_choice_is_refused(self, house: House) -> None:
        with pytest.raises(ValueError, match="restore must be one of"):
            house.manager.get_chain("groq", restore="sometimes")  # type: ignore[arg-type]


class TestACircuit:
    def test_of_a_dead_provider_costs_no_request_each_turn(self, house: House) -> None:
        house.script("groq", then=DOWN)
        chain = house.chain("groq", "cerebras")
        for _ in range(10):
            assert "[cerebras/" in ask(chain)
        assert house.asked("groq") == 3
        assert "circuit open" in chain.served_by.others["groq/llama-3.3-70b-versatile"]

    def test_opens_for_a_minute_doubles_and_is_closed_by_one_probe(self, house: House) -> None:
        house.script("groq", *[DOWN] * 4)
        chain = house.chain("groq", "cerebras")
        for _ in range(4):
            ask(chain)
        house.now += 61
        assert "[cerebras/" in ask(chain)
        house.now += 61
        assert "[cerebras/" in ask(chain)
        assert house.asked("groq") == 4
        house.now += 60
        assert "[groq/" in ask(chain)
        opened = [event.seconds for event in house.events if event.kind == "circuit_opened"]
        assert opened == [60.0, 120.0]
        assert house.kinds().count("circuit_closed") == 1

    def test_is_one_for_all_chains(self, house: House) -> None:
        house.script("groq", then=DOWN)
        for _ in range(3):
            ask(house.chain("groq", "cerebras"))
        ask(house.chain("groq", "gemini"))
        assert house.asked("groq") == 3

    def test_lets_one_probe_through_at_a_time(self) -> None:
        now = [0.0]
        circuit = Circuit(lambda: now[0])
        for _ in range(3):
            circuit.fail()
        assert not circuit.enter()
        now[0] = 60.0
        assert (circuit.enter(), circuit.enter()) == (True, False)
        circuit.leave()
        assert circuit.enter()
        circuit.succeed()
        assert circuit.cooldown() == 0

    def test_grows_to_four_hours_or_to_what_the_provider_says(self) -> None:
        now = [0.0]
        rests: list[float] = []
        circuit = Circuit(lambda: now[0], lambda change, seconds: rests.append(seconds))
        for _ in range(2):
            circuit.fail()
        for _ in range(12):
            circuit.enter()
            circuit.fail()
            now[0] += rests[-1]
        assert rests[:3] == [60.0, 120.0, 240.0]
        assert rests[-1] == 4 * 3600.0
        fresh = Circuit(lambda: now[0])
        for _ in range(3):
            fresh.fail(reset=600.0)
        assert fresh.cooldown() == 600.0


@pytest.mark.parametrize("way", ["stream", "astream"])
class TestAStreamThatBreaks:
    def test_after_content_raises_what_was_received(self, house: House, way: str) -> None:
        house.script("groq", HalfStream(chunks=2))
        chain = house.chain("groq", "cerebras")
        with pytest.raises(StreamInterruptedError) as caught:
            ask(chain, way)
        assert caught.value.received
        assert house.asked("cerebras") == 0

    def test_before_content_falls_back(self, house: House, way: str) -> None:
        house.script("groq", HalfStream(chunks=0))
        assert ask(house.chain("groq", "cerebras"), way).startswith("[cerebras/")

    def test_begins_again_after_an_event_where_that_is_wanted(self, house: House, way: str) -> None:
        house.script("groq", HalfStream(chunks=2))
        bot = Agent(model=house.chain("groq", "cerebras", on_interrupt="restart"), telemetry=False)

        async def collect() -> list[Any]:
            return [event async for event in bot.arun("hello", stream=True, yield_run_output=True)]

        if way == "stream":
            events = list(bot.run("hello", stream=True, yield_run_output=True))
        else:
            events = asyncio.run(collect())
        reset = next(number for number, event in enumerate(events) if getattr(event, "event", "") == "CustomEvent")
        before = "".join(event.content for event in events[:reset] if event.event == "RunContent")
        after = "".join(event.content for event in events[reset:-1] if event.event == "RunContent")
        assert (events[reset].name, events[reset].discarded) == ("stream_restarted", before)
        assert events[reset].model == "cerebras/gpt-oss-120b"
        assert after.startswith("[cerebras/")
        # What the run keeps is the second answer alone.
        assert events[-1].content == after
        assert events[-1].messages[-1].content == after
        assert "stream_restarted" in house.kinds()

    def test_begins_again_in_a_team_too(self, house: House, way: str) -> None:
        house.script("groq", HalfStream(chunks=2))
        chain = house.chain("groq", "cerebras", on_interrupt="restart")
        team = Team(members=[], model=chain, telemetry=False)

        async def collect() -> list[Any]:
            return [event async for event in team.arun("hello", stream=True, yield_run_output=True)]

        if way == "stream":
            events = list(team.run("hello", stream=True, yield_run_output=True))
        else:
            events = asyncio.run(collect())
        assert [event.name for event in events if getattr(event, "event", "") == "CustomEvent"] == ["stream_restarted"]
        assert events[-1].content.startswith("[cerebras/")

    def test_does_not_begin_again_after_what_is_no_interruption(self, house: House, way: str) -> None:
        house.script("groq", BadRequest())
        with pytest.raises(ModelCallError) as caught:
            ask(house.chain("groq", "cerebras", on_interrupt="restart"), way)
        assert (caught.value.kind, house.asked("cerebras")) == ("bad_request", 0)

    def test_and_that_nobody_can_begin_again_raises_the_interruption(self, house: House, way: str) -> None:
        house.script("groq", HalfStream(chunks=2))
        with pytest.raises(StreamInterruptedError):
            ask(house.chain("groq", on_interrupt="restart"), way)


class TestByHand:
    def test_each_method_says_what_it_did(self, house: House) -> None:
        chain = house.chain("groq", "cerebras", "gemini")
        assert not chain.restore_primary()
        assert chain.activate_fallback(RuntimeError("I do not like it"))
        assert (chain.active, chain.fallback_index) == (chain.entries[1], 1)
        assert chain.activate_fallback(RuntimeError("nor this"))
        assert not chain.activate_fallback(RuntimeError("nor that"))
        assert not chain.recover_transport(httpx.ReadTimeout("slow"))
        assert chain.restore_primary()
        assert (chain.active, chain.primary) == (chain.entries[0], chain.entries[0])
        assert chain.recover_transport(httpx.ReadTimeout("slow"), retry_count=1, max_retries=3)
        assert house.waits == [4.0]
        assert house.kinds() == [
            "fallback_activated",
            "fallback_activated",
            "primary_restored",
            "transport_recovered",
        ]

    def test_a_restore_that_fails_is_logged_and_the_turn_goes_on(
        self, house: House, caplog: pytest.LogCaptureFixture
    ) -> None:
        house.script("groq", RateLimited(retry_after=40))
        chain = house.chain("groq", "cerebras")
        ask(chain)
        assert chain.restore_primary() is False
        assert "is not restored" in caplog.text
        assert "[cerebras/" in ask(chain)

    def test_a_pool_that_cannot_be_asked_does_not_stop_a_turn(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = house.chain("groq", "cerebras")

        def broken(*_: object) -> float:
            raise RuntimeError("no answer")

        monkeypatch.setattr(house.manager.wrappers["groq"].pool, "next_free", broken)
        assert "[groq/" in ask(chain)

    def test_a_request_without_a_turn_is_one_of_its_own(self, house: House) -> None:
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras")
        messages = [Message(role="user", content="hello")]
        assert "[cerebras/" in chain.invoke(messages=messages, assistant_message=Message(role="assistant")).content
        house.script("groq", Ok(text="from the primary"))
        assert chain.invoke(messages=messages, assistant_message=Message(role="assistant")).content == (
            "from the primary"
        )
