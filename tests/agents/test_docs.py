"""docs/agents.md: what it shows is what happens."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hfs_providers.agents.contract import AgentHealth, EventKind, WorkItem
from hfs_providers.agents.structures import ROLE_DATA
from tests import warm
from tests.agents.workers import RawWorker

DOCS = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("program", blocks("python"))
def test_the_programs_run(program: str, env: Mapping[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [warm.python(), "-c", program],
        env={**env, "HFS_TIER_CAREFUL": "cerebras,groq"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "True" in done.stdout


@pytest.mark.parametrize("program", blocks("python"))
def test_the_programs_say_what_is_missing_without_a_provider(
    program: str, bare: Mapping[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [warm.python(), "-c", program], env=dict(bare), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "unavailable" in done.stdout


def test_the_commands_run(env: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "work.jsonl").write_text(blocks("json")[0])
    (commands,) = blocks("console")
    for command in commands.splitlines():
        program, *args = shlex.split(command.removeprefix("$ ").replace(" < work.jsonl", ""))
        assert program == "hfs-providers"
        done = subprocess.run(
            [warm.python(), "-m", "hfs_providers", *args],
            env=dict(env),
            cwd=tmp_path,
            input=blocks("json")[0],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (command, done.stderr)
        assert len(done.stdout.splitlines()) >= 2


def shape(value: Any) -> Any:
    """What a message looks like, without what differs from run to run."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__ if isinstance(value, (str, float)) else value


def test_the_conversation_is_what_a_worker_says(env: Mapping[str, str], tmp_path: Path) -> None:
    (conversation,) = blocks("text")
    shown = [(line[:2], json.loads(line[3:])) for line in conversation.splitlines()]
    session = None
    with RawWorker("executor", env, tmp_path) as worker:
        for way, message in shown:
            if way == "->":
                if "session_id" in message["params"]:
                    message["params"]["session_id"] = session
                worker.write(json.dumps(message).encode() + b"\n")
                session = worker.answer_to(message["id"])["result"].get("session_id", session)
        assert worker.wait() == 0
        said = worker.messages
    expected = [message for way, message in shown if way == "<-"]
    assert [message.get("method", message.get("id")) for message in said] == [
        message.get("method", message.get("id")) for message in expected
    ]
    for message in (*said, *expected):
        # A process's own.
        for part in (message.get("result", {}), message.get("params", {})):
            part.pop("pid", None)
    assert [shape(message) for message in said] == [shape(message) for message in expected]


def fields_of(model: type[BaseModel]) -> set[str]:
    """The names of a structure and of those within it."""
    text = json.dumps(model.model_json_schema())
    return {
        *model.model_fields,
        *(name for inner in re.findall(r'"required": \[(.*?)\]', text) for name in inner[1:-1].split('", "')),
    }


def test_the_tables_name_every_field_and_every_event() -> None:
    inner = [name for model in ROLE_DATA for name in (model.__name__, *fields_of(model))]
    for name in (*WorkItem.model_fields, *AgentHealth.model_fields, *EventKind.__args__, *inner):
        assert f"`{name}`" in DOCS
