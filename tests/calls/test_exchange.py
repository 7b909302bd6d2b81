"""A request that its caller sends itself: keys, verdicts and rows are those of a rotating model's calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from hfs_providers import Event, KeyedProvider, ModelDefault, ProviderManager
from hfs_providers.authoring import ErrorRules, Exchange, Meaning
from hfs_providers.contract.usage_fields import Tokens
from hfs_providers.errors import KeysExhaustedError, ModelCallError, StreamInterruptedError
from hfs_providers.testing import LoopbackServer, OpenAIDialect, RateLimited, Raw, Reset, ServerError, Unauthorized

CORP = KeyedProvider(
    name="corp",
    model_class="agno.models.openai.like:OpenAILike",
    sdk="openai",
    models=(ModelDefault("first"), ModelDefault("second")),
    errors=ErrorRules(codes={"out_of_order": Meaning("overloaded")}),
)


class Corp:
    """A provider with three keys, asked over plain HTTP."""

    def __init__(self) -> None:
        self.server = LoopbackServer(dialects=[OpenAIDialect("corp")])
        self.events: list[Event] = []

    def __enter__(self) -> Corp:
        self.server.start()
        self.env = self.server.env({"corp": 3})
        self.manager = ProviderManager(env=self.env, plugins=[CORP])
        self.manager.observe(self.events.append)
        self.wrapper = self.manager.wrapper("corp")

        async def at_once(seconds: float) -> None:
            pass

        self.wrapper.backend.async_sleep = at_once
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.shutdown()
        self.server.stop()

    def script(self, key: int, *steps: Any, then: Any = None) -> None:
        """What the key of that number is answered."""
        self.server.script("corp", self.env[f"CORP_API_KEY_{key}"], list(steps), then=then)

    async def send(self, exchange: Exchange) -> str:
        """Ask once."""
        secret = exchange.credential.secret
        assert secret is not None
        body = {"model": exchange.model_id, "messages": [{"role": "user", "content": "hello"}]}
        async with httpx.AsyncClient() as client:
            url = f"{self.env['CORP_BASE_URL']}/chat/completions"
            response = await client.post(url, json=body, headers={"authorization": f"Bearer {secret.reveal()}"})
        if not response.is_success:
            exchange.refuse(response.status_code, response.headers, response.content)
        exchange.received(response)
        exchange.usage = Tokens(3, 4, 7)
        return str(response.json()["choices"][0]["message"]["content"])

    def ask(self, model_id: str | None = "m", **options: Any) -> str:
        """One request, whole."""
        return asyncio.run(self.wrapper.exchange(model_id, **options).run(self.send))

    @property
    def outcomes(self) -> list[tuple[str, str, int]]:
        """Key, outcome and tokens of each request that was written down."""
        rows = [event.usage for event in self.events if event.usage is not None]
        return [(row.key_id, row.outcome, row.tokens) for row in rows]

    def states(self, model_id: str = "m") -> list[str]:
        """Of each key."""
        return [key.state for key in self.wrapper.pool.statuses(model_id)]


@pytest.fixture
def corp() -> Iterator[Corp]:
    with Corp() as made:
        yield made
        counts = made.wrapper.pool.counts("m")
        assert (counts.in_flight, counts.reserved_tokens) == (0, 0)


def test_a_key_that_refuses_is_followed_by_the_next(corp: Corp) -> None:
    corp.script(1, RateLimited(retry_after=20))
    corp.script(2, Unauthorized())
    assert "hello" in corp.ask()
    assert corp.outcomes == [("corp#1", "rate_limited", 0), ("corp#2", "dead", 0), ("corp#3", "ok", 7)]
    assert corp.states() == ["cooling", "dead", "ready"]
    assert {event.call_id for event in corp.events if event.usage} != {None}


def test_the_plugin_says_what_a_code_means_and_the_body_is_read_without_an_sdk(corp: Corp) -> None:
    corp.script(1, then=Raw(418, {"error": {"code": "out_of_order", "message": "no tea"}}))
    with pytest.raises(ModelCallError, match="corp/m: no tea") as failed:
        corp.ask(key_id="corp#1", max_retries=1)
    assert (failed.value.kind, failed.value.status_code, failed.value.attempts) == ("overloaded", 418, 2)


def test_a_failure_of_the_transport_and_of_the_server_is_retried_on_the_next_key(corp: Corp) -> None:
    corp.script(1, Reset())
    corp.script(2, ServerError(503))
    assert "hello" in corp.ask()
    assert [outcome for _, outcome, _ in corp.outcomes] == ["transport", "overloaded", "ok"]


def test_the_error_shows_no_key(corp: Corp) -> None:
    corp.script(1, then=Unauthorized(echo_key=True))
    with pytest.raises(ModelCallError) as failed:
        corp.ask(key_id="corp#1", wait=False)
    shown = f"{failed.value!r} {failed.value.__cause__!r} {vars(failed.value)}"
    assert corp.env["CORP_API_KEY_1"] not in shown
    assert corp.env["CORP_API_KEY_1"][-4:] not in shown


def test_without_a_free_key_the_error_says_when_there_is_one(corp: Corp) -> None:
    for number in (1, 2, 3):
        corp.script(number, then=RateLimited(retry_after=50))
    with pytest.raises(KeysExhaustedError) as exhausted:
        corp.ask(timeout=1)
    assert (exhausted.value.cooling_down, exhausted.value.limited, exhausted.value.dead) == (3, 0, 0)
    assert 40 < (exhausted.value.free_in or 0) <= 50


def test_a_model_that_was_only_defaulted_has_a_successor(corp: Corp) -> None:
    corp.server.retire("corp", "first")
    assert "corp/second" in corp.ask(None)


def test_nothing_is_repeated_once_a_part_was_passed_on(corp: Corp) -> None:
    async def breaks(exchange: Exchange) -> None:
        exchange.passed_on()
        raise httpx.ReadError("the connection was reset")

    with pytest.raises(StreamInterruptedError):
        asyncio.run(corp.wrapper.exchange("m").run(breaks))
    assert corp.outcomes == [("corp#1", "transport", 0)]


@pytest.mark.parametrize(("announces", "outcomes"), [(True, [("corp#1", "transport", 0)]), (False, [])])
def test_a_sender_may_say_itself_when_the_request_goes_out(corp: Corp, announces: bool, outcomes: object) -> None:
    async def breaks(exchange: Exchange) -> None:
        if announces:
            exchange.sending()
        raise httpx.ReadError("the connection was reset")

    with pytest.raises(ModelCallError):
        asyncio.run(corp.wrapper.exchange("m", key_id="corp#1", max_retries=0).run(breaks, announced=True))
    assert corp.outcomes == outcomes


def test_a_cancelled_exchange_cancels_its_sender_and_counts_as_abandoned(corp: Corp) -> None:
    async def scenario() -> bool:
        asked, cancelled = asyncio.Event(), False

        async def silent(exchange: Exchange) -> None:
            nonlocal cancelled
            asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled = True
                raise

        task = asyncio.create_task(corp.wrapper.exchange("m").run(silent))
        await asked.wait()
        task.cancel()
        await asyncio.wait([task])
        return cancelled and task.cancelled()

    assert asyncio.run(scenario())
    assert corp.outcomes == [("corp#1", "abandoned", 0)]


def test_a_bug_of_the_sender_is_raised_and_not_retried(corp: Corp) -> None:
    async def wrong(exchange: Exchange) -> None:
        raise KeyError("choices")

    with pytest.raises(ModelCallError) as failed:
        asyncio.run(corp.wrapper.exchange("m").run(wrong))
    assert (failed.value.kind, corp.states()) == ("local", ["ready"] * 3)


@pytest.mark.parametrize(("failure", "state"), [(httpx.ConnectError, "ready"), (httpx.ReadError, "limited")])
def test_a_request_counts_against_a_limit_if_it_may_have_been_sent(
    corp: Corp, failure: type[httpx.TransportError], state: str
) -> None:
    async def told(exchange: Exchange) -> None:
        exchange.received(SimpleNamespace(headers=[(b"X-RateLimit-Limit-Requests-Hour", b"2")]))

    async def breaks(exchange: Exchange) -> None:
        raise failure("the connection failed")

    async def both() -> None:
        await corp.wrapper.exchange("m", key_id="corp#1").run(told)
        await corp.wrapper.exchange("m", key_id="corp#1", max_retries=0).run(breaks)

    with pytest.raises(ModelCallError):
        asyncio.run(both())
    assert corp.states() == [state, "ready", "ready"]


def test_limits_are_learned_from_the_headers_of_an_answer(corp: Corp) -> None:
    async def told(exchange: Exchange) -> None:
        exchange.received(SimpleNamespace(headers=[(b"X-RateLimit-Limit-Requests-Minute", b"1")]))

    async def twice() -> None:
        for _ in range(2):
            await corp.wrapper.exchange("m", key_id="corp#2", wait=False).run(told)

    with pytest.raises(KeysExhaustedError):
        asyncio.run(twice())
    assert corp.states() == ["ready", "limited", "ready"]
