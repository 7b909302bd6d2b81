"""The row of each request: its call, who asked, why it failed, and what came from a cache."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import pytest
from agno.metrics import MessageMetrics
from agno.models.message import Message
from openai.types import CompletionUsage

from hfs_providers import KeysExhaustedError
from hfs_providers.authoring import UsageFields, UsageRow
from hfs_providers.contract.usage_fields import COMMON_FIELDS, Tokens
from hfs_providers.contract.usage_row import Trace, asking
from hfs_providers.testing import LoopbackServer, Ok, RateLimited, ServerError, Unauthorized
from tests.fallback.chains import PROVIDERS, WAYS, House, ask, house, server

__all__ = ["house", "server"]


def rows(house: House) -> list[UsageRow]:
    return [event.usage for event in house.events if event.usage is not None]


@pytest.fixture
def three(server: LoopbackServer) -> House:
    """A house whose Groq has three keys."""
    more = {f"GROQ_API_KEY_{number}": f"gsk_another_key_{number}" for number in (2, 3)}
    return House(server, NUM_GROQ="3", **more)


class TestOneCall:
    @pytest.mark.parametrize("way", WAYS)
    def test_numbers_its_requests_and_says_why_each_failed(self, three: House, way: str) -> None:
        three.server.script("groq", "*", [Unauthorized(), RateLimited(retry_after=600), ServerError(500)])
        ask(three.manager.get_model("groq", "m"), way)
        dead, limited, failed, answered = rows(three)
        assert len({row.call_id for row in rows(three)}) == 1
        assert len(dead.call_id) == 16
        assert [row.attempt for row in rows(three)] == [1, 2, 3, 4]
        assert (dead.outcome, dead.status, dead.reason) == ("dead", 401, "invalid_api_key")
        assert (limited.outcome, limited.status, limited.reason) == ("rate_limited", 429, "rate_limit_exceeded")
        assert limited.cooled_until == pytest.approx(limited.at + 600)
        assert (failed.outcome, failed.status, failed.reason) == ("server_error", 500, "internal_server_error")
        assert (answered.outcome, answered.status, answered.reason) == ("ok", None, "")
        assert {dead.cooled_until, failed.cooled_until, answered.cooled_until} == {None}

    def test_cools_a_key_for_half_a_minute_if_nothing_else_is_said(self, house: House) -> None:
        house.script("groq", then=RateLimited(form="none"))
        with pytest.raises(KeysExhaustedError):
            ask(house.manager.get_model("groq", "m", wait=False))
        (row,) = rows(house)
        (key,) = house.manager.wrappers["groq"].pool.statuses("m")
        assert row.cooled_until is not None
        assert key.free_in == pytest.approx(row.cooled_until - time.time(), abs=5)
        assert key.free_in == pytest.approx(30, abs=5)

    @pytest.mark.parametrize("way", WAYS)
    def test_of_a_chain_is_one_over_its_entries(self, house: House, way: str) -> None:
        house.script("groq", RateLimited(retry_after=600))
        chain = house.chain("groq", "gemini")
        ask(chain, way)
        ask(chain, way)
        first, second, other = rows(house)
        assert (first.provider, second.provider) == ("groq", "gemini")
        assert (first.call_id, first.attempt) == (second.call_id, 1)
        assert second.attempt == 2
        assert (other.call_id != first.call_id, other.attempt) == (True, 1)

    def test_has_an_id_that_no_process_has_besides(self) -> None:
        with ProcessPoolExecutor(1, get_context("fork")) as child:
            ids = [Trace().id, *child.submit(_ids).result(), *_ids()]
        assert len(set(ids)) == 7
        assert {len(each) for each in ids} == {16}


def _ids() -> list[str]:
    return [Trace().id for _ in range(3)]


class TestClient:
    def test_is_who_asks_in_this_context(self, house: House) -> None:
        model: Any = house.manager.get_model("groq", "m")

        async def say(name: str) -> None:
            asking.set(name)
            await model.aresponse(messages=[Message(role="user", content="hello")])

        async def all_at_once() -> None:
            await asyncio.gather(*(say(f"client {number}") for number in range(5)))

        asyncio.run(all_at_once())
        ask(model)
        found = [row.client for row in rows(house)]
        assert sorted(found[:5]) == [f"client {number}" for number in range(5)]
        assert found[5:] == [""]

    def test_is_not_that_of_another_thread(self, house: House) -> None:
        token = asking.set("me")
        try:
            with ThreadPoolExecutor(1) as threads:
                threads.submit(ask, house.manager.get_model("groq", "m")).result()
        finally:
            asking.reset(token)
        assert [row.client for row in rows(house)] == [""]


class TestCachedTokens:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_are_those_that_the_provider_tells(self, house: House, provider: str, way: str) -> None:
        house.script(provider, Ok("hello", usage=(100, 7), cached=64))
        ask(house.manager.get_model(provider), way)
        (row,) = rows(house)
        assert (row.tokens_in, row.tokens_out, row.tokens, row.tokens_cached) == (100, 7, 107, 64)

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_are_in_agno_s_metrics_too(self, house: House, provider: str) -> None:
        house.script(provider, Ok("hello", usage=(100, 7), cached=64))
        answer = house.manager.get_model(provider).response(messages=[Message(role="user", content="hello")])
        assert answer.response_usage.cache_read_tokens == 64

    @pytest.mark.parametrize("streams", [False, True])
    def test_of_the_openai_client(self, house: House, streams: bool) -> None:
        house.script("groq", Ok("hello", usage=(100, 7), cached=64))
        client: Any = house.manager.wrappers["groq"].get_openai_client()  # type: ignore[attr-defined]
        answer = client.chat.completions.create(messages=[{"role": "user", "content": "hello"}], stream=streams)
        list(answer)
        (row,) = rows(house)
        assert (row.tokens_in, row.tokens_cached) == (100, 64)


class TestUsageFields:
    """Providers whose counts leave something out."""

    APART = UsageFields(
        cached=("cache_read_input_tokens",), cache_write=("cache_creation_input_tokens",), cache_apart=True
    )

    def test_input_tokens_include_those_of_the_cache(self) -> None:
        usage = {
            "input_tokens": 10,
            "output_tokens": 5,
            "cache_read_input_tokens": 70,
            "cache_creation_input_tokens": 20,
        }
        assert self.APART.read(usage) == self.APART.read(SimpleNamespace(**usage)) == Tokens(100, 5, 105, 70, 20)
        metrics = MessageMetrics(10, 5, 15, cache_read_tokens=70, cache_write_tokens=20)
        assert self.APART.whole(metrics) == Tokens(100, 5, 105, 70, 20)

    def test_output_tokens_include_those_of_reasoning(self) -> None:
        metrics = MessageMetrics(10, 5, 15, reasoning_tokens=30)
        assert UsageFields(reasoning_apart=True).whole(metrics) == Tokens(10, 35, 45)
        assert COMMON_FIELDS.whole(metrics) is metrics

    def test_a_total_that_includes_them_is_the_whole(self) -> None:
        metrics = MessageMetrics(10, 5, 45, reasoning_tokens=30)
        assert UsageFields(reasoning_apart=True).whole(metrics) == Tokens(10, 35, 45)

    def test_another_protocol_of_the_provider_has_its_own(self) -> None:
        usage = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 70}}
        assert self.APART.read(usage) == Tokens(100, 5, 105, 70, 0)

    def test_a_field_that_the_sdk_does_not_declare_counts(self) -> None:
        details = {"cached_tokens": 70, "seen_before": 20}
        usage = CompletionUsage.model_validate(
            {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "prompt_tokens_details": details}
        )
        fields = UsageFields(
            cached=("not_there.cached_tokens", "prompt_tokens_details.cached_tokens"),
            cache_write=("prompt_tokens_details.seen_before",),
        )
        assert fields.cache_tokens(usage) == (70, 20)

    @pytest.mark.parametrize("usage", [{}, {"prompt_tokens": "many"}, {"prompt_tokens": 1, "prompt_tokens_details": 5}])
    def test_what_cannot_be_read_is_nothing(self, usage: dict[str, Any]) -> None:
        assert COMMON_FIELDS.read(usage).cache_read_tokens == 0
