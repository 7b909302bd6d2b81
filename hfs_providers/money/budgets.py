"""Budgets: what may be spent, what a request claims, and what one process has spent.

invariant: what was spent and what calls in flight have reserved is never more than the budget, unless a request cost
           more than it was estimated at.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol

from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.contract.instants import DAY, HOUR, NEVER
from hfs_providers.money.prices import NANO, PriceList

# Seconds until it is worth asking again if only calls in flight are in the way.
_SOON = 0.05


class Span(NamedTuple):
    """From an instant until before another, in seconds since the epoch."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount that may be spent in each hour, day or month of UTC.

    Args:
        name: of its table in the TOML file.
        provider, client: whose requests count; empty is all.
        unpriced: whether models without a price may be used, whose requests do not count.
    """

    name: str
    nanousd: int
    per: Literal["hour", "day", "month"]
    provider: str = ""
    client: str = ""
    unpriced: bool = False

    def covers(self, provider: str, client: str) -> bool:
        """Whether a request counts."""
        return self.provider in ("", provider) and self.client in ("", client)

    def period(self, wall: float) -> Span:
        """The hour, day or month that an instant lies in."""
        if self.per != "month":
            size = int(HOUR if self.per == "hour" else DAY)
            start = int(wall // size * size)
            return Span(start, start + size)
        day = datetime.fromtimestamp(wall, UTC)
        first = datetime(day.year, day.month, 1, tzinfo=UTC)
        after = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
        return Span(int(first.timestamp()), int(after.timestamp()))


def budgets_of(file: Mapping[str, Any], providers: Mapping[str, Mapping[str, Any]]) -> tuple[Budget, ...]:
    """The budgets of the TOML file: its own tables, validated, and by lower-case name those of the providers."""
    tables = [("budgets", "", "", file.get("budgets"))]
    tables += [(f"providers.{name}.budget", name, "", table.get("budget")) for name, table in providers.items()]
    tables += [(f"clients.{name}.budget", "", name, table.get("budget")) for name, table in file["clients"].items()]
    return tuple(
        Budget(name, round(table["usd"] * NANO), table["per"], provider, client, table["unpriced"] == "allow")
        for name, provider, client, table in tables
        if table is not None
    )


class Claim(NamedTuple):
    """What a request reserves: its estimate, of each budget that it counts in. Without a price there is no estimate."""

    budgets: tuple[Budget, ...]
    nanousd: int | None


class Use(NamedTuple):
    """How much of a budget is used: what is spent in this hour, day or month, and what calls in flight hold. The limit
    is at times less than the budget.
    """

    spent: int
    held: int
    limit: int


class OverBudget(NamedTuple):
    """Why a claim is refused.

    Args:
        budget: the one that the claim does not fit into.
        claim: the estimate, or None if the model has no price.
        until: seconds since the epoch from which it is worth asking again.
    """

    budget: Budget
    use: Use
    claim: int | None
    until: float

    def __str__(self) -> str:
        budget, (spent, held, limit) = self.budget, self.use
        if self.claim is None:
            return f"[{budget.name}] admits no model without a price"
        less = f" (of which {_dollars(limit)} here while the others are unreachable)" if limit < budget.nanousd else ""
        return (
            f"[{budget.name}] allows {_dollars(budget.nanousd)} per {budget.per}{less}: {_dollars(spent)} spent, "
            f"{_dollars(held)} reserved by calls in flight, {_dollars(self.claim)} expected for this call"
        )


def _dollars(nanousd: int) -> str:
    return f"${nanousd / NANO:.6f}"


class BudgetLedger(Protocol):
    """A ledger of what was spent: by one process, or by all that share the budgets. Safe for threads."""

    blocks: bool
    """Whether `reserve` waits for a file or a server."""

    def reserve(self, claim: Claim) -> OverBudget | None:
        """Count the claim as in flight if all its budgets allow it, in one atomic step; None: granted.

        Blocks for the time of one transaction. Raises only what interrupts the program; then nothing is
        reserved.
        """

    def end(self, claim: Claim, cost: int | None, recorded: bool) -> None:
        """Note that a granted claim is not in flight any more. Never blocks, never raises.

        Args:
            claim: what was granted.
            cost: in nano-USD; None if nothing was sent.
            recorded: whether the usage log was given a row with this cost before.
        """

    def close(self) -> None:
        """Close what is open. Safe to call twice."""


class Budgets:
    """The budgets of a process, with their ledger."""

    def __init__(
        self, budgets: Sequence[Budget], prices: PriceList, ledger: BudgetLedger, wall: Callable[[], float]
    ) -> None:
        self._budgets = budgets
        self._ledger = ledger
        self._wall = wall
        self.prices = prices
        self.blocks = ledger.blocks

    def claim(
        self, provider: str, model: str, key_id: str, client: str, tokens_in: int, tokens_out: int
    ) -> Claim | None:
        """What a request claims of the budgets; None if it costs nothing or counts in none of them."""
        covering = tuple(budget for budget in self._budgets if budget.covers(provider, client))
        if not covering:
            return None
        rates = self.prices.rates(provider, model, key_id, tokens_in, self._wall())
        if rates is None:
            strict = tuple(budget for budget in covering if not budget.unpriced)
            return Claim(strict, None) if strict else None
        estimate = rates.cost(tokens_in, tokens_out)
        return Claim(covering, estimate) if estimate else None

    def reserve(self, claim: Claim) -> OverBudget | None:
        """See `BudgetLedger.reserve`. A request without a price is refused."""
        if claim.nanousd is None:
            return OverBudget(claim.budgets[0], Use(0, 0, claim.budgets[0].nanousd), None, NEVER)
        return self._ledger.reserve(claim)

    def seconds_until(self, over: OverBudget) -> float:
        """Seconds until it is worth asking again."""
        return max(0.0, over.until - self._wall())

    def end(self, claim: Claim, cost: int | None, recorded: bool = True) -> None:
        """See `BudgetLedger.end`."""
        self._ledger.end(claim, cost, recorded)


def over_budget(claim: Claim, uses: Iterable[Use], wall: float) -> OverBudget | None:
    """The budget that refuses a claim for longest; None if all have room for it."""
    worst: OverBudget | None = None
    assert claim.nanousd is not None
    for budget, use in zip(claim.budgets, uses, strict=True):
        if use.spent + use.held + claim.nanousd > use.limit:
            # What is in flight may cost less than it has reserved.
            later = use.spent + claim.nanousd > use.limit
            until = budget.period(wall).end if later else wall + _SOON
            if worst is None or until > worst.until:
                worst = OverBudget(budget, use, claim.nanousd, until)
    return worst


class ProcessBudgets:
    """The `BudgetLedger` of a process that keeps no usage: what it spends is forgotten with it."""

    blocks = False

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._spent: dict[Budget, tuple[Span, int]] = {}
        self._parts: dict[Budget, tuple[Span, int, int]] = {}
        self._begin()
        at_fork(ForkPhase.LEDGERS, child=self._begin)

    def _begin(self) -> None:
        # Reentrant: a call that is collected ends at any moment, maybe in a thread that holds the lock.
        self._lock = threading.RLock()
        # A child has none of the parent's.
        self._held: Counter[Budget] = Counter()

    def reserve(self, claim: Claim) -> OverBudget | None:
        """See `BudgetLedger.reserve`."""
        wall = self._wall()
        with self._lock:
            uses = [
                Use(self._spent_in(each, wall), self._held[each], self._limit(each, wall)) for each in claim.budgets
            ]
            over = over_budget(claim, uses, wall)
            if over is None:
                self._hold(claim, 1)
            return over

    def end(self, claim: Claim, cost: int | None, recorded: bool) -> None:
        """See `BudgetLedger.end`."""
        with self._lock:
            self._hold(claim, -1)
            self.count(claim, cost, recorded)

    def close(self) -> None:
        """See `BudgetLedger.close`."""

    # For hosts that keep no file, and share their budgets.

    def count(self, claim: Claim, cost: int | None, recorded: bool) -> None:
        """Count what a request cost that others granted; see `BudgetLedger.end`."""
        wall = self._wall()
        with self._lock:
            for budget in claim.budgets:
                self._spent[budget] = (budget.period(wall), self._spent_in(budget, wall) + (cost or 0))

    def spent(self, budget: Budget) -> int:
        """What was spent in the current period, in nano-USD."""
        return self._spent_in(budget, self._wall())

    def allot(self, budget: Budget, part: int, hosts: int) -> None:
        """Note what may be spent in all of the current period, and in how many parts a budget is divided afterwards."""
        self._parts[budget] = (budget.period(self._wall()), part, hosts)

    def _limit(self, budget: Budget, wall: float) -> int:
        period, part, hosts = self._parts.get(budget, (None, 0, 1))
        return part if period == budget.period(wall) else budget.nanousd // hosts

    def _hold(self, claim: Claim, sign: int) -> None:
        for budget in claim.budgets:
            self._held[budget] = max(0, self._held[budget] + sign * (claim.nanousd or 0))

    def _spent_in(self, budget: Budget, wall: float) -> int:
        period, spent = self._spent.get(budget, (None, 0))
        return spent if period == budget.period(wall) else 0
