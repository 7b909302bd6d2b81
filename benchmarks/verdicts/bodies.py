"""The errors of `error_bodies.toml`, and the simulated provider that answers them."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from hfs_providers.testing import LoopbackServer, Ok, OpenAIDialect, Raw, Request, Step

FILE = Path(__file__).parents[1] / "error_bodies.toml"
BUILT_IN = ("cerebras", "gemini", "groq", "openrouter")
RESET_IN = 3600.0
"""Seconds until `@RESET_MS@`."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """An error of a provider and the right reaction to it. The file explains the words."""

    name: str
    provider: str
    source: str
    status: int
    body: str
    fault: Literal["key", "key and model", "model", "request", "moment"]
    verdict: str
    key: Literal["keep", "brief", "rest", "spare", "drop", "other"]
    call: Literal["other key", "again", "fall back", "raise", "no repeat", "any"]
    model: Literal["same", "other", "none", "any"]
    assumed: str = ""
    ours: str = ""
    wait: float | Literal["midnight"] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.provider}: {self.name}".replace("`", "")

    @property
    def seconds(self) -> float | None:
        """The wait that the provider states; until the next midnight in California if it counts by days."""
        if self.wait != "midnight":
            return self.wait
        now = datetime.now(ZoneInfo("America/Los_Angeles"))
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight.timestamp() - now.timestamp()

    def sent_to(self, key: str) -> bytes:
        """The bytes of the answer to a request with that key."""
        masked, reset = f"{key[:2]}***{key[-2:]}", str(int((time.time() + RESET_IN) * 1000))
        return self.body.replace("@MASKED@", masked).replace("@RESET_MS@", reset).encode()


@cache
def bodies() -> tuple[Body, ...]:
    """All of them, in the order of the file."""
    return tuple(Body(**each) for each in tomllib.loads(FILE.read_text(encoding="utf-8"))["body"])


class FaultyServer(LoopbackServer):
    """Providers of which one answers an error to some of the requests.

    The key at fault is the one that comes first: libraries differ in the key that they begin with.
    """

    def __init__(self) -> None:
        others = {body.provider for body in bodies()}.difference(BUILT_IN)
        super().__init__(dialects=[OpenAIDialect(name) for name in sorted(others)])
        self._body: Body | None = None
        self._wanted = ""
        self.asked: list[tuple[str, str]] = []
        """Key and model of each request."""

    def play(self, body: Body, wanted: str) -> None:
        """Answer this error from now on; `wanted` is the model that is asked for first."""
        self._body, self._wanted, self.asked = body, wanted, []

    def next_step(self, request: Request) -> Step:
        body = self._body
        if body is None or request.method == "GET":
            return super().next_step(request)
        self.asked.append((request.key, request.model))
        at_fault = request.key == self.asked[0][0]
        wanted = request.model == self._wanted
        fails = {
            "key": at_fault,
            "key and model": at_fault and wanted,
            "model": wanted,
            "request": True,
            "moment": len(self.asked) == 1,
        }[body.fault]
        if not fails:
            # Groq names the tier in each answer, and LiteLLM fails without it.
            return _groqs_answer(request.model) if request.provider == "groq" else Ok("Hello.")
        headers = {"content-type": "application/json", **body.headers}
        return Raw(body.status, body.sent_to(request.key), headers)


def _groqs_answer(model: str) -> Raw:
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello."},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        "service_tier": "on_demand",
    }
    return Raw(200, answer)
