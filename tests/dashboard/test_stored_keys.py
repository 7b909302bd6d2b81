"""What is kept of keys from one look to the next is what a first look finds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hfs_providers import Limits
from hfs_providers.contract.records import Credential, Event, KeyStatus, Wrapper
from hfs_providers.core.inventory import Inventory, take_inventory
from hfs_providers.dashboard.stored_keys import StoredKeys, StoredPool
from hfs_providers.sharing import key_state
from hfs_providers.sharing.state_log import StateKeeper
from hfs_providers.usage import Store, UsageRow
from hfs_providers.usage.log import UsageLog
from tests.dashboard.made_up import MODELS, environment

GROQ, OTHER = MODELS["groq"]


class Machine:
    """An environment and its usage file, to which another process writes."""

    def __init__(self, folder: Path) -> None:
        self.env = environment(folder, {"groq": 4, "cerebras": 3}) | {"GROQ_LIMITS": "rpm=3,rpd=20,tpd=5000"}
        self.env |= {"CEREBRAS_ACCOUNT_1": "one", "CEREBRAS_ACCOUNT_2": "one"}
        self.log = UsageLog(Store(self.env["HFS_USAGE_DB"]), group=0.0)
        self.pools = {name: found.pool for name, found in StoredKeys().look(self.inventory()).items()}
        wrappers = {name: cast("Wrapper", SimpleNamespace(pool=pool)) for name, pool in self.pools.items()}
        self.keeper = StateKeeper(self.log.defer, wrappers)

    def inventory(self) -> Inventory:
        return take_inventory(dict(self.env))

    def key(self, key_id: str) -> Credential:
        found = self.pools[key_id.partition("#")[0]].credential(key_id)
        assert found is not None
        return found

    def note(self, kind: Any, key_id: str, model: str | None = None, seconds: float | None = None) -> None:
        """Something happens to a key."""
        self.keeper.note(
            Event(kind, key_id.partition("#")[0], key_id=key_id, model=model, reason="so", seconds=seconds)
        )
        assert self.log.flush()

    def learn(self, key_id: str, model: str, limits: Limits) -> None:
        self.pools[key_id.partition("#")[0]].learn(model, key_id, limits)
        self.note("limits_learned", key_id, model)

    def ask(self, key_id: str, model: str = GROQ, ago: float = 0.0, tokens: int = 10) -> None:
        """A request of a key ends."""
        key = self.key(key_id)
        counts = tokens, 0, tokens, 0.5, "ok", tokens
        self.log.record(UsageRow(time.time() - ago, key_id.partition("#")[0], model, key_id, key.fingerprint, *counts))
        assert self.log.flush()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.log.close()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that were read from the file."""
    found: list[str] = []
    whole = key_state.pool_state

    def pool_state(connection: Any, provider: str, credentials: Sequence[Credential], wall: float) -> Any:
        found.extend(each.id for each in credentials)
        return whole(connection, provider, credentials, wall)

    monkeypatch.setattr(key_state, "pool_state", pool_state)
    return found


def about(status: KeyStatus) -> tuple[object, ...]:
    free = None if status.free_in is None else pytest.approx(status.free_in, abs=2.0)
    return status.id, status.state, status.reason, free


def told(found: dict[str, StoredPool]) -> dict[str, Any]:
    """All that is known of keys."""
    return {
        name: (
            sorted(each.asked),
            [about(status) for model in (None, *MODELS[name]) for status in each.pool.statuses(model)],
            [each.pool.used(model) for model in MODELS[name]],
            [each.pool.limits(model, key.id) for model in MODELS[name] for key in each.pool.credentials],
        )
        for name, each in found.items()
    }


def states(found: dict[str, StoredPool]) -> str:
    return "".join(each.state[0] for each in found["groq"].pool.statuses())


def test_a_look_reads_the_keys_that_changed(machine: Machine, read: list[str]) -> None:
    stored = StoredKeys()
    looks = []
    for work in (
        lambda: None,
        lambda: None,
        lambda: machine.ask("groq#2"),
        lambda: machine.note("key_dead", "groq#3", seconds=9e3),
        lambda: machine.learn("groq#4", GROQ, Limits(rpm=2)),
        # Keys of one account have one state.
        lambda: machine.ask("cerebras#2", MODELS["cerebras"][0]),
        lambda: None,
    ):
        work()
        read.clear()
        stored.look(machine.inventory())
        looks.append(sorted(read))
    everything = [*(f"cerebras#{number}" for number in (1, 2, 3)), *(f"groq#{number}" for number in (1, 2, 3, 4))]
    assert looks == [everything, [], ["groq#2"], ["groq#3"], ["groq#4"], ["cerebras#1", "cerebras#2"], []]


