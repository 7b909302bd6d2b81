"""What the pool costs: a lease and its end, and finding that no key is free, with 110 keys and a long history.

In one process, without a network: microseconds that every call pays, whatever its provider.
"""

from __future__ import annotations

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
# Two hours, so that minutes, hours and days all hold some of it.
_SPAN = 7_200.0
_MODEL = "m"
_VAST = Limits(rpm=10**7, rph=10**8, rpd=10**9, tpm=10**10)
_STRATEGIES = ("simple-shuffle", "usage-based-routing-v2")


def pools(effort: Effort) -> list[Measured]:
    """The rows about the pool; keycycle's key manager and LiteLLM's Router beside it."""
    calls, repeats = 500, effort.count(200, 40)
    leased, refused = {}, {}
    for history in HISTORIES:
        past = _past(history)
        roomy = _pool(_VAST, past)
        leased[history] = per_call(lambda pool=roomy: _lease(pool), calls=calls, repeats=repeats) * 1e6
        for reason, limits in (
            ("requests", Limits(rpm=10**7, rph=10**8, rpd=history, tpm=10**10)),
            ("tokens", Limits(rpm=10**7, rph=10**8, rpd=10**9, tpm=10**10, tpd=history * TOKENS)),
        ):
            full = _pool(limits, past)
            seconds = per_call(lambda pool=full: _refused(pool), calls=calls // 4, repeats=repeats)
            refused[f"{reason} of the day, {history:,} requests each"] = seconds * 1e6
    worst = max(refused, key=lambda case: refused[case])
    rows = [Measured(f"pool.{history}", leased[history]) for history in HISTORIES]
    verdict = Measured("verdict", refused[worst], note=f"used up: {worst}", details={"microseconds": refused})
    with rivals("keycycle", "LiteLLM") as others:
        for row, history in zip(rows, HISTORIES, strict=True):
            looks = 2_000 if history == HISTORIES[0] else effort.count(100, 30)
            row.alternatives["keycycle"] = _theirs(others["keycycle"], "acquire", KEYS, history, looks)
        looks = effort.count(20, 5)
        verdict.alternatives["keycycle"] = _theirs(others["keycycle"], "refuse", KEYS, HISTORIES[0], looks)
        for strategy in _STRATEGIES:
            rows[0].alternatives[f"LiteLLM {strategy}, picking alone"] = _theirs(
                others["LiteLLM"], "acquire", KEYS, strategy, effort.count(1_000, 200)
            )
    return [*rows, verdict]


def _past(history: int) -> dict[str, Any]:
    """What a pool dumps after its one key answered that many requests in the last two hours."""
    now = time.monotonic()
    instant = now - _SPAN

    pool = _pool(_VAST, clock=lambda: instant, keys=1)
    for request in range(history):
        instant = now - _SPAN + _SPAN * request / history
        pool.acquire(_MODEL, 1000, 0).commit(TOKENS)
    instant = now
    return pool.dump()


def _pool(
    limits: Limits, past: dict[str, Any] | None = None, clock: Callable[[], float] = time.monotonic, keys: int = KEYS
) -> KeyPool:
    """A pool whose every key has the past of that one."""
    credentials = [Credential(f"p#{number}", Secret(f"key-{number:06}")) for number in range(keys)]
    pool = KeyPool("p", credentials, limits=lambda *_: limits, clock=clock)
    pool.next_free(_MODEL)
    if past is not None:
        windows = past["accounts"][0]["windows"]
        kept = sum(entry[1] for window in windows if window["kind"] == "day" for entry in window["entries"])
        assert kept, "the history is in the dump"
        accounts = [{"keys": [{"id": c.id, "fingerprint": c.fingerprint}], "windows": windows} for c in credentials]
        pool.load(past | {"accounts": accounts})
    return pool


def _lease(pool: KeyPool) -> None:
    pool.acquire(_MODEL, 1000, 0).commit(TOKENS)


def _refused(pool: KeyPool) -> None:
    try:
        pool.acquire(_MODEL, 1000, 0)
    except PoolExhaustedError as error:
        if error.limited == KEYS:
            return
    raise RuntimeError("a key was free, or the counts are wrong")


def _theirs(other: RivalProcess, method: str, *arguments: object) -> float | str:
    try:
        return float(other.ask(method, *arguments)) * 1e6
    except RivalError as error:
        return str(error)
