"""LiteLLM's Router: a deployment for each key and model; the second model is every kind of fallback."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.verdicts.talk import Outcome, Setup, serve

# What LiteLLM itself adds to the address, the others' SDKs add too, but in other places.
_PATHS = {"groq": "/openai/v1", "cerebras": "/v1", "gemini": "/v1beta"}
_PREFIXES = {"azure": "openai"}


def trial(setup: Setup) -> Outcome:
    """One call."""
    return asyncio.run(_trial(setup))


async def _trial(setup: Setup) -> Outcome:
    import litellm

    prefix = _PREFIXES.get(setup.provider, setup.provider)
    base = setup.base_url + _PATHS.get(setup.provider, "")
    fallbacks = [{setup.models[0]: [setup.models[1]]}]
    router = litellm.Router(
        model_list=[
            {
                "model_name": model,
                "litellm_params": {"model": f"{prefix}/{model}", "api_key": key, "api_base": base},
                "model_info": {"id": f"{key} {model}"},
            }
            for model in setup.models
            for key in setup.keys
        ],
        fallbacks=fallbacks,
        context_window_fallbacks=fallbacks,
        content_policy_fallbacks=fallbacks,
    )
    outcome = Outcome()
    messages: Any = [{"role": "user", "content": "Say hello."}]
    try:
        answer: Any = await router.acompletion(model=setup.models[0], messages=messages)
        outcome.answered = bool(answer.choices[0].message.content)
    except Exception as error:
        outcome.error = type(error).__name__
    # Cooldowns are set by callbacks that run after the call.
    await asyncio.sleep(0.3)
    ids = [f"{key} {model}" for key in setup.keys for model in setup.models]
    active = dict(await router.cooldown_cache.async_get_active_cooldowns(ids, parent_otel_span=None))
    for key in setup.keys:
        for model in setup.models:
            cooled: Any = active.get(f"{key} {model}")
            rest = cooled["timestamp"] + cooled["cooldown_time"] - time.time() if cooled else 0.0
            # What is left, and the time that has gone since.
            outcome.rests.setdefault(key, []).append(max(0.0, rest) + 0.3 if cooled else 0.0)
    return outcome


if __name__ == "__main__":
    serve(trial)