def test_what_happens_to_a_key_shows_at_the_next_look(machine: Machine) -> None:
    stored, shown = StoredKeys(), []
    for work in (
        lambda: None,
        lambda: machine.note("key_dead", "groq#1", seconds=9e3),
        lambda: machine.note("key_cooling", "groq#2", GROQ, 9e3),
        lambda: machine.note("key_revived", "groq#1"),
        lambda: machine.ask("groq#3", tokens=5000),
        lambda: machine.note("key_revived", "groq#2"),
        lambda: machine.note("key_dead", "groq#2", seconds=9e3),
    ):
        work()
        shown.append(states(stored.look(machine.inventory())))
    assert shown == ["rrrr", "drrr", "dcrr", "rcrr", "rclr", "rrlr", "rdlr"]


@pytest.mark.parametrize("seed", range(5))
def test_many_looks_find_what_the_first_one_would(machine: Machine, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def first() -> dict[str, Any]:
        return told(StoredKeys().look(machine.inventory()))

    chance = random.Random(seed)
    stored = StoredKeys()
    keys = [each.id for pool in machine.pools.values() for each in pool.credentials]
    works: list[Callable[[str, str], None]] = [
        lambda key, model: machine.ask(key, model, tokens=chance.randint(0, 900)),
        lambda key, model: machine.ask(key, model, ago=chance.uniform(0, 90_000)),
        lambda key, model: machine.note("key_dead", key, seconds=chance.uniform(60, 5000)),
        lambda key, model: machine.note("key_cooling", key, chance.choice([model, None]), chance.uniform(60, 5000)),
        lambda key, model: machine.note("key_revived", key),
        lambda key, model: machine.learn(key, model, Limits(rpm=chance.randint(1, 9), tpd=chance.randint(1, 900))),
    ]
    for _ in range(12):
        for _ in range(chance.choice([0, 1, 2, 9])):
            key = chance.choice(keys)
            chance.choice(works)(key, chance.choice(MODELS[key.partition("#")[0]]))
        with monkeypatch.context() as patch:
            # As if there were more series than a query can name.
            patch.setattr(key_state, "_FEW", -1)
            before = first()
        kept = told(stored.look(machine.inventory()))
        if before == first():
            # Else time has changed something meanwhile.
            assert kept == before


class TestEverythingIsReadAnew:
    def test_if_the_file_is_another_one(self, machine: Machine, tmp_path: Path) -> None:
        stored = StoredKeys()
        machine.note("key_dead", "groq#1", seconds=9e3)
        shown = [states(stored.look(machine.inventory()))]
        machine.log.close()
        path = Path(machine.env["HFS_USAGE_DB"])
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        shown.append(states(stored.look(machine.inventory())))
        Store(path)
        assert [*shown, states(stored.look(machine.inventory()))] == ["drrr", "rrrr", "rrrr"]

    def test_if_the_keys_are_others(self, machine: Machine) -> None:
        stored = StoredKeys()
        machine.note("key_dead", "groq#1", seconds=9e3)
        shown = [states(stored.look(machine.inventory()))]
        machine.env["GROQ_API_KEY_5"], machine.env["NUM_GROQ"] = "groq-made-up-key-00005", "5"
        assert [*shown, states(stored.look(machine.inventory()))] == ["drrr", "drrrr"]

    def test_after_it_could_not_be_read(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        stored = StoredKeys()
        machine.note("key_dead", "groq#1", seconds=9e3)
        shown = [states(stored.look(machine.inventory()))]
        machine.note("key_dead", "groq#2", seconds=9e3)
        with monkeypatch.context() as patch:
            patch.setattr(key_state, "pool_state", lambda *_: (_ for _ in ()).throw(OSError("no disk")))
            shown.append(states(stored.look(machine.inventory())))
        assert [*shown, states(stored.look(machine.inventory()))] == ["drrr", "rrrr", "ddrr"]
