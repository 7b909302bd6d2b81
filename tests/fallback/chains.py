"""What the tests of the fallback chain share: a server, a manager whose waits are counted, and short ways to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from agno.models.message import Message
from agno.utils.log import use_agent_logger

from hfs_providers import Event, ProviderManager
from hfs_providers.authoring import MessageRules
from hfs_providers.testing import LoopbackServer, Ok, Request, Step

PROVIDERS = ("cerebras", "groq", "gemini", "openrouter")
WAYS = ("sync", "async", "stream", "astream")


class House:
    """A loopback server with a manager of the four providers, one key each; time moves only when it is told to."""

    def __init__(self, server: LoopbackServer, **variables: str) -> None:
        self.server = server
        free = {f"{name.upper()}_LIMITS": "none" for name in PROVIDERS}
        self.env = {**server.env(dict.fromkeys(PROVIDERS, 1)), **free, **variables}
        self.now = 1000.0
        self.waits: list[float] = []
        self.events: list[Event] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hfs_providers.core.manager.time", SimpleNamespace(monotonic=lambda: self.now))
            self.manager = ProviderManager(env=self.env)
        self.manager.observe(self.events.append)
        for wrapper in self.manager.wrappers.values():
            wrapper.backend.sleep = self._sleep  # type: ignore[attr-defined]
            wrapper.backend.async_sleep = self._async_sleep  # type: ignore[attr-defined]

    def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def _async_sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def chain(self, *entries: Any, **options: Any) -> Any:
        """A chain of this house, waits counted."""
        return self.manager.get_chain(*entries, sleep=self._sleep, async_sleep=self._async_sleep, **options)

    def rules(self, provider: str) -> MessageRules:
        """What the provider's plugin says of messages."""
        rules: MessageRules = self.manager.wrappers[provider].backend.traits.messages  # type: ignore[attr-defined]
        return rules

    def script(self, provider: str, *steps: Step, then: Step | None = None) -> None:
        """What a provider answers to its only key."""
        self.server.script(provider, self.env[f"{provider.upper()}_API_KEY_1"], list(steps), then=then)

    def asked(self, provider: str) -> int:
        """How many requests the provider has seen."""
        return sum(self.server.hits(provider).values())

    def kinds(self) -> list[str]:
        """The kinds of the chain's own events."""
        return [event.kind for event in self.events if not event.kind.startswith(("call_", "key"))]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def house(server: LoopbackServer) -> Iterator[House]:
    house = House(server)
    with house.manager:
        yield house
    # A team's run leaves Agno logging as for teams, for whoever comes next in the process.
    use_agent_logger()


def ask(model: Any, way: str = "sync", prompt: str | list[Message] = "hello", **options: Any) -> str:
    """One turn below the agent, where errors are raised; the text that came back."""
    messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    if way == "sync":
        return str(model.response(messages=messages, **options).content)
    if way == "async":
        return str(asyncio.run(model.aresponse(messages=messages, **options)).content)
    if way == "stream":
        return _text(list(model.response_stream(messages=messages, **options)))

    async def collect() -> list[Any]:
        return [step async for step in model.aresponse_stream(messages=messages, **options)]

    return _text(asyncio.run(collect()))


def _text(steps: list[Any]) -> str:
    return "".join(step.content for step in steps if isinstance(getattr(step, "content", None), str))


def lookup() -> tuple[Callable[[str], str], list[str]]:
    """A tool and the list of what it was called with."""
    called: list[str] = []

    def capital_of(country: str) -> str:
        """Give the capital of a country.

        Args:
            country: its English name.
        """
        called.append(country)
        return "the capital is Zenith"

    return capital_of, called


def seen_by(house: House) -> list[Request]:
    """The requests of the house from now on."""
    seen: list[Request] = []
    think = house.server._answer

    def answer(request: Request) -> Ok:
        seen.append(request)
        return think(request)

    house.server._answer = answer
    return seen
