"""The simulated side of the demo: the server, the keys, and the part that each key plays."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

Part = Literal["answers", "slow", "limited", "dead"]

SLOW = 0.1
"""Seconds that a slow key takes to answer."""

REST = 45
"""Seconds that a limited key has to wait: longer than the demo."""


class Stage:
    """The loopback server with its scripts. A context manager. The seed decides which key plays which part."""

    PROVIDERS: ClassVar[Mapping[str, int]] = {"cerebras": 4, "groq": 5, "gemini": 4, "openrouter": 4}

    def __init__(self, seed: int) -> None:
        from hfs_providers.testing import LoopbackServer

        self._random = random.Random(seed)  # noqa: S311  a part in a play, not a key
        self._server = LoopbackServer()
        self._parts: dict[str, Part] = {}
        self._ran_out: set[str] = set()
        self._keys: dict[str, str] = {}
        self.env: dict[str, str] = {}

    def __enter__(self) -> Stage:
        self._server.start()
        self.env = self._server.env(dict(self.PROVIDERS))
        for provider, count in self.PROVIDERS.items():
            numbers = list(range(1, count + 1))
            self._random.shuffle(numbers)
            parts: list[Part] = ["limited", "dead", "slow"]
            parts += ["answers"] * (count - len(parts))
            for number, part in sorted(zip(numbers, parts, strict=True)):
                key_id = f"{provider}#{number}"
                self._keys[key_id] = self.env[f"{provider.upper()}_API_KEY_{number}"]
                self._parts[key_id] = part
                self._play(key_id, part)
            # The simulated limits are the server's: how many calls are asked for must not matter.
            self.env[f"{provider.upper()}_LIMITS"] = "none"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def run_out(self, provider: str) -> None:
        """From now on every key of the provider that still answers is limited."""
        for key_id in self.key_ids(provider):
            if self._parts[key_id] in ("answers", "slow"):
                self._play(key_id, "limited")
                self._ran_out.add(key_id)

    def key_ids(self, provider: str) -> Iterator[str]:
        """The ids of a provider's keys."""
        return (key_id for key_id in self._keys if key_id.startswith(f"{provider}#"))

    def plays(self, key_id: str) -> str:
        """What a key does, in words."""
        provider = key_id.partition("#")[0]
        words = {
            "answers": "answers",
            "slow": f"answers in {SLOW:g} s",
            "limited": f"429, wait {REST} s",
            "dead": {"gemini": "400 API_KEY_INVALID", "openrouter": "402 no credits"}.get(provider, "401"),
        }[self._parts[key_id]]
        return f"{words}, then 429" if key_id in self._ran_out else words

    def served(self, key_id: str) -> tuple[int, int]:
        """The server's own count for a key: requests that came in, and those that were answered."""
        provider, key = key_id.partition("#")[0], self._keys[key_id]
        answered = sum(count for (asked, _), count in self._server.answered(provider).items() if asked == key)
        return self._server.hits(provider).get(key, 0), answered

    def _play(self, key_id: str, part: Part) -> None:
        from hfs_providers.testing import Ok, PaymentRequired, RateLimited, Step, Unauthorized

        provider = key_id.partition("#")[0]
        steps: dict[Part, Step | None] = {
            "answers": None,
            "slow": Ok(delay=SLOW),
            "limited": RateLimited(retry_after=REST),
            "dead": PaymentRequired() if provider == "openrouter" else Unauthorized(),
        }
        self._server.script(provider, self._keys[key_id], [], then=steps[part])
