"""A loopback server that fails at random, the same for the same seed, and keeps a book of what it did."""

from __future__ import annotations

import multiprocessing
import random
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

from hfs_providers.testing import (
    BadRequest,
    ContextTooLong,
    EmptyBody,
    Forbidden,
    Garbage,
    HalfStream,
    LoopbackServer,
    ModelGone,
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

STALL = 10.0
"""Seconds of silence: longer than any request's timeout, so that only the timeout can end it."""

LATENCY = 0.05
"""Seconds that an answer takes at most, so that calls are really in flight together."""

Draw = Callable[[random.Random], Step]


def _limited(draw: random.Random) -> Step:
    form = draw.choice(["seconds", "fraction", "date", "ms", "reset", "retryinfo", "none"])
    wait = 0.0 if form == "date" else draw.uniform(0.02, 0.3)
    scope, per, unit = (
        draw.choice(["model", "key"]),
        draw.choice(["minute", "day"]),
        draw.choice(["requests", "tokens"]),
    )
    return RateLimited(wait, form=form, scope=scope, per=per, unit=unit, echo_key=draw.random() < 0.5)  # type: ignore[arg-type]


def _half(draw: random.Random) -> Step:
    return HalfStream(chunks=draw.randint(0, 3), how=draw.choice(["eof", "reset"]))


FAULTS: Sequence[tuple[float, Draw]] = (
    (0.03, _limited),
    (0.03, _half),
    (0.02, lambda draw: ServerError(500, echo_key=True)),
    (0.02, lambda draw: ServerError(503)),
    (0.02, lambda draw: StreamError(chunks=draw.randint(0, 2))),
    (0.015, lambda draw: Reset()),
    (0.015, lambda draw: Garbage()),
    (0.015, lambda draw: EmptyBody()),
    (0.005, lambda draw: BadRequest(echo_key=True)),
    (0.005, lambda draw: ContextTooLong(echo_key=True)),
    (0.005, lambda draw: ModelGone(echo_key=True)),
    (0.004, lambda draw: Stall(STALL)),
    # Slow, and whole.
    (0.05, lambda draw: Ok(delay=2 * LATENCY)),
    (0.05, lambda draw: Ok(chunk_delay=draw.uniform(0.0, 0.02))),
)
"""What befalls a request, and how often; else it is answered."""

DEATH = 0.01
"""How often a request is the last that its key is good for, while the provider has keys to lose."""

DEATHS = (PaymentRequired(echo_key=True), Forbidden(echo_key=True))
"""What each provider's keys die of, one each, besides the one that is unknown from the start."""


@dataclass
class Served:
    """One request, as the server knows it."""

    provider: str
    key: str
    model: str
    step: str
    answered: bool = False
    tokens: int = 0


class FireServer(LoopbackServer):
    """Draws the fate of each request from the seed, the request's prompt and how often it was asked before.

    Args:
        seed: of all draws.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(log_size=1)
        self._seed = seed
        self._books = threading.Lock()
        self._fate: dict[str, dict[str, Step]] = defaultdict(dict)
        self._unfinished: dict[int, Served] = {}
        self._served: dict[str, list[Served]] = defaultdict(list)
        self._steps: Counter[str] = Counter()

    def light(self) -> None:
        """Start to serve."""
        self.start()

    def books(self) -> tuple[dict[str, list[Served]], Counter[str]]:
        """What it did: the requests by prompt, in order, and how often it did what."""
        return dict(self._served), self._steps

    def bury(self, provider: str, key: str) -> None:
        """Let every request with the key be refused."""
        self._fate[provider][key] = Unauthorized(echo_key=True)

    def next_step(self, request: Request) -> Step:
        super().next_step(request)  # counts it
        with self._books:
            earlier = self._served[request.prompt]
            step = self._draw(request, len(earlier))
            entry = Served(request.provider, request.key, request.model, type(step).__name__)
            earlier.append(entry)
            self._unfinished[id(request)] = entry
            self._steps[_label(step)] += 1
        return step

    def note(self, request: Request, step: Step, reply: Reply, connection: int, finished: bool) -> None:
        with self._books:
            entry = self._unfinished.pop(id(request))
            entry.answered = isinstance(step, Ok) and finished
            entry.tokens = reply.tokens
        super().note(request, step, reply, connection, finished)

    def thought(self, request: Request, step: Ok) -> Ok:
        return replace(super().thought(request, step), chunks=6)

    def _draw(self, request: Request, attempt: int) -> Step:
        graves = self._fate[request.provider]
        if request.key in graves:
            return graves[request.key]
        draw = random.Random(f"{self._seed}/{request.prompt}/{attempt}")
        if len(graves) <= len(DEATHS) and draw.random() < DEATH:
            return graves.setdefault(request.key, DEATHS[len(graves) - 1])
        luck = draw.random()
        for share, fault in FAULTS:
            luck -= share
            if luck < 0:
                return fault(draw)
        return Ok(delay=draw.uniform(0.0, LATENCY))


@contextmanager
def fire_server(seed: int) -> Iterator[Any]:
    """A `FireServer` in a process of its own, so that it answers while this one is busy: its methods, by a proxy."""
    root = str(Path(__file__).parents[2])
    processes = _Processes(ctx=multiprocessing.get_context("spawn"))
    sys.path.append(root)  # the new process gets a copy, and finds this module by it
    try:
        processes.start()
    finally:
        sys.path.remove(root)
    try:
        yield processes.FireServer(seed)  # type: ignore[attr-defined]  # registered below
    finally:
        processes.shutdown()


class _Processes(BaseManager):
    pass


_Processes.register("FireServer", FireServer)


def _label(step: Step) -> str:
    """What is counted: the step, and what makes it a case of its own."""
    kind = type(step).__name__
    match step:
        case RateLimited(form=form):
            return f"{kind} {form}"
        case ServerError(status=status):
            return f"{kind} {status}"
        case HalfStream(how=how):
            return f"{kind} {how}"
        case Ok(delay=delay, chunk_delay=chunk_delay):
            return f"{kind} slow" if delay > LATENCY or chunk_delay else kind
    return kind


def every_label() -> Sequence[str]:
    """The labels that a run of some length must have met."""
    forms = ("seconds", "fraction", "date", "ms", "reset", "retryinfo", "none")
    plain: list[Any] = [Unauthorized, PaymentRequired, Forbidden, Reset, Stall, Garbage, EmptyBody, StreamError]
    plain += [BadRequest, ContextTooLong, ModelGone, Ok]
    more = ["ServerError 500", "ServerError 503", "HalfStream eof", "HalfStream reset", "Ok slow"]
    return [*(f"RateLimited {form}" for form in forms), *(kind.__name__ for kind in plain), *more]
