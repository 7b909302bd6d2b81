"""docs/gateway.md: its commands are run, and its tables are compared with the code."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hfs_providers.contract.records import Limits
from hfs_providers.core.config_file import ClientRules, load_file_config
from hfs_providers.core.settings import Settings
from hfs_providers.gateway import app, connection, protocol, refusals, relay, routes, upstream
from hfs_providers.gateway.server import DRAIN_SECONDS
from hfs_providers.money.budgets import Budget
from tests import warm
from tests.gateway.test_serve import serving

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def block(language: str, start: str) -> str:
    """The block of a language that begins so."""
    return next(body for kind, body in BLOCKS if kind == language and body.startswith(start))


@pytest.fixture(scope="module")
def command() -> Iterator[str]:
    """What a gateway with simulated providers prints."""
    with serving("--demo") as (_, command):
        yield command


def test_the_command_that_it_prints_is_the_one_shown(command: str) -> None:
    port = httpx.URL(shlex.split(command)[1]).port
    assert command.replace(f":{port}/", ":8321/") == block("bash", "curl")
    got = subprocess.run(shlex.split(command), capture_output=True, check=True).stdout
    assert "You said: Hello" in json.loads(got)["choices"][0]["message"]["content"]


def test_the_program_prints_two_answers(command: str) -> None:
    port = httpx.URL(shlex.split(command)[1]).port
    program = block("python", "from openai").replace(":8321/", f":{port}/")
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.count("You said: Hello") == 2


def test_the_demo_is_the_command_that_is_shown() -> None:
    assert block("bash", "pip").splitlines() == ["pip install '.[serve]'", "hfs-providers serve --demo"]


def test_clients_are_let_in_as_the_commands_show(tmp_path: Path) -> None:
    program = tmp_path / "hfs-providers"
    program.write_text(f'#!/bin/sh\nexec {warm.python()} -m hfs_providers "$@"\n')
    program.chmod(0o755)
    env = {**os.environ, "HFS_CLIENTS_FILE": str(tmp_path / "clients"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(commands: str) -> str:
        shell = ["bash", "-euc", commands]
        return subprocess.run(shell, env=env, capture_output=True, text=True, check=True).stdout

    *adding, serve = block("bash", "hfs-providers clients add").splitlines()
    assert len(re.findall(r"^hfs_\w{64}$", run("\n".join(adding)), re.MULTILINE)) == 2
    add, ask = block("bash", "TOKEN").splitlines()
    env["TOKEN"] = run(f"{add}\necho $TOKEN").strip()
    with serving(*shlex.split(serve)[2:], "--demo", env=env) as (_, command):
        port = httpx.URL(shlex.split(command)[1]).port
        assert json.loads(run(ask.replace(":8321/", f":{port}/")))["object"] == "list"
    show, revoke = block("bash", "hfs-providers clients\n").splitlines()
    names = [line.split()[0] for line in run(show).splitlines()]
    assert [name for name in names if name in ("web", "ops", "cli")] == ["web", "ops", "cli"]
    run(revoke)
    assert "cli" not in run(show).split()


def test_the_rules_of_a_client_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(block("toml", "[clients.web]"))
    file, problems = load_file_config(Settings.load({"HFS_CONFIG": str(path)}))
    assert problems == []
    assert file.clients == {"web": ClientRules(["groq/*", "tier/careful"], Limits(rpm=60, tpd=2_000_000))}
    assert file.budgets == (Budget("clients.web.budget", 5_000_000_000, "day", client="web"),)


def test_every_endpoint_is_described(command: str) -> None:
    described = set(re.findall(r"`(?:POST|GET) (/[\w/]*\w)`", TEXT))
    url = shlex.split(command)[1].removesuffix("/v1/chat/completions")
    assert described >= {f"/v1/{endpoint}" for endpoint in relay.PASSED_UP}
    for path in described:
        status = httpx.get(f"{url}{path}").status_code
        assert status == (405 if path.removeprefix("/v1/") in relay.PASSED_UP else 200), path


def test_every_error_is_described_with_its_status() -> None:
    table = TEXT[TEXT.index("| status | code |") :]
    described = {
        (int(status), code)
        for statuses, codes in re.findall(r"^\| ([\d, ]+) \| ([^|]+) \|", table, re.MULTILINE)
        for status in statuses.split(", ")
        for code in re.findall(r"`(\w+)`", codes)
    }
    told = {(said.status, said.code) for said in refusals._OF_KIND.values()}
    inside = {(429, "rate_limit_exceeded"), (502, "stream_interrupted"), (500, "internal_error")}
    assert told - inside <= described


def test_the_bounds_are_those_of_the_code() -> None:
    bounds = dict(re.findall(r"^\| ([^|]+) \| ([^|`]+) \|$", TEXT, re.MULTILINE))
    assert bounds["headers"] == f"{protocol.MOST_HEAD // 1024} kB, within {protocol.HEAD_SECONDS:.0f} s"
    assert bounds["body"] == f"{app.MOST_BODY // 2**20} MB, with at most {app._BODY_PATIENCE:.0f} s between its parts"
    framed = f"{protocol.MOST_OF_A_REQUEST // 2**20} MB"
    assert bounds["a chunked body with all that frames it"] == framed
    assert bounds["requests in flight"].replace(" ", "") == str(app.MOST_IN_FLIGHT)
    assert bounds["a model name"] == f"{routes.LONGEST_NAME} characters"
    timeouts = upstream.Upstream()
    assert bounds["until the provider begins its answer"] == f"{timeouts.first_byte_timeout:.0f} s"
    assert bounds["between the parts of its answer"] == f"{timeouts.idle_timeout:.0f} s"
    assert bounds["a client that does not read its answer"] == f"{protocol.STALLED_SECONDS:.0f} s"
    assert f"have {DRAIN_SECONDS} s to end" in TEXT
    assert connection.MOST_ANSWER > app.MOST_BODY
