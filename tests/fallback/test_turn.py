"""What a turn knows and decides, with entries that are asked nothing."""

from __future__ import annotations

import gc
import logging
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from agno.exceptions import ModelProviderError

from hfs_providers import Event
from hfs_providers.calls.circuit import Circuit
from hfs_providers.calls.verdicts import Verdict
from hfs_providers.clients.attempt import answering
from hfs_providers.errors import ChainExhaustedError
from hfs_providers.fallback.config import ChainConfig, OnInterrupt, Restore, ServedBy
from hfs_providers.fallback.entry import Entry
from hfs_providers.fallback.turn import Turn, current_turn, original_error, running_turn


class Owner:
    """Stands for a chain."""


class Failure(Exception):
    """An error that brings its verdict."""

    def __init__(self, kind: Any, message: str = "no", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.verdict = Verdict(kind, None, None, message, retry_after)


class Chain:
    """The config of a chain `a -> b -> c`, at a time of its own."""

    def __init__(self, *windows: int | None, restore: Restore = "when_available", restarts: bool = False) -> None:
        on_interrupt: OnInterrupt = "restart" if restarts else "raise"
        self.now = 0.0
        self.events: list[Event] = []
        self.owner = Owner()
        self.entries = tuple(
            Entry(
                SimpleNamespace(id="m", provider=name.upper()),  # type: ignore[arg-type]
                name,
                Circuit(lambda: self.now, wall=lambda: self.now),
                None,
                window,
            )
            for name, window in zip("abc", windows or (None, None, None), strict=False)
        )

        async def async_sleep(seconds: float) -> None: ...

        self.config = ChainConfig(
            self.entries, restore, on_interrupt, self.events.append, lambda seconds: None, async_sleep
        )

    def turn(self, *args: Any) -> Turn:
        return Turn(self.owner, self.config, *args)

    def open(self, *places: int) -> None:
        """Open the circuits of entries."""
        for place in places:
            for _ in range(3):
                self.entries[place].circuit.fail()

    def kinds(self) -> list[str]:
        return [f"{event.kind} {event.provider}" for event in self.events]


def passed(turn: Turn, *kinds: str) -> list[str]:
    """Who is asked, where each request fails as said."""
    asked = []
    for kind in kinds:
        asked.append(turn.admit().provider)
        turn.failed(Failure(kind))
    asked.append(turn.admit().provider)
    turn.answered()
    return asked


class TestTheFirstEntry:
    def test_is_the_primary(self) -> None:
        chain = Chain()
        turn = chain.turn()
        assert (turn.admit(), turn.reasons(), chain.events) == (chain.entries[0], {}, [])

    def test_is_the_first_whose_circuit_is_closed(self) -> None:
        chain = Chain()
        chain.open(0, 1)
        turn = chain.turn()
        assert (turn.index, turn.admit()) == (2, chain.entries[2])
        assert turn.reasons() == {
            "a/m": "circuit open for 60 s more after repeated failures",
            "b/m": "circuit open for 60 s more after repeated failures",
        }
        assert [(event.kind, event.provider, event.reason) for event in chain.events] == [
            ("fallback_activated", "c", "a/m: circuit open for 60 s more after repeated failures")
        ]

    def test_is_the_primary_where_no_circuit_is_closed(self) -> None:
        chain = Chain()
        chain.open(0, 1, 2)
        turn = chain.turn()
        assert (turn.index, turn.admit(), chain.events) == (0, chain.entries[0], [])
        assert list(turn.reasons()) == ["a/m", "b/m", "c/m"]

    def test_is_the_primary_in_any_case_with_always(self) -> None:
        chain = Chain(restore="always")
        chain.open(0)
        turn = chain.turn()
        assert (turn.index, turn.admit(), turn.reasons()) == (0, chain.entries[0], {})

    def test_is_where_the_last_turn_ended_with_never(self) -> None:
        chain = Chain(restore="never")
        chain.turn().failed(Failure("overloaded"))
        turn = chain.turn()
        assert (turn.index, chain.config.start) == (1, 1)
        assert turn.restore()
        assert (chain.turn().index, chain.config.start) == (0, 0)

    def test_is_the_primary_again_without_never(self) -> None:
        chain = Chain()
        chain.turn().failed(Failure("overloaded"))
        assert (chain.turn().index, chain.config.start) == (0, 0)

    def test_is_chosen_again_where_another_turn_has_the_probe(self) -> None:
        chain = Chain()
        chain.open(0)
        chain.now = 60.0
        turn = chain.turn()
        assert turn.index == 0
        assert chain.turn().admit() is chain.entries[0]
        assert turn.admit() is chain.entries[1]
        assert turn.reasons() == {"a/m": "circuit open for inf s more after repeated failures"}

    def test_is_asked_again_after_an_answer_although_its_circuit_opened(self) -> None:
        chain = Chain()
        turn = chain.turn()
        turn.admit()
        turn.answered()
        chain.open(0)
        assert turn.admit() is chain.entries[0]


class TestAFailure:
    @pytest.mark.parametrize(
        "kind", ["rate_limited", "dead", "model_gone", "overloaded", "server_error", "transport", "empty"]
    )
    def test_moves_on_to_the_next(self, kind: str) -> None:
        chain = Chain()
        turn = chain.turn()
        assert passed(turn, kind, kind) == ["a", "b", "c"]
        assert (turn.failure, list(turn.reasons())) == (None, ["a/m", "b/m"])
        assert chain.kinds() == ["fallback_activated b", "fallback_activated c"]
        assert chain.events[0].reason == "a/m: no"

    @pytest.mark.parametrize("kind", ["bad_request", "refused", "local", "interrupted", "context_overflow"])
    def test_that_another_entry_would_repeat_is_raised(self, kind: str) -> None:
        chain, error = Chain(), Failure(kind)
        turn = chain.turn()
        with pytest.raises(Failure) as caught:
            turn.failed(error)
        assert caught.value is turn.failure is error
        assert (turn.index, chain.events, turn.reasons()) == (0, [], {})

    def test_after_content_is_raised(self) -> None:
        turn = Chain().turn()
        with pytest.raises(Failure):
            turn.failed(Failure("overloaded"), shown=True)
        assert turn.index == 0

    def test_of_the_last_moves_on_to_one_before_it_that_was_passed_over(self) -> None:
        chain = Chain()
        chain.open(0, 1)
        turn = chain.turn()
        turn.failed(Failure("overloaded"))
        assert turn.index == 0
        turn.failed(Failure("overloaded"))
        assert turn.index == 1

    def test_prefers_an_entry_that_can_answer(self) -> None:
        chain = Chain()
        chain.open(1)
        turn = chain.turn()
        turn.failed(Failure("dead"))
        assert turn.index == 2

    def test_of_every_entry_ends_the_turn(self) -> None:
        chain, last = Chain(), Failure("dead", "revoked")
        turn = chain.turn()
        for _ in range(2):
            turn.failed(Failure("overloaded", "busy"))
        with pytest.raises(ChainExhaustedError) as caught:
            turn.failed(last)
        assert caught.value is turn.failure
        assert caught.value.__cause__ is last
        assert caught.value.reasons == {"a/m": "busy", "b/m": "busy", "c/m": "revoked"}
        assert chain.kinds()[-1] == "chain_exhausted a"
        assert chain.events[-1].reason == str(caught.value)

    @pytest.mark.parametrize("kind", ["model_gone", "overloaded", "server_error", "transport", "empty", "interrupted"])
    def test_that_speaks_against_the_provider_counts_for_its_circuit(self, kind: str) -> None:
        chain = Chain()
        for _ in range(3):
            turn = chain.turn()
            try:
                turn.failed(Failure(kind, retry_after=100.0))
            except Failure:
                continue
        assert chain.entries[0].circuit.cooldown() == 100.0

    @pytest.mark.parametrize("kind", ["rate_limited", "dead"])
    def test_of_a_key_does_not(self, kind: str) -> None:
        chain = Chain()
        for _ in range(4):
            chain.turn().failed(Failure(kind))
        assert not chain.entries[0].circuit.is_open

    def test_of_a_key_lets_another_turn_be_the_probe(self) -> None:
        chain = Chain()
        chain.open(0)
        chain.now = 60.0
        turn = chain.turn()
        assert turn.admit() is chain.entries[0]
        turn.failed(Failure("rate_limited"))
        assert chain.turn().admit() is chain.entries[0]

    def test_that_shows_nothing_lets_another_turn_be_the_probe(self) -> None:
        chain = Chain()
        chain.open(0)
        chain.now = 60.0
        turn = chain.turn()
        turn.admit()
        turn.left()
        assert chain.turn().admit() is chain.entries[0]


class TestAnOverflow:
    @pytest.mark.parametrize(
        "error", [Failure("context_overflow"), Failure("bad_request", "maximum context length is 8192 tokens")]
    )
    def test_goes_to_a_larger_window_only(self, error: Failure) -> None:
        turn = Chain(10, 10, 11).turn()
        turn.failed(error)
        assert turn.index == 2

    @pytest.mark.parametrize("windows", [(10, 10, 9), (10, None, None), (None, 10, 10)])
    def test_is_raised_where_none_is_larger(self, windows: tuple[int | None, ...]) -> None:
        turn = Chain(*windows).turn()
        with pytest.raises(Failure):
            turn.failed(Failure("context_overflow"))
        assert (turn.index, turn.reasons()) == (0, {})

    def test_lets_the_same_call_continue_the_turn_once(self) -> None:
        chain, messages, run = Chain(10, 10), [object()], SimpleNamespace()
        turn = chain.turn(messages, run)
        turn.failed(Failure("overloaded"))
        with turn, pytest.raises(Failure):
            turn.failed(Failure("context_overflow"))
        assert not turn.continues(messages, SimpleNamespace())
        assert not turn.continues([*messages], run)
        assert turn.continues(messages, run)
        assert (turn.index, turn.reasons()) == (1, {})
        assert not turn.continues(messages, run)

    def test_of_a_call_without_a_run_does_not(self) -> None:
        turn = Chain(10).turn([], None)
        with pytest.raises(Failure):
            turn.failed(Failure("context_overflow"))
        assert not turn.continues([], None)


class TestWhatATurnHolds:
    def test_is_released_at_its_end(self) -> None:
        class Run:
            model = model_provider = ""

        run = Run()
        known, turn = weakref.ref(run), Chain().turn([], run)
        with turn:
            pass
        del run
        gc.collect()
        assert known() is None

    def test_is_kept_for_the_same_call_after_an_overflow(self) -> None:
        chain, run, messages = Chain(10), SimpleNamespace(), [object()]
        turn = chain.turn(messages, run)
        with pytest.raises(Failure), turn:
            turn.failed(Failure("context_overflow"))
        assert turn.continues(messages, run)

    def test_is_not_its_chain(self) -> None:
        chain = Chain()
        turn = chain.turn()
        chain.owner = Owner()
        gc.collect()
        assert turn.owner() is None

    def test_names_who_serves_in_the_run(self) -> None:
        chain, run = Chain(), SimpleNamespace(model=None, model_provider=None)
        turn = chain.turn(None, run)
        turn.failed(Failure("dead"))
        assert (run.model, run.model_provider) == ("m", "B")
        assert turn.restore()
        assert run.model_provider == "A"
        run.model_provider = None
        turn.answered()
        assert run.model_provider == "A"


class TestCompression:
    @pytest.mark.parametrize(
        ("limit", "window", "limited"), [(100, 50, 40), (100, 500, 100), (100, None, 100), (None, 50, None)]
    )
    def test_is_limited_to_the_window_of_the_active_entry(
        self, limit: int | None, window: int | None, limited: int | None
    ) -> None:
        given = SimpleNamespace(compress_token_limit=limit)
        chain = Chain(None, window)
        turn = chain.turn(None, None, given)
        assert turn.compression.compress_token_limit == limit
        turn.failed(Failure("dead"))
        assert turn.compression.compress_token_limit == limited
        assert turn.restore()
        assert turn.compression.compress_token_limit == limit
        assert given.compress_token_limit == limit
        assert turn.compression is not given

    def test_may_be_none(self) -> None:
        assert Chain(50).turn().compression is None

    def test_is_limited_from_the_beginning(self) -> None:
        given = SimpleNamespace(compress_token_limit=100)
        assert Chain(50).turn(None, None, given).compression.compress_token_limit == 40


class TestByHand:
    def test_a_fallback_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "hfs_providers")
        chain = Chain()
        turn = chain.turn()
        assert turn.fall_back()
        assert caplog.messages == ["falling back from a/m to b/m, as asked"]
        assert chain.events[-1].reason == "a/m: asked to"
        assert turn.reasons() == {}
        assert turn.fall_back(Failure("local", "b/m: I do not like it"))
        assert caplog.messages[1:] == ["b/m could not answer (I do not like it); falling back to c/m"]
        assert turn.reasons() == {"b/m": "I do not like it"}

    def test_there_is_no_fallback_to_an_entry_that_failed(self) -> None:
        turn = Chain(None, None).turn()
        assert turn.fall_back(Failure("local"))
        assert not turn.fall_back(Failure("local"))
        assert (turn.index, list(turn.reasons())) == (1, ["a/m"])

    def test_the_primary_is_restored_and_may_fail_again(self) -> None:
        chain = Chain(None, None)
        turn = chain.turn()
        assert not turn.restore()
        turn.failed(Failure("dead"))
        assert turn.restore()
        assert (turn.index, turn.reasons(), chain.kinds()[-1]) == (0, {}, "primary_restored a")
        turn.failed(Failure("dead"))
        assert turn.index == 1

    def test_a_primary_that_cannot_answer_is_not_restored(self, caplog: pytest.LogCaptureFixture) -> None:
        chain = Chain()
        chain.open(0)
        turn = chain.turn()
        assert not turn.restore()
        assert caplog.messages[-1] == ("a/m is not restored: circuit open for 60 s more after repeated failures")
        assert turn.index == 1

    def test_a_primary_is_restored_in_any_case_with_always(self) -> None:
        chain = Chain(restore="always")
        turn = chain.turn()
        turn.failed(Failure("dead"))
        chain.open(0)
        assert turn.restore()

    @pytest.mark.parametrize("restarts", [True, False])
    def test_a_stream_begins_again_where_that_is_wanted(self, restarts: bool) -> None:
        turn = Chain(restarts=restarts).turn()
        assert turn.restarts_after(Failure("interrupted")) is restarts
        assert turn.index == int(restarts)


