"""docs/agents-serving.md: every command of it does what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.agents.test_serving import SERVER_KEY, Serve, database, env, loopback, needs_postgres, server

__all__ = ["database", "env", "loopback", "server"]  # fixtures

PAGE = (Path(__file__).parents[2] / "docs" / "agents-serving.md").read_text()
BLOCKS = {
    language: re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    for language in ("bash", "python")
}


def block(part: str) -> str:
    [found] = [text for texts in BLOCKS.values() for text in texts if part in text]
    return found


def shell(server: Serve, command: str, **variables: str) -> str:
    own = {**os.environ, "HFS_AGENTS_KEY": SERVER_KEY, **variables}
    here = str(server.client.base_url).rstrip("/")
    command = command.replace("http://127.0.0.1:7777", here)
    done = subprocess.run(["bash", "-ec", command], env=own, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_postgres
def test_the_server_starts_as_described(env: Mapping[str, str]) -> None:
    commands = block("agents serve").splitlines()
    assert commands[-1] == "hfs-providers agents serve"
    exports = "\n".join(commands[:-1])
    assert "export HFS_AGENTS_DB=" in exports
    key = subprocess.run(
        ["bash", "-ec", f'{exports.replace("python", sys.executable)}\necho "$HFS_AGENTS_KEY"'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    served = Serve(env, key)
    try:
        assert served.client.get("/agents").status_code == 200
    finally:
        served.close()


@needs_postgres
@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's commands are for curl, which is not installed")
def test_work_is_given_read_and_cancelled_as_described(server: Serve) -> None:
    submit = block("-F background=true")
    accepted = json.loads(shell(server, submit))
    assert json.loads(shell(server, submit))["run_id"] == accepted["run_id"]
    server.result({**accepted, "role": "executor"})
    names = {"RUN_ID": accepted["run_id"], "SESSION_ID": accepted["session_id"]}
    run = json.loads(shell(server, block("?session_id=$SESSION_ID"), **names))
    assert (run["status"], run["content"]["item_id"], run["content"]["success"]) == ("COMPLETED", "one", True)
    shell(server, block("/cancel"), **names)


@needs_postgres
def test_the_program_prints_the_result(server: Serve) -> None:
    here = {"HFS_AGENTS_SERVER": str(server.client.base_url).rstrip("/"), "HFS_AGENTS_KEY": SERVER_KEY}
    done = subprocess.run(
        [sys.executable, "-c", block("urllib")], env={**os.environ, **here}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("COMPLETED {"), done.stderr
    assert "'item_id': 'two'" in done.stdout


def test_every_command_is_covered_here() -> None:
    kinds = ("pip install", "agents serve", "-F background=true", "?session_id=$SESSION_ID", "/cancel", "urllib")
    covered = [block(part) for part in kinds]
    assert sorted(covered) == sorted(text for texts in BLOCKS.values() for text in texts)
