"""Which keys a call asks, and for how long: on a real server and a clock that only waiting moves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from agno.models.message import Message

from hfs_providers import KeysExhaustedError, ProviderManager
from hfs_providers.calls import retry_pauses
from hfs_providers.testing import LoopbackServer, Ok, RateLimited, Reset, ServerError, Step, Unauthorized

WAYS = ("sync", "async", "stream", "astream")


class Place:
    """Groq on a loopback server; who waits for a key moves the clock instead."""

    def __init__(self, server: LoopbackServer, keys: int = 2) -> None:
        self.server = server
        self.now = 1000.0
        self.naps: list[float] = []
        env = {**server.env({"groq": keys}), "GROQ_LIMITS": "none"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hfs_providers.core.manager.time", SimpleNamespace(monotonic=lambda: self.now))
            self.manager = ProviderManager(env=env)
        self.wrapper: Any = self.manager.wrappers["groq"]
        self.pool = self.wrapper.pool
        self.pool._waits = self
        self.keys = [env[f"GROQ_API_KEY_{number}"] for number in range(1, keys + 1)]

    def script(self, *steps: Step, number: int | None = None, then: Step | None = None) -> None:
        """What a key (or each without a script of its own) is answered with."""
        self.server.script("groq", "*" if number is None else self.keys[number - 1], list(steps), then=then)

    def hits(self) -> list[int]:
        """How many requests came with each key."""
        hits = self.server.hits("groq")
        return [hits.get(key, 0) for key in self.keys]

    def wait(self, event: threading.Event, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds

    async def wait_async(self, future: asyncio.Future[None], seconds: float) -> None:
        self.wait(threading.Event(), seconds)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def place(server: LoopbackServer) -> Iterator[Place]:
    place = Place(server)
    with place.manager:
        yield place


def ask(place: Place, way: str = "sync", **options: Any) -> None:
    """One call, in one of the four ways."""
    model = place.wrapper.get_model(**options)
    messages = [Message(role="user", content="hello")]
    if way == "sync":
        model.response(messages=messages)
    elif way == "stream":
        list(model.response_stream(messages=messages))
    elif way == "async":
        asyncio.run(model.aresponse(messages=messages))
    else:

        async def read() -> None:
            async for _ in model.aresponse_stream(messages=messages):
                pass

        asyncio.run(read())


class TestLimitedKeys:
    @pytest.mark.parametrize("way", WAYS)
    def test_are_asked_again_by_the_same_call_when_their_cooldown_is_over(self, place: Place, way: str) -> None:
        place.script(RateLimited(retry_after=1), RateLimited(retry_after=1))
        ask(place, way, timeout=20, affinity=None)
        assert sum(place.naps) == pytest.approx(1)
        assert place.hits() == [2, 1]

    def test_the_first_that_is_free_again_is_asked_and_not_one_that_cools_longer(self, place: Place) -> None:
        place.pool.acquire(place.wrapper.default_model_id, key_id="groq#1").rate_limited(6)
        place.script(RateLimited(retry_after=1), number=2)
        ask(place, timeout=20)
        assert (sum(place.naps), place.hits()) == (pytest.approx(1), [0, 2])

    def test_end_the_call_at_once_where_none_is_free_in_its_time(self, place: Place) -> None:
        place.script(then=RateLimited(retry_after=30))
        with pytest.raises(KeysExhaustedError) as caught:
            ask(place, timeout=20)
        assert (place.naps, place.hits()) == ([], [1, 1])
        assert caught.value.free_in == pytest.approx(30)

    def test_are_not_asked_again_by_a_call_that_does_not_wait(self, place: Place) -> None:
        place.script(then=RateLimited(retry_after=0))
        with pytest.raises(KeysExhaustedError):
            ask(place, wait=False)
        assert place.hits() == [1, 1]

    @pytest.mark.parametrize("way", WAYS)
    def test_one_that_is_asked_for_by_name_waits_as_well(self, place: Place, way: str) -> None:
        place.script(RateLimited(retry_after=0), number=2)
        ask(place, way, key_id="groq#2")
        assert place.hits() == [0, 2]
        assert sum(place.naps) > 0

    def test_that_may_go_on_at_once_are_asked_less_and_less_often(self, place: Place) -> None:
        place.script(then=RateLimited(retry_after=0))
        began = place.now
        with pytest.raises(KeysExhaustedError):
            ask(place, timeout=10)
        assert place.now - began <= 10
        assert max(place.hits()) <= 8

    def test_are_not_asked_again_once_the_time_is_up_though_their_cooldown_is_over(self, place: Place) -> None:
        place.script(then=RateLimited(retry_after=1))
        # Each refusal takes longer than the other key has to rest.
        end = place.pool._lending.end

        def slow(*args: Any, **kwargs: Any) -> None:
            place.now += 3
            end(*args, **kwargs)

        place.pool._lending.end = slow
        with pytest.raises(KeysExhaustedError):
            ask(place, timeout=10)
        assert sum(place.hits()) <= 5

    def test_a_dead_one_stays_out(self, place: Place) -> None:
        place.script(then=Unauthorized(), number=1)
        place.script(RateLimited(retry_after=1), number=2)
        ask(place, timeout=20)
        assert place.hits() == [1, 2]

    def test_an_entry_of_a_chain_waits_as_long_as_the_chain_lets_it(self, server: LoopbackServer) -> None:
        place = Place(server, keys=1)
        with place.manager:
            model = place.wrapper.get_model
            chain = place.manager.get_chain(model(timeout=2.0), model("other"))
            place.script(RateLimited(retry_after=1))
            chain.response(messages=[Message(role="user", content="hello")])
            assert (place.naps, chain.served_by.index) == ([pytest.approx(1)], 0)
            place.script(RateLimited(retry_after=3))
            chain.response(messages=[Message(role="user", content="hello")])
            assert (len(place.naps), chain.served_by.index) == (1, 1)


@pytest.mark.parametrize(
    ("steps", "pauses"),
    [
        # A kept connection may have been closed meanwhile.
        ([Reset()], []),
        ([Reset(), Reset()], [1.0]),
        ([ServerError(503)], [0.5]),
        ([ServerError(503), Reset()], [0.5, 1.0]),
    ],
)
def test_only_a_call_s_first_failure_is_retried_at_once_and_only_one_of_the_connection(
    place: Place, steps: list[Step], pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_pauses.random, "uniform", lambda least, most: most)
    paused: list[float] = []
    place.wrapper.backend.sleep = paused.append
    place.script(*steps)
    ask(place, key_id="groq#1")
    assert (paused, place.hits()) == (pauses, [len(steps) + 1, 0])


def test_limits_of_a_key_that_left_are_learned_anew(place: Place) -> None:
    for _ in range(2):
        ask(place, affinity=None)
    learned = place.wrapper.backend.learned
    ((model_id, _), _) = learned
    place.wrapper.backend.change_keys((), ["groq#1"], None)
    assert learned == {(model_id, "groq#2")}


class TestDeadKeys:
    def dead(self, server: LoopbackServer, keys: int, dead: int) -> Place:
        """The first of the keys were refused long enough ago to be tried again, and still do not work."""
        place = Place(server, keys)
        for number in range(1, dead + 1):
            place.pool.acquire("m", key_id=f"groq#{number}").dead("401")
            place.script(then=Unauthorized(), number=number)
        place.now += 3600
        if dead < keys:
            # So that it is the turn of the dead ones.
            place.pool.acquire("m", key_id=f"groq#{keys}").release()
        return place

    def test_are_not_tried_where_another_is_ready(self, server: LoopbackServer) -> None:
        place = self.dead(server, 31, 30)
        with place.manager:
            ask(place, timeout=2)
        assert place.hits() == [0] * 30 + [1]

    def test_are_not_tried_where_another_is_ready_in_time(self, server: LoopbackServer) -> None:
        place = self.dead(server, 4, 3)
        with place.manager:
            place.script(RateLimited(retry_after=1), Ok(), number=4)
            ask(place, timeout=2)
        assert place.hits() == [0, 0, 0, 2]

    @pytest.mark.parametrize("way", WAYS)
    def test_one_is_tried_where_no_other_is_ready_in_time(self, server: LoopbackServer, way: str) -> None:
        place = self.dead(server, 4, 3)
        with place.manager:
            place.script(then=RateLimited(retry_after=60), number=4)
            with pytest.raises(KeysExhaustedError):
                ask(place, way, timeout=2)
        assert sorted(place.hits()) == [0, 0, 1, 1]

    def test_one_is_tried_where_a_trial_was_cut_short(self, server: LoopbackServer) -> None:
        place = self.dead(server, 3, 3)
        with place.manager:
            place.wrapper.backend.sleep = lambda seconds: None
            for number in (1, 2, 3):
                place.script(then=Reset(), number=number)
            with pytest.raises(KeysExhaustedError):
                ask(place, timeout=2)
        assert sorted(place.hits()) == [0, 0, 1]

    def test_one_that_answers_is_back(self, server: LoopbackServer) -> None:
        place = self.dead(server, 2, 2)
        with place.manager:
            place.script(number=1)
            place.script(number=2)
            ask(place)
            assert place.pool.counts("m").dead == 1
