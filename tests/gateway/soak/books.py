"""The usage rows of one life of the gateway, held against what the providers and the clients counted."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tests.fire.ledger import MEANS
from tests.gateway.soak.provider import Hit


class Row(NamedTuple):
    """A usage row; of an answer, the tokens are the hit's number."""

    provider: str
    fingerprint: str
    tokens_in: int
    outcome: str


def read_rows(path: Path, after: int) -> tuple[int, list[Row]]:
    """The rows after one, and the id of the last."""
    query = """
        SELECT usage.id, provider, fingerprint, tokens_in, outcome FROM usage JOIN series ON series.id = usage.series
        WHERE usage.id > ? ORDER BY usage.id
    """
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(query, (after,)).fetchall()
    return (found[-1][0] if found else after), [Row(*row[1:]) for row in found]


def settle(
    first: int,
    hits: Sequence[Hit],
    rows: Sequence[Row],
    answers: Collection[int],
    left: Collection[int],
    at_risk: Collection[int],
) -> list[str]:
    """What does not fit.

    Args:
        first: the number of the first hit.
        hits: at the providers.
        rows: as they were written down.
        answers: the numbers of the hits whose answers clients have.
        left: the requests whose clients went away.
        at_risk: the requests whose rows a kill may have cost.
    """
    wrong: list[str] = []
    by_hits = Counter((hit.provider, hit.fingerprint) for hit in hits)
    by_rows = Counter((row.provider, row.fingerprint) for row in rows)
    lost = Counter((hit.provider, hit.fingerprint) for hit in hits if hit.asked in at_risk)
    for key in by_hits.keys() | by_rows.keys():
        if not by_hits[key] - lost[key] <= by_rows[key] <= by_hits[key]:
            wrong.append(f"{key}: {by_hits[key]} hits, {by_rows[key]} rows, {lost[key]} of them at risk")

    numbers = Counter(row.tokens_in for row in rows if row.outcome == "ok")
    for number, count in numbers.items():
        hit = hits[number - first] if 0 <= number - first < len(hits) else None
        if count > 1 or hit is None or hit.step != "Ok":
            wrong.append(f"{count} rows say that hit {number} was answered, which was {hit}")
    for number, hit in enumerate(hits, first):
        if hit.asked in at_risk:
            continue
        if number in answers and number not in numbers:
            wrong.append(f"a client has the answer of hit {number}, and no row says so")
        if hit.answered and number not in answers and hit.asked not in left:
            wrong.append(f"hit {number} was answered whole, and request {hit.asked} had nothing of it")

    means = Counter(outcome for hit in hits for outcome in [_one(MEANS[hit.step])] if outcome)
    told = Counter(row.outcome for row in rows)
    for outcome in ("rate_limited", "dead", "bad_request"):
        gone = told["abandoned"] + lost.total()
        if not means[outcome] - gone <= told[outcome] <= means[outcome]:
            wrong.append(f"{means[outcome]} hits were {outcome}, and {told[outcome]} rows say so")
    if told["abandoned"] > len(left):
        wrong.append(f"{told['abandoned']} rows say abandoned, and {len(left)} clients left")
    return wrong


def _one(outcomes: Collection[str]) -> str | None:
    return next(iter(outcomes)) if len(outcomes) == 1 else None
