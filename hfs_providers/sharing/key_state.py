"""Restores what the file knows of keys in a process that starts.

Windows come from the rows of usage: the minute exactly, the hour by minutes, the day by quarters of an hour. Dead and
cooling keys, circuits and retired models come from the table `state`, which `state_log` writes. The file may be old or
edited: what does not fit is left out, and nothing is raised for it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from typing import cast

from hfs_providers.contract.instants import DAY, HOUR, MINUTE
from hfs_providers.contract.protocols import KeepsCircuits
from hfs_providers.contract.records import Credential, Wrapper
from hfs_providers.keys import snapshot
from hfs_providers.keys.snapshot import AccountSnapshot, Death, PoolSnapshot
from hfs_providers.keys.windows import WindowEntry
from hfs_providers.sharing.state_log import cooldowns_of, states
from hfs_providers.usage.database import QUARTER

GONE_FOR = 30 * DAY
"""Seconds after which a retired model is tried again."""

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
) -> PoolSnapshot:
    """What the file knows of those keys of a provider that are here, as `KeyPool.load` takes it.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    accounts: dict[str, AccountSnapshot] = {}
    account_of: dict[str, str] = {}
    dead = states(connection, provider, "key")
    for credential in credentials:
        name = credential.account
        about = accounts.setdefault(name, {"keys": [], "cooling": [], "windows": []})
        # `KeyPool.load` leaves out what is no death, such as the note of a revival.
        death = cast("Death | None", dead.get(credential.name))
        about["keys"].append({"id": credential.id, "fingerprint": credential.fingerprint, "dead": death})
        account_of[credential.name] = name
    for name, cooldowns in states(connection, provider, "rest").items():
        if name in accounts:
            accounts[name]["cooling"] += cooldowns_of(cooldowns)
    _windows(connection, provider, wall, accounts, account_of)
    return {"version": snapshot.VERSION, "at": wall, "accounts": list(accounts.values())}


def _windows(
    connection: sqlite3.Connection,
    provider: str,
    wall: float,
    accounts: Mapping[str, AccountSnapshot],
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
        entries: dict[tuple[str, str], list[WindowEntry]] = {}
        for number, stamp, requests, tokens in connection.execute(query, (provider, wall - span)):
            if number in series:
                entries.setdefault(series[number], []).append((stamp + shift, requests, tokens))
        for (account, model), found in entries.items():
            accounts[account]["windows"].append({"models": [model], "kind": kind, "entries": found})


def restore_key_state(connection: sqlite3.Connection, wrappers: Mapping[str, Wrapper], wall: float) -> None:
    """Restore what the file knows in providers that start. Circuits and retired models are for those that have them.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    for name, wrapper in wrappers.items():
        wrapper.pool.load(pool_state(connection, name, wrapper.pool.credentials, wall))
        circuits = states(connection, name, "circuit")
        retired = states(connection, name, "gone", since=wall - GONE_FOR)
        try:
            if isinstance(wrapper, KeepsCircuits):
                for model, body in circuits.items():
                    wrapper.circuit(model).load(body, wall)
                for model, body in retired.items():
                    wrapper.retire_model(model, str(body.get("successor")))
        except Exception:
            # A plugin's own wrapper: it starts without.
            _log.warning("circuits and retired models of %s were not restored", name, exc_info=True)
