"""What `keys` and `check` say of keys that other hosts use, by way of Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hfs_providers import ProviderManager
from hfs_providers.testing import LoopbackServer, Unauthorized
from tests.cli.conftest import Cli
from tests.sharing.redis_server import RedisServer, binary, eventually, everything

MODEL = "llama-3.3-70b-versatile"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(binary(), tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


@pytest.fixture
def keys(server: LoopbackServer, redis: RedisServer) -> dict[str, str]:
    redis.client().flushall()
    return {**server.env({"groq": 2}), "GROQ_LIMITS": "rpm=10,rph=20,rpd=30,tpm=9000", "HFS_REDIS_URL": redis.url}


@pytest.fixture
def here(keys: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return {**keys, "HFS_USAGE_DB": str(tmp_path / "here.db")}


@pytest.fixture
def elsewhere(keys: dict[str, str]) -> Iterator[ProviderManager]:
    """Another host, which is at work. If Redis was slow, it tells again what its pool holds: it has no file."""
    with ProviderManager({**keys, "HFS_USAGE_DB": "off"}) as manager:
        yield manager


def held(redis: RedisServer, kind: str) -> dict[str, str]:
    """What Redis holds of one kind (see `prelude.lua`). Hosts tell it in a thread of their own."""
    content = everything(redis.client())
    return {field: words for key in content if f":{kind}" in key for field, words in content[key][1].items()}


def retire(elsewhere: ProviderManager, redis: RedisServer, reason: str) -> None:
    elsewhere.wrapper("groq").pool.retire("groq#1", reason)
    eventually(lambda: any(words.endswith(reason) for words in held(redis, "told").values()))


def shown(cli: Cli, env: Mapping[str, str], *args: str) -> dict[str, dict[str, Any]]:
    done = cli("keys", "groq", "--json", *args, env=env)
    assert done.returncode == 0, done.stderr
    [provider] = json.loads(done.stdout)["providers"]
    return {key["id"]: key for key in provider["keys"]}


def checked(cli: Cli, env: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    [provider] = json.loads(cli("check", "groq", "--json", env=env).stdout)["providers"]
    return {key["id"]: key for key in provider["keys"]}


class TestKeys:
    def test_a_key_that_is_dead_elsewhere_is_dead(
        self, cli: Cli, here: dict[str, str], elsewhere: ProviderManager, redis: RedisServer
    ) -> None:
        retire(elsewhere, redis, "invalid_api_key")
        found = shown(cli, here)
        assert (found["groq#1"]["state"], found["groq#1"]["reason"]) == ("dead", "invalid_api_key")
        assert found["groq#2"]["state"] == "ready"

    def test_a_key_that_waits_elsewhere_waits(
        self, cli: Cli, here: dict[str, str], elsewhere: ProviderManager, redis: RedisServer
    ) -> None:
        elsewhere.wrapper("groq").pool.acquire(MODEL, key_id="groq#2").rate_limited(600, "model", "slow down")
        eventually(lambda: any(words.endswith("slow down") for words in held(redis, "told").values()))
        [model] = shown(cli, here)["groq#2"]["models"]
        assert (model["state"], model["reason"]) == ("cooling", "slow down")
        assert 500 < model["free_in"] <= 600

    def test_what_was_used_elsewhere_counts(
        self, cli: Cli, here: dict[str, str], elsewhere: ProviderManager, redis: RedisServer
    ) -> None:
        pool = elsewhere.wrapper("groq").pool
        for _ in range(10):
            pool.acquire(MODEL, 0, key_id="groq#1").commit(100)
        eventually(lambda: held(redis, "used").get("mr") == "10")
        [model] = shown(cli, here)["groq#1"]["models"]
        assert model["state"] == "limited"
        assert [(each["per"], each["unit"], each["used"]) for each in model["windows"]] == [
            ("minute", "requests", 10),
            ("minute", "tokens", 1000),
            ("hour", "requests", 10),
            ("day", "requests", 10),
        ]

    def test_what_is_in_flight_elsewhere_counts(
        self, cli: Cli, here: dict[str, str], elsewhere: ProviderManager, redis: RedisServer
    ) -> None:
        with elsewhere.wrapper("groq").pool.acquire(MODEL, 700, key_id="groq#1"):
            eventually(lambda: any(words.endswith(" 1 700") for words in held(redis, "flying").values()))
            [model] = shown(cli, here)["groq#1"]["models"]
        assert [each["used"] for each in model["windows"]] == [1, 700, 1, 1]

    def test_looking_changes_nothing(
        self, cli: Cli, here: dict[str, str], elsewhere: ProviderManager, redis: RedisServer
    ) -> None:
        retire(elsewhere, redis, "invalid_api_key")
        shown(cli, here)
        elsewhere.wrapper("groq").pool.revive("groq#1")
        eventually(lambda: any(field.startswith("r:") for field in held(redis, "told")))
        assert shown(cli, here)["groq#1"]["state"] == "ready"

    def test_without_redis_it_says_that_this_is_one_hosts_view(self, cli: Cli, here: dict[str, str]) -> None:
        done = cli("keys", "groq", env={**here, "HFS_REDIS_URL": "redis://127.0.0.1:1/0"})
        assert done.returncode == 0
        assert "groq#1" in done.stdout
        assert "Only what this host knows is shown: Redis at 127.0.0.1:1/0" in done.stderr


class TestCheck:
    def test_a_key_that_is_dead_elsewhere_is_asked_and_comes_back(
        self, cli: Cli, here: dict[str, str], elsewhere: ProviderManager, redis: RedisServer
    ) -> None:
        retire(elsewhere, redis, "invalid_api_key")
        assert checked(cli, here)["groq#1"]["outcome"] == "works"
        assert shown(cli, here)["groq#1"]["state"] == "ready"

    def test_one_that_is_refused_again_stays_dead(
        self, cli: Cli, here: dict[str, str], elsewhere: ProviderManager, redis: RedisServer, server: LoopbackServer
    ) -> None:
        retire(elsewhere, redis, "invalid_api_key")
        server.script("groq", here["GROQ_API_KEY_1"], [], then=Unauthorized())
        found = checked(cli, here)["groq#1"]
        assert (found["outcome"], found["latency"] is not None) == ("dead", True)

    def test_one_that_was_retired_elsewhere_is_left_alone(
        self, cli: Cli, here: dict[str, str], elsewhere: ProviderManager, redis: RedisServer
    ) -> None:
        retire(elsewhere, redis, "retired: leaked")
        found = checked(cli, here)["groq#1"]
        assert (found["outcome"], found["reason"], found["latency"]) == ("dead", "retired: leaked", None)
