"""pydantic-ai: a FallbackModel of the first key's model, the other key's and the other model."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.verdicts.talk import Outcome, Setup, serve


def trial(setup: Setup) -> Outcome:
    """One run of an agent. It remembers nothing about keys."""
    return asyncio.run(_trial(setup))


async def _trial(setup: Setup) -> Outcome:
    from pydantic_ai import Agent
    from pydantic_ai.models.fallback import FallbackModel

    (first, other), (model, larger) = setup.keys, setup.models
    outcome = Outcome(rests={key: [0.0, 0.0] for key in setup.keys})
    chain = FallbackModel(_model(setup, model, first), _model(setup, model, other), _model(setup, larger, first))
    try:
        outcome.answered = bool((await Agent(chain).run("Say hello.")).output)
    except Exception as error:
        outcome.error = type(error).__name__
    return outcome


def _model(setup: Setup, model: str, key: str) -> Any:
    # Its documentation recommends that the SDKs' own retries are off.
    where: dict[str, Any] = {"api_key": key, "base_url": setup.base_url}
    if setup.provider == "gemini":
        from pydantic_ai.models.google import GoogleModel
        from pydantic_ai.providers.google import GoogleProvider

        return GoogleModel(model, provider=GoogleProvider(**where))
    if setup.provider == "groq":
        from groq import AsyncGroq
        from pydantic_ai.models.groq import GroqModel
        from pydantic_ai.providers.groq import GroqProvider

        return GroqModel(model, provider=GroqProvider(groq_client=AsyncGroq(**where, max_retries=0)))
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    # Cerebras' own client takes no address; it speaks OpenAI's protocol.
    where["base_url"] += "/v1" if setup.provider == "cerebras" else ""
    return OpenAIChatModel(model, provider=OpenAIProvider(openai_client=AsyncOpenAI(**where, max_retries=0)))


if __name__ == "__main__":
    serve(trial)
