"""`hfs-providers check`: which keys are alive, through the real SDKs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hfs_providers.testing import (
    LoopbackServer,
    PaymentRequired,
    RateLimited,
    Raw,
    Reset,
    ServerError,
    Stall,
    Step,
    Unauthorized,
)
from tests import warm
from tests.cli.conftest import Cli

# As many keys as a stranger may have.
KEYS = {"cerebras": 16, "groq": 52, "gemini": 30, "openrouter": 110}
PARTS: Mapping[str, tuple[Step | None, str]] = {
    "good": (None, "works"),
    "refused": (Unauthorized(echo_key=True), "dead"),
    "unpaid": (PaymentRequired(echo_key=True), "dead"),
    "limited": (RateLimited(retry_after=900, echo_key=True), "limited"),
    "failing": (ServerError(503, echo_key=True), "unknown"),
    "reset": (Reset(), "unknown"),
    "silent": (Stall(60), "unknown"),
}
# By number modulo its length: every second key is good.
ROUND = ("good", "refused", "good", "limited", "good", "unpaid", "good", "failing", "good", "reset", "good", "limited")


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


def play(server: LoopbackServer, env: Mapping[str, str], key_id: str, part: str) -> None:
    provider, _, number = key_id.partition("#")
    server.script(provider, env[f"{provider.upper()}_API_KEY_{number}"], [], then=PARTS[part][0])


def keys_of(env: Mapping[str, str]) -> list[str]:
    return [value for name, value in env.items() if "_API_KEY_" in name]


def test_what_an_sdk_logs_is_kept_out(cli: Cli, server: LoopbackServer) -> None:
    env = server.env({"gemini": 1})
    server.script("gemini", env["GEMINI_API_KEY_1"], [], then=Raw(200, {"error": {"code": 429}}))
    done = cli("check", env=env)
    assert "gemini#1" in done.stdout
    assert "Cannot determine" not in done.stdout + done.stderr


class TestAStrangersKeys:
    def test_are_told_apart_every_one(self, cli: Cli, server: LoopbackServer, tmp_path: Path) -> None:
        env = server.env(KEYS)
        parts = {
            f"{provider}#{number}": "silent" if number == 7 else ROUND[number % len(ROUND)]
            for provider, count in KEYS.items()
            for number in range(1, count + 1)
        }
        for key_id, part in parts.items():
            play(server, env, key_id, part)
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
        done = cli("check", "--json", "--timeout", "6")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        found = {key["id"]: key for provider in report["providers"] for key in provider["keys"]}
        assert {key_id: key["outcome"] for key_id, key in found.items()} == {
            key_id: PARTS[part][1] for key_id, part in parts.items()
        }
        assert report["complete"]
        expected = [PARTS[part][1] for part in parts.values()]
        assert report["totals"] == {
            "keys": 208,
            **{outcome: expected.count(outcome) for outcome in ("works", "limited", "dead", "unknown")},
            "untried": 0,
        }
        for key_id, key in found.items():
            if parts[key_id] == "limited":
                until = datetime.fromisoformat(key["until"]) - datetime.now().astimezone()
                assert timedelta(minutes=10) < until < timedelta(minutes=16)
            assert (key["reason"] is None) == (parts[key_id] == "good")
        for secret in keys_of(env):
            assert secret not in done.stdout + done.stderr
            assert not re.search(rf"\*+{re.escape(secret[-4:])}", done.stdout)


class TestTheExitCode:
    def test_is_0_where_each_provider_has_a_key_that_works(self, cli: Cli, server: LoopbackServer) -> None:
        env = server.env({"groq": 2, "openrouter": 1})
        play(server, env, "groq#1", "refused")
        done = cli("check", env=env)
        assert done.returncode == 0
        assert re.search(r"groq#1 .* dead .* invalid_api_key", done.stdout)
        assert re.search(r"all +3 +2 +0 +1 +0 +0 ", done.stdout)

    def test_is_1_where_a_provider_has_none(self, cli: Cli, server: LoopbackServer) -> None:
        env = server.env({"groq": 1, "openrouter": 1, "gemini": 1})
        play(server, env, "groq#1", "limited")
        play(server, env, "gemini#1", "refused")
        done = cli("check", env=env)
        assert done.returncode == 1
        assert "no key works: groq, gemini" in done.stderr

    def test_is_that_of_the_providers_named(self, cli: Cli, server: LoopbackServer) -> None:
        env = server.env({"groq": 1, "openrouter": 1})
        play(server, env, "groq#1", "refused")
        assert cli("check", "openrouter", env=env).returncode == 0
        assert cli("check", "Groq", env=env).returncode == 1

    def test_is_2_for_a_provider_that_is_not_there(self, cli: Cli) -> None:
        done = cli("check", "grok")
        assert done.returncode == 2
        assert "Did you mean 'groq'?" in done.stderr

    def test_is_1_with_the_first_step_where_there_are_no_keys(self, cli: Cli) -> None:
        done = cli("check")
        assert done.returncode == 1
        assert "Set NUM_" in done.stderr
        assert cli("check", "groq").returncode == 1

    def test_a_missing_sdk_is_said_and_the_others_are_tried(
        self, cli: Cli, server: LoopbackServer, without: Path
    ) -> None:
        env = {**server.env({"groq": 1, "openrouter": 1}), "HIDDEN": "groq"}
        done = cli("check", "--json", env=env, path=[without])
        assert done.returncode == 1
        groq, openrouter = json.loads(done.stdout)["providers"]
        assert "pip install" in groq["error"]
        assert (groq["totals"]["untried"], openrouter["totals"]["works"]) == (1, 1)


def test_what_was_found_is_known_to_the_next_process(cli: Cli, server: LoopbackServer, tmp_path: Path) -> None:
    env = {**server.env({"groq": 3}), "HFS_USAGE_DB": str(tmp_path / "usage.db")}
    play(server, env, "groq#1", "refused")
    play(server, env, "groq#2", "limited")
    cli("check", env=env)
    (provider,) = json.loads(cli("keys", "--json", env=env).stdout)["providers"]
    assert [key["state"] for key in provider["keys"]] == ["dead", "cooling", "ready"]


class TestDryRun:
    def test_says_what_it_would_cost_and_sends_nothing(self, cli: Cli, server: LoopbackServer) -> None:
        env = server.env({"groq": 3, "openrouter": 2})
        done = cli("check", "--dry-run", env=env)
        assert done.returncode == 0
        assert "At most 5 requests and about 0 tokens. Nothing was sent." in done.stdout
        assert re.search(r"openrouter +2 +2 +0 +GET /key", done.stdout)
        assert server.connections == 0

    def test_counts_the_tokens_where_they_are_asked_for(self, cli: Cli, server: LoopbackServer) -> None:
        done = cli("check", "--dry-run", "--ask", "--json", env=server.env({"groq": 3}))
        costs = json.loads(done.stdout)
        assert (costs["requests"], costs["tokens"]) == (3, 48)
        assert costs["providers"][0]["proof"] == "one token of llama-3.3-70b-versatile"
        assert server.connections == 0


def test_one_token_is_asked_for_on_request(cli: Cli, server: LoopbackServer) -> None:
    assert cli("check", "--ask", env=server.env({"groq": 2})).returncode == 0
    assert sum(server.answered("groq").values()) == 2


def test_ctrl_c_leaves_what_was_found_so_far(server: LoopbackServer, bare_env: dict[str, str], tmp_path: Path) -> None:
    env = server.env({"groq": 36})
    for number in range(33, 37):
        play(server, env, f"groq#{number}", "silent")
    program = [warm.python(), "-m", "hfs_providers", "check", "--json"]
    with subprocess.Popen(
        program, env={**bare_env, **env}, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        # No more than 32 at a time: where the last four were asked, four have their results.
        wait_for(lambda: len(server.seen) == 36)
        os.kill(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=60)
    report = json.loads(out)
    assert not report["complete"]
    assert report["totals"]["works"] >= 4
    assert report["totals"]["untried"] >= 4
    assert running.returncode == 130
    assert "Interrupted" in err
    assert "Traceback" not in err


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
