"""docs/money.md: its tables are read as it says, and its commands show what it says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agno.models.message import Message

from hfs_providers.core.inventory import take_inventory
from hfs_providers.testing import LoopbackServer
from hfs_providers.usage import Store
from tests.cli.conftest import Cli
from tests.usage_rows import row, write

TEXT = (Path(__file__).parents[2] / "docs" / "money.md").read_text()
TABLES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
(PROGRAM,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"^\$ hfs-providers (.*)", TEXT, re.MULTILINE)


def test_the_tables_say_what_is_written_beside_them(fake_provider: Callable[..., Any]) -> None:
    Path("hfs-providers.toml").write_text("\n".join(TABLES))
    plugins = [fake_provider(name) for name in ("acme", "cerebras", "groq", "openrouter")]
    found = take_inventory({}, plugins=plugins)
    assert [problem for problem in found.problems if problem.level == "error"] == []
    assert [(each.name, each.nanousd, each.per, each.unpriced) for each in found.file.budgets] == [
        ("budgets", 20_000_000_000, "month", False),
        ("providers.openrouter.budget", 1_500_000_000, "day", False),
        ("clients.web.budget", 250_000_000, "hour", True),
    ]
    prices, tokens = found.price_list(), 1_000_000

    def cost(provider: str, model: str, key: int, *counts: int) -> int:
        rates = prices.rates(provider, model, f"{provider}#{key}", tokens, 0.0)
        assert rates is not None
        return rates.cost(tokens, *counts)

    assert cost("groq", "llama-3.3-70b-versatile", 1, tokens, tokens // 2) == 1_236_000_000
    assert cost("acme", "large", 1, tokens, tokens) == 500_000_000
    assert cost("groq", "llama-3.3-70b-versatile", 2, tokens) == 0
    assert cost("cerebras", "llama-3.3-70b", 1, tokens) == 0


def test_the_chain_goes_on_with_what_is_free(fresh_manager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("hfs-providers.toml").write_text('[budgets]\nusd = 0\nper = "day"\n')
    with LoopbackServer() as server:
        for name, value in server.env({"groq": 1, "openrouter": 1}).items():
            monkeypatch.setenv(name, value)
        said: dict[str, Any] = {}
        exec(PROGRAM, said)
        chain = said["chain"]
        chain.response(messages=[Message(role="user", content="What is left?")])
        assert (chain.served_by.provider, server.hits("groq")) == ("openrouter", {})


def test_the_cost_comes_with_what_is_spent_of_the_budgets(cli: Cli, tmp_path: Path) -> None:
    path, now = tmp_path / "usage.db", time.time()
    Path("hfs-providers.toml").write_text("\n".join(TABLES))
    spent = row(now, "openrouter")._replace(cost_nanousd=500_000_000)
    write(Store(path), [spent, spent._replace(client="web"), spent._replace(at=now - 86_400 * 40, provider="groq")])
    args = ("usage", "--cost", "--provider", "nobody")
    done = cli(*args, env={"HFS_USAGE_DB": str(path), "TZ": "UTC"})
    assert re.search(r"budgets +\$1\.0000 +\$20\.0000 +per month +\w+", done.stdout), done.stderr
    assert re.search(r"providers\.openrouter\.budget +\$1\.0000 +\$1\.5000 +per day +\w+", done.stdout)
    assert re.search(r"clients\.web\.budget +\$0\.5000 +\$0\.2500 +per hour +\w+", done.stdout)
    said = json.loads(cli(*args, "--json", env={"HFS_USAGE_DB": str(path)}).stdout)["budgets"]
    assert [each["spent_usd"] for each in said] == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_dollars_and_what_has_no_price(cli: Cli, tmp_path: Path, command: str) -> None:
    path, now = tmp_path / "usage.db", time.time()
    priced = [row(now - 60)._replace(cost_nanousd=2_500_000_000) for _ in range(5)]
    write(Store(path), [*priced, row(now - 60, "acme", "new")])
    done = cli(*command.split(), env={"HFS_USAGE_DB": str(path), "TZ": "UTC"})
    assert done.returncode == 0, done.stderr
    assert re.search(r" cost +unpriced", done.stdout)
    assert re.search(r"\$12\.5000 +[01] ", done.stdout)
    assert "Without a price: 1 of 6 requests" in done.stderr
    if "--plot" in command:
        assert "Cost by day" in (tmp_path / "cost.svg").read_text()
