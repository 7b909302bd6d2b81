"""A conversation keeps its key, and moves on only while the key cannot be had."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256

import pytest

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Limits
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.affinity import AffinityRing
from hfs_providers.keys.ledger import Refusal, Reservation
from hfs_providers.keys.pool import KeyPool
from hfs_providers.keys.state import Account


def affinity(number: int) -> int:
    return int.from_bytes(sha256(str(number).encode()).digest()[:8], "big")


CONVERSATIONS = [affinity(number) for number in range(1_000)]


class Place:
    """A pool on a clock of its own.

    Args:
        keys: how many.
        limits: of each.
        account: of the key of that number.
    """

    def __init__(self, keys: int, limits: Limits | None = None, accounts: int | None = None) -> None:
        self.now = 0.0
        credentials = [
            Credential(f"p#{n}", Secret(f"key-{n}"), {"account": f"a{n % accounts}"} if accounts else {})
            for n in range(keys)
        ]
        self.pool = KeyPool("p", credentials, limits=lambda *_: limits, clock=lambda: self.now, wall=lambda: self.now)

    def key(self, conversation: int, *, model_id: str = "m", **options: object) -> str:
        """The key of a call that is answered at once."""
        lease = self.pool.acquire(model_id, 10, 0, affinity=conversation, **options)  # type: ignore[arg-type]
        lease.commit(10)
        return lease.key_id

    def keys(self, conversations: Iterable[int] = CONVERSATIONS) -> list[str]:
        return [self.key(each) for each in conversations]

    def walk(self, conversation: int) -> list[str]:
        """The keys of a conversation, each barred after it was used. It leaves their turns the other way round."""
        found: list[str] = []
        for _ in self.pool.credentials:
            with self.pool.acquire("m", 0, 0, affinity=conversation, exclude=found) as lease:
                found.append(lease.key_id)
        for key in reversed(found):
            self.pool.acquire("m", 0, 0, key_id=key).release()
        return found


def accounts(names: Iterable[str]) -> list[Account]:
    return [Account(name, number, None) for number, name in enumerate(names)]  # type: ignore[arg-type]


class TestTheRing:
    def walks(self, names: Iterable[str]) -> list[list[str]]:
        ring = AffinityRing(accounts(names))
        return [[account.name for account in ring.walk(each)] for each in CONVERSATIONS]

    def test_all_processes_agree_whatever_the_order_of_their_keys(self) -> None:
        program = (
            "import json, sys; from tests.keys.test_affinity import TestTheRing; "
            "json.dump(TestTheRing().walks(f'name-{n}' for n in reversed(range(60))), sys.stdout)"
        )
        env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
        other = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        assert json.loads(other.stdout) == self.walks(f"name-{n}" for n in range(60))

    def test_it_is_the_same_in_every_version(self) -> None:
        # Else a fleet that is being upgraded would have two opinions, and every upgrade would empty all caches.
        ring = AffinityRing(accounts("abcd"))
        walks = ["".join(account.name for account in ring.walk(place << 61)) for place in range(8)]
        assert walks == ["cdab", "dcba", "cdab", "bdac", "abdc", "acdb", "bacd", "cbda"]

    @pytest.mark.parametrize("count", [10, 600, 5_000])
    def test_an_account_that_joins_or_leaves_moves_only_its_own_conversations(self, count: int) -> None:
        names = [f"name-{n}" for n in range(count)]
        before = [walk[0] for walk in self.walks(names)]
        after = [walk[0] for walk in self.walks([*names, "new"])]
        assert {now for now, was in zip(after, before, strict=True) if now != was} <= {"new"}
        after = [walk[0] for walk in self.walks(names[1:])]
        assert {was for now, was in zip(after, before, strict=True) if now != was} <= {names[0]}

    @pytest.mark.parametrize(("count", "most"), [(0, 0), (1, 1), (7, 7), (8, 8), (300, 8)])
    def test_a_walk_passes_each_account_once_and_at_most_eight(self, count: int, most: int) -> None:
        for walk in self.walks(f"name-{n}" for n in range(count)):
            assert len(walk) == len(set(walk)) == most

    def test_any_name_has_its_places(self) -> None:
        [account] = AffinityRing(accounts(["\udcff"])).walk(0)
        assert account.name == "\udcff"

    @pytest.mark.parametrize("conversation", [0, 1, (1 << 64) - 1, 3 << 63, -1, (1 << 200) + (1 << 63)])
    def test_any_number_has_its_place(self, conversation: int) -> None:
        ring = AffinityRing(accounts("abcdefghijkl"))
        assert list(ring.walk(conversation)) == list(ring.walk(conversation % (1 << 64)))

    def test_conversations_spread_evenly(self) -> None:
        ring = AffinityRing(accounts(f"name-{n}" for n in range(100)))
        spread = Counter(next(ring.walk(affinity(number))).name for number in range(10_000))
        assert len(spread) == 100
        assert max(spread.values()) < 135


class TestAConversation:
    def test_keeps_its_key_for_every_model_and_size(self) -> None:
        place = Place(20)
        first = place.keys()
        assert place.keys() == first
        assert [place.key(each, model_id="other") for each in CONVERSATIONS] == first
        with place.pool.acquire("m", 100_000, 0, affinity=CONVERSATIONS[0]) as lease:
            assert lease.key_id == first[0]
        assert len(set(first)) == 20

    def test_has_the_keys_of_its_account_in_turn(self) -> None:
        place = Place(6, accounts=2)
        of_the_account = [place.key(CONVERSATIONS[0]) for _ in range(6)]
        assert len(set(of_the_account)) == 3
        assert of_the_account[:3] == of_the_account[3:]
        assert {int(key[2:]) % 2 for key in of_the_account} in ({0}, {1})

    def test_moves_on_while_its_key_is_limited_and_comes_back(self) -> None:
        place = Place(20, Limits(rpm=2))
        own, following = place.walk(CONVERSATIONS[0])[:2]
        place.now += 120
        assert [place.key(CONVERSATIONS[0]) for _ in range(4)] == [own, own, following, following]
        place.now += 61
        assert place.key(CONVERSATIONS[0]) == own

    def test_does_so_where_a_day_ends_at_midnight(self) -> None:
        place = Place(20, Limits(rpd=1, day_zone="UTC"))
        own, following = place.walk(CONVERSATIONS[0])[:2]
        assert [place.key(CONVERSATIONS[0]) for _ in range(2)] == [own, following]
        place.now += 86_401
        assert place.key(CONVERSATIONS[0]) == own

    @pytest.mark.parametrize("ending", ["cools", "dies"])
    def test_moves_on_while_its_key_cools_or_is_dead(self, ending: str) -> None:
        place = Place(20)
        own, following = place.walk(CONVERSATIONS[0])[:2]
        lease = place.pool.acquire("m", affinity=CONVERSATIONS[0])
        lease.rate_limited(60) if ending == "cools" else lease.dead("refused")
        assert lease.key_id == own
        assert place.key(CONVERSATIONS[0]) == following
        place.pool.revive(own)
        assert place.key(CONVERSATIONS[0]) == own

    def test_moves_with_all_others_of_its_key_to_different_ones(self) -> None:
        place = Place(20)
        first = place.keys()
        place.pool.retire("p#0", "by hand")
        moved = {now for now, was in zip(place.keys(), first, strict=True) if was == "p#0"}
        assert len(moved) > 5
        place.pool.revive("p#0")
        assert place.keys() == first

    def test_belongs_to_the_keys_that_are_there(self) -> None:
        place = Place(5)
        first = place.keys()
        new = Credential("p#new", Secret("key-new"))
        place.pool.change_keys([new], [])
        joined = place.keys()
        assert {now for now, was in zip(joined, first, strict=True) if now != was} == {"p#new"}
        place.pool.change_keys([], ["p#new"])
        assert place.keys() == first
        place.pool.change_keys([], [credential.id for credential in place.pool.credentials])
        with pytest.raises(PoolExhaustedError):
            place.key(CONVERSATIONS[0])

    def test_has_after_eight_keys_the_one_that_was_used_least_recently(self) -> None:
        place = Place(30)
        found = place.walk(CONVERSATIONS[0])
        assert found[:8] != sorted(found[:8])
        # All others in the order of their turns.
        assert found[8:] == sorted(found[8:], key=lambda key: int(key[2:]))

    def test_does_not_walk_where_no_key_is_ready(self) -> None:
        place = Place(3, Limits(rpm=1))
        place.keys(CONVERSATIONS[:3])
        with pytest.raises(PoolExhaustedError):
            place.key(CONVERSATIONS[0])
        queue = place.pool._keyring.ready_queues["m", 4]

        def walk() -> Iterator[Account]:
            pytest.fail("it walked")
            yield

        assert queue.pick(10, place.now, (), near=walk()) is None

    def test_gets_every_key_that_spread_would_get(self) -> None:
        place = Place(10, Limits(rpm=5))
        assert Counter(place.key(CONVERSATIONS[n % 3]) for n in range(50)) == {f"p#{n}": 5 for n in range(10)}
        with pytest.raises(PoolExhaustedError):
            place.key(CONVERSATIONS[0])

    def test_is_of_no_account_where_one_key_is_asked_for(self) -> None:
        place = Place(5)
        own = place.key(CONVERSATIONS[0])
        other = next(credential.id for credential in place.pool.credentials if credential.id != own)
        assert place.key(CONVERSATIONS[0], key_id=other) == other


class TestAHotKey:
    def test_is_passed_over(self) -> None:
        place = Place(10)
        walk = place.walk(CONVERSATIONS[0])
        leases = [place.pool.acquire("m", 0, 0, affinity=CONVERSATIONS[0]) for _ in range(12)]
        # Twice the mean + 2 is 3 when 5 are in flight, and 4 when 10 are.
        places = [walk.index(lease.key_id) for lease in leases]
        assert places == [0, 0, 0, 1, 1, 0, 1, 1, 2, 2, 0, 1]
        for lease in leases:
            lease.release()
        assert place.key(CONVERSATIONS[0]) == walk[0]

    def test_is_one_that_is_hotter_than_the_others(self) -> None:
        place = Place(4)
        own = place.key(CONVERSATIONS[0])
        others = [place.pool.acquire("m", 0, 0) for _ in range(40)]
        with place.pool.acquire("m", 0, 0, affinity=CONVERSATIONS[0]) as lease:
            assert lease.key_id == own
        assert len(others) == 40

    def test_is_counted_among_the_live_ones(self) -> None:
        place = Place(10)
        walk = place.walk(CONVERSATIONS[0])
        for key in walk[2:]:
            place.pool.retire(key, "by hand")
        leases = [place.pool.acquire("m", 0, 0, affinity=CONVERSATIONS[0]) for _ in range(7)]
        # Of two keys the mean is a half of what is in flight.
        assert [lease.key_id for lease in leases] == [walk[0]] * 7

    def test_serves_where_there_is_no_other(self) -> None:
        place = Place(1)
        leases = [place.pool.acquire("m", 0, 0, affinity=CONVERSATIONS[0]) for _ in range(20)]
        assert {lease.key_id for lease in leases} == {"p#0"}

    def test_in_a_child_only_what_the_child_has_in_flight_counts(self) -> None:
        place = Place(10)
        of_the_parent = [place.pool.acquire("m", 0, 0) for _ in range(30)]
        place.pool._lending._after_fork_in_child()
        walk = place.walk(CONVERSATIONS[0])
        leases = [place.pool.acquire("m", 0, 0, affinity=CONVERSATIONS[0]) for _ in range(4)]
        assert [walk.index(lease.key_id) for lease in leases] == [0, 0, 0, 1]
        assert len(of_the_parent) == 30


class TestWaiting:
    def test_who_waits_takes_what_comes(self) -> None:
        class Waits:
            def wait(self, event: threading.Event, seconds: float) -> None:
                place.now += seconds

        place = Place(2, Limits(rpm=1))
        place.pool._waits = Waits()  # type: ignore[assignment]  # no task waits here
        own, other = place.walk(CONVERSATIONS[0])
        for key in (other, own):
            place.pool.acquire("m", key_id=key).commit()
        # Both are free in the same instant: then it is their turn that counts.
        with place.pool.acquire("m", 1, 120, affinity=CONVERSATIONS[0]) as lease:
            assert lease.key_id == other


class TestSharing:
    @pytest.mark.parametrize("way", ["sync", "async"])
    def test_a_key_that_the_others_have_used_up_is_passed_on(self, way: str) -> None:
        class Book:
            def reserve(self, reservation: Reservation) -> Refusal | None:
                asked.append(reservation.account)
                return None if reservation.account in granted else Refusal("limited", 60.0, "used up")

            async def reserve_async(self, reservation: Reservation) -> Refusal | None:
                return self.reserve(reservation)

            def end(self, reservation: Reservation, charged: int | None) -> None: ...

        place = Place(20)
        walk = place.walk(CONVERSATIONS[0])
        names = {credential.id: credential.account for credential in place.pool.credentials}
        asked: list[str] = []
        granted = {names[walk[3]]}
        place.pool.join(Book())
        if way == "sync":
            lease = place.pool.acquire("m", affinity=CONVERSATIONS[0])
        else:
            lease = asyncio.run(place.pool.aacquire("m", affinity=CONVERSATIONS[0]))
        assert lease.key_id == walk[3]
        assert asked == [names[key] for key in walk[:4]]
