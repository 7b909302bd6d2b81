"""`hfs-providers capacity`, `manager.capacity()`, and the page that describes them."""

from __future__ import annotations

import json
import re
import shlex
import time
from datetime import datetime
from pathlib import Path

import pytest
import typer

from hfs_providers import MissingKeyError, ProviderManager
from hfs_providers.cli import spans
from hfs_providers.keys import Left, LimitNeed, fingerprint
from hfs_providers.usage import Store, UsageRow
from tests.cli.conftest import Cli
from tests.usage_rows import write

PAGE = (Path(__file__).parents[2] / "docs" / "capacity.md").read_text(encoding="utf-8")
MODEL = "llama-3.3-70b-versatile"
KEYS = [f"gsk_mArKeD{number}0123456789abcdef" for number in (1, 2)]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Two keys, each of which another process has asked 150 times in the last 50 minutes, for 150 tokens."""
    now = time.time()
    rows = []
    for number in range(300):
        key = number % 2
        who = "groq", MODEL, f"groq#{key + 1}", fingerprint(KEYS[key])
        rows.append(UsageRow(now - 10 * (300 - number), *who, 100, 50, 150, 0.1, "ok", 150))
    write(Store(tmp_path / "usage.db"), rows)
    keys = {f"GROQ_API_KEY_{number}": key for number, key in enumerate(KEYS, 1)}
    limits = "rpm=30,tpm=12000,rpd=1000,tpd=100000"
    return {"NUM_GROQ": "2", **keys, "GROQ_LIMITS": limits, "HFS_USAGE_DB": str(tmp_path / "usage.db")}


def test_a_manager_knows_what_all_processes_have_used(env: dict[str, str]) -> None:
    with ProviderManager(env) as manager:
        (found,) = manager.capacity("groq", rate=200, tokens=1500)
        assert [(each.provider, each.model) for each in manager.capacity()] == [("groq", MODEL)]
        with pytest.raises(MissingKeyError):
            manager.capacity("cerebras")
    assert (found.provider, found.model, found.keys, found.tokens) == ("groq", MODEL, 2, 150)
    assert found.rate == pytest.approx(6, rel=0.05)
    assert found.day == Left(1033, 155_000)
    # 155 000 tokens are left, of which 900 are used in a minute.
    assert (found.dry_in, found.limit) == (pytest.approx(155 / 0.9 * 60, rel=0.1), "tpd")
    assert found.needs is not None
    assert found.needs.limits[0] == LimitNeed("rpm", 200, 60)


def test_what_a_process_has_used_itself_counts_where_nothing_is_kept(env: dict[str, str]) -> None:
    with ProviderManager({**env, "HFS_USAGE_DB": "off"}) as manager:
        for _ in range(4):
            manager.wrappers["groq"].pool.acquire(MODEL).commit(500)
        (found,) = manager.capacity()
    assert (found.minute, found.day.tokens, found.tokens) == (Left(44, 22_000), 198_000, 500)


def test_the_table_says_when_it_runs_dry(cli: Cli, env: dict[str, str]) -> None:
    done = cli("capacity", env=env)
    assert re.search(rf"groq +{MODEL} +2 +[56](\.\d+)? +150 .* 1033 \(155k tokens\) .*\d\d:\d\d.* tpd", done.stdout)
    began = time.time()
    (found,) = json.loads(cli("capacity", "--json", env=env).stdout)["capacities"]
    said_at = datetime.fromisoformat(found["dry_at"]).timestamp() - found["dry_in"]
    assert began - 1 <= said_at <= time.time()
    assert "mArKeD" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", re.findall(r"^\$ hfs-providers (.+)$", PAGE, re.MULTILINE))
def test_the_commands_of_the_page_do_what_they_say(cli: Cli, env: dict[str, str], command: str) -> None:
    done = cli(*shlex.split(command), env=env)
    assert done.returncode == 0, done.stderr
    heading, line, *_ = done.stdout.splitlines()[0], done.stdout.splitlines()[2]
    for column in re.findall(r"^\| ([a-z][a-z/ ,]+) \|", PAGE, re.MULTILINE)[1:]:
        assert column.split(", ")[0] in heading
    assert line.startswith("groq")
    if "--rate" in command:
        assert re.search(r"rpm +200 +60 +no", done.stdout)
        assert f"groq {MODEL}: 4318 more keys with such limits would be enough" in done.stdout


def test_the_program_of_the_page_does_what_it_says(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    exec(compile(program, "docs/capacity.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.startswith(f"groq {MODEL} ")
    assert "\nrpm 200 60\n" in shown


@pytest.mark.parametrize(
    ("said", "rate"), [("200/min", 200), ("200", 200), ("5/s", 300), ("600 / h", 10), ("144000/day", 100)]
)
def test_a_rate_is_read(said: str, rate: float) -> None:
    assert spans.per_minute(said, "--rate") == rate


@pytest.mark.parametrize("said", ["", "abc", "5/x", "-1/min", "0", "nan", "inf/s", "/min"])
def test_what_is_no_rate_ends_the_command(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        spans.per_minute(said, "--rate")
    assert "200/min" in capsys.readouterr().err
