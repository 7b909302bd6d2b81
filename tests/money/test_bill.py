"""What the rows say that was spent is what the providers' own counts come to."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.testing import LoopbackServer, Ok, RateLimited
from hfs_providers.testing.answers import Request
from hfs_providers.usage import UsageReport

# USD for a million tokens: input, input from a cache, output; as genai-prices has them.
PRICES = {
    ("cerebras", "gpt-oss-120b"): (0.35, 0.35, 0.75),
    ("groq", "openai/gpt-oss-120b"): (0.15, 0.075, 0.60),
    ("gemini", "gemini-2.5-flash"): (0.30, 0.03, 2.50),
    ("openrouter", "meta-llama/llama-3.3-70b-instruct:free"): (0.0, 0.0, 0.0),
}


def question() -> list[Message]:
    return [Message(role="user", content="What does it cost?")]


@pytest.fixture
def bill() -> dict[tuple[str, str], float]:
    """USD by provider and model, as the server counts them."""
    return dict.fromkeys(PRICES, 0.0)


def test_it_is_within_half_a_percent_of_the_server_s_own(bill: dict[tuple[str, str], float], tmp_path: Path) -> None:
    chosen = random.Random(3)

    def answer(request: Request) -> Ok:
        tokens_in, tokens_out = chosen.randrange(200, 200_000), chosen.randrange(1, 4000)
        cached = chosen.randrange(tokens_in)
        plain, from_cache, output = PRICES[request.provider, request.model]
        cost = (tokens_in - cached) * plain + cached * from_cache + tokens_out * output
        bill[request.provider, request.model] += cost / 1e6
        return Ok("It costs little.", usage=(tokens_in, tokens_out), cached=cached)

    with LoopbackServer(answer=answer) as server:
        env = server.env(dict.fromkeys((provider for provider, _ in PRICES), 2)) | {"HFS_USAGE_DB": str(tmp_path / "u")}
        for provider, _ in PRICES:
            key = env[f"{provider.upper()}_API_KEY_1"]
            server.script(provider, key, [RateLimited(retry_after=0.01), RateLimited(retry_after=0.01)])
        with ProviderManager(env=env | {f"{name.upper()}_LIMITS": "none" for name, _ in PRICES}) as manager:
            for provider, model_id in PRICES:
                model = manager.get_model(provider, model_id)
                for _ in range(3):
                    model.response(messages=question())
                    list(model.response_stream(messages=question()))
                asyncio.run(model.aresponse(messages=question()))
            assert manager.persistence.store is not None
            assert manager.persistence.flush()
            found = UsageReport(manager.persistence.store).totals(("provider", "model"))
    assert {row.group: row.ok for row in found.rows} == dict.fromkeys(PRICES, 7)
    for row in found.rows:
        assert row.cost_nanousd / 1e9 == pytest.approx(bill[row.group], rel=0.005), row.group
        assert row.unpriced == 0
