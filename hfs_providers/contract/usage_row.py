"""The row that is kept of each request. Tables, reports and other databases derive their columns from its fields."""

from __future__ import annotations

import os
import time
from contextvars import ContextVar
from itertools import count
from typing import NamedTuple, Protocol

from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.contract.usage_fields import Counted


class NamedKey(Protocol):
    """A key, as rows name it."""

    @property
    def id(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


class Trace:
    """What the requests of one call have in common: over all its keys, and in a chain over all its entries."""

    __slots__ = ("id", "sent")

    def __init__(self) -> None:
        self.id = f"{next(_numbers):016x}"
        self.sent = 0
        """How many of its requests have been sent."""


def _first_number() -> int:
    return int.from_bytes(os.urandom(8)) >> 1


# No two processes have the same. To ask the system for each would take longer than all else that a row needs.
_numbers = count(_first_number())


def _number_anew() -> None:
    global _numbers
    _numbers = count(_first_number())


at_fork(ForkPhase.LOGS, child=_number_anew)


class Failure(NamedTuple):
    """Why a request was not answered.

    Args:
        status: as the provider answered, if it did.
        reason: the provider's code, else what is known.
        cooldown: seconds for which the key cools down because of it, or None.
    """

    status: int | None = None
    reason: str = ""
    cooldown: float | None = None


NO_FAILURE = Failure()

asking: ContextVar[str] = ContextVar("hfs_client", default="")
"""The client in whose name this context sends requests: rows have it as their `client`."""


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
        call_id: what the requests of one call have in common; empty if it is not known.
        attempt: the place of the request in its call, from 1.
        client: who asked; empty if that is not known.
        status: HTTP status of a failure, if it had one.
        reason: why it failed: the provider's code, else its status; empty if it did not.
        cooled_until: wall-clock time when its key can be used again, if the request made it cool down.
        tokens_cached: those of `tokens_in` that the provider read from its cache.
        tokens_cache_write: those of `tokens_in` that it wrote into its cache, if it says so.
        cost_nanousd: its price in billionths of a US dollar; None if no price is known.
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
    call_id: str = ""
    attempt: int = 1
    client: str = ""
    status: int | None = None
    reason: str = ""
    cooled_until: float | None = None
    tokens_cached: int = 0
    tokens_cache_write: int = 0
    cost_nanousd: int | None = None

    @classmethod
    def of(
        cls,
        provider: str,
        model: str,
        key: NamedKey,
        outcome: str,
        *,
        counted: Counted | None = None,
        latency: float = 0.0,
        charged: int = 0,
        call: Trace | None = None,
        failure: Failure = NO_FAILURE,
    ) -> UsageRow:
        """The row of a request that ends now.

        Args:
            provider, model, outcome, latency, charged: as the fields.
            key: that it was sent with.
            counted: the provider's count, or None if it gave none.
            call: that it belongs to, or None if it is no part of a call.
            failure: why it was not answered.
        """
        sent = received = total = read = written = 0
        if counted is not None:
            sent, received, total = counted.input_tokens, counted.output_tokens, counted.total_tokens
            read, written = counted.cache_read_tokens, counted.cache_write_tokens
        now = time.time()
        call_id, attempt = ("", 1) if call is None else (call.id, call.sent)
        status, reason, cooldown = failure
        until = None if cooldown is None else now + cooldown
        # fmt: off
        # The class's own constructor is slower, and each call comes through here.
        return tuple.__new__(cls, (
            now, provider, model, key.id, key.fingerprint, sent, received, total, latency, outcome, charged,
            call_id, attempt, asking.get(), status, reason, until, read, written, None,
        ))
        # fmt: on
