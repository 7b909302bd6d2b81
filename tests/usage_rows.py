"""Rows for the tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from hfs_providers import Store, UsageRow
from hfs_providers.core.store import QUARTER


def row(
    at: float,
    provider: str = "groq",
    model: str = "m",
    number: int = 1,
    outcome: str = "ok",
    tokens: int = 10,
    latency: float = 0.5,
) -> UsageRow:
    """A row whose tokens are 3/10 in."""
    tokens_in = tokens * 3 // 10
    key = f"{provider}#{number}"
    return UsageRow(
        at, provider, model, key, f"{number:08x}", tokens_in, tokens - tokens_in, tokens, latency, outcome, tokens
    )


def write(store: Store, rows: Sequence[UsageRow]) -> None:
    """Write rows as the usage log does: rows and sums in one transaction."""
    with closing(store.connect()) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for each in rows:
            name = (each.provider, each.model, each.key_id, each.fingerprint)
            connection.execute(
                "INSERT OR IGNORE INTO series (provider, model, key_id, fingerprint) VALUES (?,?,?,?)", name
            )
            (series,) = connection.execute(
                "SELECT id FROM series WHERE provider=? AND model=? AND key_id=? AND fingerprint=?", name
            ).fetchone()
            counts = (each.tokens_in, each.tokens_out, each.tokens, each.charged, each.latency)
            connection.execute(
                "INSERT INTO usage (series, at, tokens_in, tokens_out, tokens, charged, latency, outcome)"
                " VALUES (?,?,?,?,?,?,?,?)",
                (series, each.at, *counts, each.outcome),
            )
            connection.execute(
                "INSERT INTO quarter VALUES (?,?,?,1,?,?,?,?,?) ON CONFLICT DO UPDATE SET requests=requests+1,"
                "tokens_in=tokens_in+excluded.tokens_in, tokens_out=tokens_out+excluded.tokens_out,"
                "tokens=tokens+excluded.tokens, charged=charged+excluded.charged, latency=latency+excluded.latency",
                (series, int(each.at // QUARTER) * QUARTER, each.outcome, *counts),
            )
        connection.execute("COMMIT")
