"""`hfs-providers demo`."""

from __future__ import annotations

import json

from hfs_providers.cli.demo.report import collect
from hfs_providers.cli.demo.runs import Runs
from hfs_providers.cli.demo.stage import Stage
from hfs_providers.testing import LoopbackServer
from tests.long import takes_long

PROVIDERS = ["cerebras", "groq", "gemini", "openrouter"]


def _keys() -> list[str]:
    # A fresh server makes up the same keys each time.
    return [value for name, value in LoopbackServer().env(dict(Stage.PROVIDERS)).items() if "_API_KEY_" in name]


def _without_times(report):
    report.pop("seconds")
    for key in report["keys"]:
        key.pop("mean_ms")
    return report


def test_json(cli):
    done = cli("demo", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["providers"] == PROVIDERS
    assert (report["runs"], report["answered"], report["errors"], report["skipped"]) == (60, 60, [], [])
    assert report["check"]["equal"]
    assert report["check"]["server"] == report["check"]["recorded"]
    assert sum(answered for _, answered in report["check"]["server"].values()) >= 60
    kinds = {agent["agent"].partition(", ")[2] for agent in report["agents"]}
    assert kinds == {"sync", "stream", "tool", "async", ""}
    for provider in PROVIDERS:
        states = [key["state"] for key in report["keys"] if key["provider"] == provider]
        assert {"dead", "cooling"} <= set(states)
    for key in report["keys"]:
        assert list(key) == [
            "provider",
            "key",
            "plays",
            "sent",
            "ok",
            "rotations",
            "state",
            "reason",
            "tokens",
            "mean_ms",
        ]
        assert key["sent"] == key["ok"] + key["rotations"]
        assert (key["reason"] is None) == (key["state"] == "ready")


def test_print_says_what_is_simulated_at_both_ends_and_shows_no_key(cli):
    done = cli("demo")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == lines[-1]
    assert "simulated" in lines[0]
    assert "60 of 60 runs were answered" in done.stdout
    assert "so did we, key by key" in done.stdout
    assert "\x1b" not in done.stdout
    for key in _keys():
        body = key.rpartition("-")[2].rpartition("_")[2].removeprefix("AIza")
        assert not [start for start in range(len(body) - 5) if body[start : start + 6] in done.stdout]


@takes_long
def test_same_seed_same_play_and_nothing_of_the_user_counts(cli, tmp_path):
    def play(seed, **env):
        return _without_times(json.loads(cli("demo", "--json", "--calls", "8", "--seed", seed, env=env).stdout))

    first, other = play("2"), play("3")
    (tmp_path / ".env").write_text("GROQ_API_KEY=gsk_users\n")
    (tmp_path / "hfs-providers.toml").write_text('order = ["gemini"]\n')
    second = play("2", GROQ_MODEL="users", HTTP_PROXY="http://127.0.0.1:9", HFS_DISABLED_PLUGINS="groq")
    assert first == second
    assert [key["plays"] for key in first["keys"]] != [key["plays"] for key in other["keys"]]
    assert (second["runs"], second["answered"], second["providers"]) == (8, 8, PROVIDERS)
    assert "users" not in json.dumps(second)


def test_provider_without_sdk_is_skipped_with_its_command(cli, without):
    done = cli("demo", "--json", "--calls", "9", env={"HIDDEN": "groq openai"}, path=[without])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["providers"] == ["cerebras", "gemini"]
    assert {entry["provider"]: entry["remedy"] for entry in report["skipped"]} == {
        "groq": "pip install 'hfs-providers[groq]'",
        "openrouter": "pip install 'hfs-providers[openrouter]'",
    }


@takes_long
def test_provider_with_a_broken_sdk_is_skipped_with_its_own_error(cli, tmp_path):
    (tmp_path / "broken" / "cerebras").mkdir(parents=True)
    (tmp_path / "broken" / "cerebras" / "__init__.py").write_text("raise RuntimeError('libfoo is missing')")
    done = cli("demo", "--json", "--calls", "8", path=[tmp_path / "broken"])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["providers"] == ["groq", "gemini", "openrouter"]
    (skipped,) = report["skipped"]
    assert "libfoo is missing" in skipped["reason"]
    assert skipped["remedy"] == "hfs-providers doctor"


def test_without_any_sdk_exit_code_1_with_the_command(cli, without):
    done = cli("demo", env={"HIDDEN": "groq cerebras-cloud-sdk openai google-genai"}, path=[without])
    assert done.returncode == 1
    assert "pip install 'hfs-providers[all]'" in done.stderr


def test_counts_that_differ_are_noticed():
    from hfs_providers import ProviderManager

    with (
        Stage(1) as stage,
        ProviderManager(env={**stage.env, "HFS_DISABLED_PLUGINS": "cerebras,gemini,openrouter"}) as manager,
    ):
        runs = Runs(manager, stage, ["groq"], print)
        remove = manager.observe(runs.observe)
        runs.play(3)
        remove()
        assert collect(manager, stage, runs)["check"]["equal"]
        runs.rows.pop()
        assert not collect(manager, stage, runs)["check"]["equal"]
