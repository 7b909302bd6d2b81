"""keycycle: a rotating model over both keys. It has no fallback to another model."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.verdicts.talk import DEAD, Outcome, Setup, serve

_OFFERED = ("cerebras", "gemini", "groq", "openrouter")


def trial(setup: Setup) -> Outcome:
    """One call."""
    from agno.models.message import Message
    from keycycle import MultiProviderWrapper
    from keycycle.config.dataclasses import RateLimits
    from keycycle.utils import get_agno_model_class

    if setup.provider not in _OFFERED:
        return Outcome(offered=False)
    vast = RateLimits(10**9, 10**9, 10**9, 10**12, 10**12, 10**12)
    wrapper = MultiProviderWrapper(
        setup.provider,
        list(setup.keys),
        setup.models[0],
        get_agno_model_class(setup.provider),
        track_usage=False,
        key_limits=dict.fromkeys(range(len(setup.keys)), vast),
    )
    where: dict[str, Any] = {"base_url": setup.base_url}
    if setup.provider == "gemini":
        where = {"client_params": {"http_options": where}}
    outcome = Outcome()
    try:
        model = wrapper.get_model(id=setup.models[0], timeout=10, **where)
        outcome.answered = bool(model.response(messages=[Message(role="user", content="Say hello.")]).content)
    except Exception as error:
        outcome.error = type(error).__name__
    for key in wrapper.manager.keys:
        cooled = max(0.0, key.last_429 + wrapper.manager.cooldown_seconds - time.time()) if key.last_429 else 0.0
        outcome.rests[key.api_key] = [DEAD if key.dead else cooled] * 2
    return outcome


if __name__ == "__main__":
    serve(trial)
