"""The manager and its models against the real providers whose keys are in the environment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from hfs_providers import ProviderManager, get_model, get_provider_manager, list_available_providers

pytestmark = pytest.mark.integration

PROMPT = "Answer with the single word: ready"


@pytest.fixture(params=["cerebras", "groq", "gemini", "openrouter"])
def provider(request: pytest.FixtureRequest) -> str:
    """Each provider with a key in the environment."""
    name: str = request.param
    upper = name.upper()
    wanted = [f"{upper}_API_KEY_1", f"{upper}_API_KEY", *(["GOOGLE_API_KEY"] if name == "gemini" else [])]
    if not any(os.environ.get(variable, "").strip() for variable in wanted):
        pytest.skip(f"no key of {name}: set NUM_{upper}=1 and {upper}_API_KEY_1")
    return name


@pytest.fixture
def manager(provider: str) -> Iterator[ProviderManager]:
    with ProviderManager() as manager:
        yield manager


def agent(model: Any, **options: Any) -> Any:
    from agno.agent import Agent

    return Agent(model=model, telemetry=False, **options)


def test_it_is_configured_built_and_healthy(manager: ProviderManager, provider: str) -> None:
    status = manager.environment_status[provider]
    assert status["configured"]
    assert status["initialized"]
    assert status["keys"] >= 1
    assert provider in manager.available_providers
    assert manager.is_provider_healthy(provider)


def test_it_is_healthy_when_it_is_asked_itself(manager: ProviderManager, provider: str) -> None:
    health = manager.health(provider, live=True)
    assert health.usable, health.reasons


def test_the_summary_has_its_line(manager: ProviderManager, provider: str) -> None:
    assert f"  {provider}: configured=Yes, initialized=Yes, keys=" in manager.get_status_summary()


def test_its_default_model_is_among_those_it_lists(manager: ProviderManager, provider: str) -> None:
    assert manager.default_model(provider) in manager.wrapper(provider).list_models()


def test_an_agent_runs(manager: ProviderManager, provider: str) -> None:
    run = agent(manager.get_model(provider)).run(PROMPT)
    assert "ready" in str(run.content).lower()


def test_an_agent_runs_asynchronously(manager: ProviderManager, provider: str) -> None:
    run = asyncio.run(agent(manager.get_model(provider)).arun(PROMPT))
    assert "ready" in str(run.content).lower()


def test_an_agent_streams(manager: ProviderManager, provider: str) -> None:
    pieces = [event.content for event in agent(manager.get_model(provider)).run(PROMPT, stream=True)]
    assert "ready" in "".join(str(piece) for piece in pieces if piece).lower()


def test_an_agent_calls_a_tool(manager: ProviderManager, provider: str) -> None:
    called: list[str] = []

    def room_temperature(room: str) -> str:
        """The temperature of a room in degrees Celsius."""
        called.append(room)
        return "21"

    run = agent(manager.get_model(provider), tools=[room_temperature]).run(
        "How warm is the kitchen? Use the tool, and answer with the number."
    )
    assert called
    assert "21" in str(run.content)


def test_nothing_stays_reserved(manager: ProviderManager, provider: str) -> None:
    model = manager.get_model(provider)
    agent(model).run(PROMPT)
    counts = manager.wrapper(provider).pool.counts(model.id)
    assert (counts.in_flight, counts.reserved_tokens) == (0, 0)


def test_any_model_is_one_of_the_available(manager: ProviderManager) -> None:
    name, model = manager.get_any_model()
    assert name in manager.available_providers
    assert model.id == manager.default_model(name)


@pytest.mark.usefixtures("fresh_manager")
def test_the_process_s_manager_knows_it(provider: str) -> None:
    assert provider in list_available_providers()
    assert get_model(provider).id == get_provider_manager().default_model(provider)
