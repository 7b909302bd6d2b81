"""Restores, when a process starts, what the file knows about keys.

Windows come from the rows of usage: the minute exactly, the hour by minutes, the day by quarters of an hour. Dead and
cooling keys, circuits and retired models come from the table `state`, which `state_log` writes. The file may be old or
edited: what does not fit is left out. Only a file that cannot be used raises `sqlite3.Error`.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import cast

from hfs_providers.contract.instants import DAY, HOUR, MINUTE
from hfs_providers.contract.protocols import KeepsCircuits
from hfs_providers.contract.records import Credential, Wrapper
from hfs_providers.keys import snapshot
from hfs_providers.keys.snapshot import AccountSnapshot, Death, KeySnapshot, PoolSnapshot, WindowSnapshot
from hfs_providers.keys.windows import WindowEntry
from hfs_providers.sharing.state_log import cooldowns_of, states
from hfs_providers.usage.database import QUARTER
from hfs_providers.usage.transaction import transaction

GONE_FOR = 30 * DAY
"""Seconds after which a retired model is tried again, and after which limits are forgotten that no answer has shown
again."""

_log = logging.getLogger("hfs_providers")

# Series that are named in a query. Of more of them, all of the provider are read.
_FEW = 1000

# Queries, their span, and by kind of window what is added to a stamp. A bucket is stamped with its end, so that nothing
# leaves a window early; for a calendar day with its middle, because it must lie within the day. The rows of a quarter
# are not summed up here: grouping them takes SQLite four times as long as reading them, and a window adds them.
# ?1 is the provider, {of} says which of its series.
_WINDOWS = (
    (
        "SELECT u.series, u.at, 1, u.charged FROM series s CROSS JOIN usage u ON u.series = s.id"
        " WHERE {of} AND u.at > ?2",
        MINUTE,
        {"minute": 0.0},
    ),
    (
        "SELECT u.series, CAST(u.at / 60 AS INTEGER) * 60.0, COUNT(*), SUM(u.charged)"
        " FROM series s CROSS JOIN usage u ON u.series = s.id WHERE {of} AND u.at > ?2 GROUP BY 1, 2",
        HOUR + MINUTE,
        {"hour": MINUTE},
    ),
    (
        "SELECT q.series, q.start, q.requests, q.charged FROM series s CROSS JOIN quarter q ON q.series = s.id"
        " WHERE {of} AND q.start > ?2",
        DAY + QUARTER,
        {"day": QUARTER, snapshot.ANY_ZONE: QUARTER / 2},
    ),
)


def pool_state(
    connection: sqlite3.Connection, provider: str, credentials: Sequence[Credential], wall: float
) -> PoolSnapshot:
    """What the file knows about a provider's present keys, as `KeyPool.load` takes it."""
    account_of = {credential.name: credential.account for credential in credentials}
    # `KeyPool.load` leaves out what is not a death, such as a revival.
    dead = states(connection, provider, "key")
    limits = states(connection, provider, "limits", since=wall - GONE_FOR)
    cooling = states(connection, provider, "rest")
    windows = _windows(connection, provider, wall, account_of)
    # Of many keys, most are unknown here.
    known = {*cooling, *windows, *(account_of[name] for name in {*dead, *limits} if name in account_of)}
    accounts: dict[str, AccountSnapshot] = {}
    for credential in credentials:
        name = account_of[credential.name]
        if name in known:
            new: AccountSnapshot = {
                "keys": [],
                "cooling": cooldowns_of(cooling.get(name, {})),
                "windows": windows.get(name, []),
            }
            about: KeySnapshot = {"id": credential.id, "fingerprint": credential.fingerprint}
            about["dead"] = cast("Death | None", dead.get(credential.name))
            about["limits"] = limits.get(credential.name, {})
            accounts.setdefault(name, new)["keys"].append(about)
    return {"version": snapshot.VERSION, "at": wall, "accounts": list(accounts.values())}


def _windows(
    connection: sqlite3.Connection, provider: str, wall: float, account_of: Mapping[str, str]
) -> dict[str, list[WindowSnapshot]]:
    """What was used, by account."""
    series: dict[int, tuple[str, str]] = {}
    for number, model, key_id, fingerprint in connection.execute(
        "SELECT id, model, key_id, fingerprint FROM series WHERE provider = ?", (provider,)
    ):
        account = account_of.get(fingerprint) or account_of.get(key_id)
        if account is not None:
            series[number] = account, model
    of = f"s.id IN ({', '.join(map(str, series))})" if len(series) <= _FEW else "s.provider = ?1"
    used: dict[str, list[WindowSnapshot]] = {}
    for query, span, shifts in _WINDOWS:
        found_rows = connection.execute(query.format(of=of), (provider, wall - span))
        for number, rows in groupby(found_rows, itemgetter(0)):
            if number not in series:
                continue
            account, model = series[number]
            found = list(rows)
            for kind, shift in shifts.items():
                entries: list[WindowEntry] = [(stamp + shift, requests, tokens) for _, stamp, requests, tokens in found]
                used.setdefault(account, []).append({"models": [model], "kind": kind, "entries": entries})
    return used


def rename_keys(connection: sqlite3.Connection, provider: str, credentials: Sequence[Credential]) -> None:
    """Rename the keys in what older versions wrote: their fingerprints had 8 digits."""
    shorts = Counter(credential.fingerprint[:8] for credential in credentials if credential.secret is not None)
    names = {
        credential.fingerprint[:8]: credential.fingerprint
        for credential in credentials
        # Which of two keys with one short name was meant is not known.
        if shorts[credential.fingerprint[:8]] == 1
    }
    query = "SELECT fingerprint FROM series WHERE provider = ?1 UNION SELECT name FROM state WHERE provider = ?1"
    found = [(names[short], provider, short) for (short,) in connection.execute(query, (provider,)) if short in names]
    if not found:
        return
    with transaction(connection):
        # What was written under the present name is newer.
        connection.executemany(
            "UPDATE OR IGNORE series SET fingerprint = ? WHERE provider = ? AND fingerprint = ?", found
        )
        connection.executemany("UPDATE OR IGNORE state SET name = ? WHERE provider = ? AND name = ?", found)


def restore_key_state(connection: sqlite3.Connection, wrappers: Mapping[str, Wrapper], wall: float) -> None:
    """Restore what the file knows in providers that start; circuits and retired models if they have any."""
    for name, wrapper in wrappers.items():
        rename_keys(connection, name, wrapper.pool.credentials)
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
            # A plugin's own wrapper: it starts without them.
            _log.warning("circuits and retired models of %s were not restored", name, exc_info=True)
