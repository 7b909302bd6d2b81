"""Checks of failures: refused keys, failed calls, broken streams, callers that cancel."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from agno.agent import Agent
from agno.exceptions import ModelRateLimitError
from agno.models.response import ModelResponse

from hfs_providers import (
    KeysExhaustedError,
    ModelCallError,
    ModelNotFoundError,
    ProviderManager,
    StreamInterruptedError,
)
from hfs_providers.testing.conformance.base import KEYS, Base, ask, hello, needs, of_type, stream
from hfs_providers.testing.scripts import (
    BadRequest,
    ContextTooLong,
    EmptyBody,
    Forbidden,
    Garbage,
    HalfStream,
    ModelGone,
    Ok,
    PaymentRequired,
    RateLimited,
    Reset,
    ServerError,
    Stall,
    StreamError,
    Unauthorized,
)
from hfs_providers.testing.server import LoopbackServer


class FailureChecks(Base):
    """See `ProviderConformance`."""

    # Keys that fail

    def test_a_limited_key_cools_and_the_next_answers(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, keys[0], [RateLimited()])
        assert "hello" in ask(manager.get_model(self.name, affinity=None))
        assert self._states(manager) == ["cooling", "ready", "ready"]

    @needs("retry_after")
    @pytest.mark.parametrize("form", ["seconds", "fraction", "date", "ms", "reset", "retryinfo"])
    def test_it_cools_for_as_long_as_it_was_told(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str], form: Any
    ) -> None:
        server.script(self.name, keys[0], [RateLimited(retry_after=400, form=form)])
        ask(manager.get_model(self.name, affinity=None))
        status = self._wrapper(manager).pool.statuses()[0]
        assert status.state == "cooling"
        # Of the forms, a date is in whole seconds.
        assert 380 < status.free_in <= 402

    def test_a_refused_key_dies_and_the_next_answers(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, keys[0], [Unauthorized()])
        assert "hello" in ask(manager.get_model(self.name, affinity=None))
        assert self._states(manager) == ["dead", "ready", "ready"]

    @needs("payment")
    def test_a_key_without_credits_dies_and_the_next_answers(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, keys[0], [PaymentRequired()])
        assert "hello" in ask(manager.get_model(self.name, affinity=None))
        assert self._states(manager) == ["dead", "ready", "ready"]

    def test_a_forbidden_key_leaves_rotation_and_the_next_answers(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, keys[0], [Forbidden()])
        assert "hello" in ask(manager.get_model(self.name, affinity=None))
        assert self._states(manager)[0] in ("dead", "cooling")

    @needs("async")
    def test_keys_rotate_async_too(self, manager: ProviderManager, server: LoopbackServer, keys: list[str]) -> None:
        server.script(self.name, keys[0], [RateLimited()])
        server.script(self.name, keys[1], [Unauthorized()])
        answer = asyncio.run(manager.get_model(self.name, affinity=None).aresponse(messages=hello()))
        assert "hello" in str(answer.content)
        assert self._states(manager) == ["cooling", "dead", "ready"]

    @needs("streaming")
    def test_a_stream_rotates_before_its_first_content(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, keys[0], [RateLimited()])
        server.script(self.name, keys[1], [Unauthorized()])
        assert "hello" in "".join(stream(manager.get_model(self.name, affinity=None)))
        assert self._states(manager) == ["cooling", "dead", "ready"]

    def test_an_exhausted_pool_says_how_many_and_when(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        server.script(self.name, "*", [], then=RateLimited(retry_after=30))
        server.script(self.name, keys[0], [], then=Unauthorized())
        model = manager.get_model(self.name, affinity=None)
        with pytest.raises(KeysExhaustedError) as caught:
            ask(model)
        assert caught.value.__cause__ is not None
        with pytest.raises(ModelRateLimitError) as again:
            ask(model)
        error: Any = again.value
        assert (error.total_keys, error.cooling_down, error.dead) == (3, 2, 1)
        assert 20 < error.free_in <= 31
        assert sum(server.hits(self.name).values()) == KEYS

    def test_agno_falls_back_when_the_pool_is_exhausted(self, manager: ProviderManager, server: LoopbackServer) -> None:
        class Elsewhere(type(manager.get_model(self.name))):  # type: ignore[misc]  # a class that is known when it runs
            def invoke(self, *args: Any, **kwargs: Any) -> Any:
                return ModelResponse(content="from elsewhere")

        server.script(self.name, "*", [], then=Unauthorized())
        model = manager.get_model(self.name)
        agent = Agent(model=model, fallback_models=[Elsewhere(id="elsewhere")], telemetry=False)
        assert agent.run("hello").content == "from elsewhere"

    def test_a_provider_without_a_living_key_is_unhealthy(
        self, manager: ProviderManager, server: LoopbackServer
    ) -> None:
        server.script(self.name, "*", [], then=Unauthorized())
        assert manager.is_provider_healthy(self.name)
        with pytest.raises(KeysExhaustedError):
            ask(manager.get_model(self.name))
        assert not manager.is_provider_healthy(self.name)

    # Calls that fail

    @pytest.mark.parametrize("step", [ServerError(500), ServerError(503), Reset(), Garbage()], ids=of_type)
    def test_a_transient_failure_is_repeated(self, manager: ProviderManager, server: LoopbackServer, step: Any) -> None:
        server.script(self.name, "*", [step])
        assert "hello" in ask(manager.get_model(self.name))
        assert self._states(manager) == ["ready"] * KEYS

    @needs("end_mark")
    def test_an_empty_answer_is_repeated(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [EmptyBody()])
        assert "hello" in ask(manager.get_model(self.name))

    @needs("streaming", "end_mark")
    def test_an_empty_stream_is_repeated(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [EmptyBody()])
        assert "hello" in "".join(stream(manager.get_model(self.name)))

    @needs("streaming")
    def test_a_stream_that_fails_before_its_first_content_is_repeated(
        self, manager: ProviderManager, server: LoopbackServer
    ) -> None:
        server.script(self.name, "*", [StreamError(chunks=0)])
        assert "hello" in "".join(stream(manager.get_model(self.name)))

    def test_repetition_has_an_end(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [], then=ServerError(503))
        with pytest.raises(ModelCallError) as caught:
            ask(manager.get_model(self.name, max_retries=2))
        assert caught.value.attempts == 3
        assert sum(server.hits(self.name).values()) == 3

    @needs("timeouts")
    def test_a_silent_provider_ends_in_an_error(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [], then=Stall(5))
        with pytest.raises(ModelCallError) as caught:
            ask(manager.get_model(self.name, max_retries=0, request_timeout=0.2))
        assert caught.value.kind == "transport"

    def test_a_wrong_request_is_raised_at_once_and_no_key_is_blamed(
        self, manager: ProviderManager, server: LoopbackServer
    ) -> None:
        server.script(self.name, "*", [], then=BadRequest())
        with pytest.raises(ModelCallError) as caught:
            ask(manager.get_model(self.name))
        assert caught.value.kind == "bad_request"
        assert sum(server.hits(self.name).values()) == 1
        assert self._states(manager) == ["ready"] * KEYS

    @needs("context_overflow")
    def test_messages_that_do_not_fit_are_told_apart(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [], then=ContextTooLong())
        with pytest.raises(ModelCallError) as caught:
            ask(manager.get_model(self.name))
        assert caught.value.kind == "context_overflow"

    # Models that are gone

    def test_a_named_model_that_is_gone_is_not_replaced(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [], then=ModelGone())
        with pytest.raises(ModelNotFoundError) as caught:
            ask(manager.get_model(self.name, "once-was"))
        assert caught.value.model_id == "once-was"
        # Several keys are asked only if the answer may mean that just this key lacks the model, each key once at most.
        assert max(server.hits(self.name).values()) == 1

    @needs("successors")
    def test_a_default_model_that_is_gone_gives_way_to_its_successor(
        self, manager: ProviderManager, server: LoopbackServer
    ) -> None:
        wrapper = self._wrapper(manager)
        first, second = [model.id for model in self._defaults()][-2:]
        server.retire(self.name, first)
        for _ in range(2):
            assert "hello" in ask(wrapper.get_model(first, explicit=False))
        asked = [seen.model for seen in server.seen]
        assert asked[-2:] == [second, second]
        assert set(asked[:-2]) == {first}

    def test_a_default_of_the_users_that_is_gone_is_not_replaced(
        self, env: dict[str, str], server: LoopbackServer
    ) -> None:
        server.retire(self.name, "mine")
        with (
            ProviderManager(env={**env, f"{self.upper}_MODEL": "mine"}, plugins=[self.plugin]) as manager,
            pytest.raises(ModelNotFoundError),
        ):
            ask(manager.get_model(self.name))

    # Streams that break

    @needs("streaming", "end_mark")
    @pytest.mark.parametrize("how", ["eof", "reset"])
    def test_a_stream_that_breaks_is_never_repeated_silently(
        self, manager: ProviderManager, server: LoopbackServer, how: Any
    ) -> None:
        server.script(self.name, "*", [HalfStream(chunks=2, how=how)])
        received: list[str] = []
        deltas = manager.get_model(self.name).response_stream(messages=hello())
        with pytest.raises(StreamInterruptedError) as caught:
            received.extend(str(getattr(delta, "content", None) or "") for delta in deltas)
        assert caught.value.received == "".join(received) != ""
        assert sum(server.hits(self.name).values()) == 1

    # Leases end

    def test_nothing_is_held_after_any_ending(self, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script(self.name, "*", [Ok(), RateLimited(retry_after=0.001), ServerError(500), Garbage(), Reset()])
        model = manager.get_model(self.name, max_retries=0)
        for _ in range(5):
            try:
                ask(model)
            except ModelCallError:
                continue
        assert self._nothing_held(manager)

    @needs("streaming")
    def test_a_dropped_stream_ends_its_lease(self, manager: ProviderManager) -> None:
        deltas: Any = manager.get_model(self.name).response_stream(messages=hello())
        next(deltas)
        deltas.close()
        gc.collect()
        assert self._nothing_held(manager)

    @needs("async")
    def test_a_cancelled_call_ends_its_lease(self, manager: ProviderManager, server: LoopbackServer) -> None:
        async def cancelled() -> None:
            model = manager.get_model(self.name)
            with server.hold() as gate:
                call = asyncio.ensure_future(model.aresponse(messages=hello()))
                assert await asyncio.to_thread(gate.wait_for, 1, timeout=10)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

        asyncio.run(cancelled())
        assert self._nothing_held(manager)
