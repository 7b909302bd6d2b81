"""OpenTelemetry: each request as a span and in metrics, by the semantic conventions for generative AI.

https://github.com/open-telemetry/semantic-conventions-genai. An observer, not a provider. Until the program itself has
set up OpenTelemetry, it imports nothing and gets no events.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfs_providers import __version__
from hfs_providers.authoring import Event, UsageRow, hookimpl

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram
    from opentelemetry.trace import Tracer

# The providers that have another name in the conventions than their plugin.
_PROVIDERS = {"gemini": "gcp.gemini", "mistral": "mistral_ai", "bedrock": "aws.bedrock", "xai": "x_ai"}
_OPERATIONS = {"gemini": "generate_content"}
# The bucket boundaries that the conventions recommend.
_SECONDS = [round(0.01 * 2**n, 2) for n in range(14)]
_TOKENS = [4**n for n in range(14)]


@dataclass(frozen=True, slots=True)
class _Instruments:
    tracer: Tracer
    duration: Histogram
    tokens: Histogram
    events: Counter

    @classmethod
    def make(cls) -> _Instruments:
        from opentelemetry import metrics, trace

        meter = metrics.get_meter("hfs_providers", __version__)
        return cls(
            trace.get_tracer("hfs_providers", __version__),
            meter.create_histogram(
                "gen_ai.client.operation.duration",
                "s",
                "Duration of a request.",
                explicit_bucket_boundaries_advisory=_SECONDS,
            ),
            meter.create_histogram(
                "gen_ai.client.token.usage",
                "{token}",
                "Tokens of a request, as the provider counted them.",
                explicit_bucket_boundaries_advisory=_TOKENS,
            ),
            meter.create_counter(
                "hfs.events",
                "{event}",
                "Rotations, retries, fallbacks and the like, by hfs.event.kind.",
            ),
        )


class OpenTelemetry:
    """The plugin."""

    hfs_contract = 1
    name = "otel"

    def __init__(self) -> None:
        self._instruments: _Instruments | None = None

    def hfs_listening(self) -> bool:
        """Whether the program has set up OpenTelemetry."""
        return self._instruments is not None or ("opentelemetry.trace" in sys.modules and self._start())

    def _start(self) -> bool:
        from opentelemetry import metrics, trace

        if _is_set(trace.get_tracer_provider()) or _is_set(metrics.get_meter_provider()):
            self._instruments = _Instruments.make()
        return self._instruments is not None

    @hookimpl
    def on_event(self, event: Event) -> None:
        instruments = self._instruments
        if instruments is None:
            return
        if event.usage is not None:
            _tell_request(instruments, event.usage, event.call_id)
        else:
            _tell_event(instruments, event)


plugin = OpenTelemetry()


def _is_set(provider: object) -> bool:
    # OpenTelemetry's placeholders for a provider that is not set. That of metrics has no public name.
    return not type(provider).__name__.lstrip("_").startswith(("Proxy", "NoOp"))


def _tell_request(instruments: _Instruments, row: UsageRow, call_id: str | None) -> None:
    from opentelemetry.trace import SpanKind, StatusCode

    operation = _OPERATIONS.get(row.provider, "chat")
    common = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDERS.get(row.provider, row.provider),
        "gen_ai.request.model": row.model,
    }
    call = {} if call_id is None else {"hfs.call.id": call_id}
    error = {} if row.outcome == "ok" else {"error.type": row.outcome}
    counted = {kind: count for kind, count in (("input", row.tokens_in), ("output", row.tokens_out)) if count}
    attributes = {f"gen_ai.usage.{kind}_tokens": count for kind, count in counted.items()}
    span = instruments.tracer.start_span(
        f"{operation} {row.model}",
        kind=SpanKind.CLIENT,
        attributes={**common, **error, **attributes, **call, "hfs.provider": row.provider, "hfs.key.id": row.key_id},
        start_time=_nanoseconds(row.at - row.latency),
    )
    if error:
        span.set_status(StatusCode.ERROR, row.outcome)
    span.end(_nanoseconds(row.at))
    instruments.duration.record(row.latency, {**common, **error})
    for kind, count in counted.items():
        instruments.tokens.record(count, {**common, "gen_ai.token.type": kind})


def _tell_event(instruments: _Instruments, event: Event) -> None:
    from opentelemetry import trace

    about: dict[str, Any] = {
        "hfs.provider": event.provider,
        "gen_ai.provider.name": _PROVIDERS.get(event.provider, event.provider),
    }
    if event.model is not None:
        about["gen_ai.request.model"] = event.model
    instruments.events.add(1, {**about, "hfs.event.kind": event.kind})
    more = {"hfs.key.id": event.key_id, "hfs.reason": event.reason, "hfs.seconds": event.seconds}
    more["hfs.call.id"] = event.call_id
    about |= {name: value for name, value in more.items() if value is not None}
    # Not on our own span: the failed request's span has ended, and the next request's has not begun.
    trace.get_current_span().add_event(f"hfs.{event.kind}", about, _nanoseconds(event.at))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
