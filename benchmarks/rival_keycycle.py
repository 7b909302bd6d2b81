"""keycycle's own way: `MultiProviderWrapper.get_model()` and its key manager, as its documentation shows them.

Usage tracking is off, because it needs a database. Limits are too high to delay a call, as ours are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from keycycle import MultiProviderWrapper, NoAvailableKeyError
from keycycle.config.dataclasses import RateLimits
from keycycle.utils import get_agno_model_class

from benchmarks.bench import MODELS, address, question
from benchmarks.loops import gaps
from benchmarks.timing import per_call, seconds_of

_VAST = RateLimits(10**9, 10**9, 10**9, 10**12, 10**12, 10**12)
_SPAN = 7200.0


class Rival:
    """keycycle."""

    def __init__(self) -> None:
        self._wrappers: dict[str, Any] = {}
        self._models: dict[str, Any] = {}

    def prepare(self, provider: str, base_url: str, keys: Sequence[str], cooldown: int = 30) -> None:
        """Make a model over these keys."""
        wrapper = _wrapper(provider, keys, _VAST, cooldown)
        self._wrappers[provider] = wrapper
        self._models[provider] = wrapper.get_model(id=MODELS[provider], timeout=10, **address(provider, base_url))

    def calls(self, provider: str, number: int) -> list[float]:
        """Seconds of each of `number` calls."""
        model = self._models[provider]
        return [seconds_of(lambda: model.response(messages=question())) for _ in range(number)]

    def past(self, provider: str, number: int) -> list[float]:
        """Seconds of calls that meet the first key, which the server refuses, before another."""
        found = []
        for _ in range(number):
            self._forgive(provider)
            found += self.calls(provider, 1)
        return found

    def gap(self, provider: str, tasks: int) -> float:
        """The longest event-loop gap while calls wait for cooling keys."""
        for key in self._wrappers[provider].manager.keys:
            key.trigger_cooldown()
        model = self._models[provider]
        return asyncio.run(gaps(lambda: model.aresponse(messages=question()), tasks)).longest

    def acquire(self, keys: int, history: int, calls: int) -> float:
        """Seconds of picking a key and recording what it was used for."""
        # It stays on one key as long as that has room, so the others' history does not matter, and is left out.
        wrapper = _with_history(keys, history, _VAST, filled=2)

        def lease() -> None:
            wrapper.manager.record_usage(wrapper.get_key_usage(wait=False), MODELS["groq"], 100, 1000)

        return per_call(lease, calls=calls, repeats=3)

    def refuse(self, keys: int, history: int, calls: int) -> float:
        """Seconds of finding that every key's tokens of the day are used up."""
        full = RateLimits(10**9, 10**9, 10**9, 10**12, 10**12, history * 100)
        wrapper = _with_history(keys, history, full, filled=keys)

        def refused() -> None:
            try:
                wrapper.get_key_usage(wait=False)
            except NoAvailableKeyError:
                return
            raise RuntimeError("a key was free")

        return per_call(refused, calls=calls, repeats=3)

    def _forgive(self, provider: str) -> None:
        manager = self._wrappers[provider].manager
        for key in manager.keys:
            key.last_429, key.dead = 0.0, False
        manager.current_index = 0


def _wrapper(provider: str, keys: Sequence[str], limits: RateLimits, cooldown: int = 30) -> Any:
    return MultiProviderWrapper(
        provider,
        list(keys),
        MODELS[provider],
        get_agno_model_class(provider),
        track_usage=False,
        cooldown_seconds=cooldown,
        key_limits=dict.fromkeys(range(len(keys)), limits),
    )


def _with_history(keys: int, history: int, limits: RateLimits, filled: int) -> Any:
    # It distinguishes keys by their last characters.
    wrapper = _wrapper("groq", [f"gsk_{number:032}" for number in range(keys)], limits)
    begin = time.time() - _SPAN
    for key in wrapper.manager.keys[:filled]:
        for number in range(history):
            key.record_usage(MODELS["groq"], 100, begin + _SPAN * number / history)
    return wrapper
