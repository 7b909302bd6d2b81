"""The action "try": one key is asked for real, and its verdict told."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from hfs_providers import ProviderManager
from hfs_providers.authoring import KeyProbe
from hfs_providers.dashboard import app, rulings
from hfs_providers.dashboard.app import MOST_TRIALS
from hfs_providers.testing import LoopbackServer, RateLimited, Stall, Unauthorized
from hfs_providers.wrapper import check
from tests.dashboard.shown import Shown


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


@pytest.fixture
def env(server: LoopbackServer, tmp_path: Path) -> dict[str, str]:
    return server.env({"groq": 6}) | {"HFS_USAGE_DB": str(tmp_path / "usage.db"), "HFS_CONFIG": ""}


@contextmanager
def in_the_middle(shown: Shown, keys: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[httpx.Response]]:
    """Meanwhile keys are being tried: they are asked at the end."""
    answers: list[httpx.Response] = []
    begun, go_on = threading.Semaphore(0), threading.Event()

    def later(manager: ProviderManager, provider: str, key_id: str) -> KeyProbe:
        begun.release()
        assert go_on.wait(60)
        return rulings.try_key(manager, provider, key_id)

    trying = [threading.Thread(target=lambda key=key: answers.append(shown.act("try", key=key))) for key in keys]
    with monkeypatch.context() as patched:
        patched.setattr(app, "try_key", later)
        for each in trying:
            each.start()
        assert all(begun.acquire(timeout=60) for _ in keys)
        try:
            yield answers
        finally:
            go_on.set()
            for each in trying:
                each.join(60)


def test_a_key_that_works_is_said_to(env: dict[str, str], server: LoopbackServer) -> None:
    with Shown(env) as shown:
        found = shown.act("try", key="groq#2")
    assert (found.status_code, found.json()["id"], found.json()["outcome"]) == (200, "groq#2", "works")
    assert found.json()["latency"] > 0
    assert {each.key for each in server.seen} == {env["GROQ_API_KEY_2"]}


def test_what_it_shows_is_known_to_all_processes(env: dict[str, str], server: LoopbackServer) -> None:
    server.script("groq", env["GROQ_API_KEY_1"], [], then=Unauthorized(echo_key=True))
    server.script("groq", env["GROQ_API_KEY_2"], [], then=RateLimited(retry_after=900))
    with Shown(env) as shown:
        refused = shown.act("try", key="groq#1")
        assert refused.json()["outcome"] == "dead"
        assert env["GROQ_API_KEY_1"] not in refused.text
        assert shown.act("try", key="groq#2").json()["outcome"] == "limited"
        assert [shown.read("key", id=key)["state"] for key in ("groq#1", "groq#2")] == ["dead", "cooling"]
    with ProviderManager(env=env) as manager:
        states = {each.id: each.state for each in manager.wrapper("groq").pool.statuses()}
    assert (states["groq#1"], states["groq#2"], states["groq#3"]) == ("dead", "cooling", "ready")


def test_a_retired_key_is_not_asked(env: dict[str, str], server: LoopbackServer) -> None:
    with Shown(env) as shown:
        shown.act("retire", key="groq#3", reason="sold")
        said = shown.act("try", key="groq#3").json()
    assert (said["outcome"], said["reason"], said["latency"]) == ("dead", "retired: sold", None)
    assert not server.seen


def test_a_key_is_tried_once_at_a_time_and_few_together(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"groq#{number}" for number in range(1, MOST_TRIALS + 1)]
    with Shown(env) as shown:
        with in_the_middle(shown, keys, monkeypatch) as answers:
            assert shown.act("try", key=keys[0]).status_code == 409
            assert shown.act("try", key="groq#6").status_code == 429
            # The others do not wait for them.
            assert shown.read("overview")["actions"] is True
        assert [each.status_code for each in answers] == [200] * MOST_TRIALS
        assert shown.act("try", key=keys[0]).json()["outcome"] == "works"


def test_a_provider_that_never_answers_is_given_up(
    env: dict[str, str], server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rulings, "TRY_TIMEOUT", 0.2)
    monkeypatch.setattr(check, "_PATIENCE", 0.1)
    server.script("groq", env["GROQ_API_KEY_1"], [], then=Stall(60))
    with Shown(env) as shown:
        assert shown.act("try", key="groq#1").json()["outcome"] == "unknown"
        # It may be tried again.
        assert shown.act("try", key="groq#1").status_code == 200


def test_nobody_else_shares_keys_with_a_dashboard_that_acts(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def processes() -> int:
        with closing(sqlite3.connect(env["HFS_USAGE_DB"])) as connection:
            return int(connection.execute("SELECT count(*) FROM processes").fetchone()[0])

    with Shown(env) as shown:
        shown.act("retire", key="groq#5")
        with in_the_middle(shown, ["groq#1"], monkeypatch) as answers:
            assert processes() == 0
            with ProviderManager(env=env):
                assert processes() == 1
    assert answers[0].json()["outcome"] == "works"


class TestHostile:
    def test_it_needs_the_token(self, env: dict[str, str], server: LoopbackServer) -> None:
        with Shown(env) as shown:
            assert shown.act("try", token="another", key="groq#1").status_code == 401
            assert httpx.post(f"{shown.url}/dashboard/api/try", json={"key": "groq#1"}).status_code == 401
        assert not server.seen

    def test_read_only_has_none(self, env: dict[str, str], server: LoopbackServer) -> None:
        with Shown(env, read_only=True) as shown:
            assert shown.act("try", key="groq#1").status_code == 403
        assert not server.seen

    def test_no_other_site_asks_for_it(self, env: dict[str, str], server: LoopbackServer) -> None:
        with Shown(env) as shown:
            for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
                assert shown.act("try", headers=headers, key="groq#1").status_code == 403
        assert not server.seen

    @pytest.mark.parametrize("said", [{}, {"key": 3}, {"key": ["groq#1"]}, {"key": "groq#1", "reason": {}}])
    def test_what_names_no_key_is_told(self, env: dict[str, str], said: dict[str, object]) -> None:
        with Shown(env) as shown:
            assert shown.act("try", **said).status_code == 400

    def test_a_key_that_there_is_not(self, env: dict[str, str]) -> None:
        with Shown(env) as shown:
            assert [shown.act("try", key=key).status_code for key in ("groq#99", "", "../groq#1")] == [404] * 3
