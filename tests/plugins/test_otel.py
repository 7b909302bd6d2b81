"""The OpenTelemetry observer: real models on the loopback server, the real SDK of OpenTelemetry in memory."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from agno.agent import Agent
from agno.models.message import Message
from opentelemetry import trace
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from hfs_providers import KeysExhaustedError, ProviderManager
from hfs_providers.authoring import Event
from hfs_providers.contract.records import EventKind
from hfs_providers.core.registry import Registry
from hfs_providers.plugins import otel
from hfs_providers.testing import LoopbackServer, RateLimited, ServerError, Unauthorized
from tests import warm

FOUR = ["cerebras", "groq", "gemini", "openrouter"]
MESSAGES = [Message(role="user", content="hello")]


class Telemetry:
    """What was exported."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader])

    def spans(self, of: str = "hfs_providers") -> list[ReadableSpan]:
        """The finished spans of an instrumentation, in the order in which they ended."""
        return [s for s in self._spans.get_finished_spans() if s.instrumentation_scope.name == of]

    def run(self) -> ReadableSpan:
        """The span of the caller."""
        (span,) = self.spans("test")
        return span

    def points(self, metric: str) -> list[Any]:
        """The data points of a metric."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric
            for point in found.data.data_points
        ]

    def events(self) -> dict[str, int]:
        """How many of each kind were counted."""
        return {point.attributes["hfs.event.kind"]: point.value for point in self.points("hfs.events")}

    def everything(self) -> str:
        """All of it, as text."""
        data = self._reader.get_metrics_data()
        return "\n".join(s.to_json() for s in self._spans.get_finished_spans()) + (data.to_json() if data else "")


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Telemetry:
    """The program has set up OpenTelemetry; afterwards it has not."""
    telemetry = Telemetry()
    # What `set_tracer_provider` and `set_meter_provider` do once in a process.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", telemetry.tracers)
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", telemetry.meters)
    monkeypatch.setattr(otel.plugin, "_instruments", None)
    return telemetry


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager({**server.env(dict.fromkeys(FOUR, 3)), "HFS_USAGE_DB": "off"}) as manager:
        for wrapper in manager.wrappers.values():
            wrapper.backend.sleep = lambda seconds: None  # type: ignore[attr-defined]
        yield manager


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def sync(model: Any) -> None:
    model.response(messages=list(MESSAGES))


def stream(model: Any) -> None:
    assert len(list(model.response_stream(messages=list(MESSAGES)))) > 1


def run_async(model: Any) -> None:
    asyncio.run(model.aresponse(messages=list(MESSAGES)))


def stream_async(model: Any) -> None:
    async def collect() -> None:
        assert len([delta async for delta in model.aresponse_stream(messages=list(MESSAGES))]) > 1

    asyncio.run(collect())


WAYS = [sync, stream, run_async, stream_async]


class TestRequest:
    @pytest.mark.parametrize("provider", FOUR)
    def test_is_a_span_by_the_conventions(self, telemetry: Telemetry, manager: ProviderManager, provider: str) -> None:
        began = time.time_ns()
        sync(manager.get_model(provider))
        (span,) = telemetry.spans()
        operation, known_as = ("generate_content", "gcp.gemini") if provider == "gemini" else ("chat", provider)
        model = manager.default_model(provider)
        found = attributes(span)
        assert (span.name, span.kind) == (f"{operation} {model}", SpanKind.CLIENT)
        assert found.pop("gen_ai.usage.input_tokens") > 0
        assert found.pop("gen_ai.usage.output_tokens") > 0
        assert found.pop("hfs.key.id").startswith(f"{provider}#")
        assert found.pop("hfs.call.id")
        assert found == {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": known_as,
            "gen_ai.request.model": model,
            "hfs.provider": provider,
        }
        assert span.status.status_code is StatusCode.UNSET
        assert began <= span.start_time <= span.end_time <= time.time_ns()  # type: ignore[operator]

    @pytest.mark.parametrize("provider", FOUR)
    @pytest.mark.parametrize("way", WAYS)
    def test_belongs_to_its_caller_s_span(
        self, telemetry: Telemetry, manager: ProviderManager, provider: str, way: Callable[[Any], None]
    ) -> None:
        with trace.get_tracer("test").start_as_current_span("run"):
            way(manager.get_model(provider))
        (span,) = telemetry.spans()
        assert span.parent == telemetry.run().context
        assert attributes(span)["gen_ai.usage.output_tokens"] > 0

    def test_of_agents_side_by_side_belongs_to_its_own_agent(
        self, telemetry: Telemetry, manager: ProviderManager
    ) -> None:
        agent = Agent(model=manager.get_model("groq"), telemetry=False)

        async def one(n: int) -> None:
            with trace.get_tracer("test").start_as_current_span(f"run {n}"):
                await agent.arun(f"question {n}")

        async def all_of_them() -> None:
            await asyncio.gather(*(one(n) for n in range(8)))

        asyncio.run(all_of_them())
        parents = [span.parent for span in telemetry.spans()]
        runs = [span.context for span in telemetry.spans("test")]
        assert sorted(p.span_id for p in parents if p) == sorted(r.span_id for r in runs if r)

    def test_is_measured_by_the_conventions(self, telemetry: Telemetry, manager: ProviderManager) -> None:
        sync(manager.get_model("groq"))
        about = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "groq",
            "gen_ai.request.model": manager.default_model("groq"),
        }
        (duration,) = telemetry.points("gen_ai.client.operation.duration")
        (span,) = telemetry.spans()
        assert dict(duration.attributes) == about
        assert duration.sum == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-6)  # type: ignore[operator]
        assert duration.explicit_bounds == (
            *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
            *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
        )
        tokens = telemetry.points("gen_ai.client.token.usage")
        used = attributes(span)
        assert {point.attributes["gen_ai.token.type"]: point.sum for point in tokens} == {
            "input": used["gen_ai.usage.input_tokens"],
            "output": used["gen_ai.usage.output_tokens"],
        }
        assert tokens[0].explicit_bounds[:3] == (1, 4, 16)
        assert tokens[0].explicit_bounds[-1] == 67108864

    def test_that_fails_says_why(self, telemetry: Telemetry, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script("groq", "*", [], then=Unauthorized())
        with pytest.raises(KeysExhaustedError):
            sync(manager.get_model("groq"))
        spans = telemetry.spans()
        assert [attributes(span)["error.type"] for span in spans] == ["dead"] * 3
        assert {span.status.status_code for span in spans} == {StatusCode.ERROR}
        assert len({attributes(span)["hfs.key.id"] for span in spans}) == 3
        (duration,) = telemetry.points("gen_ai.client.operation.duration")
        assert (duration.count, duration.attributes["error.type"]) == (3, "dead")
        assert telemetry.points("gen_ai.client.token.usage") == []


class TestWhatHappensBetween:
    def test_a_rotation_past_a_429_is_an_event_of_the_caller_s_span(
        self, telemetry: Telemetry, manager: ProviderManager, server: LoopbackServer
    ) -> None:
        server.script("groq", "*", [RateLimited(retry_after=60)])
        with trace.get_tracer("test").start_as_current_span("run"):
            sync(manager.get_model("groq"))
        refused, answered = telemetry.spans()
        assert attributes(refused)["error.type"] == "rate_limited"
        assert "error.type" not in attributes(answered)
        events = {event.name: dict(event.attributes or {}) for event in telemetry.run().events}
        assert list(events) == ["hfs.key_cooling", "hfs.key_rotated"]
        assert events["hfs.key_cooling"]["hfs.seconds"] == pytest.approx(60, abs=1)
        assert events["hfs.key_rotated"]["hfs.key.id"] == attributes(refused)["hfs.key.id"]
        assert events["hfs.key_rotated"]["hfs.reason"] == "rate_limited"
        counted = telemetry.events()
        assert (counted["key_cooling"], counted["key_rotated"]) == (1, 1)

    def test_a_retry_is_one(self, telemetry: Telemetry, manager: ProviderManager, server: LoopbackServer) -> None:
        server.script("groq", "*", [ServerError(503)])
        with trace.get_tracer("test").start_as_current_span("run"):
            sync(manager.get_model("groq"))
        assert [event.name for event in telemetry.run().events] == ["hfs.call_retried"]
        assert [attributes(span).get("error.type") for span in telemetry.spans()] == ["overloaded", None]

    @pytest.mark.parametrize("way", WAYS)
    def test_a_fallback_is_one(
        self, telemetry: Telemetry, manager: ProviderManager, server: LoopbackServer, way: Callable[[Any], None]
    ) -> None:
        server.script("groq", "*", [], then=ServerError(500))
        with trace.get_tracer("test").start_as_current_span("run"):
            way(manager.get_chain("groq", "cerebras"))
        spans = telemetry.spans()
        assert [attributes(span)["hfs.provider"] for span in spans] == ["groq", "cerebras"]
        assert [span.parent for span in spans] == [telemetry.run().context] * 2
        (fallback,) = [event for event in telemetry.run().events if event.name == "hfs.fallback_activated"]
        assert (fallback.attributes or {})["hfs.provider"] == "cerebras"
        assert spans[0].end_time <= fallback.timestamp <= spans[1].end_time  # type: ignore[operator]
        assert telemetry.events()["fallback_activated"] == 1

    def test_is_counted_where_the_caller_has_no_span(
        self, telemetry: Telemetry, manager: ProviderManager, server: LoopbackServer
    ) -> None:
        server.script("groq", "*", [RateLimited(retry_after=60)])
        sync(manager.get_model("groq"))
        assert telemetry.events()["key_rotated"] == 1
        assert [span.parent for span in telemetry.spans()] == [None, None]


def test_no_key_is_in_any_of_it(telemetry: Telemetry, server: LoopbackServer) -> None:
    env = server.env({"groq": 3, "cerebras": 1})
    server.script("groq", "*", [], then=Unauthorized(echo_key=True))
    with ProviderManager(env) as manager, trace.get_tracer("test").start_as_current_span("run"):
        sync(manager.get_chain("groq", "cerebras"))
    exported = telemetry.everything()
    assert "groq#1" in exported
    for key in (value for name, value in env.items() if "_API_KEY" in name):
        assert not any(key[n : n + 8] in exported for n in range(4, len(key) - 8))


class TestUnlessItIsSetUp:
    """OpenTelemetry that nobody has set up, or that is not installed, costs nothing."""

    @pytest.fixture(autouse=True)
    def idle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(otel.plugin, "_instruments", None)
        monkeypatch.delenv("OTEL_PYTHON_TRACER_PROVIDER", raising=False)

    def test_it_is_listed_and_asks_for_no_events(self) -> None:
        registry = Registry()
        assert registry.plugins["otel"].hooks == ("on_event",)
        assert not registry.plugins["otel"].provider
        assert not registry.observed

    def test_it_begins_when_the_program_sets_it_up(
        self, manager: ProviderManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = manager.get_model("groq")
        sync(model)
        telemetry = Telemetry()
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", telemetry.tracers)
        sync(model)
        assert len(telemetry.spans()) == 1

    @pytest.mark.parametrize("only", ["tracers", "meters"])
    def test_either_half_is_enough(self, monkeypatch: pytest.MonkeyPatch, only: str) -> None:
        telemetry = Telemetry()
        if only == "tracers":
            monkeypatch.setattr(trace, "_TRACER_PROVIDER", telemetry.tracers)
        else:
            monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", telemetry.meters)
        registry = Registry()
        assert registry.observed
        registry.emit(Event("key_rotated", "groq", "m", "groq#1", "rate_limited", 0.0))
        assert (telemetry.events() == {"key_rotated": 1}) is (only == "meters")

    @pytest.mark.parametrize("installed", [True, False])
    def test_a_program_without_it_never_imports_it(self, tmp_path: Path, installed: bool) -> None:
        missing = "" if installed else "sys.modules['opentelemetry'] = None\n"
        program = (
            f"import sys\n{missing}"
            "import hfs_providers\n"
            "from hfs_providers.testing import LoopbackServer\n"
            "from agno.models.message import Message\n"
            "with LoopbackServer() as server, hfs_providers.ProviderManager(server.env({'groq': 1})) as manager:\n"
            "    assert 'otel' in manager.inventory.registry.plugins\n"
            "    assert not manager.inventory.registry.observed\n"
            "    manager.get_model('groq').response(messages=[Message(role='user', content='hello')])\n"
            "print([name for name in sys.modules if name.startswith('opentelemetry.')])\n"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.strip() == "[]", done.stderr

    def test_the_command_line_never_imports_it(self, tmp_path: Path) -> None:
        program = (
            "import atexit, sys\n"
            "from hfs_providers.cli import main\n"
            "names = ('hfs_providers.plugins.otel', 'opentelemetry')\n"
            "atexit.register(lambda: print([name for name in names if name in sys.modules]))\n"
            "sys.argv[1:] = ['status']\n"
            "main()\n"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "['hfs_providers.plugins.otel']"


DOCS = (Path(__file__).parents[2] / "docs" / "observability.md").read_text(encoding="utf-8")


class TestDocs:
    """docs/observability.md."""

    def test_its_program_runs_and_shows_what_it_says(self, server: LoopbackServer, tmp_path: Path) -> None:
        (program,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
        server.script("groq", "*", [], then=ServerError(503))
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        env = {**kept, **server.env({"groq": 1, "cerebras": 1})}
        done = subprocess.run(
            [warm.python(), "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        for name in ("answer a question", "chat llama-3.3-70b-versatile", "chat gpt-oss-120b"):
            assert f'"name": "{name}"' in done.stdout
        assert '"name": "hfs.fallback_activated"' in done.stdout
        assert '"error.type": "overloaded"' in done.stdout
        for metric in ("gen_ai.client.operation.duration", "gen_ai.client.token.usage", "hfs.events"):
            assert f'"name": "{metric}"' in done.stdout

    @pytest.mark.parametrize("kind", sorted(set(get_args(EventKind)) - {"call_finished"}))
    def test_it_names_each_event(self, kind: str) -> None:
        assert f"`{kind}`" in DOCS
