"""What a request costs: by the file, by genai-prices, or nothing, or not known."""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot

from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.money.prices import NANO, PriceList, Rates, load_prices

load_prices()
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()


def row(provider: str, model: str, *, tokens: tuple[int, int] = (1_000_000, 0), **more: Any) -> UsageRow:
    made = UsageRow(NOON, provider, model, f"{provider}#1", "0123abcd", *tokens, sum(tokens), 0.1, "ok", sum(tokens))
    return made._replace(**more)


class TestPublished:
    def test_every_price_of_genai_prices_is_what_it_calculates(self) -> None:
        """For a third of its models: with caches, beyond the thresholds of tiers, by day and night."""
        chosen, checked = random.Random(7), 0
        prices = PriceList()
        for provider in get_snapshot().providers:
            for model in provider.models[::3]:
                at = NOON + chosen.randrange(0, 86_400)
                tokens_in = chosen.choice([0, 900, 150_000, 300_000, 900_000])
                cached, written, out = tokens_in // 3, tokens_in // 5, chosen.randrange(1, 9000)
                found = prices.rates(provider.id, model.id, "x#1", tokens_in, at)
                if found is None or model.id.endswith(":free"):
                    continue
                usage = Usage(
                    input_tokens=tokens_in, cache_read_tokens=cached, cache_write_tokens=written, output_tokens=out
                )
                moment = datetime.fromtimestamp(at, UTC)
                theirs = calc_price(usage, model.id, provider_id=provider.id, genai_request_timestamp=moment)
                ours = found.cost(tokens_in, out, cached, written)
                assert abs(ours - theirs.total_price * NANO) <= 1, (provider.id, model.id)
                checked += 1
        assert checked > 500

    def test_a_provider_may_have_another_id_there(self) -> None:
        price = row("gemini", "gemini-2.5-flash")
        assert PriceList().cost(price) is None
        assert PriceList(ids={"gemini": "google"}).cost(price) == 300_000_000

    def test_a_name_that_only_contains_that_of_a_provider_has_no_price(self) -> None:
        assert PriceList().cost(row("my-openai-proxy", "gpt-4o")) is None
        assert PriceList().cost(row("openai", "gpt-4o")) == 2_500_000_000

    def test_without_the_package_there_are_those_of_the_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "genai_prices", None)
        prices = PriceList({"groq/own": Rates.of(2.0, output=3.0)})
        assert prices.cost(row("groq", "llama-3.3-70b-versatile")) is None
        assert prices.cost(row("groq", "own", tokens=(1000, 1000))) == 5_000_000


class TestOverrides:
    PRICES = PriceList(
        {
            "acme/large": Rates.of(0.59, 0.1, 0.7, 0.79, 0.001),
            "acme/*": Rates.of(Decimal("0.0375"), output=1.0),
            "groq/llama-3.3-70b-versatile": Rates.of(1.0, output=1.0),
        }
    )

    def test_each_kind_of_token_and_the_request_have_their_price(self) -> None:
        spent = row("acme", "large", tokens=(1000, 100), tokens_cached=300, tokens_cache_write=200)
        assert self.PRICES.cost(spent) == 500 * 590 + 300 * 100 + 200 * 700 + 100 * 790 + 1_000_000

    def test_cached_tokens_without_a_price_cost_as_others(self) -> None:
        assert self.PRICES.cost(row("acme", "small", tokens=(1000, 0), tokens_cached=999)) == 37_500

    def test_they_come_before_the_published_ones(self) -> None:
        assert self.PRICES.cost(row("groq", "llama-3.3-70b-versatile")) == 1_000_000_000


class TestFree:
    @pytest.mark.parametrize("model", ["meta-llama/llama-3.3-70b-instruct:free", "openrouter/free"])
    def test_by_the_model_s_id(self, model: str) -> None:
        assert PriceList().cost(row("openrouter", model)) == 0

    def test_by_provider_and_by_key(self) -> None:
        prices = PriceList(free=["groq", "openai#2"])
        assert prices.cost(row("groq", "llama-3.3-70b-versatile")) == 0
        assert prices.cost(row("openai", "gpt-4o", key_id="openai#2")) == 0
        assert prices.cost(row("openai", "gpt-4o")) == 2_500_000_000

    def test_even_if_its_tokens_are_not_known(self) -> None:
        assert PriceList(free=["groq"]).cost(row("groq", "nobody-knows", tokens=(0, 0), charged=1000)) == 0


class TestUnpriced:
    def test_a_model_that_nobody_has_a_price_for(self) -> None:
        assert PriceList().cost(row("groq", "nobody-knows")) is None
        assert PriceList().cost(row("acme", "large")) is None

    def test_one_that_does_not_cost_by_tokens(self) -> None:
        assert PriceList().cost(row("groq", "whisper-large-v3")) is None

    def test_an_answer_whose_tokens_nobody_counted(self) -> None:
        assert PriceList().cost(row("openai", "gpt-4o", tokens=(0, 0), charged=1000)) is None

    def test_a_request_that_was_refused_costs_nothing_at_any_price(self) -> None:
        for model in ("gpt-4o", "nobody-knows"):
            refused = row("openai", model, tokens=(0, 0), charged=0, outcome="rate_limited")
            assert PriceList().cost(refused) == 0
