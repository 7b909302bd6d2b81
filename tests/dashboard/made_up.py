"""A machine with keys, requests and refusals that never were: for tests of the dashboard and for its pictures."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from hfs_providers.contract.records import Credential, Event, Wrapper
from hfs_providers.core.inventory import take_inventory
from hfs_providers.dashboard.stored_keys import StoredKeys
from hfs_providers.sharing.state_log import StateKeeper
from hfs_providers.usage import Store, UsageRow
from hfs_providers.usage.key_events import KeyEvent
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.row_writer import write_rows

KEYS = {"cerebras": 4, "groq": 6, "gemini": 5, "openrouter": 5}
MODELS = {
    "cerebras": ("gpt-oss-120b", "llama-3.3-70b"),
    "groq": ("llama-3.3-70b-versatile", "openai/gpt-oss-20b"),
    "gemini": ("gemini-3-flash",),
    "openrouter": ("meta-llama/llama-3.3-70b-instruct:free",),
}
PRICES = {"cerebras": 850, "groq": 590, "gemini": 300, "openrouter": 0}
"""Billionths of a dollar for a token."""
LIMITS = {"cerebras": "rpd=4000,tpm=64000", "groq": "rpm=30,tpd=1100000", "openrouter": "rpm=20,rpd=300"}
CLIENTS = ("web", "batch", "notebook", "")
BUDGETS = '[budgets]\nusd = 60\nper = "month"\n\n[providers.groq.budget]\nusd = 1.5\nper = "day"\n'


def environment(folder: Path, keys: Mapping[str, int] | None = None) -> dict[str, str]:
    """Keys of the four providers, a file of budgets, and a usage file in a folder."""
    env = {"HFS_USAGE_DB": str(folder / "usage.db"), "HFS_CONFIG": str(folder / "hfs-providers.toml")}
    (folder / "hfs-providers.toml").write_text(BUDGETS)
    env |= {f"{provider.upper()}_LIMITS": said for provider, said in LIMITS.items()}
    for provider, count in (KEYS if keys is None else keys).items():
        env[f"NUM_{provider.upper()}"] = str(count)
        for number in range(1, count + 1):
            env[f"{provider.upper()}_API_KEY_{number}"] = f"{provider}-made-up-key-{number:05d}"
    return env


def fill(env: Mapping[str, str], hours: float = 24 * 10, a_minute: float = 6, seed: int = 1) -> None:
    """Write requests, refusals and what they did to keys into the usage file of an environment.

    Args:
        hours: back to which they reach.
        a_minute: calls a minute in the middle of this day; there were fewer before.
    """
    inventory = take_inventory(dict(env))
    chance = random.Random(seed)
    now = time.time()
    credentials = {
        name: found.config.credentials for name, found in inventory.providers.items() if found.config.configured
    }
    store = Store(env["HFS_USAGE_DB"])
    with closing(store.connect()) as connection:
        calls = [*_rows(credentials, now, hours, a_minute / 4, chance), *_rows(credentials, now, 30, a_minute, chance)]
        rows = sorted((row for row in calls if row.at < now), key=lambda row: row.at)
        for first in range(0, len(rows), 5000):
            write_rows(connection, rows[first : first + 5000])
        for event in _earlier(credentials, now, chance):
            event.write(connection)
    # Of its own, so that the states do not depend on how many rows there are at this hour.
    rule_some(env, store, credentials, random.Random(seed))


def _rows(
    credentials: Mapping[str, tuple[Credential, ...]], now: float, hours: float, a_minute: float, chance: random.Random
) -> Iterator[UsageRow]:
    at = now - hours * 3600
    number = 0
    providers = list(credentials)
    while at < now:
        load = a_minute * (0.35 + 0.65 * (0.5 - 0.5 * math.cos(2 * math.pi * (at % 86_400) / 86_400)))
        at += chance.expovariate(load / 60)
        number += 1
        provider = chance.choices(providers, [5, 8, 4, 2][: len(providers)])[0]
        client = chance.choices(CLIENTS, [6, 3, 1, 1])[0]
        attempts = chance.choices([1, 2, 3], [92, 6, 2])[0]
        for attempt in range(1, attempts + 1):
            yield _row(at + attempt * 0.2, provider, credentials, client, number, attempt, attempt == attempts, chance)


def _row(
    at: float,
    provider: str,
    credentials: Mapping[str, tuple[Credential, ...]],
    client: str,
    number: int,
    attempt: int,
    last: bool,
    chance: random.Random,
) -> UsageRow:
    key = chance.choice(credentials[provider])
    model = chance.choices(MODELS[provider], [4, 1][: len(MODELS[provider])])[0]
    sent, got = int(chance.lognormvariate(6.6, 0.8)), int(chance.lognormvariate(5.2, 0.7))
    cached = int(sent * chance.choice([0, 0, 0.4, 0.8]))
    ok = last or chance.random() < 0.03
    refusal = chance.choice([("rate_limited", 429, "rate_limit_exceeded"), ("overloaded", 503, "over_capacity")])
    outcome, status, reason = ("ok", None, "") if ok else refusal
    if not ok:
        sent = got = cached = 0
    return UsageRow(
        *(at, provider, model, key.id, key.fingerprint, sent, got, sent + got),
        latency=chance.lognormvariate(-0.4, 0.5) if ok else 0.08,
        outcome=outcome,
        charged=sent + got,
        call_id=f"{number:016x}",
        attempt=attempt,
        client=client,
        status=status,
        reason=reason,
        cooled_until=None if outcome != "rate_limited" else at + 60,
        tokens_cached=cached,
        cost_nanousd=(sent - cached // 2 + 3 * got) * PRICES[provider],
    )


def _earlier(
    credentials: Mapping[str, tuple[Credential, ...]], now: float, chance: random.Random
) -> Iterator[KeyEvent]:
    for provider, keys in credentials.items():
        for key in keys[: 400 // len(credentials)]:
            for _ in range(chance.choice([0, 1, 2, 5])):
                at = now - chance.uniform(0.5, 23) * 3600
                model = MODELS[provider][0]
                yield KeyEvent(at, provider, key.name, model, "key_cooling", "rate_limit_exceeded", at + 60)


def rule_some(
    env: Mapping[str, str], store: Store, credentials: Mapping[str, tuple[Credential, ...]], chance: random.Random
) -> None:
    """Some keys are dead, some cool down."""
    pools = {name: found.pool for name, found in StoredKeys().look(take_inventory(dict(env))).items()}
    wrappers = {name: cast(Wrapper, SimpleNamespace(pool=pool)) for name, pool in pools.items()}
    log = UsageLog(store)
    keeper = StateKeeper(log.defer, wrappers)
    for provider, keys in credentials.items():
        for place, key in enumerate(keys):
            if (place == len(keys) - 1 and provider in ("groq", "gemini")) or chance.random() < 0.02:
                keeper.note(Event("key_dead", provider, key_id=key.id, reason="invalid_api_key", seconds=3600.0))
            elif (place == 2 and provider in ("groq", "openrouter")) or chance.random() < 0.02:
                seconds = chance.uniform(600, 3000)
                model = MODELS[provider][0]
                reason = "rate_limit_exceeded"
                keeper.note(Event("key_cooling", provider, key_id=key.id, model=model, reason=reason, seconds=seconds))
    log.close()
