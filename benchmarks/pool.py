"""What the pool costs: a lease and its end, and finding that no key is free, with many keys and a long history.

In one process, without a network: microseconds that every call pays, whatever its provider.
"""

# ruff: noqa: S311  the random numbers guard nothing

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Measured
from benchmarks.rivals import RivalError, RivalProcess, rivals
from benchmarks.timing import Effort, per_call
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Limits
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.pool import KeyPool

KEYS = 110
HISTORIES = (5_000, 100_000)
TOKENS = 100
_CALLS = 500
# Two hours, so that minutes, hours and days all hold some of it.
_SPAN = 7_200.0
_MODEL = "m"
_VAST = Limits(rpm=10**7, rph=10**8, rpd=10**9, tpm=10**10)
_MANY, _THEIR_HISTORY = 5_000, 1_000
_DRAW = random.Random(1)
_CONVERSATIONS = itertools.cycle([_DRAW.getrandbits(64) for _ in range(10_000)])
_STRATEGIES = ("simple-shuffle", "usage-based-routing-v2")


def pools(effort: Effort) -> list[Measured]:
    """The rows about the pool; keycycle's key manager and LiteLLM's Router beside it."""
    repeats = effort.count(200, 40)
    rows, refused = [], {}
    for history in HISTORIES:
        past = _past(history)
        rows.append(_leased(f"pool.{history}", pool_of(_VAST, past), repeats))
        for reason, limits in (
            ("requests", Limits(rpm=10**7, rph=10**8, rpd=history, tpm=10**10)),
            ("tokens", Limits(rpm=10**7, rph=10**8, rpd=10**9, tpm=10**10, tpd=history * TOKENS)),
        ):
            full = pool_of(limits, past)
            seconds = per_call(lambda pool=full: _refused(pool), calls=_CALLS // 4, repeats=repeats)
            refused[f"{reason} of the day, {history:,} requests each"] = seconds * 1e6
    worst = max(refused, key=lambda case: refused[case])
    many = _leased("pool.many", pool_of(_VAST, _past(_THEIR_HISTORY), keys=_MANY), repeats)
    verdict = Measured("verdict", refused[worst], note=f"used up: {worst}", details={"microseconds": refused})
    with rivals("keycycle", "LiteLLM") as others:
        for row, history in zip(rows, HISTORIES, strict=True):
            looks = 2_000 if history == HISTORIES[0] else effort.count(100, 30)
            row.alternatives["keycycle"] = _theirs(others["keycycle"], "acquire", KEYS, history, looks)
        looks = effort.count(20, 5)
        verdict.alternatives["keycycle"] = _theirs(others["keycycle"], "refuse", KEYS, HISTORIES[0], looks)
        for strategy in _STRATEGIES:
            rows[0].alternatives[f"LiteLLM {strategy}, choosing only"] = _theirs(
                others["LiteLLM"], "acquire", KEYS, strategy, effort.count(1_000, 200)
            )
    return [*rows, many, verdict]


def _leased(row: str, pool: KeyPool, repeats: int) -> Measured:
    def keeps() -> None:
        pool.acquire(_MODEL, 1000, 0, affinity=next(_CONVERSATIONS)).commit(TOKENS)

    def takes_turns() -> None:
        pool.acquire(_MODEL, 1000, 0).commit(TOKENS)

    kept, spread = (per_call(call, calls=_CALLS, repeats=repeats) * 1e6 for call in (keeps, takes_turns))
    return Measured(row, kept, alternatives={"affinity=None": spread})


def _past(history: int) -> dict[str, Any]:
    """What a pool dumps after its one key answered that many requests in the last two hours."""
    now = time.monotonic()
    instant = now - _SPAN

    pool = pool_of(_VAST, clock=lambda: instant, keys=1)
    for request in range(history):
        instant = now - _SPAN + _SPAN * request / history
        pool.acquire(_MODEL, 1000, 0).commit(TOKENS)
    instant = now
    return pool.dump()


def pool_of(
    limits: Limits | None,
    past: dict[str, Any] | None = None,
    clock: Callable[[], float] = time.monotonic,
    keys: int = KEYS,
    wall: Callable[[], float] = time.time,
) -> KeyPool:
    """A pool whose every key has the past of that one."""
    credentials = [Credential(f"p#{number}", Secret(f"key-{number:06}")) for number in range(keys)]
    pool = KeyPool("p", credentials, limits=lambda *_: limits, clock=clock, wall=wall)
    pool.next_free(_MODEL)
    if past is not None:
        windows = past["accounts"][0]["windows"]
        kept = sum(entry[1] for window in windows if window["kind"] == "day" for entry in window["entries"])
        assert kept, "the history is in the dump"
        accounts = [{"keys": [{"id": c.id, "fingerprint": c.fingerprint}], "windows": windows} for c in credentials]
        pool.load(past | {"accounts": accounts})
    return pool


def _refused(pool: KeyPool) -> None:
    try:
        pool.acquire(_MODEL, 1000, 0, affinity=next(_CONVERSATIONS))
    except PoolExhaustedError as error:
        if error.limited == KEYS:
            return
    raise RuntimeError("a key was free, or the counts are wrong")


def _theirs(other: RivalProcess, method: str, *arguments: object) -> float | str:
    try:
        return float(other.ask(method, *arguments)) * 1e6
    except RivalError as error:
        return str(error)
