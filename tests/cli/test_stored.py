"""What `status` and `doctor` say of keys that the usage file knows to be dead, retired or waiting."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hfs_providers import ProviderManager
from hfs_providers.core.inventory import take_inventory
from hfs_providers.dashboard.stored_keys import stored_statuses
from tests.cli.conftest import Cli
from tests.usage_rows import row, write

MODEL = "llama-3.3-70b-versatile"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    keys = {f"GROQ_API_KEY_{number}": f"gsk_markedkey{number}0123456789" for number in (1, 2, 3)}
    return {"NUM_GROQ": "3", **keys, "HFS_USAGE_DB": str(tmp_path / "u.db")}


def out_of_rotation(env: Mapping[str, str], reasons: Mapping[str, str]) -> None:
    with ProviderManager(env) as manager:
        for key_id, reason in reasons.items():
            manager.wrapper("groq").pool.retire(key_id, reason)


def groq(cli: Cli, env: Mapping[str, str]) -> dict[str, Any]:
    status = json.loads(cli("status", "--json", env=env).stdout)
    return next(provider for provider in status["providers"] if provider["name"] == "groq")


def findings(cli: Cli, env: Mapping[str, str]) -> list[dict[str, Any]]:
    found = json.loads(cli("doctor", "--json", env=env).stdout)["findings"]
    return [each for each in found if each["topic"] == "keys"]


ALL_DEAD = {f"groq#{number}": "invalid_api_key" for number in (1, 2, 3)}


class TestStatus:
    def test_has_a_column_of_keys_that_are_free(self, cli: Cli, env: dict[str, str]) -> None:
        out_of_rotation(env, {"groq#2": "invalid_api_key"})
        done = cli("status", env=env)
        assert "free now" in done.stdout.splitlines()[0]
        [line] = (line for line in done.stdout.splitlines() if line.startswith("groq"))
        assert line.split()[:5] == ["groq", "yes", "yes", "3", "2"]

    def test_all_are_free_where_nothing_is_known(self, cli: Cli, env: dict[str, str]) -> None:
        assert (groq(cli, env)["free"], groq(cli, env)["dead"]) == (3, 0)

    def test_one_whose_keys_are_all_dead_cannot_be_used(self, cli: Cli, env: dict[str, str]) -> None:
        out_of_rotation(env, ALL_DEAD)
        found = groq(cli, env)
        assert (found["usable"], found["free"], found["dead"]) == (False, 0, 3)
        assert cli("status", env=env).returncode == 1

    def test_a_key_that_waits_is_not_free(self, cli: Cli, env: dict[str, str]) -> None:
        with ProviderManager(env) as manager:
            manager.wrapper("groq").pool.acquire(MODEL, key_id="groq#1").rate_limited(60.0)
        assert (groq(cli, env)["usable"], groq(cli, env)["free"], groq(cli, env)["dead"]) == (True, 2, 0)

    def test_a_key_whose_limits_are_used_up_is_not_free(self, cli: Cli, env: dict[str, str]) -> None:
        with ProviderManager(env) as manager:
            fingerprint = manager.wrapper("groq").pool.credentials[0].fingerprint
            rows = [row(time.time() - 5, model=MODEL)._replace(fingerprint=fingerprint) for _ in range(30)]
            assert manager.persistence.store is not None
            write(manager.persistence.store, rows)
        assert groq(cli, env)["free"] == 2

    def test_reading_it_changes_nothing(self, env: dict[str, str]) -> None:
        out_of_rotation(env, ALL_DEAD)
        path = Path(env["HFS_USAGE_DB"])
        before = path.read_bytes(), sorted(os.listdir(path.parent))
        stored_statuses(take_inventory(env))
        assert (path.read_bytes(), sorted(os.listdir(path.parent))) == before

    @pytest.mark.parametrize("content", [b"", b"no database" * 100], ids=["empty", "no database"])
    def test_of_a_file_that_cannot_be_read_nothing_is_known(self, env: dict[str, str], content: bytes) -> None:
        Path(env["HFS_USAGE_DB"]).write_bytes(content)
        assert [key.state for key in stored_statuses(take_inventory(env))["groq"]] == ["ready"] * 3


class TestDoctor:
    def test_names_each_dead_key(self, cli: Cli, env: dict[str, str]) -> None:
        out_of_rotation(env, {"groq#1": "invalid_api_key", "groq#3": "invalid_api_key"})
        found = findings(cli, env)
        assert [each["level"] for each in found] == ["warning", "warning"]
        assert [each["message"].split()[0] for each in found] == ["groq#1", "groq#3"]
        assert found[0]["message"].endswith("is dead: invalid_api_key")
        assert "hfs-providers check groq" in found[0]["remedy"]

    def test_names_a_retired_key_as_information(self, cli: Cli, env: dict[str, str]) -> None:
        out_of_rotation(env, {"groq#2": "retired: leaked"})
        [found] = findings(cli, env)
        assert (found["level"], found["provider"]) == ("info", "groq")
        assert found["message"].endswith("is out of rotation: retired: leaked")
        assert found["remedy"].endswith('hfs-providers keys revive "groq#2"')

    def test_a_provider_without_a_live_key_is_an_error(self, cli: Cli, env: dict[str, str]) -> None:
        out_of_rotation(env, ALL_DEAD)
        [found] = [each for each in findings(cli, env) if each["level"] == "error"]
        assert found["message"] == "groq: all 3 keys are dead or retired"
        assert "No provider is usable" in cli("doctor", env=env).stdout
