"""An environment with thousands of keys and a usage file with millions of rows."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from benchmarks.large import Asked, rows_of_a_month, write_batches
from hfs_providers.core.inventory import take_inventory
from hfs_providers.usage.database import Store
from hfs_providers.usage.totals import add_up
from tests.dashboard.made_up import KEYS, MODELS, environment, rule_some

_CACHE = 400_000
"""Kilobytes of the file that are kept in memory while it is written."""


def large_machine(folder: Path, keys: int, rows: int) -> dict[str, str]:
    """The environment of a machine with keys of four providers in files, and 30 days of requests.

    What an earlier call with the same numbers left in the folder is used again: the rows since then are added.

    Args:
        keys: of all providers together.
        rows: in 30 days.
    """
    env = environment(folder, {}) | _key_files(folder, keys // len(KEYS))
    marks = folder / "rows-until"
    since = float(marks.read_text()) if marks.exists() else 0.0
    now = time.time()
    store = Store(env["HFS_USAGE_DB"])
    with closing(store.connect()) as connection:
        # If a power cut damages the file, it is made again.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA wal_autocheckpoint = 50000")
        connection.execute(f"PRAGMA cache_size = -{_CACHE}")
        write_batches(connection, rows_of_a_month(rows, asked(env), now, since))
        while add_up(connection, now):
            # Programs that write rows do the same.
            pass
    if not since:
        inventory = take_inventory(dict(env))
        credentials = {name: tuple(inventory.providers[name].config.credentials) for name in KEYS}
        rule_some(env, store, credentials, random.Random(1))  # noqa: S311  no secret is made of it
    marks.write_text(str(now))
    return env


def asked(env: Mapping[str, str]) -> list[Asked]:
    """Every key with every model of its provider, in random order."""
    inventory = take_inventory(dict(env))
    found = [
        (provider, model, key.id, key.fingerprint)
        for provider, models in MODELS.items()
        for key in inventory.providers[provider].config.credentials
        for model in models
    ]
    random.Random(2).shuffle(found)  # noqa: S311  no secret is made of it
    return found


def _key_files(folder: Path, each: int) -> dict[str, str]:
    found = {}
    for provider in KEYS:
        path = folder / f"{provider}.keys"
        path.write_text("".join(f"{provider}-made-up-key-{number:05d}\n" for number in range(each)))
        path.chmod(0o600)
        found[f"{provider.upper()}_API_KEYS_FILE"] = str(path)
    return found
