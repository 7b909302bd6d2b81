"""What it costs to get past a key that the provider refuses, and whether waiting for a key stops an event loop."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from benchmarks.bench import MODELS, bare, environment, question, simulated
from benchmarks.calls import serve_with_tier
from benchmarks.figures import PROVIDERS, Measured
from benchmarks.loops import Gaps, gaps
from benchmarks.rivals import RivalError, RivalProcess, rivals
from benchmarks.timing import Effort, middle, seconds_of, take_turns

TASKS = 20
"""Calls that wait at the same time."""

_COOLDOWN = 2
_RIVALS_ON = "groq"


def past_refused_keys(effort: Effort) -> list[Measured]:
    """A call that meets a refused key and goes on with the next, less a call that meets none."""
    from hfs_providers.testing import RateLimited, Unauthorized

    # No Retry-After: the SDKs that retry by themselves would honour it, and look worse than they are.
    refusals = {"429": RateLimited(), "401": Unauthorized()}
    with simulated() as server:
        extra = {
            status: {name: _past(effort, server, name, refusal) * 1e3 for name in PROVIDERS}
            for status, refusal in refusals.items()
        }
        # LiteLLM takes seconds to import.
        with rivals(*(("keycycle",) if effort.quick else ("keycycle", "LiteLLM"))) as others:
            theirs = {
                status: {name: _their_past(effort, server, other, name, refusal) for name, other in others.items()}
                for status, refusal in refusals.items()
            }
    return [
        Measured(
            f"past.{status}",
            max(extra[status].values()),
            note=", ".join(f"{provider} {value:.2f}" for provider, value in extra[status].items()),
            alternatives=theirs[status],
            details={"milliseconds": extra[status]},
        )
        for status in refusals
    ]


def _past(effort: Effort, server: Any, provider: str, refusal: Any) -> float:
    from hfs_providers import ProviderManager

    keys = [server.new_key(provider) for _ in range(2)]
    server.script(provider, keys[0], [], then=refusal)
    # Nothing is kept: the two would share their keys' state, and a key that dies and lives a thousand times a second
    # is read from the file again.
    env, apart = (environment(server, each) | {"HFS_USAGE_DB": "off"} for each in (dict.fromkeys(PROVIDERS, keys), 2))
    with ProviderManager(env=env) as manager, ProviderManager(env=apart) as unhindered:
        # In turn: with its conversation's key, a call might never meet the refused one.
        model, plain = (each.get_model(provider, MODELS[provider], affinity=None) for each in (manager, unhindered))
        pool = manager.wrapper(provider).pool
        refused = pool.credentials[0].id

        def past() -> float:
            seconds = seconds_of(lambda: model.response(messages=question()))
            # Back in rotation, and the least recently used: the next call meets it first.
            pool.revive(refused)
            return seconds

        contenders = {"past": past, "plain": lambda: seconds_of(lambda: plain.response(messages=question()))}
        for call in contenders.values():
            for _ in range(10):
                call()
        before = server.hits(provider)
        samples = take_turns(contenders, effort.of(2.5, 0.3), least=2, calls=10)
        hits = server.hits(provider)
    calls = sum(map(len, samples["past"]))
    met = [hits[key] - before.get(key, 0) for key in keys]
    if met != [calls, calls]:
        raise RuntimeError(f"of {calls} calls, {met[0]} met the refused key and {met[1]} the other")
    return middle(samples["past"]) - middle(samples["plain"])


def _their_past(effort: Effort, server: Any, other: RivalProcess, name: str, refusal: Any) -> float | str:
    keys = [server.new_key(_RIVALS_ON) for _ in range(2)]
    if name == "LiteLLM":
        serve_with_tier(server, keys)
    try:
        other.ask("prepare", _RIVALS_ON, server.base_url(_RIVALS_ON), keys)
        plain = statistics.median(other.ask("calls", _RIVALS_ON, 12)[2:])
        server.script(_RIVALS_ON, keys[0], [], then=refusal)
        past = statistics.median(other.ask("past", _RIVALS_ON, effort.count(5, 2)))
    except RivalError as error:
        return str(error)
    if not server.hits(_RIVALS_ON).get(keys[0]):
        return "did not meet the refused key"
    return (past - plain) * 1e3


def gap(effort: Effort) -> list[Measured]:
    """How long the event loop is blocked while calls wait for keys that cool."""
    from hfs_providers import ProviderManager

    with simulated() as server:
        with ProviderManager(env=environment(server, 2)) as manager:
            ours = asyncio.run(_our_gaps(effort, server, manager))
        idle, at_once = asyncio.run(_other_gaps(effort, bare(server, _RIVALS_ON)))
        with rivals("keycycle") as others:
            keycycle = _their_gap(server, others["keycycle"])
    burst = statistics.median(found.longest for found in ours) * 1e3
    return [
        Measured(
            "gap",
            statistics.median(found.waiting for found in ours) * 1e3,
            note=f"{TASKS} calls wait {_COOLDOWN} s, then go at once: {burst:.0f} ms (bare {at_once * 1e3:.0f} ms)",
            alternatives={"idle loop": idle * 1e3, "keycycle": keycycle},
            details={"milliseconds": [[found.waiting * 1e3, found.longest * 1e3] for found in ours]},
        )
    ]


def _their_gap(server: Any, other: RivalProcess) -> float | str:
    try:
        keys = [server.new_key(_RIVALS_ON) for _ in range(2)]
        other.ask("prepare", _RIVALS_ON, server.base_url(_RIVALS_ON), keys, _COOLDOWN)
        other.ask("calls", _RIVALS_ON, 2)
        return float(other.ask("gap", _RIVALS_ON, TASKS)) * 1e3
    except RivalError as error:
        return str(error)


async def _our_gaps(effort: Effort, server: Any, manager: Any) -> list[Gaps]:
    from hfs_providers import KeysExhaustedError
    from hfs_providers.testing import RateLimited

    model = manager.get_model(_RIVALS_ON, MODELS[_RIVALS_ON])
    impatient = manager.get_model(_RIVALS_ON, MODELS[_RIVALS_ON], wait=False)
    pool = manager.wrapper(_RIVALS_ON).pool
    keys = [credential.secret.reveal() for credential in pool.credentials]
    await gaps(lambda: model.aresponse(messages=question()), TASKS)
    found = []
    for _ in range(effort.count(5, 1)):
        for key in keys:
            server.script(_RIVALS_ON, key, [RateLimited(retry_after=_COOLDOWN)])
        try:
            await impatient.aresponse(messages=question())
        except KeysExhaustedError:
            pass
        else:
            raise RuntimeError("a key was free")
        begin = time.perf_counter()
        found.append(
            await gaps(
                lambda: model.aresponse(messages=question()),
                TASKS,
                busy=lambda: pool.counts(MODELS[_RIVALS_ON]).in_flight > 0,
            )
        )
        if time.perf_counter() - begin < _COOLDOWN / 2:
            raise RuntimeError("the calls did not wait")
    return found


async def _other_gaps(effort: Effort, model: Any) -> tuple[float, float]:
    """What the machine itself does to an idle loop, and a bare model to one when it sends as many calls at once."""
    await gaps(lambda: model.aresponse(messages=question()), TASKS)
    idle, at_once = [], []
    for _ in range(effort.count(3, 1)):
        idle.append((await gaps(lambda: asyncio.sleep(_COOLDOWN), TASKS)).longest)
        at_once.append((await gaps(lambda: model.aresponse(messages=question()), TASKS)).longest)
    return statistics.median(idle), statistics.median(at_once)