class TestWhoServed:
    def test_is_nobody_before_an_answer(self) -> None:
        assert Chain().turn().served_by is None

    def test_is_the_last_that_answered_and_why_the_others_did_not(self) -> None:
        chain = Chain()
        turn = chain.turn()
        token = answering.set("groq#1")
        try:
            passed(turn, "dead")
        finally:
            answering.reset(token)
        # The entry does not rotate, so the key is another model's.
        assert turn.served_by == ServedBy("b", "m", 1, {"a/m": "no"}, None)
        turn.failed(Failure("dead"))
        assert turn.served_by == ServedBy("b", "m", 1, {"a/m": "no"}, None)

    def test_is_logged_where_it_ends_an_outage(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "hfs_providers")
        chain = Chain()
        passed(chain.turn(), "dead")
        passed(chain.turn())
        passed(chain.turn())
        assert [message for message in caplog.messages if "again" in message] == ["a/m answers again"]


class TestTheContext:
    def test_leads_to_the_running_turn_of_each_chain(self) -> None:
        outer, inner = Chain(), Chain()
        first, second = outer.turn(), inner.turn()
        assert running_turn(outer.owner) is None
        with first.runs() as entered:
            assert entered is first
            with second.runs():
                assert running_turn(inner.owner) is second
                assert running_turn(outer.owner) is first
                with second.runs():
                    assert running_turn(outer.owner) is first
                assert running_turn(outer.owner) is first
            assert running_turn(inner.owner) is None
            assert current_turn(inner.owner) is second
        assert running_turn(outer.owner) is None
        assert (current_turn(outer.owner), current_turn(inner.owner)) == (first, second)
        assert (first.outer, second.outer) == (None, None)

    def test_remembers_the_last_turn_of_each_chain(self) -> None:
        chain = Chain()
        first, second = chain.turn(), chain.turn()
        with first.runs(), second.runs():
            assert current_turn(chain.owner) is second
        assert current_turn(chain.owner) is first
        assert current_turn(Owner()) is None

    def test_forgets_a_turn_that_was_followed_by_another(self) -> None:
        chain = Chain()
        first = chain.turn()
        first.remember()
        known = weakref.ref(first)
        del first
        chain.turn().remember()
        gc.collect()
        assert known() is None

    def test_forgets_the_turns_of_chains_that_are_gone(self) -> None:
        chain = Chain()
        turn = chain.turn()
        turn.remember()
        known = weakref.ref(turn)
        chain.owner = Owner()
        del turn
        Chain().turn().remember()
        gc.collect()
        assert known() is None


class TestTheErrorOfATurn:
    def test_is_the_one_that_ended_it(self) -> None:
        chain = Chain(None)
        turn = chain.turn()
        with pytest.raises(ChainExhaustedError):
            turn.failed(Failure("dead"))
        with pytest.raises(ChainExhaustedError) as caught, turn:
            raise ModelProviderError("as Agno says it")
        assert caught.value is turn.failure

    def test_is_agno_s_where_the_turn_knows_none_of_ours(self) -> None:
        error = ModelProviderError("as Agno says it")
        assert original_error(None, error) is error
        turn = Chain().turn()
        with pytest.raises(Failure):
            turn.failed(Failure("local"))
        assert original_error(turn, error) is error

    def test_has_the_cause_that_agno_hid(self) -> None:
        cause, error = OSError("cut"), ModelProviderError("as Agno says it")
        error.__context__ = cause
        error.__cause__ = error
        assert original_error(None, error).__cause__ is cause

    def test_of_another_kind_is_raised_as_it_is(self) -> None:
        turn = Chain().turn()
        turn.failure = ChainExhaustedError({})
        with pytest.raises(KeyboardInterrupt), turn:
            raise KeyboardInterrupt
