"""Async streams that are left in the middle: the event loop has nothing to complain about, and no lease stays open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from agno.agent import Agent
from agno.models.message import Message

from hfs_providers import Event, ProviderManager
from hfs_providers.testing import LoopbackServer

RUNS = 20
RETRIED = "a model with retries of Agno's"


@pytest.fixture
def manager() -> Iterator[ProviderManager]:
    with LoopbackServer() as server:
        env = {**server.env({"groq": 1, "gemini": 1}), "GROQ_LIMITS": "none", "GEMINI_LIMITS": "none"}
        with ProviderManager(env={**env, "HFS_USAGE_DB": "off"}) as manager:
            yield manager


def of_a_model(model: Any) -> AsyncIterator[Any]:
    steps: AsyncIterator[Any] = model.aresponse_stream(messages=[Message(role="user", content="hello there")])
    return steps


def of_an_agent(model: Any) -> AsyncIterator[Any]:
    steps: AsyncIterator[Any] = Agent(model=model, telemetry=False).arun("hello there", stream=True)
    return steps


@pytest.mark.parametrize("goes_on", [False, True], ids=["and the program ends", "and the program goes on"])
@pytest.mark.parametrize("stream", [of_a_model, of_an_agent])
@pytest.mark.parametrize("model", ["groq", "gemini", "a chain", RETRIED])
def test_break(
    manager: ProviderManager, model: str, stream: Callable[[Any], AsyncIterator[Any]], goes_on: bool
) -> None:
    complaints: list[Any] = []
    outcomes: list[str] = []

    def note(event: Event) -> None:
        if event.usage is not None:
            outcomes.append(event.usage.outcome)

    async def leave() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async for step in stream(asked):
            if getattr(step, "content", None):
                break
        if goes_on:
            await asyncio.sleep(0.01)

    made = {
        "a chain": lambda: manager.get_chain("groq", "gemini"),
        RETRIED: lambda: manager.get_model("groq", retries=1),
    }
    asked: Any = made.get(model, lambda: manager.get_model(model))()
    manager.observe(note)
    for _ in range(RUNS):
        asyncio.run(leave())
    assert complaints == []
    assert outcomes == ["abandoned"] * RUNS
    counts = manager.wrappers["gemini" if model == "gemini" else "groq"].pool.counts(asked.id)
    assert (counts.in_flight, counts.reserved_tokens) == (0, 0)
