"""How much of each budget is spent, by the rows of the local file."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hfs_providers.money.budgets import Budget
    from hfs_providers.usage.report import UsageReport


class BudgetSpent(NamedTuple):
    """A budget, what is spent of it in the current period, and when that ends (seconds since the epoch)."""

    budget: Budget
    nanousd: int
    ends: float


def budgets_spent(report: UsageReport, budgets: Iterable[Budget]) -> list[BudgetSpent]:
    """How much of each budget is spent now.

    Raises:
        StoreError: the file cannot be read.
    """
    found = []
    for budget in budgets:
        start, end = budget.period(time.time())
        providers, clients = ([name] if name else [] for name in (budget.provider, budget.client))
        total = report.totals((), since=start, providers=providers, clients=clients).total
        found.append(BudgetSpent(budget, total.cost_nanousd, end))
    return found
