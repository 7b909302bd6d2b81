"""Rows for the tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from hfs_providers.usage import Store, UsageRow
from hfs_providers.usage.row_writer import write_rows


def row(
    at: float,
    provider: str = "groq",
    model: str = "m",
    number: int = 1,
    outcome: str = "ok",
    tokens: int = 10,
    latency: float = 0.5,
    client: str = "",
) -> UsageRow:
    """A row whose tokens are 3/10 in, half of these from a cache."""
    tokens_in = tokens * 3 // 10
    key = f"{provider}#{number}"
    counts = tokens_in, tokens - tokens_in, tokens, latency, outcome, tokens
    return UsageRow(at, provider, model, key, f"{number:016x}", *counts, client=client, tokens_cached=tokens_in // 2)


def write(store: Store, rows: Sequence[UsageRow]) -> None:
    """Write rows as the usage log does."""
    with closing(store.connect()) as connection:
        write_rows(connection, rows)
