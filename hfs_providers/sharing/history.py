"""What a host has used of an account within the windows, for the other hosts that share the account.

It is read from the local file, where all processes of the host write; without one, from what the process remembers.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from hfs_providers.contract.instants import DAY, HOUR, MINUTE
from hfs_providers.contract.records import KEYLESS
from hfs_providers.keys.ledger import Spent
from hfs_providers.usage.database import QUARTER

Buckets = dict[int, tuple[int, int]]
"""Requests and tokens by the number of a bucket since the epoch."""

_SLACK = 5.0
"""Seconds that a clock may be slow before its quarters are counted as the next ones."""


@dataclass
class Used:
    """The use that counts against limits, stamped by the clock of the receiver.

    Args:
        minute: the ends of the last minute's requests and their tokens, oldest first.
        hours: by minutes.
        days: by quarters of an hour.
    """

    minute: list[tuple[float, int]] = field(default_factory=list)
    hours: Buckets = field(default_factory=dict)
    days: Buckets = field(default_factory=dict)


def from_store(
    connection: sqlite3.Connection,
    provider: str,
    names: Collection[str],
    scope: str,
    now: float,
    offset: float,
) -> Used:
    """The use of an account, from its rows.

    Args:
        names: of the keys of the account, as `Credential.name`.
        scope: the model, or empty for all.
        offset: seconds by which the other clock is ahead of this one.
    """
    names = set(names)
    query = "SELECT id, key_id, fingerprint FROM series WHERE provider = ?1 AND (?2 = '' OR model = ?2)"
    # Converted to numbers, because they go into the text of queries.
    series = [
        int(number)
        for number, key_id, fingerprint in connection.execute(query, (provider, scope))
        if _name(key_id, fingerprint) in names
    ]
    of = f"series IN ({', '.join(map(str, series))})"
    minute = connection.execute(
        f"SELECT at, charged FROM usage WHERE {of} AND at > ? ORDER BY at",  # noqa: S608
        (now - MINUTE,),
    )
    used = Used([(at + offset, charged) for at, charged in minute])
    hours = connection.execute(
        f"SELECT CAST((at + ?) / 60 AS INTEGER), count(*), sum(charged) FROM usage"  # noqa: S608
        f" WHERE {of} AND at > ? GROUP BY 1",
        (offset, now - HOUR - MINUTE),
    )
    used.hours = {number: (requests, tokens) for number, requests, tokens in hours}
    days = connection.execute(
        f"SELECT start, sum(requests), sum(charged) FROM quarter WHERE {of} AND start > ? GROUP BY 1",  # noqa: S608
        (now - DAY - HOUR - QUARTER,),
    )
    for start, requests, tokens in days:
        _add(used.days, math.ceil((start + offset - _SLACK) / QUARTER), requests, tokens)
    return used


def from_pool(spent: Iterable[Spent], account: str, scope: str, offset: float) -> Used:
    """The use that a pool remembers for an account and scope, as `KeyPool.spent` returns it; see `from_store`."""
    used = Used()
    for each in spent:
        if (each.account, each.scope) != (account, scope):
            continue
        entries = [(stamp + offset, requests, tokens) for stamp, requests, tokens in each.entries]
        if each.kind == "minute":
            # If several requests are remembered as one, the first has all tokens.
            for at, requests, tokens in entries:
                used.minute += [(at, tokens if i == 0 else 0) for i in range(requests)]
        else:
            buckets, grain = (used.hours, MINUTE) if each.kind == "hour" else (used.days, QUARTER)
            # Entries are stamped with the end of their bucket, where the next bucket begins.
            for at, requests, tokens in entries:
                _add(buckets, math.ceil(at / grain) - 1, requests, tokens)
    used.minute.sort()
    return used


def _name(key_id: str, fingerprint: str) -> str:
    return key_id if fingerprint == KEYLESS else fingerprint


def _add(buckets: Buckets, number: int, requests: int, tokens: int) -> None:
    known = buckets.get(number, (0, 0))
    buckets[number] = (known[0] + requests, known[1] + tokens)
