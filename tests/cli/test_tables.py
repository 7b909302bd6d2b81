"""Tables in narrow terminals: columns give way, words stay whole."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.text import Text

from hfs_providers import ProviderManager
from hfs_providers.cli.table import Column, lines
from hfs_providers.testing import LoopbackServer, PaymentRequired, RateLimited, Unauthorized
from hfs_providers.usage import Store
from tests.cli.conftest import Cli
from tests.usage_rows import row, write

ROWS = [["groq#1", "20f27d34", "invalid_api_key: it was refused", "3"], ["openrouter#12", "dd43f8c7", "-", "12"]]


def drawn(width: int, *columns: Column | str, rows: list[list[str]] = ROWS) -> list[str]:
    cells = [[Text(cell) for cell in each] for each in rows]
    return [line.plain.replace("─", "-") for line in lines([Column.of(each) for each in columns], cells, width)]


class TestOneTable:
    def test_has_all_columns_where_there_is_room(self) -> None:
        assert drawn(80, "key", Column("fingerprint", give=1), "reason", ">n") == [
            "key             fingerprint   reason                             n",
            "------------------------------------------------------------------",
            "groq#1          20f27d34      invalid_api_key: it was refused    3",
            "openrouter#12   dd43f8c7      -                                 12",
        ]

    def test_leaves_out_what_gives_way_first(self) -> None:
        found = drawn(60, "key", Column("fingerprint", give=1), Column("reason", give=2, how="below"), ">n")
        assert found[0].split() == ["key", "reason", "n"]

    def test_puts_a_reason_below_its_row(self) -> None:
        assert drawn(40, "key", Column("fingerprint", give=2), Column("reason", give=1, how="below"), ">n") == [
            "key             fingerprint    n",
            "--------------------------------",
            "groq#1          20f27d34       3",
            "    invalid_api_key: it was refused",
            "openrouter#12   dd43f8c7      12",
        ]

    def test_breaks_between_words(self) -> None:
        found = drawn(60, "key", "fingerprint", Column("reason", give=1, how="wrap"), ">n")
        assert found[2:4] == [
            "groq#1          20f27d34      invalid_api_key: it was      3",
            "                              refused",
        ]

    def test_what_was_broken_takes_the_room_that_another_leaves(self) -> None:
        found = drawn(60, "key", Column("fingerprint", give=2), Column("reason", give=1, how="wrap"), ">n")
        assert "invalid_api_key: it was" in found[2]

    @pytest.mark.parametrize("width", [1, 5, 20])
    def test_is_never_wider_than_there_is_room_for_a_character_a_column(self, width: int) -> None:
        found = drawn(width, "key", "fingerprint", "reason", ">n")
        assert max(map(len, found)) <= max(width, 4 + 3 * 3)

    def test_counts_wide_characters_as_two(self) -> None:
        found = drawn(80, "model", ">n", rows=[["日本", "1"], ["abcd", "2"]])
        assert found[2:] == ["日本    1", "abcd    2"]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Keys in every state, and usage of all four providers."""
    path = tmp_path_factory.mktemp("tables") / "usage.db"
    with LoopbackServer() as server:
        env = {**server.env({"cerebras": 2, "groq": 3, "gemini": 2, "openrouter": 12}), "HFS_USAGE_DB": str(path)}
        server.script("groq", env["GROQ_API_KEY_2"], [], then=Unauthorized())
        server.script("gemini", env["GEMINI_API_KEY_2"], [], then=RateLimited(retry_after=90_000))
        server.script("openrouter", env["OPENROUTER_API_KEY_12"], [], then=PaymentRequired())
        with ProviderManager(env) as manager:
            default = {name: manager.default_model(name) for name in manager.wrappers}
        rows = [
            row(time.time() - 60 - number * 1800, name, model, outcome=outcome, tokens=123_456)
            for name, model in default.items()
            for number, outcome in enumerate(["ok", "rate_limited", "server_error"])
        ]
        write(Store(Path(env["HFS_USAGE_DB"])), rows)
        yield env


@pytest.fixture(scope="module")
def printed() -> dict[tuple[str, ...], str]:
    """What commands printed without a terminal; each is run once."""
    return {}


@pytest.fixture
def wide(cli: Cli, env: dict[str, str], printed: dict[tuple[str, ...], str]) -> Callable[..., str]:
    """What a command prints without a terminal."""

    def run(*command: str) -> str:
        if command not in printed:
            printed[command] = cli(*command, env=env).stdout
        return printed[command]

    return run


COMMANDS = [
    ["status"],
    ["plugins"],
    ["models"],
    ["check", "--dry-run"],
    ["check"],
    ["keys"],
    ["usage"],
    ["usage", "--by", "provider,model,outcome"],
]
WHOLE = re.compile(
    r"openrouter#12|llama-3\.3-70b-versatile|meta-llama/llama-3\.3-70b-instruct:free|cerebras-cloud-sdk|invalid_api_key"
    r"|default_model|rate_limited|rpd 0/1000"
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("width", [80, 100, 120])
def test_every_table_fits_and_keeps_its_words(
    cli: Cli, env: dict[str, str], wide: Callable[..., str], command: list[str], width: int
) -> None:
    narrow = cli(*command, env={**env, "COLUMNS": str(width)}).stdout
    # Remedies are not wrapped, so that a command can be copied whole.
    tables = narrow.partition("\nProblems")[0]
    assert max(len(line) for line in tables.splitlines() if "usage.db" not in line) <= width
    dropped = {"cerebras-cloud-sdk"} if command == ["status"] else set()
    assert set(WHOLE.findall(wide(*command))) - dropped <= set(WHOLE.findall(narrow))


@pytest.mark.parametrize("command", [["keys"], ["check"]], ids=" ".join)
def test_in_a_pipe_every_row_is_one_line(wide: Callable[..., str], command: list[str]) -> None:
    assert re.search(r"^groq#2 .* dead .*invalid_api_key", wide(*command), re.MULTILINE)


def test_the_headings_of_usage_name_what_they_count(wide: Callable[..., str]) -> None:
    headings = r"provider +model +requests +failed +tokens in +cached +tokens out +tokens +mean ms\n"
    assert re.search(headings, wide("usage"))


@pytest.mark.parametrize("command", [["keys"], ["check"]], ids=" ".join)
def test_when_a_key_is_free_has_its_heading(wide: Callable[..., str], command: list[str]) -> None:
    assert "free at" in wide(*command).splitlines()[0]


@pytest.mark.parametrize("command", [["agents", "run"], ["agents", "worker"]], ids=" ".join)
def test_the_help_of_agents_breaks_no_role(cli: Cli, command: list[str]) -> None:
    shown = cli(*command, "-h", env={"COLUMNS": "80"}).stdout
    assert all(role in shown for role in ("orchestrator", "optimizer", "reviewer", "executor"))


def test_findings_break_between_words_and_remedies_not_at_all(cli: Cli) -> None:
    env = {"GROQ_API_KEY_1": "gsk_0123456789abcdef", "HFS_PROVIDER_ORDER": "grok,groq", "COLUMNS": "60"}
    found = cli("status", env=env).stdout.partition("\nProblems\n")[2].splitlines()
    assert "warning  HFS_PROVIDER_ORDER names 'grok', which is not" in found
    assert "         installed. Did you mean 'groq'?" in found
    assert any(line.startswith("         remedy: Use some of: ") and len(line) > 60 for line in found)
