"""A manager under budgets over the loopback server, where a token costs a tenth of a cent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agno.models.base import Model
from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.testing import LoopbackServer, Ok

PRICES = '[prices."groq/*"]\ninput = 1000\noutput = 1000\n[prices."cerebras/cheap"]\ninput = 100\noutput = 100\n'
MODEL = "llama-3.3-70b-versatile"
# Tokens in and out of each answer: it costs 2 cents, which is just what it is estimated at.
ANSWER = (10, 10)
EXPECTED: dict[str, Any] = {"estimated_tokens": 10, "max_tokens": 10}


def question() -> list[Message]:
    return [Message(role="user", content="What is left?")]


class Shop:
    """A server and a manager, with the events that it tells."""

    def __init__(self, text: str, **variables: str) -> None:
        self.server = LoopbackServer(answer=lambda request: Ok("Enough.", usage=ANSWER)).start()
        Path("hfs-providers.toml").write_text(PRICES + text, encoding="utf-8")
        keys = self.server.env({"groq": 2, "cerebras": 1})
        config = {"HFS_CONFIG": str(Path("hfs-providers.toml").absolute()), "GROQ_LIMITS": "none"}
        self.env = keys | config | {"CEREBRAS_LIMITS": "none"} | variables
        self.manager = ProviderManager(env=self.env)
        self.events: list[Any] = []
        self.manager.observe(self.events.append)

    def model(self, provider: str = "groq", model_id: str = MODEL, **options: Any) -> Model:
        limit = {"max_completion_tokens": 10} if provider == "cerebras" else {"max_tokens": 10}
        return self.manager.get_model(provider, model_id, **{"estimated_tokens": 10, **limit, **options})

    def asked(self, provider: str = "groq") -> int:
        return sum(self.server.hits(provider).values())

    def costs(self) -> list[int | None]:
        """Of the finished requests, in nano-USD."""
        return [event.usage.cost_nanousd for event in self.events if event.usage is not None]

    def close(self) -> None:
        self.manager.shutdown()
        self.server.stop()


@pytest.fixture
def shop() -> Iterator[Callable[..., Shop]]:
    """Makes a `Shop` whose file says what it is given."""
    made: list[Shop] = []

    def make(text: str, **variables: str) -> Shop:
        made.append(Shop(text, **variables))
        return made[-1]

    yield make
    for each in made:
        each.close()
