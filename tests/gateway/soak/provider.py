"""Simulated providers that fail at random, the same for the same seed, and number the requests that come."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from hfs_providers.keys import fingerprint
from hfs_providers.testing import (
    BadRequest,
    EmptyBody,
    Garbage,
    HalfStream,
    LoopbackServer,
    Ok,
    PaymentRequired,
    RateLimited,
    Reply,
    Request,
    Reset,
    ServerError,
    Stall,
    Step,
    StreamError,
    Unauthorized,
)

FAULTS: Sequence[tuple[float, Callable[[random.Random], Step]]] = (
    (0.02, lambda draw: RateLimited(draw.uniform(0.02, 0.3), form="fraction", echo_key=True)),
    (0.005, lambda draw: ServerError(500, echo_key=True)),
    (0.005, lambda draw: ServerError(503)),
    (0.005, lambda draw: Reset()),
    (0.005, lambda draw: HalfStream(draw.randint(0, 3), how="eof")),
    (0.005, lambda draw: HalfStream(draw.randint(0, 3), how="reset")),
    (0.003, lambda draw: StreamError(chunks=draw.randint(0, 2))),
    (0.003, lambda draw: Garbage()),
    (0.003, lambda draw: EmptyBody()),
    (0.003, lambda draw: BadRequest(echo_key=True)),
    (0.002, lambda draw: Stall(0.5)),
    # Slow, and whole.
    (0.02, lambda draw: Ok(delay=0.05)),
    (0.02, lambda draw: Ok(chunk_delay=0.02)),
)
"""What befalls a request, and how often; else it is answered."""

DEATH = 0.002
"""How often a request is the last that its key is good for, while the provider has keys to lose."""

_MOST_DEATHS = 2


class Hit(NamedTuple):
    """One request that came.

    Args:
        asked: the number in its prompt: whose request it is.
        answered: whether it was answered whole.
    """

    asked: int
    provider: str
    fingerprint: str
    step: str
    answered: bool


class SoakServer(LoopbackServer):
    """Draws the fate of each request from the seed, its prompt and how often that was asked before.

    An answer tells its number as `x-request-id`, and as the tokens that went in.

    Args:
        seed: of all draws.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(log_size=1)
        self._seed = seed
        self._hits_of_life: list[Hit] = []
        self._first = 1
        self._dead: dict[str, dict[str, Step]] = {}
        self._asked: dict[int, int] = {}

    def bury(self, provider: str, key: str) -> None:
        """Refuse every request with the key."""
        self._dead.setdefault(provider, {})[key] = Unauthorized(echo_key=True)

    def take_hits(self) -> tuple[int, list[Hit]]:
        """The requests since the last time, and the number of the first."""
        first, hits = self._first, self._hits_of_life
        self._first, self._hits_of_life = first + len(hits), []
        self._asked.clear()
        return first, hits

    def connected(self) -> int:
        """Connections that are open."""
        return len(self.open_connections)

    def next_step(self, request: Request) -> Step:
        super().next_step(request)
        if request.method == "GET":
            return Ok()
        asked = int(request.prompt.rpartition("-")[2])
        number = self._first + len(self._hits_of_life)
        again = self._asked[asked] = self._asked.get(asked, -1) + 1
        step = self._draw(request, random.Random(f"{self._seed}/{asked}/{again}"))
        self._hits_of_life.append(Hit(asked, request.provider, fingerprint(request.key), type(step).__name__, False))
        body: Any = request.body
        body["number"] = number
        if isinstance(step, Ok):
            return replace(step, usage=(number, 1), headers={"x-request-id": str(number)}, chunks=3)
        return step

    def note(self, request: Request, step: Step, reply: Reply, connection: int, finished: bool) -> None:
        at = int(request.body.get("number", 0)) - self._first
        if 0 <= at < len(self._hits_of_life):
            self._hits_of_life[at] = self._hits_of_life[at]._replace(answered=finished and isinstance(step, Ok))
        super().note(request, step, reply, connection, finished)

    def _draw(self, request: Request, draw: random.Random) -> Step:
        dead = self._dead.setdefault(request.provider, {})
        if request.key in dead:
            return dead[request.key]
        if len(dead) <= _MOST_DEATHS and draw.random() < DEATH:
            dead[request.key] = PaymentRequired(echo_key=True)
            return dead[request.key]
        luck = draw.random()
        for share, fault in FAULTS:
            luck -= share
            if luck < 0:
                return fault(draw)
        return Ok()
