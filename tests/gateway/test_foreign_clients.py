"""Programs that use the SDKs of others, each in its own language."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.testing import LoopbackServer
from tests.gateway.served import Served

CLIENTS = Path(__file__).parent / "clients"
ROOT = Path(__file__).parents[2]
# Read now: tests run with an environment that has none of our variables.
MODULES = os.environ.get("HFS_TEST_NODE_MODULES")
PYTHON = os.environ.get("HFS_TEST_CLIENTS")
needs_node = pytest.mark.skipif(
    not MODULES, reason="set HFS_TEST_NODE_MODULES to where tests/gateway/clients/package.json is installed"
)
needs_python = pytest.mark.skipif(
    not PYTHON, reason="set HFS_TEST_CLIENTS to a Python that has tests/gateway/clients/requirements.txt"
)
HELLO = "[groq/llama-3.3-70b-versatile] You said: hello"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with LoopbackServer() as server, Served(server.env({"groq": 2, "gemini": 1})) as served:
        yield served


def run(*command: str | Path, folder: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A folder with the programs, where Node finds the packages."""
    assert MODULES is not None
    shutil.copytree(CLIENTS, tmp_path / "clients")
    (tmp_path / "clients" / "node_modules").symlink_to(MODULES)
    return tmp_path / "clients"


@needs_node
def test_openai_for_node(served: Served, node: Path) -> None:
    told = json.loads(run("node", "openai.mjs", f"{served.url}/v1", folder=node))
    assert told == {
        "whole": HELLO,
        "stream": "[gemini/gemini-2.5-flash] You said: hello",
        "usage": told["usage"],
        "tool": {"place": "hello"},
        "schema": {"place": "hello"},
        "embedding": True,
        "responses": HELLO,
        "models": True,
        "error": "NotFoundError 404 model_not_found",
    }
    assert told["usage"] > 0


@needs_node
def test_the_program_of_the_guide(served: Served, node: Path) -> None:
    guide = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```js\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    (node / "hello.mjs").write_text(program.replace("http://127.0.0.1:8321", served.url))
    assert run("node", "hello.mjs", folder=node).count("You said: Hello") == 2


@needs_node
def test_vercels_ai_sdk(served: Served, node: Path) -> None:
    told = json.loads(run("node", "vercel.mjs", f"{served.url}/v1", folder=node))
    assert (told["whole"], told["stream"]) == (HELLO, HELLO)
    assert told["usage"] > 0
    assert told["tool"].endswith("The tool says: seen hello")


@needs_node
def test_compatcanary_has_no_objection(served: Served, node: Path) -> None:
    program = node / "node_modules" / "compatcanary" / "src" / "cli.js"
    options = ["--base-url", f"{served.url}/v1", "--model", "groq", "--format", "json"]
    report: dict[str, Any] = json.loads(run("node", program, "scan", *options))
    assert {probe["status"] for probe in report["results"]} == {"pass"}, report
    assert len(report["results"]) == 7


@needs_python
def test_langchain(served: Served) -> None:
    assert PYTHON is not None
    told = json.loads(run(PYTHON, CLIENTS / "langchain_client.py", f"{served.url}/v1"))
    assert (told["whole"], told["stream"]) == (HELLO, HELLO)
    assert told["usage"] > 0
    assert (told["tool"], told["schema"]) == ({"place": "hello"}, {"place": "hello"})


@needs_python
def test_pydantic_ai(served: Served) -> None:
    assert PYTHON is not None
    told = json.loads(run(PYTHON, CLIENTS / "pydantic_ai_client.py", f"{served.url}/v1"))
    assert (told["whole"], told["stream"], told["schema"]) == (HELLO, HELLO, {"place": "hello"})
    assert told["tool"].endswith("The tool says: seen hello")


@needs_python
def test_llm(served: Served, tmp_path: Path) -> None:
    assert PYTHON is not None
    named = f"- model_id: pool\n  model_name: groq\n  api_base: {served.url}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(named)
    llm = Path(PYTHON).with_name("llm")
    env = {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "unused"}
    assert run(llm, "-m", "pool", "hello", **env).strip() == HELLO
    assert run(llm, "-m", "pool", "hello", "--no-stream", **env).strip() == HELLO
