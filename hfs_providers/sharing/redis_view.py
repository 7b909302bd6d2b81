"""Load what Redis knows about keys into pools, for reports: `hfs-providers keys` and `check`.

A pool that serves calls needs none of it, because it asks before each request. This reads over a connection of its own
and changes nothing there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from hfs_providers.contract.instants import MINUTE
from hfs_providers.contract.records import Credential, Problem
from hfs_providers.keys import snapshot
from hfs_providers.keys.pool import KeyPool
from hfs_providers.keys.snapshot import AccountSnapshot, CooldownSnapshot, KeySnapshot, WindowSnapshot
from hfs_providers.keys.windows import WindowEntry
from hfs_providers.sharing.redis_connection import RedisConnection, ScriptCall
from hfs_providers.sharing.redis_messages import CountedScope, told_key
from hfs_providers.usage.database import QUARTER

_TIMEOUT = 5.0
"""Seconds to wait for an answer: no call waits for it."""


class _Question(NamedTuple):
    """What is asked of an account: the counts of a model, or with None what was announced of its keys."""

    provider: str
    account: str
    model: str | None
    call: ScriptCall


def take_over(
    url: str,
    pools: Mapping[str, KeyPool],
    models: Mapping[str, Collection[str]],
    wall: Callable[[], float] = time.time,
) -> Problem | None:
    """Load into pools which of their keys are dead or cooling on any host, and what all hosts have used of `models`.

    Returns why Redis cannot be read, or None.
    """
    try:
        server = RedisConnection(url, _TIMEOUT)
    except (ImportError, ValueError):
        # The manager has this problem already.
        return None
    try:
        server.open()
        asked = [each for name, pool in pools.items() for each in _questions(pool, models.get(name, ()))]
        answers = server.run([each.call for each in asked])
    except server.errors as error:
        return server.problem(error)
    finally:
        server.close()
    found: dict[str, dict[str, AccountSnapshot]] = {}
    for each, answer in zip(asked, answers, strict=True):
        accounts = found.setdefault(each.provider, {})
        about = accounts.setdefault(each.account, {"keys": [], "cooling": [], "windows": []})
        offset = int(answer[0]) / 1000 - wall()
        if each.model is None:
            credentials = _of(pools[each.provider], each.account)
            about["keys"], about["cooling"] = _told(credentials, _pairs(answer[1]), offset, wall())
        else:
            about["windows"] += _windows(each.model, answer, offset, wall())
    for provider, accounts in found.items():
        pools[provider].load({"version": snapshot.VERSION, "at": wall(), "accounts": list(accounts.values())})
    return None


def _questions(pool: KeyPool, models: Collection[str]) -> Iterator[_Question]:
    for model in models:
        # Makes the pool look up the limits of the model, and so the scope that it counts in.
        pool.used(model)
    scopes = {(each.account, each.scope) for each in pool.spent()}
    for account in dict.fromkeys(credential.account for credential in pool.credentials):
        told = told_key(pool.provider, account)
        yield _Question(pool.provider, account, None, ScriptCall("look", [told], []))
        for model in models:
            scope = CountedScope(pool.provider, account, model if (account, model) in scopes else "")
            yield _Question(pool.provider, account, model, ScriptCall("look", [told, *scope.keys[:3]], []))


def _of(pool: KeyPool, account: str) -> list[Credential]:
    return [credential for credential in pool.credentials if credential.account == account]


def _told(
    credentials: Sequence[Credential], said: Mapping[str, str], offset: float, wall: float
) -> tuple[list[KeySnapshot], list[CooldownSnapshot]]:
    """Read what any host has announced: `<until ms> <reason>` by `d:<key>` or `c:<model>`."""
    current = {}
    for field, words in said.items():
        until, _, reason = words.partition(" ")
        with suppress(ValueError):
            at = int(until) / 1000 - offset
            if at > wall:
                current[field] = (at, reason)
    keys: list[KeySnapshot] = []
    for credential in credentials:
        key: KeySnapshot = {"id": credential.id, "fingerprint": credential.fingerprint}
        dead = current.get(f"d:{credential.name}")
        if dead is not None:
            key["dead"] = {"reason": dead[1], "retry_at": dead[0], "probation": dead[0] - wall}
        keys.append(key)
    return keys, [
        {"model": field[2:] or None, "until": at, "reason": reason}
        for field, (at, reason) in current.items()
        if field.startswith("c:")
    ]


def _windows(model: str, answer: Sequence[Any], offset: float, wall: float) -> list[WindowSnapshot]:
    """What all have used of one model, calls in flight included."""
    _, _, used, minute, requests, tokens = answer
    flying: list[WindowEntry] = [(wall, int(requests), int(tokens))] if int(requests) else []
    recent: list[WindowEntry] = [
        (int(float(score)) / 1000 - offset, 1, int(member.rpartition("/")[2]))
        for member, score in _pairs(minute).items()
    ]
    buckets: dict[str, dict[int, list[int]]] = {"h": {}, "d": {}}
    for field, count in _pairs(used).items():
        kind, _, number = field.partition(":")
        if kind in ("hr", "ht", "dr", "dt"):
            buckets[kind[0]].setdefault(int(number), [0, 0])[kind[1] == "t"] = int(count)

    def entries(kind: str, grain: float, place: float) -> list[WindowEntry]:
        return [((number + place) * grain - offset, r, t) for number, (r, t) in buckets[kind].items()]

    # Stamped as `restore_key_state` does: with a bucket's end, and for a calendar day with its middle.
    kinds = {
        "minute": recent,
        "hour": entries("h", MINUTE, 1.0),
        "day": entries("d", QUARTER, 1.0),
        snapshot.ANY_ZONE: entries("d", QUARTER, 0.5),
    }
    return [{"models": [model], "kind": kind, "entries": [*found, *flying]} for kind, found in kinds.items()]


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
