"""The row that is kept of each request. Tables, reports and other databases derive their columns from its fields."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol


class Counted(Protocol):
    """Tokens as a provider counted them."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def total_tokens(self) -> int: ...


class UsageRow(NamedTuple):
    """One request that was sent.

    Args:
        at: wall-clock time of its end, seconds since the epoch.
        provider, model, key_id, fingerprint: who was asked, and with which key.
        tokens_in, tokens_out, tokens: as the provider counted them (0 where it did not say).
        latency: seconds from sending to the end of the answer.
        outcome: `ok`, or the kind of the verdict.
        charged: tokens that count against the limits: as counted, else (an answer without usage, a stream that was
            dropped) as estimated.
    """

    at: float
    provider: str
    model: str
    key_id: str
    fingerprint: str
    tokens_in: int
    tokens_out: int
    tokens: int
    latency: float
    outcome: str
    charged: int = 0

    @classmethod
    def of(
        cls,
        provider: str,
        model: str,
        key_id: str,
        fingerprint: str,
        outcome: str,
        *,
        counted: Counted | None = None,
        latency: float = 0.0,
        charged: int = 0,
    ) -> UsageRow:
        """The row of a request that ends now.

        Args:
            provider, model, key_id, fingerprint, outcome, latency, charged: as the fields.
            counted: the provider's count, or None if it gave none.
        """
        sent = received = total = 0
        if counted is not None:
            sent, received, total = counted.input_tokens, counted.output_tokens, counted.total_tokens
        # The class's own constructor is slower, and each call comes through here.
        return tuple.__new__(
            cls, (time.time(), provider, model, key_id, fingerprint, sent, received, total, latency, outcome, charged)
        )
