"""Keys that join and leave a pool while it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Limits, ProviderConfig, Wrapper
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.key_changes import KeyChanges
from hfs_providers.keys.key_files import read_private_file
from hfs_providers.keys.leases import Lease
from hfs_providers.keys.ledger import InFlight, Refusal, Reservation
from hfs_providers.keys.pool import KeyPool


def key(name: str, account: str = "") -> Credential:
    return Credential(f"p@{name}", Secret(f"key-{name}"), {"account": account} if account else {})


def pool(*names: str, limits: Limits | None = None) -> KeyPool:
    return KeyPool("p", [key(name) for name in names], limits=lambda *_: limits)


def ids(found: KeyPool) -> list[str]:
    return [credential.id for credential in found.credentials]


class Book:
    """A ledger that always says yes."""

    def __init__(self) -> None:
        self.ended: list[int | None] = []

    def reserve(self, reservation: Reservation) -> Refusal | None:
        return None

    async def reserve_async(self, reservation: Reservation) -> Refusal | None:
        return None

    def end(self, reservation: Reservation, charged: int | None) -> None:
        self.ended.append(charged)


def test_a_key_that_joins_is_leased_and_one_that_left_is_not() -> None:
    keys = pool("a", "b")
    keys.acquire("m").commit()
    keys.change_keys([key("c")], ["p@a", "p@unknown"])
    assert ids(keys) == ["p@b", "p@c"]
    assert {keys.acquire("m").key_id for _ in range(9)} == {"p@b", "p@c"}
    with pytest.raises(PoolExhaustedError):
        keys.acquire("m", key_id="p@a")


def test_an_id_that_is_here_cannot_join() -> None:
    with pytest.raises(ValueError, match="p@a"):
        pool("a").change_keys([key("a")])


@pytest.mark.parametrize(
    "end",
    [Lease.commit, Lease.failed, Lease.release, Lease.rate_limited, lambda lease: lease.dead("refused")],
    ids=["commit", "failed", "release", "rate_limited", "dead"],
)
@pytest.mark.parametrize("back", [False, True], ids=["gone", "back"])
def test_a_call_with_a_key_that_left_ends_as_usual(end: Callable[[Lease], None], back: bool) -> None:
    keys = pool("a", limits=Limits(rpm=2))
    lease = keys.acquire("m", 70)
    keys.change_keys([], ["p@a"])
    counts = keys.counts("m")
    assert (counts.total, counts.in_flight, counts.reserved_tokens) == (0, 1, 70)
    if back:
        keys.change_keys([key("a")])
    end(lease)
    counts = keys.counts("m")
    assert (counts.total, counts.dead, counts.in_flight, counts.reserved_tokens) == (int(back), 0, 0, 0)
    # Not even to be tried, if it was refused.
    assert (keys.next_free("m") is None) == (not back)


def test_what_a_key_used_before_it_left_and_came_back_counts_while_calls_are_in_flight() -> None:
    keys = pool("a", limits=Limits(rpm=2))
    keys.acquire("m").commit()
    lease = keys.acquire("m")
    keys.change_keys([], ["p@a"])
    keys.change_keys([key("a")])
    lease.commit()
    with pytest.raises(PoolExhaustedError):
        keys.acquire("m", timeout=0)


def test_a_key_that_came_back_is_the_next_one() -> None:
    keys = pool("a")
    keys.change_keys([key("b"), key("c")])
    leases = [keys.acquire("m") for _ in range(3)]
    keys.change_keys([key("b")], ["p@b"])
    assert keys.acquire("m").key_id == "p@b"
    leases.clear()


def test_nothing_is_kept_of_keys_that_have_left() -> None:
    keys = pool("a", "b", limits=Limits(rpm=1))
    lease = keys.acquire("m", key_id="p@a")
    keys.acquire("m", key_id="p@b").rate_limited()
    with pytest.raises(PoolExhaustedError):
        keys.acquire("m", timeout=0)
    keys.change_keys([], ["p@a", "p@b"])
    lease.dead("refused")
    keys.change_keys([key("c")])
    assert [account.name for account in keys._keyring.accounts] == [key("c").fingerprint]
    assert keys._keyring.count("m", 1000, keys._keyring.look()) == (0, 0, 0)
    assert [len(queue.slots) for queue in keys._keyring.ready_queues.values()] == [1]


def test_learned_limits_leave_with_their_key() -> None:
    keys = pool("a", "b")
    for name in ("p@a", "p@b"):
        keys.learn("m", name, Limits(rpm=1))
    keys.change_keys([], ["p@a"])
    keys.change_keys([key("a")])
    assert set(keys._keyring.learned) == {("m", "p@b")}
    for _ in range(3):
        keys.acquire("m", key_id="p@a").commit()
    keys.acquire("m", key_id="p@b").commit()
    with pytest.raises(PoolExhaustedError):
        keys.acquire("m", timeout=0, key_id="p@b")


def test_an_account_keeps_the_strictest_limits_of_the_keys_that_it_still_has() -> None:
    limits = {"p@a": Limits(rpm=1), "p@b": Limits(rpm=3)}
    keys = KeyPool("p", [key("a", "us"), key("b", "us")], limits=lambda _, key_id: limits[key_id])
    keys.acquire("m").commit()
    assert keys.next_free("m") != 0
    keys.change_keys([], ["p@a"])
    assert keys.next_free("m") == 0
    keys.change_keys([key("a", "us")])
    assert keys.next_free("m") != 0


def test_a_call_that_waits_gets_a_key_that_joins() -> None:
    keys = pool("a", limits=Limits(rpm=1))
    keys.acquire("m").commit()
    found: list[str] = []
    waiter = threading.Thread(target=lambda: found.append(keys.acquire("m", timeout=70).key_id))
    waiter.start()
    while not keys._dispatcher.wait_queues:
        pass
    keys.change_keys([key("b")])
    waiter.join(10)
    assert found == ["p@b"]


def test_a_call_that_waits_for_a_key_that_leaves_fails_at_once() -> None:
    keys = pool("a", "b", limits=Limits(rpm=1))
    keys.acquire("m", key_id="p@a").commit()
    failed: list[PoolExhaustedError] = []

    def wait() -> None:
        with pytest.raises(PoolExhaustedError) as caught:
            keys.acquire("m", timeout=70, key_id="p@a")
        failed.append(caught.value)

    waiter = threading.Thread(target=wait)
    waiter.start()
    while not keys._dispatcher.wait_queues:
        pass
    keys.change_keys([], ["p@a"])
    waiter.join(10)
    assert [error.total for error in failed] == [1]


def test_a_pool_may_begin_without_keys() -> None:
    keys = pool()
    with pytest.raises(PoolExhaustedError):
        keys.acquire("m")
    keys.change_keys([key("a")])
    assert keys.acquire("m").key_id == "p@a"


def test_who_shares_the_keys_hears_of_calls_with_keys_that_left() -> None:
    keys, book = pool("a"), Book()
    lease = keys.acquire("m", 70)
    keys.change_keys([key("b")], ["p@a"])
    assert keys.join(book) == [InFlight(key("a").fingerprint, "m", 1, 70)]
    lease.commit(12)
    assert book.ended == [12]


def test_a_change_of_the_file_is_applied_unless_the_file_has_changed_again(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("key-b\n")
    keys, adopted = pool("a"), list[ProviderConfig]()
    found = ProviderConfig("p", [key("b")], key_file=str(path), configured=True)
    changes = KeyChanges(cast(Wrapper, SimpleNamespace(pool=keys)), lambda: found, lambda _: None, adopted.append)
    file = read_private_file(str(path))
    path.write_text("key-c\n")
    assert not changes.apply(file)
    assert (ids(keys), adopted) == (["p@a"], [])
    assert changes.apply(read_private_file(str(path)))
    assert (ids(keys), adopted) == (["p@b"], [found])


def test_a_file_without_keys_of_which_none_was_used_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("")
    keys, adopted = pool("a"), list[ProviderConfig]()
    found = ProviderConfig("p", [key("a")], key_file=str(path), configured=True)
    changes = KeyChanges(cast(Wrapper, SimpleNamespace(pool=keys)), lambda: found, lambda _: None, adopted.append)
    assert changes.apply(read_private_file(str(path)))
    assert (ids(keys), adopted) == (["p@a"], [found])


def test_what_is_known_of_a_key_that_joins_holds_from_its_first_call_on() -> None:
    known = pool("a", "b")
    known.retire("p@a", "revoked")
    keys = pool("c")
    keys.change_keys([key("a"), key("b")], ["p@c"], known.dump())
    assert [status.state for status in keys.statuses()] == ["dead", "ready"]


def test_observers_are_told() -> None:
    told: list[tuple[str, str]] = []
    keys = KeyPool("p", [key("a")], on_change=lambda change, key_id, *_: told.append((change, key_id)))
    keys.change_keys([key("b")], ["p@a"])
    keys.learn("m", "p@b", Limits(rpm=1))
    keys.learn("m", "p@b", Limits(rpm=1))
    assert told == [("key_left", "p@a"), ("key_joined", "p@b"), ("limits_learned", "p@b")]
