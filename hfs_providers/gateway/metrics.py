"""`/metrics`: the gateway's metrics for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from hfs_providers import ProviderManager
from hfs_providers.contract.records import Event, KeyState
from hfs_providers.contract.usage_row import UsageRow

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_MOST_MODELS = 100
_OTHER = "other"


class _Series:
    """The requests of one provider, model and outcome."""

    __slots__ = ("buckets", "cached", "requests", "seconds", "tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.requests = self.tokens_in = self.tokens_out = self.cached = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(_SECONDS) + 1)


class Metrics:
    """Counts the requests that are sent to providers.

    Args:
        in_flight: returns how many requests of clients are being answered.
    """

    def __init__(self, manager: ProviderManager, in_flight: Callable[[], int]) -> None:
        self._manager = manager
        self._in_flight = in_flight
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._models: dict[str, set[str]] = {}
        self._fallbacks: Counter[str] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, row: UsageRow) -> None:
        """Count one request that was sent."""
        series = self._series.get((row.provider, row.model, row.outcome))
        if series is None:
            series = self._new_series(row)
        series.requests += 1
        series.tokens_in += row.tokens_in
        series.tokens_out += row.tokens_out
        series.cached += row.tokens_cached
        series.seconds += row.latency
        series.buckets[bisect_left(_SECONDS, row.latency)] += 1

    def emit(self, event: Event) -> None:
        """Count a fallback, and pass any event on to the manager's observers."""
        if event.kind == "fallback_activated":
            self._fallbacks[event.provider] += 1
        self._manager.emit(event)

    async def page(self, request: Request) -> Response:
        """The metrics in Prometheus's text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    def collect(self) -> Iterator[Metric]:
        """The metrics for `prometheus_client`."""
        labels = ["provider", "model", "outcome"]
        requests = CounterMetricFamily("hfs_requests", "Requests sent to providers.", labels=labels)
        tokens = CounterMetricFamily("hfs_tokens", "Tokens as providers counted them.", labels=[*labels[:2], "kind"])
        seconds = HistogramMetricFamily("hfs_request_seconds", "Time of a request to a provider.", labels=labels)
        for names, series in sorted(self._series.items()):
            requests.add_metric(names, series.requests)
            total, buckets = 0, []
            for bound, count in zip((*map(str, _SECONDS), "+Inf"), series.buckets, strict=True):
                total += count
                buckets.append((bound, float(total)))
            seconds.add_metric(names, buckets, series.seconds)
        for provider, model in sorted({names[:2] for names in self._series}):
            these = [series for names, series in self._series.items() if names[:2] == (provider, model)]
            for kind, name in (("input", "tokens_in"), ("output", "tokens_out"), ("cached", "cached")):
                tokens.add_metric([provider, model, kind], sum(getattr(series, name) for series in these))
        yield from (requests, tokens, seconds)
        fallbacks = CounterMetricFamily("hfs_fallbacks", "Requests that fell back to a provider.", labels=["provider"])
        for provider, count in sorted(self._fallbacks.items()):
            fallbacks.add_metric([provider], count)
        yield fallbacks
        keys = GaugeMetricFamily("hfs_keys", "Keys by state.", labels=["provider", "state"])
        for provider, wrapper in self._manager.wrappers.items():
            states = Counter(key.state for key in wrapper.pool.statuses())
            for state in get_args(KeyState):
                keys.add_metric([provider, state], states[state])
        yield keys
        yield GaugeMetricFamily("hfs_in_flight", "Requests of clients that are being answered.", self._in_flight())

    def _new_series(self, row: UsageRow) -> _Series:
        """The series of a new model. The number of models with their own labels is limited, because a client may name
        any model."""
        models = self._models.setdefault(row.provider, set())
        if row.model not in models and len(models) >= _MOST_MODELS:
            return self._series.setdefault((row.provider, _OTHER, row.outcome), _Series())
        models.add(row.model)
        return self._series.setdefault((row.provider, row.model, row.outcome), _Series())
