"""docs/migrating.md: each program, before and after, answers."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agno.models.message import Message

from hfs_providers import ChainExhaustedError, KeysExhaustedError, ModelCallError, ProviderManager
from hfs_providers.testing import LoopbackServer, Ok, RateLimited, Stall
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


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"groq": 2, "cerebras": 1})) as manager:
        yield manager


def test_every_block_is_a_program_that_is_run() -> None:
    assert len(PROGRAMS) == len(re.findall(r"^```\w", TEXT, re.MULTILINE)) == 9


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in (LITELLM, KEYCYCLE)])
def test_it_answers(name: str, server: LoopbackServer, fresh_manager: None, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "a proxy's client":
        PROGRAMS[name] = PROGRAMS[name].replace('api_key="any"', 'api_key=os.environ["GROQ_API_KEY"]')
    exec(PROGRAMS[name], {})
    expected = "cerebras, groq\ncerebras gpt-oss-120b\n" if name == "two lines" else "Hello there.\n"
    assert capsys.readouterr().out == expected


def test_a_call_appends_its_answer_to_the_messages(server: LoopbackServer, manager: ProviderManager) -> None:
    for model in (manager.get_model("groq"), manager.get_chain("groq", "cerebras")):
        messages = _hello()
        model.response(messages=messages)
        for _ in model.response_stream(messages=messages):
            pass
        asyncio.run(model.aresponse(messages=messages))
        assert [message.role for message in messages] == ["user", *["assistant"] * 3]
    assert "The call appends its answer to this list" in TEXT


def test_where_no_key_is_left_the_errors_are_those_of_the_table(
    server: LoopbackServer, manager: ProviderManager
) -> None:
    for provider in ("groq", "cerebras"):
        server.script(provider, "*", [], then=RateLimited(retry_after=60))
    with pytest.raises(KeysExhaustedError):
        manager.get_model("groq", timeout=0).response(messages=_hello())
    with pytest.raises(ChainExhaustedError, match=r"groq/.*; cerebras/"):
        manager.get_chain("groq", "cerebras", timeout=0).response(messages=_hello())
    assert "| `KeysExhaustedError`; from a chain `ChainExhaustedError`, with the reason of each entry." in TEXT


def test_a_request_has_a_timeout_of_its_own(server: LoopbackServer, manager: ProviderManager) -> None:
    server.script("groq", "*", [], then=Stall())
    model = manager.get_model("groq", timeout=None, request_timeout=0.2, max_retries=0)
    with pytest.raises(ModelCallError, match="timed out"):
        model.response(messages=_hello())
    chain = manager.get_chain("groq", "cerebras", request_timeout=0.2)
    assert chain.response(messages=_hello()).content == "Hello there."
    assert "| `request_timeout=20`, an argument of `get_model` or `get_chain`" in TEXT


def _hello() -> list[Message]:
    return [Message(role="user", content="Say hello.")]


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
