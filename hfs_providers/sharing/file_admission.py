"""Decides whether a reservation fits, by what the file knows about a key, its windows and the requests in flight.

All is read within one transaction of the `FileLedger`, and all is exact: minutes are counted from the rows, longer
windows from the sums by quarters of an hour and, at their edges, from the rows. A file that cannot be read is an
`sqlite3.Error`.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from hfs_providers.contract.instants import DAY, HOUR, MINUTE, next_midnight, zone_of
from hfs_providers.contract.records import KEYLESS, LIMIT_NAMES
from hfs_providers.keys.ledger import Refusal, Reservation
from hfs_providers.usage.database import QUARTER

# Seconds until it is worth asking again when only requests in flight stand in the way.
_SOON = 0.25


class _WindowRule(NamedTuple):
    """One window: when it begins, when a row leaves it, and the most that it may hold."""

    since: float
    until: Callable[[float], float]
    requests: int | None
    tokens: int | None


def known_refusal(connection: sqlite3.Connection, reservation: Reservation, wall: float) -> Refusal | None:
    """What any process has learned about the key: that it is dead or cooling."""
    key = reservation.account if reservation.fingerprint == KEYLESS else reservation.fingerprint
    query = (
        "SELECT kind, body FROM state WHERE provider = ?"
        " AND ((kind = 'key' AND name = ?) OR (kind = 'rest' AND name = ?))"
    )
    found: Refusal | None = None
    for kind, text in connection.execute(query, (reservation.provider, key, reservation.account)):
        for refusal in _refusals(reservation, kind, text):
            if refusal.until > max(wall, found.until if found is not None else 0.0):
                found = refusal
    return found if found is None else replace(found, until=min(found.until, wall + DAY))


def _refusals(reservation: Reservation, kind: str, text: str) -> list[Refusal]:
    try:
        body = json.loads(text)
        if kind == "key":
            return [Refusal("dead", float(body["retry_at"]), str(body.get("reason")), "key")]
        cooldowns = {"key": body.get(""), "model": body.get(reservation.model_id)}
        return [
            Refusal(
                "cooling", float(cooldown["until"]), str(cooldown.get("reason")), "key" if scope == "key" else "model"
            )
            for scope, cooldown in cooldowns.items()
            if cooldown
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        # The file was edited: this row says nothing.
        return []


def limited(reservation: Reservation) -> bool:
    """Whether there is any limit that the reservation must fit into."""
    limits = reservation.limits
    return limits is not None and any(getattr(limits, name) is not None for name in LIMIT_NAMES)


def limit_refusal(connection: sqlite3.Connection, reservation: Reservation, wall: float) -> Refusal | None:
    """Why the reservation does not fit into its windows together with what all have in flight; None if it does."""
    in_flight, reserved = connection.execute(
        "SELECT COALESCE(SUM(MAX(requests, 0)), 0), COALESCE(SUM(MAX(tokens, 0)), 0) FROM in_flight"
        " WHERE provider = ? AND account = ? AND scope = ?",
        (reservation.provider, reservation.account, reservation.scope),
    ).fetchone()
    series = _series(connection, reservation)
    until = 0.0
    for rule in _rules(reservation, wall):
        used, charged = _used(connection, series, rule.since, wall)
        over = used + in_flight + 1 - rule.requests if rule.requests is not None else 0
        excess = 0
        if rule.tokens is not None:
            # An estimate above the limit itself would never fit: it is let through when the window is empty.
            excess = charged + reserved + min(reservation.tokens, rule.tokens) - rule.tokens
        if (rule.requests is not None and rule.requests <= 0) or (rule.tokens is not None and rule.tokens <= 0):
            until = wall + DAY
        elif over > in_flight or excess > reserved:
            leaves = _leaves(connection, series, rule.since, over - in_flight, excess - reserved)
            until = max(until, rule.until(leaves))
        elif over > 0 or excess > 0:
            # It would fit without what is in flight, which may not count in the end, may cost less than was reserved,
            # or may be in a row already.
            until = max(until, wall + _SOON)
    return Refusal("limited", until, "other processes have used up its limits") if until else None


def _rules(reservation: Reservation, wall: float) -> list[_WindowRule]:
    limits = reservation.limits
    assert limits is not None
    rules = [
        _WindowRule(wall - MINUTE, lambda at: at + MINUTE, limits.rpm, limits.tpm),
        _WindowRule(wall - HOUR, lambda at: at + HOUR, limits.rph, limits.tph),
    ]
    zone = zone_of(limits.day_zone) if limits.day_zone else None
    if zone is None:
        rules.append(_WindowRule(wall - DAY, lambda at: at + DAY, limits.rpd, limits.tpd))
    else:
        midnight = next_midnight(zone, wall)
        rules.append(_WindowRule(next_midnight(zone, midnight - 1.5 * DAY), lambda _: midnight, limits.rpd, limits.tpd))
    return [rule for rule in rules if rule.requests is not None or rule.tokens is not None]


def _series(connection: sqlite3.Connection, reservation: Reservation) -> list[int]:
    """The series of the account's rows, only of the one model unless all models count together."""
    query = "SELECT id, key_id, fingerprint FROM series WHERE provider = ?"
    values = [reservation.provider]
    if reservation.scope:
        query += " AND model = ?"
        values.append(reservation.scope)
    return [
        number
        for number, key_id, fingerprint in connection.execute(query, values)
        # Endpoints without keys are distinguished by their ids.
        if fingerprint in reservation.fingerprints and (fingerprint != KEYLESS or key_id == reservation.account)
    ]


def _used(connection: sqlite3.Connection, series: Sequence[int], since: float, wall: float) -> tuple[int, int]:
    """Requests and tokens after `since`: whole quarters of an hour from their sums, the edges from the rows."""
    requests = tokens = 0
    whole = (since // QUARTER + 1) * QUARTER
    for number in series:
        if whole + QUARTER < wall:
            found = connection.execute(
                "SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(charged), 0) FROM quarter"
                " WHERE series = ? AND start >= ?",
                (number, whole),
            ).fetchone()
            requests, tokens = requests + found[0], tokens + found[1]
            edge = "SELECT COUNT(*), COALESCE(SUM(charged), 0) FROM usage WHERE series = ? AND at > ? AND at < ?"
            found = connection.execute(edge, (number, since, whole)).fetchone()
        else:
            rows = "SELECT COUNT(*), COALESCE(SUM(charged), 0) FROM usage WHERE series = ? AND at > ?"
            found = connection.execute(rows, (number, since)).fetchone()
        requests, tokens = requests + found[0], tokens + found[1]
    return requests, tokens


def _leaves(connection: sqlite3.Connection, series: Sequence[int], since: float, requests: int, tokens: int) -> float:
    """The instant of the row with which that many requests and tokens will have left the window."""
    rows = "SELECT at, charged FROM usage WHERE series = ? AND at > ? ORDER BY at"
    leaves = since
    for at, charged in heapq.merge(*(connection.execute(rows, (number, since)) for number in series)):
        leaves = at
        requests -= 1
        tokens -= charged
        if requests <= 0 and tokens <= 0:
            break
    return leaves
