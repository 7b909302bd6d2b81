"""The cost of requests, in nano-USD: billionths of a US dollar.

A price comes from the TOML file, else from `genai-prices`: the data of its installed version. It is imported with the
first call, in that call's own thread: the one that writes rows must not be delayed.

    invariant: the same request costs the same in its row, in a report and under a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices

    from hfs_providers.contract.usage_row import UsageRow

NANO = 1_000_000_000
"""Nano-USD of a dollar."""

_MILLION = 1_000_000

# The most prices in the cache: model names may come from outside.
_KEPT = 4096


class Rates(NamedTuple):
    """Nano-USD for a million tokens of each kind, and for a request."""

    input: int
    cached: int
    cache_write: int
    output: int
    request: int = 0

    @classmethod
    def of(
        cls,
        input: Decimal | float | None = None,
        cached: Decimal | float | None = None,
        cache_write: Decimal | float | None = None,
        output: Decimal | float | None = None,
        request: Decimal | float | None = None,
    ) -> Rates:
        """From USD. Tokens from a cache, or written into one, cost as much as others if no price is given."""
        said = (input, input if cached is None else cached, input if cache_write is None else cache_write)
        return cls._make(round((each or 0) * NANO) for each in (*said, output, request))

    def cost(self, tokens_in: int, tokens_out: int, cached: int = 0, cache_write: int = 0) -> int:
        """The cost of one request, in nano-USD; `tokens_in` includes `cached` and `cache_write`."""
        plain = max(0, tokens_in - cached - cache_write)
        tokens = plain * self.input + cached * self.cached + cache_write * self.cache_write + tokens_out * self.output
        # A provider's counts may be anything.
        return max(0, (tokens + _MILLION // 2) // _MILLION) + self.request


FREE = Rates(0, 0, 0, 0)


class Price(NamedTuple):
    """The rates of a model, and those of requests with more input tokens than a number; the largest number first."""

    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()

    def for_input(self, tokens: int) -> Rates:
        """The rates of a request with that many input tokens."""
        return next((rates for least, rates in self.above if tokens > least), self.rates)


_loaded = False


def load_prices() -> None:
    """Import `genai-prices`, if it is installed. Without that no price is published."""
    global _loaded
    if not _loaded:
        with suppress(ImportError):
            import genai_prices.data  # noqa: F401
        _loaded = True


_PriceAt = Callable[[float], "Price | None"]
"""The price at an instant, in seconds since the epoch."""


class PriceList:
    """The prices of all models.

    Args:
        overrides: by `provider/model` or a glob for it; the first that matches counts.
        free: names of providers and ids of keys that cost nothing.
        ids: by provider, its id in `genai-prices`, if that is another.
    """

    def __init__(
        self,
        overrides: Mapping[str, Rates] | None = None,
        free: Collection[str] = (),
        ids: Mapping[str, str] | None = None,
    ) -> None:
        self._overrides = overrides or {}
        self.free = frozenset(free)
        """Names of providers and ids of keys that cost nothing."""
        self._ids = ids or {}
        self._find = lru_cache(_KEPT)(self._look_up)

    def rates(self, provider: str, model: str, key_id: str, tokens_in: int, at: float) -> Rates | None:
        """What a request costs by kinds of tokens; None if no price is known.

        Args:
            tokens_in: input tokens; some models cost more for long inputs.
            at: seconds since the epoch; some models cost less at night.
        """
        if key_id in self.free:
            return FREE
        price = self._find(provider, model, _loaded)(at)
        return price.for_input(tokens_in) if price is not None else None

    def cost(self, row: UsageRow) -> int | None:
        """The price of a request in nano-USD; None if it has no price, or its tokens are not known."""
        rates = self.rates(row.provider, row.model, row.key_id, row.tokens_in, row.at)
        if rates is FREE:
            return 0
        if not row.tokens_in and not row.tokens_out:
            if row.outcome != "ok" and not row.charged:
                # It failed before there was anything to pay for.
                return 0
            if rates is None or rates.input or rates.output:
                return None
        if rates is None:
            return None
        return rates.cost(row.tokens_in, row.tokens_out, row.tokens_cached, row.tokens_cache_write)

    def _look_up(self, provider: str, model: str, published: bool) -> _PriceAt:
        if provider in self.free or model.endswith((":free", "/free")):
            return _always(Price(FREE))
        name = f"{provider}/{model}"
        for glob, rates in self._overrides.items():
            if fnmatchcase(name, glob):
                return _always(Price(rates))
        return _published(self._ids.get(provider, provider), model) if published else _always(None)


def _always(price: Price | None) -> _PriceAt:
    return lambda _: price


def _published(provider_id: str, model: str) -> _PriceAt:
    """The price of a model as `genai-prices` has it."""
    try:
        from genai_prices import Usage, calc_price

        found = calc_price(Usage(), model, provider_id=provider_id)
    except (ImportError, LookupError):
        return _always(None)
    # It accepts any name that contains that of a provider, such as that of a private server.
    if found.provider.id != provider_id:
        return _always(None)
    if not isinstance(found.model.prices, list):
        return _always(_price_of(found.model_price))
    # They change by the hour of the day or on a date: the current one is looked up each time.
    prices = {id(each.prices): _price_of(each.prices) for each in found.model.prices}
    return lambda at: prices[id(found.model.get_prices(datetime.fromtimestamp(at, UTC)))]


def _price_of(price: ModelPrice) -> Price | None:
    """A price of `genai-prices`; None if it is not one for tokens or requests."""
    kinds = [price.input_mtok, price.cache_read_mtok, price.cache_write_mtok, price.output_mtok, price.requests_kcount]
    if all(kind is None for kind in kinds):
        return None
    starts = {tier.start for kind in kinds if kind is not None and not isinstance(kind, Decimal) for tier in kind.tiers}
    return Price(_rates(kinds, 0), tuple((start, _rates(kinds, start + 1)) for start in sorted(starts, reverse=True)))


def _rates(kinds: Sequence[Decimal | TieredPrices | None], tokens_in: int) -> Rates:
    said = [_at(kind, tokens_in) for kind in kinds]
    said[4] = said[4] and said[4] / 1000
    return Rates.of(*said)


def _at(kind: Decimal | TieredPrices | None, tokens_in: int) -> Decimal | None:
    if kind is None or isinstance(kind, Decimal):
        return kind
    return next((tier.price for tier in reversed(kind.tiers) if tokens_in > tier.start), kind.base)
