"""What conversations gain by keeping their keys, and whether anything is lost by it."""

# ruff: noqa: S311  the random numbers guard nothing

from __future__ import annotations

import heapq
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.bench import MODELS
from benchmarks.figures import Measured
from benchmarks.pool import pool_of
from benchmarks.timing import Effort, per_call
from hfs_providers.calls.affinity import CONVERSATION, affinity_of_call
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.instants import NEVER
from hfs_providers.contract.records import Limits
from hfs_providers.keys.pool import KeyPool

KEYS = 100
_PROVIDER = "groq"
_CONVERSATIONS, _TURNS = 40, 20
_THREADS = 4
_WORDS = 300
# Tight limits: the loads, in multiples of what they allow.
_LOADS = (1.3, 2.0)
_TIGHT = (Limits(rpm=6), Limits(tpm=6000), Limits(rpm=8, tpm=6000), Limits(rpm=6, rpd=10))
_MINUTES = 3


def affinity(effort: Effort) -> list[Measured]:
    """The rows about conversations."""
    return [_cached(effort), _refused(effort), _spread(), _hash(effort)]


# Cached tokens.


def _cached(effort: Effort) -> Measured:
    """The cached share of the input, relative to that with a single key."""
    from hfs_providers.testing import PromptCache
    from tests.loopback_process import LoopbackProcess

    with LoopbackProcess(answer=PromptCache()) as server:
        turns = effort.count(_TURNS, 5)
        single = _conversations(server, 1, CONVERSATION, turns)
        kept, spread = (_conversations(server, KEYS, affinity, turns) for affinity in (CONVERSATION, None))
    return Measured(
        "affinity.cached",
        kept / single,
        note=f"cached: {single:.0%} of the input with one key, {kept:.0%} with {KEYS}, {spread:.0%} if they take turns",
        alternatives={"affinity=None": spread / single},
    )


def _conversations(server: Any, keys: int, affinity: str | None, turns: int) -> float:
    """Hold all conversations at the same time. Returns the cached share of the input tokens."""
    from agno.models.message import Message

    from hfs_providers import ProviderManager

    rows: list[Any] = []
    env = {**server.env({_PROVIDER: keys}), f"{_PROVIDER.upper()}_LIMITS": "none"}
    with ProviderManager(env=env) as manager:
        manager.observe(lambda event: rows.append(event.usage) if event.usage is not None else None)
        model = manager.get_model(_PROVIDER, MODELS[_PROVIDER], affinity=affinity)

        def some(first: int) -> None:
            said = [
                [Message(role="system", content=_text(number))] for number in range(first, _CONVERSATIONS, _THREADS)
            ]
            for turn in range(turns):
                for messages in said:
                    messages.append(Message(role="user", content=f"{turn} {_text(turn)}"))
                    model.response(messages=messages)

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(some, range(_THREADS)))
    if len(rows) != _CONVERSATIONS * turns or any(row.outcome != "ok" for row in rows):
        raise RuntimeError("a call was not answered")
    return float(sum(row.tokens_cached for row in rows) / sum(row.tokens_in for row in rows))


def _text(seed: int) -> str:
    words = random.Random(seed)
    return " ".join(str(words.randrange(10_000)) for _ in range(_WORDS))


# Tight limits.


def _refused(effort: Effort) -> Measured:
    """Calls that find no key, for each that finds none if the keys take turns."""
    seeds = range(effort.count(2, 1))
    cases = [(limits, load, seed) for limits in _TIGHT for load in _LOADS for seed in seeds]
    kept = [_without_key(*case, keeps=True) for case in cases]
    spread = [_without_key(*case, keeps=False) for case in cases]
    return Measured(
        "affinity.refused",
        sum(kept) / sum(spread),
        note=f"{sum(kept):,} and {sum(spread):,} calls; limits of requests and tokens; loads {_LOADS}",
        details={"kept": kept, "spread": spread},
    )


def _without_key(limits: Limits, load: float, seed: int, *, keeps: bool) -> int:
    """The calls that find no key under a load, most of it by few conversations, on a simulated clock."""
    draw = random.Random(seed)
    now = 0.0
    pool = pool_of(limits, clock=lambda: now, keys=KEYS, wall=lambda: now)
    conversations = [draw.getrandbits(64) for _ in range(4 * KEYS)]
    weights = [1 / (place + 1) for place in range(len(conversations))]
    calls = round(load * KEYS * min(limits.rpm or NEVER, (limits.tpm or NEVER) / 1000) * _MINUTES)
    ends: list[tuple[float, int, Any, int]] = []
    refused = 0
    for number, begin in enumerate(sorted(draw.random() * 60 * _MINUTES for _ in range(calls))):
        while ends and ends[0][0] <= begin:
            now, _, lease, tokens = heapq.heappop(ends)
            lease.commit(tokens)
        now = begin
        [conversation] = draw.choices(conversations, weights)
        estimate = draw.randint(200, 1800)
        tokens = draw.randint(100, estimate)
        try:
            lease = pool.acquire("m", estimate, 0, affinity=conversation if keeps else None)
        except PoolExhaustedError:
            refused += 1
        else:
            heapq.heappush(ends, (begin + 2 * draw.random(), number, lease, tokens))
    return refused


# Evenness and cost.


def _spread() -> Measured:
    draw = random.Random(1)
    pool = pool_of(None, keys=KEYS)
    calls = 100 * KEYS
    of_keys = Counter(_key(pool, draw.getrandbits(64)) for _ in range(calls))
    by_chance = Counter(draw.randrange(KEYS) for _ in range(calls))
    largest, chance = (max(found.values()) * KEYS / calls for found in (of_keys, by_chance))
    return Measured("affinity.spread", largest, alternatives={"chance alone": chance})


def _key(pool: KeyPool, conversation: int) -> str:
    with pool.acquire("m", affinity=conversation) as lease:
        return lease.key_id


def _hash(effort: Effort) -> Measured:
    from agno.models.message import Message

    text = _text(0)
    messages = [Message(role="system", content=text[:1_900].ljust(1_900)), Message(role="user", content=text[:100])]
    seconds = per_call(lambda: affinity_of_call(CONVERSATION, messages), calls=1_000, repeats=effort.count(200, 40))
    return Measured("affinity.hash", seconds * 1e6)
