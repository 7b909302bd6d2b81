"""docs/migrating.md: each program, before and after, answers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hfs_providers.testing import LoopbackServer, Ok
from tests import warm
from tests.long import takes_long

TEXT = (Path(__file__).parents[1] / "docs" / "migrating.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"^```python\n# ([^\n]*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
LITELLM, KEYCYCLE = "LiteLLM: before", "keycycle: before"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    with LoopbackServer(answer=lambda _: Ok("Hello there.")) as server:
        env = server.env({"groq": 2, "cerebras": 1})
        groq = env["GROQ_BASE_URL"]
        keys = {"GROQ_API_KEY": env["GROQ_API_KEY_1"], "CEREBRAS_API_KEY": env["CEREBRAS_API_KEY_1"]}
        client = {"OPENAI_BASE_URL": f"{groq}/openai/v1", "OPENAI_MODEL": "m", "GROQ_API_BASE": f"{groq}/openai/v1"}
        for name, value in (env | client | keys).items():
            monkeypatch.setenv(name, value)
        yield server


def test_every_block_is_a_program_that_is_run() -> None:
    assert len(PROGRAMS) == len(re.findall(r"^```\w", TEXT, re.MULTILINE)) == 9


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in (LITELLM, KEYCYCLE)])
def test_it_answers(name: str, server: LoopbackServer, fresh_manager: None, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "a proxy's client":
        PROGRAMS[name] = PROGRAMS[name].replace('api_key="any"', 'api_key=os.environ["GROQ_API_KEY"]')
    exec(PROGRAMS[name], {})
    expected = "cerebras, groq\ncerebras gpt-oss-120b\n" if name == "two lines" else "Hello there.\n"
    assert capsys.readouterr().out == expected


@takes_long
def test_what_keycycle_did(server: LoopbackServer, tmp_path: Path) -> None:
    assert _said([warm.python()], PROGRAMS[KEYCYCLE]) == "Hello there."


@takes_long
def test_what_litellm_did(server: LoopbackServer) -> None:
    pytest.importorskip("litellm", reason="pip install litellm")
    assert _said([sys.executable], PROGRAMS[LITELLM]) == "Hello there."


def _said(python: list[str], program: str) -> str:
    done = subprocess.run([*python, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]
