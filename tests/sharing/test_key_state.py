"""What a new process knows of what the last one did: windows, cooldowns, dead keys, circuits, retired models."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hfs_providers import Event, KeyedProvider, Limits, ModelDefault, ProviderManager
from hfs_providers.authoring import Credential, ProviderConfig, Secret
from hfs_providers.calls.circuit import FAILURES, OPEN_SECONDS, Circuit
from hfs_providers.keys import KeyPool
from hfs_providers.sharing.key_state import GONE_FOR, pool_state, restore_key_state
from hfs_providers.sharing.state_log import StateChange, StateKeeper, apply
from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import Store
from hfs_providers.usage.row_writer import write_rows
from hfs_providers.wrapper.wrapper import ProviderWrapper

Make = Callable[..., Any]

NOON = 1_700_049_600.0
"""2023-11-15 12:00 UTC, 04:00 in California."""

KEYS = [Credential(f"p#{number}", Secret(f"a-secret-{number}")) for number in (1, 2)]
SHARING = [Credential(key.id, key.secret, {"account": "us"}) for key in KEYS]
KEYLESS = [Credential(f"p#{number}", None) for number in (1, 2)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


def row(ago: float, *, key: Credential = KEYS[0], model: str = "m", charged: int = 10, outcome: str = "ok") -> UsageRow:
    return UsageRow(NOON - ago, "p", model, key.id, key.fingerprint, 0, 0, charged, 0.1, outcome, charged)


def write(store: Store, *rows: UsageRow) -> None:
    with closing(store.connect()) as connection:
        write_rows(connection, rows)


def state(store: Store, kind: str, name: str, body: object, at: float = NOON) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    with closing(store.connect()) as connection:
        connection.execute("INSERT OR REPLACE INTO state VALUES ('p', ?, ?, ?, ?)", (kind, name, text, at))


def pool(store: Store, limits: Limits | None, keys: list[Credential] = KEYS) -> KeyPool:
    """A pool that begins at noon with what the file knows."""
    found = KeyPool("p", keys, limits=lambda *_: limits, clock=lambda: 7.0, wall=lambda: NOON)
    with closing(store.connect()) as connection:
        restore_key_state(connection, {"p": SimpleNamespace(pool=found)}, NOON)  # type: ignore[dict-item]  # all it needs
    return found


def left(found: KeyPool, model: str = "m", key: str = "p#1") -> float:
    """Seconds until the key is free."""
    free_in = next(status.free_in for status in found.statuses(model) if status.id == key)
    assert free_in is not None
    return free_in


class TestOlderNames:
    """Versions before named a key by 8 digits of its fingerprint."""

    def older(self, store: Store, key: Credential) -> None:
        write(store, row(50, key=key)._replace(fingerprint=key.fingerprint[:8]))
        state(store, "key", key.fingerprint[:8], {"reason": "gone", "retry_at": NOON + 90, "probation": 90.0})
        state(store, "rest", key.fingerprint[:8], {"m": {"until": NOON + 40, "reason": "full"}})

    def test_of_known_keys_are_rewritten(self, store: Store) -> None:
        self.older(store, KEYS[0])
        write(store, row(50, key=Credential("p#9", Secret("removed")))._replace(fingerprint="0badcafe"))
        found = pool(store, Limits(rpm=1))
        assert left(found) == pytest.approx(90)
        found.revive("p#1")
        assert left(found) == pytest.approx(10)
        with closing(store.connect()) as connection:
            names = connection.execute("SELECT name FROM state UNION SELECT fingerprint FROM series").fetchall()
        assert set(names) == {(KEYS[0].fingerprint,), ("0badcafe",)}

    def test_that_two_keys_have_are_left_alone(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.older(store, KEYS[0])
        twin = Credential("p#3", Secret("twin"))
        object.__setattr__(twin, "fingerprint", KEYS[0].fingerprint[:8] + "00000000")
        assert left(pool(store, Limits(rpm=1), [KEYS[0], twin])) == 0


class TestWindows:
    def test_what_all_clients_have_used_counts_together(self, store: Store) -> None:
        write(store, *(row(50 - number)._replace(client=f"client {number}") for number in range(3)))
        assert left(pool(store, Limits(rpm=3))) == pytest.approx(10)
        assert left(pool(store, Limits(rpm=4))) == 0

    def test_the_minute_is_exact(self, store: Store) -> None:
        write(store, row(50), row(20), row(61))
        assert left(pool(store, Limits(rpm=2))) == pytest.approx(10)
        assert left(pool(store, Limits(rpm=3))) == 0

    def test_the_hour_is_late_by_a_minute_at_most_and_never_early(self, store: Store) -> None:
        write(store, row(3500))
        assert 100 <= left(pool(store, Limits(rph=1))) <= 160

    def test_the_day_is_late_by_a_quarter_at_most_and_never_early(self, store: Store) -> None:
        write(store, row(80_000))
        assert 6400 <= left(pool(store, Limits(rpd=1))) <= 7300
        assert left(pool(store, Limits(rpd=2))) == 0

    def test_the_day_is_known_where_its_rows_were_pruned(self, store: Store) -> None:
        write(store, row(20_000))
        with closing(store.connect()) as connection:
            connection.execute("DELETE FROM usage")
        assert left(pool(store, Limits(rpd=1))) > 60_000

    def test_a_zone_s_day_counts_since_its_midnight(self, store: Store) -> None:
        zone = "America/Los_Angeles"
        write(store, row(3.5 * 3600))
        assert left(pool(store, Limits(rpd=1, day_zone=zone))) == pytest.approx(20 * 3600, abs=1)
        with closing(store.connect()) as connection:
            write_rows(connection, [row(4.1 * 3600)])
        assert left(pool(store, Limits(rpd=2, day_zone=zone))) == 0

    def test_tokens_count_as_they_were_charged(self, store: Store) -> None:
        write(store, row(30, charged=90))
        assert left(pool(store, Limits(tpm=90))) == pytest.approx(30)

    def test_failed_requests_count(self, store: Store) -> None:
        write(store, row(30, outcome="server_error", charged=0))
        assert left(pool(store, Limits(rpm=1))) == pytest.approx(30)

    def test_models_count_apart(self, store: Store) -> None:
        write(store, row(30, model="other"))
        assert left(pool(store, Limits(rpm=1))) == 0

    def test_models_that_share_an_allowance_count_together(self, store: Store) -> None:
        write(store, row(30, model="other"), row(20, model="third"))
        assert left(pool(store, Limits(rpm=2, shared=True))) == pytest.approx(30)

    def test_keys_of_one_account_count_together(self, store: Store) -> None:
        write(store, row(30), row(20, key=KEYS[1]))
        assert left(pool(store, Limits(rpm=2), SHARING)) == pytest.approx(30)
        assert left(pool(store, Limits(rpm=2))) == 0

    def test_endpoints_without_keys_count_apart(self, store: Store) -> None:
        write(store, row(30, key=KEYLESS[0]))
        found = pool(store, Limits(rpm=1), KEYLESS)
        assert left(found) == pytest.approx(30)
        assert left(found, key="p#2") == 0

    def test_a_key_keeps_its_history_under_another_number(self, store: Store) -> None:
        write(store, row(30))
        assert left(pool(store, Limits(rpm=1), [Credential("p#9", KEYS[0].secret)]), key="p#9") == pytest.approx(30)

    def test_another_key_under_that_number_has_none(self, store: Store) -> None:
        write(store, row(30))
        assert left(pool(store, Limits(rpm=1), [Credential("p#1", Secret("another-one"))])) == 0

    def test_no_window_is_made_that_no_limit_names(self, store: Store) -> None:
        write(store, row(30))
        found = pool(store, Limits(rpm=5))
        kinds = {
            kind for account in found._keyring.accounts for each in account.meters.values() for kind in each.windows
        }
        assert kinds == {"minute"}

    def test_rows_of_the_future_count_as_of_now(self, store: Store) -> None:
        write(store, row(-5000))
        assert left(pool(store, Limits(rpm=1))) == pytest.approx(60)


class TestState:
    def test_cooldowns(self, store: Store) -> None:
        cooldowns = {"m": {"until": NOON + 40, "reason": "slow down"}, "old": {"until": NOON - 40, "reason": ""}}
        state(store, "rest", KEYS[0].fingerprint, cooldowns)
        found = pool(store, None)
        assert left(found) == pytest.approx(40)
        assert found.statuses("m")[0].reason == "slow down"
        assert left(found, "old") == left(found, key="p#2") == 0

    def test_a_cooldown_of_an_account_is_for_all_its_keys_and_models(self, store: Store) -> None:
        state(store, "rest", "us", {"": {"until": NOON + 40, "reason": "slow down"}})
        found = pool(store, None, SHARING)
        assert left(found, "any") == left(found, "other", "p#2") == pytest.approx(40)

    def test_dead_keys_with_their_probation(self, store: Store) -> None:
        body = {"reason": "401", "retry_at": NOON + 600, "probation": 7200.0}
        state(store, "key", KEYS[0].fingerprint, body)
        found = pool(store, None)
        assert (found.statuses("m")[0].state, found.statuses("m")[0].reason) == ("dead", "401")
        assert left(found) == pytest.approx(600)

    @pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"retry_at": "x"}', '{"": 3}', '{"m": {"until": null}}'])
    @pytest.mark.parametrize("kind", ["key", "rest", "circuit", "gone"])
    def test_garbage_is_left_out(self, store: Store, kind: str, body: str) -> None:
        for name in (KEYS[0].fingerprint, "m"):
            state(store, kind, name, body)
        assert left(pool(store, None)) == 0

    def test_a_circuit_stays_open(self) -> None:
        now = [100.0]
        circuit = Circuit(lambda: now[0])
        for _ in range(FAILURES):
            circuit.fail()
        body = circuit.dump(NOON)
        again = Circuit(lambda: 5.0)
        again.load(json.loads(json.dumps(body)), NOON + 20)
        assert again.cooldown() == pytest.approx(OPEN_SECONDS - 20)
        again.load({"until": NOON + 1e9, "rest": 1.0, "failures": 3}, NOON)
        assert again.cooldown() == pytest.approx(OPEN_SECONDS - 20)

    def test_a_closed_circuit_leaves_nothing(self) -> None:
        assert Circuit(lambda: 0.0).dump(NOON) is None

    def test_a_wrapper_that_has_neither_circuits_nor_successors_is_served(self, store: Store) -> None:
        state(store, "circuit", "m", {"until": NOON + 60, "rest": 60.0, "failures": 3})
        state(store, "gone", "m", {"successor": "n"})
        assert left(pool(store, None)) == 0

    def test_a_successor_that_the_plugin_no_longer_names_is_forgotten_and_so_is_an_old_one(self, store: Store) -> None:
        state(store, "gone", "a", {"successor": "b"})
        state(store, "gone", "b", {"successor": "x"})
        state(store, "gone", "c", {"successor": "d"}, at=NOON - GONE_FOR - 1)
        provider = KeyedProvider("p", "nowhere:Model", client="own", models=[ModelDefault(name) for name in "abcd"])
        services: Any = SimpleNamespace(clock=time.monotonic, budgets=None)
        wrapper = ProviderWrapper(provider, ProviderConfig("p", KEYS), services)
        with closing(store.connect()) as connection:
            restore_key_state(connection, {"p": wrapper}, NOON)
        assert wrapper.retired_models == {"a": "b"}


class TestKeeping:
    """What happens is written down when it happens."""

    @pytest.fixture
    def env(self, tmp_path: Path) -> dict[str, str]:
        keys = {f"GROQ_API_KEY_{number}": f"gsk_test{number:032}" for number in (1, 2, 3)}
        return {**keys, "NUM_GROQ": "3", "HFS_USAGE_DB": str(tmp_path / "usage.db"), "GROQ_LIMITS": "rpm=2"}

    @pytest.fixture
    def groq(self, env: dict[str, str]) -> Iterator[Any]:
        with ProviderManager(env) as manager:
            yield manager.wrappers["groq"]

    def again(self, env: dict[str, str]) -> Any:
        """The provider in a process that begins."""
        manager = ProviderManager(env)
        manager.shutdown()
        return manager.wrappers["groq"]

    def test_cooling_and_dead_keys(self, groq: Any, env: dict[str, str]) -> None:
        groq.pool.acquire("m", key_id="groq#1").rate_limited(500, reason="slow down")
        groq.pool.acquire("m", key_id="groq#2").dead("401")
        groq.backend.services.persistence.flush()
        statuses = self.again(env).pool.statuses("m")
        assert [(status.state, status.reason) for status in statuses] == [
            ("cooling", "slow down"),
            ("dead", "401"),
            ("ready", None),
        ]

    def test_what_happened_and_when_it_is_over(self, groq: Any, env: dict[str, str]) -> None:
        groq.pool.acquire("m", key_id="groq#1").rate_limited(500, reason="slow down")
        groq.pool.acquire("m", key_id="groq#2").dead("401")
        groq.pool.revive("groq#2")
        persistence = groq.backend.services.persistence
        assert persistence.flush()
        with closing(persistence.store.connect()) as connection:
            found = connection.execute("SELECT provider, key, model, kind, reason, until - at FROM key_event")
            limited, dead, revived = found.fetchall()
        keys = [credential.fingerprint for credential in groq.pool.credentials]
        assert limited == ("groq", keys[0], "m", "key_cooling", "slow down", pytest.approx(500))
        assert dead[:5] == ("groq", keys[1], None, "key_dead", "401")
        assert dead[5] > 2000
        assert revived == ("groq", keys[1], None, "key_revived", None, None)
        # A process that begins learns of it. Nothing has happened again.
        again = self.again(env)
        assert left(again.pool, key="groq#1") > 0
        with closing(persistence.store.connect()) as connection:
            assert connection.execute("SELECT count(*) FROM key_event").fetchone() == (3,)

    def test_of_two_rests_the_longer_is_kept(self, groq: Any, env: dict[str, str]) -> None:
        first, second = groq.pool.acquire("m", key_id="groq#1"), groq.pool.acquire("m", key_id="groq#1")
        first.rate_limited(500)
        second.rate_limited(100)
        groq.backend.services.persistence.flush()
        assert 490 < left(self.again(env).pool, key="groq#1") <= 500

    def test_a_revived_key_lives(self, groq: Any, env: dict[str, str]) -> None:
        groq.pool.acquire("m", key_id="groq#1").rate_limited(500, scope="key")
        groq.pool.retire("groq#1", "out")
        groq.pool.revive("groq#1")
        groq.backend.services.persistence.flush()
        assert self.again(env).pool.statuses("m")[0].state == "ready"

    def test_circuits(self, groq: Any, env: dict[str, str]) -> None:
        for _ in range(FAILURES):
            groq.circuit("m").fail()
        groq.backend.services.persistence.flush()
        assert 50 < self.again(env).circuit("m").cooldown() <= OPEN_SECONDS
        groq.circuit("m").succeed()
        groq.backend.services.persistence.flush()
        assert self.again(env).circuit("m").cooldown() == 0

    def test_retired_models(self, groq: Any, env: dict[str, str]) -> None:
        successor = groq.backend.replace_model("llama-3.3-70b-versatile")
        groq.backend.services.persistence.flush()
        assert self.again(env).backend.serving("llama-3.3-70b-versatile") == successor

    def test_limits_that_answers_have_shown(self, env: dict[str, str]) -> None:
        with ProviderManager({**env, "GROQ_LIMITS": ""}) as manager:
            for model, limits in (("m", Limits(rpm=7)), ("n", Limits(tpd=9)), ("m", Limits(rpm=5))):
                manager.wrappers["groq"].pool.learn(model, "groq#1", limits)

        def known(groq: Any, model: str) -> list[tuple[str, str, int]]:
            return [(use.period, use.unit, use.limit) for use in groq.pool.used(model)["groq#1"]]

        groq = self.again({**env, "GROQ_LIMITS": ""})
        assert (known(groq, "m"), known(groq, "n")) == ([("minute", "requests", 5)], [("day", "tokens", 9)])
        # What the user says is final.
        assert known(self.again(env), "n") == [("minute", "requests", 2)]

    def test_windows(self, groq: Any, env: dict[str, str]) -> None:
        credential = groq.pool.credentials[0]
        for _ in range(2):
            groq.backend.services.record(
                UsageRow(time.time(), "groq", "m", "groq#1", credential.fingerprint, 1, 1, 2, 0.1, "ok", 2)
            )
        groq.backend.services.persistence.flush()
        assert [status.state for status in self.again(env).pool.statuses("m")] == ["limited", "ready", "ready"]

    def test_no_key_is_in_the_file(self, groq: Any, env: dict[str, str], tmp_path: Path) -> None:
        self.test_cooling_and_dead_keys(groq, env)
        self.test_circuits(groq, env)
        for path in tmp_path.glob("usage.db*"):
            assert b"gsk_test" not in path.read_bytes()

    def test_events_of_strangers_are_left_alone(self) -> None:
        done: list[object] = []
        keeper = StateKeeper(done.append, {"p": SimpleNamespace(pool=KeyPool("p", KEYS))})  # type: ignore[dict-item]
        keeper.note(Event("key_dead", "nobody", key_id="nobody#1", seconds=1.0))
        keeper.note(Event("key_dead", "p", key_id="p#77", seconds=1.0))
        keeper.note(Event("key_cooling", "p", key_id="p#1", seconds=None))
        keeper.note(Event("circuit_opened", "p", model="m"))
        keeper.note(Event("model_replaced", "p", model="m"))
        keeper.note(Event("call_finished", "p"))
        assert done == []


def test_a_file_that_cannot_be_read_stops_no_manager(
    tmp_path: Path, fake_provider: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("hfs_providers.sharing.key_state.restore_key_state", broken)
    env = {"ACME_API_KEY": "a-key-of-acme", "HFS_USAGE_DB": str(tmp_path / "usage.db")}
    with ProviderManager(env, plugins=[fake_provider("acme")]) as manager:
        assert manager.available_providers == ["acme"]
        assert any("the disk is gone" in problem.message for problem in manager.problems)


def test_what_is_read_holds_no_key(store: Store) -> None:
    write(store, row(30))
    with closing(store.connect()) as connection:
        assert "a-secret" not in json.dumps(pool_state(connection, "p", KEYS, NOON))


def test_what_a_process_said_of_a_key_itself_is_no_news_to_it() -> None:
    """By the time that it reads it in the file, the key may live again."""
    found = KeyPool("p", KEYS, clock=lambda: 1000.0, wall=lambda: NOON)
    body = {"reason": "401", "retry_at": NOON + 600, "probation": 600.0, "by": "me"}
    news = [StateChange("p", "key", KEYS[0].fingerprint, json.dumps(body), NOON)]
    apply(found, news, NOON, "me")
    assert found.statuses()[0].state == "ready"
    apply(found, news, NOON, "somebody else")
    assert found.statuses()[0].state == "dead"
