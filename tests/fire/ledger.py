"""Holds what the library wrote down against what the server did, request by request.

Every request that the server saw has its row, in the same order, with the same key and a meaning that fits. What the
server answered and the row does not call answered is explained one by one, or it is an error.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hfs_providers.keys import fingerprint
from hfs_providers.usage import UsageRow
from tests.fire.faults import Served

MEANS: Mapping[str, frozenset[str]] = {
    "Ok": frozenset({"ok"}),
    "RateLimited": frozenset({"rate_limited"}),
    "Forbidden": frozenset({"rate_limited", "dead"}),
    "Unauthorized": frozenset({"dead"}),
    "PaymentRequired": frozenset({"dead"}),
    "ServerError": frozenset({"server_error", "overloaded"}),
    "Reset": frozenset({"transport"}),
    "Stall": frozenset({"transport"}),
    # In a stream nothing of it is an event.
    "Garbage": frozenset({"server_error", "empty"}),
    "EmptyBody": frozenset({"empty"}),
    "HalfStream": frozenset({"interrupted", "empty", "transport", "server_error"}),
    "StreamError": frozenset({"server_error", "overloaded"}),
    "BadRequest": frozenset({"bad_request"}),
    "ContextTooLong": frozenset({"context_overflow"}),
    "ModelGone": frozenset({"model_gone"}),
}
"""What a row may say of a request, by what the server did to it."""


@dataclass
class Call:
    """One call of the fire, with the rows that were written down in its course.

    Args:
        left: whether the caller cancelled it or dropped its stream.
    """

    prompt: str
    provider: str
    rows: list[UsageRow] = field(default_factory=list)
    left: bool = False
    ending: str = ""
    """`answer`, `error <type>`, `dropped` or `cancelled`."""


@dataclass
class Ledger:
    """The result of the comparison."""

    wrong: list[str] = field(default_factory=list)
    answered: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By provider, key and model: requests that both sides call answered."""

    left: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Answered whole by the server while the caller was leaving: the row says `abandoned`."""

    late: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Answered whole by the server after the caller's timeout: the row says `transport` and shows how long it took."""

    never_arrived: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By provider and key fingerprint: rows of requests that the server never saw, because they were cancelled or broke
    off before they were on the wire."""

    given_up: int = 0
    """Requests that timed out although the server was not silent; those answered after all are `late`."""


def settle(
    calls: Sequence[Call], served: Mapping[str, Sequence[Served]], model_ids: Mapping[str, str], timeout: float
) -> Ledger:
    """Compare.

    Args:
        calls: all calls, ended.
        served: what the server did, by prompt.
        model_ids: the one model id of each provider.
        timeout: the requests' own, in seconds.
    """
    ledger = Ledger()
    for call in calls:
        rows, entries = deque(call.rows), deque(served.get(call.prompt, ()))
        while entries:
            entry = entries.popleft()
            if (entry.provider, entry.model) != (call.provider, model_ids[call.provider]):
                ledger.wrong.append(f"{call.prompt} went to {entry.provider}/{entry.model}")
            while rows and (rows[0].fingerprint != fingerprint(entry.key) or _came_again(rows, entry, entries)):
                _unseen(ledger, call, rows.popleft())
            if not rows:
                ledger.wrong.append(f"{call.prompt}: {entry.step} at {fingerprint(entry.key)} has no row")
            else:
                _compare(ledger, call, entry, rows.popleft(), timeout)
        for row in rows:
            _unseen(ledger, call, row)
    return ledger


def _compare(ledger: Ledger, call: Call, entry: Served, row: UsageRow, timeout: float) -> None:
    where = (entry.provider, entry.key, entry.model)
    given_up = row.outcome == "transport" and row.latency >= timeout and MEANS[entry.step] != {"transport"}
    ledger.given_up += given_up
    said = f"{call.prompt}: {entry.step}, answered={entry.answered}, was written down as {row.outcome} ({row.key_id})"
    if (row.provider, row.model) != (entry.provider, entry.model):
        ledger.wrong.append(f"{said} of {row.provider}/{row.model}")
    if entry.answered and row.outcome == "ok":
        ledger.answered[where] += 1
        if row.tokens != entry.tokens:
            ledger.wrong.append(f"{said} with {row.tokens} tokens of {entry.tokens}")
    elif row.outcome == "ok":
        ledger.wrong.append(said)
    elif row.outcome == "abandoned":
        if not call.left:
            ledger.wrong.append(f"{said}, and nobody left")
        elif entry.answered:
            ledger.left[where] += 1
    elif given_up:
        if entry.answered:
            ledger.late[where] += 1
    elif row.outcome not in MEANS[entry.step]:
        ledger.wrong.append(said)


def _came_again(rows: deque[UsageRow], entry: Served, later: deque[Served]) -> bool:
    """Whether the first row is of a request that broke on its way, and a later one with the same key is the entry's."""
    key = rows[0].fingerprint
    again = [row for row in list(rows)[1:] if row.fingerprint == key]
    arrived = sum(fingerprint(each.key) == key for each in later)
    fits = any(row.outcome in MEANS[entry.step] for row in again)
    return rows[0].outcome == "transport" and fits and len(again) > arrived


def _unseen(ledger: Ledger, call: Call, row: UsageRow) -> None:
    """A row without a request: it can only be one that broke on its way, or whose caller left."""
    ledger.never_arrived[row.provider, row.fingerprint] += 1
    if row.outcome != "transport" and not (row.outcome == "abandoned" and call.left):
        ledger.wrong.append(f"{call.prompt}: a row says {row.outcome} of a request that never came ({row.key_id})")
