"""Agno alone: the first key's model; the other key's and the other model are its fallbacks for each kind of error."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.verdicts.talk import Outcome, Setup, serve

_CLASSES = {
    "cerebras": ("agno.models.cerebras", "Cerebras"),
    "gemini": ("agno.models.google", "Gemini"),
    "groq": ("agno.models.groq", "Groq"),
    "openrouter": ("agno.models.openrouter", "OpenRouter"),
}


def trial(setup: Setup) -> Outcome:
    """One run of an agent. It remembers nothing about keys."""
    from agno.agent import Agent
    from agno.models.fallback import FallbackConfig
    from agno.run.base import RunStatus

    (first, other), (model, larger) = setup.keys, setup.models
    config = FallbackConfig(
        on_error=[_model(setup, model, other), _model(setup, larger, first)],
        on_rate_limit=[_model(setup, model, other), _model(setup, larger, first)],
        on_context_overflow=[_model(setup, larger, first)],
    )
    outcome = Outcome(rests={key: [0.0, 0.0] for key in setup.keys})
    try:
        run = Agent(model=_model(setup, model, first), fallback_config=config, telemetry=False).run("Say hello.")
    except Exception as error:
        outcome.error = type(error).__name__
    else:
        outcome.answered = run.status == RunStatus.completed and bool(run.content)
        outcome.error = "" if outcome.answered else "a run that failed"
    return outcome


def _model(setup: Setup, model: str, key: str) -> Any:
    module, name = _CLASSES.get(setup.provider, ("agno.models.openai.like", "OpenAILike"))
    where: dict[str, Any] = {"base_url": setup.base_url}
    if setup.provider == "gemini":
        where = {"client_params": {"http_options": where}}
    return getattr(importlib.import_module(module), name)(id=model, api_key=key, **where)


if __name__ == "__main__":
    serve(trial)
