"""A chain of two entries of one provider, with the defaults."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from benchmarks.verdicts.talk import DEAD, Outcome, Setup, serve

_BUILT_IN = ("cerebras", "gemini", "groq", "openrouter")


def trial(setup: Setup) -> Outcome:
    """One call."""
    from agno.models.message import Message

    from hfs_providers import ProviderManager

    name = setup.provider.upper()
    env = {
        f"NUM_{name}": "2",
        f"{name}_API_KEY_1": setup.keys[0],
        f"{name}_API_KEY_2": setup.keys[1],
        f"{name}_BASE_URL": setup.base_url,
        f"{name}_LIMITS": "none",
        "HFS_USAGE_DB": "off",
    }
    outcome = Outcome()
    with ProviderManager(env=env, plugins=[_plugin(setup)]) as manager:
        chain = manager.get_chain(*(f"{setup.provider}/{model}" for model in setup.models))
        try:
            outcome.answered = bool(chain.response(messages=[Message(role="user", content="Say hello.")]).content)
        except Exception as error:
            outcome.error = type(error).__name__
        pool = manager.wrapper(setup.provider).pool
        for model in setup.models:
            # In the order of the keys in the environment.
            for key, status in zip(setup.keys, pool.statuses(model), strict=True):
                rest = {"ready": 0.0, "dead": DEAD}.get(status.state, status.free_in or 0.0)
                outcome.rests.setdefault(key, []).append(rest)
    return outcome


def _plugin(setup: Setup) -> Any:
    from hfs_providers.authoring import KeyedProvider, ModelDefault

    windows = dict(zip(setup.models, (8_000, 1_000_000), strict=True))
    if setup.provider in _BUILT_IN:
        plugin = importlib.import_module(f"hfs_providers.plugins.{setup.provider}").plugin
        return dataclasses.replace(plugin, windows=windows)
    return KeyedProvider(
        name=setup.provider,
        model_class="agno.models.openai.like:OpenAILike",
        sdk="openai",
        openai_path="",
        models=[ModelDefault(model) for model in setup.models],
        windows=windows,
    )


if __name__ == "__main__":
    serve(trial)
