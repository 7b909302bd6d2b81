"""`hfs-providers keys`, `keys revive` and `keys retire`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hfs_providers import Limits, ProviderManager
from hfs_providers.cli import keys
from hfs_providers.testing import LoopbackServer
from hfs_providers.usage import Store
from tests.cli.conftest import Cli
from tests.usage_rows import row, write

SECRET = "gsk_0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


@pytest.fixture
def env(server: LoopbackServer, tmp_path: Path) -> dict[str, str]:
    keys = server.env({"groq": [SECRET, f"{SECRET}2"], "gemini": 1})
    return {**keys, "HFS_USAGE_DB": str(tmp_path / "usage.db")}


class TestTheTable:
    def test_has_each_key_with_its_state_and_limits(self, cli: Cli, env: dict[str, str]) -> None:
        done = cli("keys", env=env)
        assert done.returncode == 0, done.stderr
        assert re.search(
            r"groq#1 .* ready +- +llama-3.3-70b-versatile +rpm 0/30  tpm 0/12k  rpd 0/1000  tpd 0/100k",
            done.stdout,
        )
        assert re.search(r"gemini#1 .* ready +- .* - +- +GEMINI_API_KEY_1\n", done.stdout)
        assert SECRET not in done.stdout + done.stderr

    def test_can_be_of_one_provider_and_model(self, cli: Cli, env: dict[str, str]) -> None:
        done = cli("keys", "Groq", "--model", "openai/gpt-oss-120b", "--json", env=env)
        (provider,) = json.loads(done.stdout)["providers"]
        assert [key["id"] for key in provider["keys"]] == ["groq#1", "groq#2"]
        (model,) = provider["keys"][0]["models"]
        assert model["model"] == "openai/gpt-oss-120b"
        assert {"per": "day", "unit": "tokens", "used": 0, "limit": 200_000} in model["windows"]

    @pytest.mark.parametrize(
        "args",
        [["Groq", "--json"], ["--json", "groq"], ["groq", "groq", "--json"]],
    )
    def test_takes_providers_as_check_does(self, cli: Cli, env: dict[str, str], args: list[str]) -> None:
        done = cli("keys", *args, env=env)
        assert done.returncode == 0, done.stderr
        assert [provider["name"] for provider in json.loads(done.stdout)["providers"]] == ["groq"]

    def test_takes_several_providers_and_a_model(self, cli: Cli, env: dict[str, str]) -> None:
        done = cli("keys", "--model", "m", "gemini", "groq", "--json", env=env)
        found = json.loads(done.stdout)["providers"]
        assert [provider["name"] for provider in found] == ["gemini", "groq"]
        assert found[0]["keys"][0]["models"][0]["model"] == "m"

    def test_a_provider_that_is_not_there_is_not_shown_again(self, cli: Cli, env: dict[str, str]) -> None:
        done = cli("keys", SECRET, env=env)
        assert done.returncode == 2
        assert SECRET not in done.stdout + done.stderr
        assert "groq, gemini" in done.stderr

    def test_says_what_to_do_where_there_are_no_keys(self, cli: Cli) -> None:
        done = cli("keys")
        assert done.returncode == 1
        assert "Set NUM_" in done.stderr

    def test_of_a_provider_that_is_not_there_is_an_error(self, cli: Cli) -> None:
        assert cli("keys", "grok").returncode == 2

    def test_says_that_without_usage_nothing_is_known_of_others(self, cli: Cli, env: dict[str, str]) -> None:
        said = "Nothing is known of other processes, because usage is not kept: HFS_USAGE_DB is off\n"
        off = {**env, "HFS_USAGE_DB": "off"}
        done = cli("keys", "groq", "--json", env=off)
        assert (len(json.loads(done.stdout)["providers"]), done.stderr) == (1, said)
        assert cli("keys", "groq", env=env).stderr == ""
        # What others know is in Redis.
        assert said not in cli("keys", "groq", env={**off, "HFS_REDIS_URL": "redis://127.0.0.1:1"}).stderr

    def test_shows_the_other_providers_where_one_cannot_be_built(self, cli: Cli, env: dict[str, str], without) -> None:
        done = cli("keys", env={**env, "HIDDEN": "groq"}, path=[without])
        assert "pip install" in done.stderr
        assert "gemini#1" in done.stdout


class TestWhatIsUsed:
    @pytest.fixture
    def manager(self, env: dict[str, str], tmp_path: Path) -> Iterator[ProviderManager]:
        limits = {"GROQ_LIMITS": "rpm=3,rpd=100,tpm=5000", "HFS_USAGE_DB": str(tmp_path / "u.db")}
        with ProviderManager({**env, **limits}) as manager:
            yield manager

    def record(self, manager: ProviderManager, provider: str = "groq", number: int = 1) -> dict:
        return keys._record(manager, provider, None, keys._asked(manager, provider))["keys"][number - 1]

    def test_is_counted_by_window(self, manager: ProviderManager) -> None:
        with manager.wrapper("groq").pool.acquire("llama-3.3-70b-versatile", key_id="groq#1") as lease:
            lease.commit(700)
        (model,) = self.record(manager)["models"]
        assert model["windows"] == [
            {"per": "minute", "unit": "requests", "used": 1, "limit": 3},
            {"per": "minute", "unit": "tokens", "used": 700, "limit": 5000},
            {"per": "day", "unit": "requests", "used": 1, "limit": 100},
        ]
        (other,) = self.record(manager, number=2)["models"]
        assert [window["used"] for window in other["windows"]] == [0, 0, 0]

    @pytest.fixture
    def asked_small(self, manager: ProviderManager, tmp_path: Path) -> None:
        """The first key was used with the model `small` within a day."""
        mark = manager.wrapper("groq").pool.credentials[0].fingerprint
        asked = row(time.time() - 3600, "groq", "small")._replace(fingerprint=mark)
        write(Store(tmp_path / "u.db"), [asked, asked._replace(at=asked.at - 90_000, model="long ago")])

    @pytest.mark.usefixtures("asked_small")
    def test_of_other_models_is_shown_too(self, manager: ProviderManager) -> None:
        assert [model["model"] for model in self.record(manager)["models"]] == ["llama-3.3-70b-versatile", "small"]
        assert len(self.record(manager, number=2)["models"]) == 1

    def test_a_key_whose_allowance_is_used_up_says_when_it_is_free(self, manager: ProviderManager) -> None:
        for _ in range(3):
            with manager.wrapper("groq").pool.acquire("llama-3.3-70b-versatile", key_id="groq#1") as lease:
                lease.commit(1)
        record = self.record(manager)
        assert (record["state"], record["reason"]) == ("limited", "its limits are used up")
        assert 0 < record["free_in"] <= 60
        assert record["until"]

    @pytest.mark.usefixtures("asked_small")
    def test_a_key_that_rests_for_one_model_works_for_the_other(self, manager: ProviderManager) -> None:
        with manager.wrapper("groq").pool.acquire("small", key_id="groq#1") as lease:
            lease.rate_limited(100, reason="told to")
        record = self.record(manager)
        assert record["state"] == "cooling"
        assert [(model["state"], model["reason"]) for model in record["models"]] == [
            ("ready", None),
            ("cooling", "told to"),
        ]

    def test_limits_that_answers_have_shown_count_too(self, server: LoopbackServer) -> None:
        with ProviderManager({**server.env({"cerebras": 1}), "CEREBRAS_MODEL": "m"}) as manager:
            manager.wrapper("cerebras").pool.learn("m", "cerebras#1", Limits(rpd=7))
            (model,) = self.record(manager, "cerebras")["models"]
        assert model["windows"] == [{"per": "day", "unit": "requests", "used": 0, "limit": 7}]

    def test_keys_of_one_account_show_what_they_have_used_together(self, server: LoopbackServer) -> None:
        env = {**server.env({"groq": 2}), "GROQ_ACCOUNT_1": "us", "GROQ_ACCOUNT_2": "us", "GROQ_LIMITS": "rpd=9"}
        with ProviderManager(env) as manager:
            with manager.wrapper("groq").pool.acquire("llama-3.3-70b-versatile", key_id="groq#1") as lease:
                lease.commit(1)
            records = [self.record(manager, number=number) for number in (1, 2)]
        assert [record["models"][0]["windows"][0]["used"] for record in records] == [1, 1]
        assert [record["account"] for record in records] == ["us", "us"]

    def test_what_all_models_share_is_counted_together(self, server: LoopbackServer) -> None:
        with ProviderManager(server.env({"openrouter": 1})) as manager:
            for model in ("a:free", "b:free"):
                with manager.wrapper("openrouter").pool.acquire(model) as lease:
                    lease.commit(1)
            (default, *_) = self.record(manager, "openrouter")["models"]
        assert {"per": "day", "unit": "requests", "used": 2, "limit": 50} in default["windows"]


class TestRuling:
    def test_a_key_is_retired_with_a_reason(self, cli: Cli, env: dict[str, str]) -> None:
        done = cli("keys", "retire", "groq#2", "--reason", "leaked", env=env)
        assert done.returncode == 0, done.stderr
        assert "groq#2 is out of rotation (retired: leaked)." in done.stdout
        assert "remove it from GROQ_API_KEY_" in done.stdout

    def test_a_key_is_revived_by_its_fingerprint(self, cli: Cli, env: dict[str, str]) -> None:
        listed = json.loads(cli("keys", "--json", env=env).stdout)["providers"]
        mark = next(key["fingerprint"] for each in listed for key in each["keys"] if key["id"] == "groq#2")
        done = cli("keys", "revive", mark, "--json", env=env)
        said = json.loads(done.stdout)
        assert (said["id"], said["state"], said["fingerprint"]) == ("groq#2", "ready", mark)

    def test_what_is_ruled_holds_for_the_next_process(self, cli: Cli, env: dict[str, str]) -> None:
        cli("keys", "retire", "groq#1", "--reason", "leaked", env=env)
        (provider,) = json.loads(cli("keys", "groq", "--json", env=env).stdout)["providers"]
        assert [key["state"] for key in provider["keys"]] == ["dead", "ready"]
        assert provider["keys"][0]["reason"] == "retired: leaked"
        cli("keys", "revive", "groq#1", env=env)
        (provider,) = json.loads(cli("keys", "groq", "--json", env=env).stdout)["providers"]
        assert [key["state"] for key in provider["keys"]] == ["ready", "ready"]

    @pytest.mark.parametrize("command", ["revive", "retire"])
    def test_without_a_file_is_refused_since_it_would_be_forgotten(
        self, cli: Cli, env: dict[str, str], command: str
    ) -> None:
        done = cli("keys", command, "groq#2", env={**env, "HFS_USAGE_DB": "off"})
        assert done.returncode == 1
        assert "HFS_USAGE_DB is off" in done.stderr

    def test_a_reason_that_quotes_a_key_does_not_keep_it(self, cli: Cli, env: dict[str, str]) -> None:
        done = cli("keys", "retire", "groq#1", "--reason", f"saw {SECRET} on a forum", env=env)
        assert "saw [groq#1] on a forum" in done.stdout
        assert SECRET not in done.stdout + done.stderr

    @pytest.mark.parametrize("said", ["groq#99", "gemini#2"])
    def test_a_key_that_is_not_there_is_named(self, cli: Cli, env: dict[str, str], said: str) -> None:
        done = cli("keys", "revive", said, env=env)
        assert done.returncode == 2
        assert f"there is no key {said}" in done.stderr


class TestAPastedKey:
    """The naive way, click's own messages, shows each argument that it does not understand."""

    @pytest.mark.parametrize(
        "args",
        [
            ("keys", SECRET),
            ("keys", "revive", SECRET),
            ("keys", "retire", SECRET),
            ("keys", "revive", "groq#1", SECRET),
            ("keys", "retire", "groq#1", SECRET, "--reason", "x"),
            ("keys", "revive", "-" + SECRET),
            ("keys", "revive", f"{SECRET}#1"),
            ("keys", f"--provider={SECRET}x", SECRET),
        ],
        ids=lambda args: " ".join("SECRET" if SECRET in arg else arg for arg in args),
    )
    def test_is_never_shown(self, cli: Cli, env: dict[str, str], args: tuple[str, ...]) -> None:
        done = cli(*args, env=env)
        assert done.returncode == 2
        assert SECRET not in done.stdout + done.stderr
        assert SECRET[-6:] not in done.stdout + done.stderr
