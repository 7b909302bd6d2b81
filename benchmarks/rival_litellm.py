"""LiteLLM's Router over the same keys: one deployment for each, the default strategy unless another is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import litellm
from litellm.types.utils import BudgetConfig

from benchmarks.bench import MODELS
from benchmarks.timing import per_call, seconds_of

_MESSAGES = [{"role": "user", "content": "Say hello."}]
# What LiteLLM itself adds to the address, the others' SDKs add too, but in other places.
_PATHS = {"groq": "/openai/v1", "cerebras": "/v1", "openrouter": ""}


class Rival:
    """LiteLLM's Router."""

    def __init__(self) -> None:
        self._routers: dict[str, Any] = {}
        self._made: dict[str, Any] = {}

    def prepare(self, provider: str, base_url: str, keys: Sequence[str]) -> None:
        """Make a router over these keys; the first is preferred if it is asked for."""
        self._made[provider] = (base_url + _PATHS[provider], list(keys))
        self._routers[provider] = self._router(provider)

    def calls(self, provider: str, number: int) -> list[float]:
        """Seconds of each of `number` calls."""
        router = self._routers[provider]
        return [seconds_of(lambda: router.completion(model="any", messages=_MESSAGES)) for _ in range(number)]

    def past(self, provider: str, number: int) -> list[float]:
        """Seconds of calls that meet the first key, which the server refuses, before another."""
        found = []
        for _ in range(number):
            # A new router has no cooldowns; its construction is not counted.
            self._routers[provider] = self._router(provider, first=True)
            found += self.calls(provider, 1)
        return found

    def acquire(self, keys: int, strategy: str, calls: int) -> float:
        """Seconds of picking a deployment. It keeps counts of the minute, no history."""
        router = litellm.Router(
            model_list=[
                _deployment("groq", f"gsk_{number:032}", "http://127.0.0.1:9", tpm=10**9, rpm=10**6)
                for number in range(keys)
            ],
            routing_strategy=strategy,
        )
        pick = lambda: router.get_available_deployment(model="any", messages=_MESSAGES)  # noqa: E731  called in a loop
        return per_call(pick, calls=calls, repeats=3)

    def spend(self, provider: str, usd: float, tasks: int) -> int:
        """Call until a budget of the provider refuses; the number of answers."""
        return asyncio.run(self._spend(provider, usd, tasks))

    async def _spend(self, provider: str, usd: float, tasks: int) -> int:
        budget = BudgetConfig(max_budget=usd, budget_duration="1d")
        base, keys = self._made[provider]
        router = litellm.Router(
            model_list=[_deployment(provider, key, base) for key in keys],
            provider_budget_config={provider: budget},
            num_retries=0,
        )
        answers = 0

        async def calls() -> None:
            nonlocal answers
            # It counts a call some time after it has ended; without a bound this might never end.
            while answers < 1000:
                try:
                    await router.acompletion(model="any", messages=_MESSAGES, max_tokens=500)
                except ValueError:
                    return
                answers += 1

        await asyncio.gather(*(calls() for _ in range(tasks)))
        return answers

    def _router(self, provider: str, *, first: bool = False) -> Any:
        base, keys = self._made[provider]
        return litellm.Router(
            model_list=[
                _deployment(provider, key, base, **({"order": number} if first else {}))
                for number, key in enumerate(keys, 1)
            ],
            num_retries=3,
        )


def _deployment(provider: str, key: str, base: str, **more: Any) -> dict[str, Any]:
    params = {"model": f"{provider}/{MODELS[provider]}", "api_key": key, "api_base": base, **more}
    return {"model_name": "any", "litellm_params": params}
