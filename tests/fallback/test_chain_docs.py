"""The table of docs/fallback.md: each row is a case here, and each case a row there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from agno.exceptions import ContextWindowExceededError

from hfs_providers import ModelCallError, StreamInterruptedError
from hfs_providers.testing import (
    BadRequest,
    ContextTooLong,
    EmptyBody,
    Forbidden,
    Garbage,
    HalfStream,
    ModelGone,
    PaymentRequired,
    RateLimited,
    Reset,
    ServerError,
    Stall,
    Step,
    Unauthorized,
)
from tests.fallback.chains import House, ask, house, server

__all__ = ["house", "server"]

DOCS = Path(__file__).parents[2] / "docs" / "fallback.md"


@dataclass(frozen=True)
class Case:
    """What an entry does, and what comes of it.

    Args:
        does: what the chain does, as the table says.
        steps: what the primary answers.
        entries: of the chain.
        served: who answers, or the error that is raised.
        asked: requests that the primary sees.
        waits: of the recovery.
        way: how it is called.
        options: of `get_chain`.
    """

    does: str
    steps: Sequence[Step]
    entries: Sequence[str] = ("groq", "cerebras")
    served: str | type[Exception] = "cerebras"
    asked: int = 1
    waits: Sequence[float] = ()
    way: str = "sync"
    options: dict[str, Any] = field(default_factory=dict)


FALLS = "falls back"
RAISED = "raises the error"
AGAIN = "one new connection, one wait, one more attempt"
HASTY = {"request_timeout": 0.2}
ROUTED = ("openrouter", "cerebras")
CASES = {
    "answers 429 on every key": Case(FALLS, [RateLimited(40)]),
    "has no key that is free within `timeout`": Case("falls back without a request", [], asked=0),
    "answers 401 on every key": Case(FALLS, [Unauthorized()]),
    "answers 402: no credits": Case(FALLS, [PaymentRequired()]),
    "no longer has the model": Case(FALLS, [ModelGone()], ("groq/llama-3.3-70b-versatile", "cerebras")),
    "answers 500": Case(FALLS, [ServerError(500)]),
    "answers 503": Case(FALLS, [ServerError(503)]),
    "answers 529: overloaded": Case(FALLS, [ServerError(529)]),
    "answers 200 with an empty body": Case(FALLS, [EmptyBody()]),
    "answers 200 with a body that is not JSON": Case(FALLS, [Garbage()]),
    "resets the connection, direct provider": Case(AGAIN, [Reset()], served="groq", asked=2, waits=[3.0]),
    "times out, direct provider": Case(AGAIN, [Stall(30)], served="groq", asked=2, waits=[3.0], options=HASTY),
    "resets the connection twice, direct provider": Case(
        "one more attempt, then falls back", [Reset(), Reset()], asked=2, waits=[3.0]
    ),
    "resets the connection, aggregator": Case(FALLS, [Reset()], ROUTED),
    "times out, aggregator": Case(FALLS, [Stall(30)], ROUTED, options=HASTY),
    "rejects the messages as too long, another entry has a larger window": Case(
        "falls back to the larger window", [ContextTooLong()], ("groq", "cerebras", "gemini"), "gemini"
    ),
    "rejects the messages as too long, no entry has a larger window": Case(
        RAISED, [ContextTooLong()], served=ContextWindowExceededError
    ),
    "breaks a stream before its first content": Case(FALLS, [HalfStream(chunks=0)], way="stream"),
    "breaks a stream after content": Case(RAISED, [HalfStream()], served=StreamInterruptedError, way="stream"),
    'breaks a stream after content, `on_interrupt="restart"`': Case(
        "begins again on the next entry, after an event",
        [HalfStream()],
        way="stream",
        options={"on_interrupt": "restart"},
    ),
    "answers 400: the request is wrong": Case(RAISED, [BadRequest()], served=ModelCallError),
    "refuses the request: moderation, policy, region": Case(
        RAISED, [Forbidden(about="moderation")], ROUTED, ModelCallError
    ),
    "fails before anything is sent": Case(RAISED, [], served=ModelCallError, asked=0),
}


def rows() -> dict[str, str]:
    """The table of the page."""
    table = DOCS.read_text(encoding="utf-8").partition("| The entry that serves |")[2].partition("\n\n")[0]
    found = re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    return dict(found)


def test_the_page_and_the_cases_agree() -> None:
    assert rows() == {entry: case.does for entry, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_row(house: House, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    primary = case.entries[0].partition("/")[0]
    chain = house.chain(*case.entries, **case.options)
    house.script(primary, *case.steps)
    if "without a request" in case.does:
        pool = house.manager.wrappers[primary].pool
        with pool.acquire(chain.id) as lease:
            lease.rate_limited(40)
    if name == "fails before anything is sent":
        chain.primary.request_params = object()
    if isinstance(case.served, str):
        assert f"[{case.served}/" in ask(chain, case.way)
    else:
        with pytest.raises(case.served):
            ask(chain, case.way)
    assert house.asked(primary) == case.asked
    assert house.waits == list(case.waits)
    others = [entry for entry in case.entries[1:] if entry != case.served]
    assert sum(house.asked(entry) for entry in others) == 0
