"""examples/programs: each answers, over simulated providers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hfs_providers.testing import LoopbackServer
from tests import warm
from tests.long import takes_long

PROGRAMS = Path(__file__).parents[2] / "examples" / "programs"
SAID = {
    "agent.py": r"  gpt-oss-120b by cerebras#1\n.*The tool says: \d+",
    "team.py": r"\[cerebras/gpt-oss-120b\] ",
    "stream.py": r"You said: Say hello\.\n.*You said: Count to three\.\n",
    "batch.py": r"40 answers, the last: .*What is 39 plus one\?",
    "budget.py": r"\d answers, then: cerebras/gpt-oss-120b was not asked: \[budgets\] allows \$0\.003000 per hour",
}


@pytest.fixture
def env() -> Iterator[dict[str, str]]:
    with LoopbackServer() as server:
        yield {**os.environ, **server.env({"groq": 2, "cerebras": 1}), "HFS_USAGE_DB": "usage.db"}


def test_each_program_is_tried_and_described() -> None:
    described = set(re.findall(r"^\| `(\S+)`", (PROGRAMS / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert described == {path.name for path in PROGRAMS.iterdir()} - {"README.md"}
    # The last two are tried below.
    assert described - set(SAID) == {"gateway.py", "walkthrough.ipynb"}


@takes_long
@pytest.mark.parametrize("name", list(SAID))
def test_a_program(name: str, env: dict[str, str], tmp_path: Path) -> None:
    env["HFS_USAGE_DB"] = str(tmp_path / "usage.db")
    python = sys.executable if name == "batch.py" else warm.python()
    done = subprocess.run([python, PROGRAMS / name], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(SAID[name], done.stdout, re.DOTALL), done.stdout


@takes_long
def test_the_gateways_program(tmp_path: Path) -> None:
    from tests.gateway.test_serve import serving

    with serving("--demo") as (_, command):
        address = re.search(r"http://127\.0\.0\.1:\d+/v1", command)
        assert address is not None
        done = subprocess.run(
            [warm.python(), PROGRAMS / "gateway.py"],
            env={**os.environ, "GATEWAY": address[0]},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("You said: Say hello.\n")


def test_the_notebook(fresh_manager: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    cells = json.loads((PROGRAMS / "walkthrough.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs")]
    said: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), said)
    out = capsys.readouterr().out
    assert re.search(r"key_cooling: groq#1 .*key_dead: groq#2 .*groq#2 dead invalid_api_key", out, re.DOTALL)
    assert "ServedBy(provider='cerebras'" in out
