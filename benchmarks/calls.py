"""What a call costs through a rotating model, relative to one through the bare Agno model with a single key.

Everything goes through `model.response` and its siblings, which is what Agno's `Agent` calls.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from benchmarks.bench import KEYS, MODELS, bare, environment, question, simulated
from benchmarks.figures import PROVIDERS, Measured
from benchmarks.rivals import RivalError, RivalProcess, rivals
from benchmarks.timing import Effort, Samples, middle, quartiles, ratio, rotated, rounds, take_turns

IN_FLIGHT = 100
_WARM_UP = 30
# LiteLLM's address for Gemini is made in a way that a base URL cannot express.
_COMPARABLE = {"keycycle": PROVIDERS, "LiteLLM": ("cerebras", "groq", "openrouter")}


def sync_calls(effort: Effort) -> list[Measured]:
    """`model.response`: ours and two bare models in turn, a few calls of each rival in between."""
    from hfs_providers import ProviderManager

    found = []
    with simulated() as server, ProviderManager(env=environment(server)) as manager, rivals(*_COMPARABLE) as others:
        for provider in PROVIDERS:
            contenders = {
                "bare": _timed(bare(server, provider)),
                "ours": _timed(manager.get_model(provider, MODELS[provider])),
                "bare again": _timed(bare(server, provider)),
            }
            for call in contenders.values():
                for _ in range(_WARM_UP):
                    call()
            ready = {name: other for name, other in others.items() if provider in _COMPARABLE[name]}
            failed = _prepare(server, provider, ready)
            theirs: dict[str, list[list[float]]] = {name: [] for name in ready}
            samples: Samples = {name: [] for name in contenders}
            for number in rounds(effort.of(12, 1.2), effort.count(6, 2)):
                for name, lists in take_turns(contenders, effort.of(1.0, 0.2), least=1).items():
                    samples[name] += lists
                # Batches: after the pause that a pipe makes, a first call would find the caches cold.
                for name in rotated(list(ready), number) if ready else ():
                    try:
                        theirs[name].append(ready[name].ask("calls", provider, effort.count(10, 4))[1:])
                    except RivalError as error:
                        failed[name] = str(error)
                        del ready[name]
            found.append(_as_measured(f"call.{provider}", samples, theirs, failed))
    return found


def first_chunks(effort: Effort) -> list[Measured]:
    """`model.response_stream`: until the first content arrives. The rest is read as well, outside the timing."""
    from hfs_providers import ProviderManager

    found = []
    with simulated() as server, ProviderManager(env=environment(server)) as manager:
        for provider in PROVIDERS:
            contenders = {
                "bare": _first_chunk(bare(server, provider)),
                "ours": _first_chunk(manager.get_model(provider, MODELS[provider])),
                "bare again": _first_chunk(bare(server, provider)),
            }
            for call in contenders.values():
                for _ in range(_WARM_UP):
                    call()
            samples = take_turns(contenders, effort.of(8, 0.8), least=effort.count(8, 3))
            found.append(_as_measured(f"first_chunk.{provider}", samples, {}, {}))
    return found


def throughput(effort: Effort) -> list[Measured]:
    """`model.aresponse`, 100 calls in flight: rounds of ours and of two bare models, paired."""
    from hfs_providers import ProviderManager

    with simulated() as server, ProviderManager(env=environment(server)) as manager:
        return [asyncio.run(_throughput(effort, server, manager, provider)) for provider in PROVIDERS]


async def _throughput(effort: Effort, server: Any, manager: Any, provider: str) -> Measured:
    models = {
        "bare": bare(server, provider),
        "ours": manager.get_model(provider, MODELS[provider]),
        "bare again": bare(server, provider),
    }
    calls = effort.count(2, 1) * IN_FLIGHT
    for model in [*models.values()] * effort.count(2, 1):
        # The first time opens the connections; the second time, all of them are there.
        await _burst(model, IN_FLIGHT)
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in rounds(effort.of(16, 1.2), effort.count(18, 2)):
        for name in rotated(list(models), number):
            begin = time.perf_counter()
            await _burst(models[name], calls)
            times[name].append(time.perf_counter() - begin)
    ours = [bare / mine for mine, bare in zip(times["ours"], times["bare"], strict=True)]
    again = [bare / other for other, bare in zip(times["bare again"], times["bare"], strict=True)]
    noise = statistics.median(again)
    value = statistics.median(ours) / noise
    low, high = (edge / noise for edge in quartiles(ours))
    return Measured(
        f"throughput.{provider}",
        value,
        low,
        high,
        note=f"{len(ours)} rounds: ours/bare {statistics.median(ours):.3f}, bare/bare {noise:.3f}",
        alternatives={"bare, calls/s": calls / statistics.median(times["bare"]), "bare / bare": noise},
        details={"calls_a_round": calls, "calls_per_s": {n: calls / statistics.median(t) for n, t in times.items()}},
    )


async def _burst(model: Any, calls: int) -> None:
    remaining = iter(range(calls))

    async def work() -> None:
        for _ in remaining:
            await model.aresponse(messages=question())

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


def _timed(model: Any) -> Callable[[], float]:
    def call() -> float:
        messages = question()
        begin = time.perf_counter()
        model.response(messages=messages)
        return time.perf_counter() - begin

    return call


def _first_chunk(model: Any) -> Callable[[], float]:
    def call() -> float:
        messages = question()
        begin = time.perf_counter()
        seconds = None
        for event in model.response_stream(messages=messages):
            if seconds is None and getattr(event, "content", None):
                seconds = time.perf_counter() - begin
        assert seconds is not None, "the stream had content"
        return seconds

    return call


def _prepare(server: Any, provider: str, ready: dict[str, RivalProcess]) -> dict[str, str]:
    """Give the rivals keys and a first call each; those that fail are taken out, with the reason."""
    failed = {}
    for name, other in list(ready.items()):
        keys = [server.new_key(provider) for _ in range(KEYS)]
        if (name, provider) == ("LiteLLM", "groq"):
            serve_with_tier(server, keys)
        try:
            other.ask("prepare", provider, server.base_url(provider), keys)
            other.ask("calls", provider, 3)
        except RivalError as error:
            failed[name] = str(error)
            del ready[name]
    return failed


def serve_with_tier(server: Any, keys: list[str]) -> None:
    """Answer these keys with a `service_tier`, as Groq does; LiteLLM reads it, and fails without it."""
    from hfs_providers.testing import Raw

    asked = {"model": MODELS["groq"], "messages": [{"role": "user", "content": "Say hello."}]}
    request = urllib.request.Request(  # noqa: S310  our own server, over http
        f"{server.base_url('groq')}/openai/v1/chat/completions",
        json.dumps(asked).encode(),
        {"authorization": f"Bearer {server.new_key('groq')}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:  # noqa: S310  as above
        answer = json.load(response) | {"service_tier": "on_demand"}
    for key in keys:
        server.script("groq", key, [], then=Raw(200, json.dumps(answer).encode(), {"content-type": "application/json"}))


def _as_measured(row: str, samples: Samples, theirs: dict[str, list[list[float]]], failed: dict[str, str]) -> Measured:
    value, low, high = ratio(samples, "ours", "bare")
    base = middle(samples["bare"])
    others: dict[str, float | str] = {name: middle(lists) / base for name, lists in theirs.items() if any(lists)}
    milliseconds = {name: middle(lists) * 1e3 for name, lists in (samples | theirs).items() if any(lists)}
    return Measured(
        row,
        value,
        low,
        high,
        note=f"{(middle(samples['ours']) - base) * 1e6:+.0f} us",
        alternatives={
            "bare, ms": base * 1e3,
            "bare / bare": ratio(samples, "bare again", "bare")[0],
            **others,
            **failed,
        },
        details={"milliseconds": milliseconds, "calls": {n: sum(map(len, lists)) for n, lists in samples.items()}},
    )
