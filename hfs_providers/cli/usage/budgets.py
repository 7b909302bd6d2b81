"""How much of each budget is spent, according to the rows of the local file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfs_providers.cli import output, spans
from hfs_providers.cli.usage.chart import COST
from hfs_providers.money.prices import NANO

if TYPE_CHECKING:
    from hfs_providers.usage import UsageReport


def budget_records(report: UsageReport) -> list[dict[str, Any]]:
    """By budget: `name`, `usd`, `per`, `spent_usd` in the current period, and `until` (ISO) when it ends."""
    from hfs_providers.core.config_file import load_file_config
    from hfs_providers.core.settings import Settings
    from hfs_providers.sharing.spending import budgets_spent

    return [
        {
            "name": spent.budget.name,
            "usd": spent.budget.nanousd / NANO,
            "per": spent.budget.per,
            "spent_usd": spent.nanousd / NANO,
            "until": spans.iso(spent.ends),
        }
        for spent in budgets_spent(report, load_file_config(Settings.load())[0].budgets)
    ]


def print_budgets(budgets: list[dict[str, Any]]) -> None:
    """As a table, if there are any."""
    if budgets:
        dollars = [[COST.written(each[name] * NANO) for name in ("spent_usd", "usd")] for each in budgets]
        cells = [
            [each["name"], *amounts, f"per {each['per']}", output.local_time(each["until"])]
            for each, amounts in zip(budgets, dollars, strict=True)
        ]
        print()
        output.print_table("Budgets", ["budget", ">spent", ">of", "", "resets"], cells)
