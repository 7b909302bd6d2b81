"""What the file knows of keys, put into a process that begins; and what this process learns of them, put into the file.

Windows come from the rows themselves: the minute exactly, the hour by minutes, the day by quarters of an hour. What
providers said of keys (cooling, dead), circuits and retired models are kept in `state`, one body of JSON for each:

    key      by fingerprint (by id where there is no key): {"reason", "retry_at", "probation"}, or {"revived": true}
    rest     by account (`sharing.account_name`): {model or "" for all: {"until", "reason"}}; {} after a revival
    circuit  by model: what `Circuit.dump` gives
    gone     by model: {"successor"}

Instants are seconds since the epoch. The file may be old or edited: what does not fit is left out, nothing is raised
for it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from hfs_providers.contract.instants import DAY, HOUR, MINUTE
from hfs_providers.contract.protocols import KeepsCircuits
from hfs_providers.contract.records import Credential, Wrapper
from hfs_providers.keys import snapshot
from hfs_providers.keys.ledger import account_name, key_name
from hfs_providers.keys.windows import Entry
from hfs_providers.sharing.state_log import _bodies, _cooldowns
from hfs_providers.usage.database import QUARTER

GONE_FOR = 30 * DAY
"""Seconds after which a model that a provider no longer had is tried again."""


_log = logging.getLogger("hfs_providers")

_QUARTERS = (
    "SELECT q.series, q.start, SUM(q.requests), SUM(q.charged) FROM series s CROSS JOIN quarter q ON q.series = s.id"
    " WHERE s.provider = ? AND q.start > ? GROUP BY 1, 2"
)

# By kind of window: the query, its span, and what is added to a stamp. A bucket is stamped with its end, so that
# nothing leaves a window early; for a calendar day with its middle, because it must lie within the day.
_WINDOWS = {
    "minute": (
        "SELECT u.series, u.at, 1, u.charged FROM series s CROSS JOIN usage u ON u.series = s.id"
        " WHERE s.provider = ? AND u.at > ?",
        MINUTE,
        0.0,
    ),
    "hour": (
        "SELECT u.series, CAST(u.at / 60 AS INTEGER) * 60.0, COUNT(*), SUM(u.charged)"
        " FROM series s CROSS JOIN usage u ON u.series = s.id WHERE s.provider = ? AND u.at > ? GROUP BY 1, 2",
        HOUR + MINUTE,
        MINUTE,
    ),
    "day": (_QUARTERS, DAY + QUARTER, QUARTER),
    snapshot.ANY_ZONE: (_QUARTERS, DAY + QUARTER, QUARTER / 2),
}


def pool_state(
    connection: sqlite3.Connection, provider: str, credentials: Sequence[Credential], wall: float
) -> dict[str, object]:
    """What the file knows of a provider's keys, as `KeyPool.load` takes it.

    Args:
        connection: of the store.
        provider: its name.
        credentials: the keys that are here.
        wall: seconds since the epoch.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    accounts: dict[str, dict[str, list[Any]]] = {}
    account_of: dict[str, str] = {}
    dead = _bodies(connection, provider, "key")
    for credential in credentials:
        name = account_name(credential)
        about = accounts.setdefault(name, {"keys": [], "cooling": [], "windows": []})
        said = {"id": credential.id, "fingerprint": credential.fingerprint, "dead": dead.get(key_name(credential))}
        about["keys"].append(said)
        account_of[key_name(credential)] = name
    for name, cooldowns in _bodies(connection, provider, "rest").items():
        if name in accounts:
            accounts[name]["cooling"] += _cooldowns(cooldowns)
    _windows(connection, provider, wall, accounts, account_of)
    return {"version": snapshot.VERSION, "at": wall, "accounts": list(accounts.values())}


def _windows(
    connection: sqlite3.Connection,
    provider: str,
    wall: float,
    accounts: Mapping[str, dict[str, list[Any]]],
    account_of: Mapping[str, str],
) -> None:
    series: dict[int, tuple[str, str]] = {}
    for number, model, key_id, fingerprint in connection.execute(
        "SELECT id, model, key_id, fingerprint FROM series WHERE provider = ?", (provider,)
    ):
        account = account_of.get(fingerprint) or account_of.get(key_id)
        if account is not None:
            series[number] = account, model
    for kind, (query, span, shift) in _WINDOWS.items():
        entries: dict[tuple[str, str], list[Entry]] = {}
        for number, stamp, requests, tokens in connection.execute(query, (provider, wall - span)):
            if number in series:
                entries.setdefault(series[number], []).append((stamp + shift, requests, tokens))
        for (account, model), found in entries.items():
            accounts[account]["windows"].append({"models": [model], "kind": kind, "entries": found})


def restore_key_state(connection: sqlite3.Connection, wrappers: Mapping[str, Wrapper], wall: float) -> None:
    """Put what the file knows into providers that begin.

    Args:
        connection: of the store.
        wrappers: by provider. Circuits and retired models are for those that have them.
        wall: seconds since the epoch.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    for name, wrapper in wrappers.items():
        wrapper.pool.load(pool_state(connection, name, wrapper.pool.credentials, wall))
        circuits = _bodies(connection, name, "circuit")
        gone = _bodies(connection, name, "gone", since=wall - GONE_FOR)
        try:
            if isinstance(wrapper, KeepsCircuits):
                for model, body in circuits.items():
                    wrapper.circuit(model).load(body, wall)
                for model, body in gone.items():
                    wrapper.retire_model(model, str(body.get("successor")))
        except Exception:
            # A wrapper of anybody's: it goes on without.
            _log.warning("circuits and retired models of %s were not taken over", name, exc_info=True)
