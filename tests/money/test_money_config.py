"""What the TOML file says of money, and what it may not say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfs_providers import Limits
from hfs_providers.core.inventory import Inventory, take_inventory
from hfs_providers.money.budgets import Budget
from hfs_providers.money.prices import load_prices

ACME = {"NUM_ACME": "2", "ACME_API_KEY_1": "key-one-of-acme", "ACME_API_KEY_2": "key-two-of-acme"}
Read = Callable[..., Inventory]


@pytest.fixture
def read(fake_provider: Callable[..., Any]) -> Read:
    def run(text: str, **fields: Any) -> Inventory:
        Path("hfs-providers.toml").write_text(text, encoding="utf-8")
        return take_inventory(ACME, plugins=[fake_provider("acme", **fields)])

    return run


load_prices()


def cost(found: Inventory, model: str = "large", key: int = 1, tokens: int = 1_000_000) -> int | None:
    rates = found.price_list().rates("acme", model, f"acme#{key}", tokens, 0.0)
    return rates.cost(tokens, tokens) if rates is not None else None


def test_prices_by_model_and_by_pattern(read: Read) -> None:
    found = read('[prices."acme/large"]\ninput = 1\noutput = 2.5\n[prices."acme/*"]\ninput = 0.5\noutput = 0')
    assert (found.problems, cost(found), cost(found, "small")) == ((), 3_500_000_000, 500_000_000)


def test_a_provider_or_a_key_that_costs_nothing(read: Read) -> None:
    prices = '[prices."acme/*"]\ninput = 1\noutput = 1\n'
    assert cost(read(f"{prices}[providers.acme]\nfree = true")) == 0
    found = read(f"{prices}[providers.ACME.keys.2]\nfree = true\n[providers.ACME.keys.2.large]\nrpm = 7")
    assert (cost(found, key=1), cost(found, key=2)) == (2_000_000_000, 0)
    assert found.providers["acme"].config.key_limits == {"acme#2": {"large": Limits(rpm=7)}}


def test_budgets_of_all_of_a_provider_and_of_a_client(read: Read) -> None:
    found = read(
        '[budgets]\nusd = 5\nper = "month"\n[providers.ACME.budget]\nusd = 0.5\nper = "day"\n'
        '[clients.Web.budget]\nusd = 0\nper = "hour"\nunpriced = "allow"'
    )
    assert found.problems == ()
    assert found.file.budgets == (
        Budget("budgets", 5_000_000_000, "month"),
        Budget("providers.acme.budget", 500_000_000, "day", provider="acme"),
        Budget("clients.Web.budget", 0, "hour", client="Web", unpriced=True),
    )


def test_a_plugin_says_under_which_name_its_prices_are_published(read: Read) -> None:
    assert cost(read("", price_id="openai"), "gpt-4o") == 12_500_000_000
    assert cost(read(""), "gpt-4o") is None


def test_budgets_without_any_price_are_a_problem(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hfs_providers.core.inventory.find_spec", lambda name: None)
    budget = '[budgets]\nusd = 1\nper = "day"\n'
    (problem,) = read(budget).problems
    assert problem.remedy is not None
    assert "pip install 'hfs-providers[prices]'" in problem.remedy
    assert read(f'{budget}[prices."acme/*"]\ninput = 1\noutput = 1').problems == ()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[prices.'acme/m']\ninput = 'much'\noutput = 1", "prices.acme/m.input"),
        ("[prices.'acme/m']\ninput = -1\noutput = 1", "prices.acme/m.input"),
        ("[prices.'acme/m']\ninput = nan\noutput = 1", "prices.acme/m.input"),
        ("[prices.'acme/m']\ninput = 1\noutput = inf", "prices.acme/m.output"),
        ("[prices.'acme/m']\ninput = 1\noutput = true", "prices.acme/m.output"),
        ("[prices.'acme/m']\ninput = 1", "prices.acme/m.output"),
        ("[prices.'acme/m']\ninput = 1\noutput = 1\ncahced = 1", "prices.acme/m.cahced"),
        ("prices = 5", "prices"),
        ("[budgets]\nusd = -1\nper = 'day'", "budgets.usd"),
        ("[budgets]\nusd = '1'\nper = 'day'", "budgets.usd"),
        ("[budgets]\nusd = 1\nper = 'fortnight'", "budgets.per"),
        ("[budgets]\nusd = 1", "budgets.per"),
        ("[budgets]\nusd = 1\nper = 'day'\nunpriced = 'perhaps'", "budgets.unpriced"),
        ("[providers.acme.budget]\neur = 1\nper = 'day'", "providers.acme.budget.usd"),
        ("[clients.web.budget]\nusd = 1\nper = 'day'\nmax = 1", "clients.web.budget.max"),
        ("[providers.acme]\nfree = 'perhaps'", "providers.acme.free"),
        ("[providers.acme.keys.1]\nfree = 'perhaps'", "providers.acme.keys.1.free"),
    ],
)
def test_what_cannot_be_read_is_a_problem_with_its_remedy(read: Read, text: str, where: str) -> None:
    problem = read(text).problems[0]
    assert f"hfs-providers.toml: {where}: " in problem.message
    assert problem.remedy
    assert problem.level == "error"
