"""Processes that share keys through the local file; here each is a pool with a log and a ledger of its own."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from hfs_providers import Limits
from hfs_providers.authoring import Credential, Secret
from hfs_providers.errors import PoolExhaustedError
from hfs_providers.keys import KeyPool
from hfs_providers.sharing import presence
from hfs_providers.sharing.file_ledger import FileLedger
from hfs_providers.sharing.presence import LINGER, Process
from hfs_providers.sharing.state_log import StateKeeper
from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import Store
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.row_writer import write_rows
from tests import warm

KEYS = [Credential("p#1", Secret("a-secret-1")), Credential("p#2", Secret("a-secret-2"))]
KEYLESS = [Credential("p#1", None), Credential("p#2", None)]
GONE = Process(2**22 + 7, 1.0, presence.this().place)
"""A process that has ended."""


class Time:
    """One wall clock for all."""

    def __init__(self) -> None:
        self.now = 1_700_049_600.0
        self.back = 0.0
        """Seconds by which it was set back, which the monotonic clock was not."""

    def __call__(self) -> float:
        return self.now - self.back


@dataclass
class Member:
    """What one process has."""

    pool: KeyPool
    log: UsageLog
    ledger: FileLedger
    wall: Time

    def call(self, key_id: str | None = "p#1", tokens: int = 10, model: str = "m", estimate: int = 10) -> None:
        """One request, answered at once."""
        with self.pool.acquire(model, estimate, timeout=0, key_id=key_id) as lease:
            key = lease.credential
            row = UsageRow(self.wall(), "p", model, key.id, key.fingerprint, 0, 0, tokens, 0.1, "ok", tokens)
            # What all clients have used counts together.
            self.log.record(row._replace(client=next(CLIENTS)))
            lease.commit(tokens)
        # Else a row may be in the file, and its request in flight, for a moment.
        self.log.flush()

    def calls(self, **options: object) -> int:
        """As many requests as are let through; how many."""
        done = 0
        while True:
            try:
                self.call(**options)  # type: ignore[arg-type]
            except PoolExhaustedError:
                return done
            done += 1


Join = Callable[..., Member]
CLIENTS = itertools.cycle(["", "web", "batch"])


@pytest.fixture
def wall() -> Time:
    return Time()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


@pytest.fixture
def member(store: Store, wall: Time) -> Iterator[Join]:
    """Makes processes: `member(Limits(rpm=2))`."""
    members: list[Member] = []

    def make(limits: Limits | None = None, keys: list[Credential] = KEYS, process: Process | None = None) -> Member:
        log = UsageLog(store, group=0.001)
        pool = KeyPool("p", keys, limits=lambda *_: limits, clock=lambda: wall.now, wall=wall)
        # Nobody looks by itself here.
        ledger = FileLedger(log, wall=wall, clock=lambda: wall.now, tick=3600.0, process=process)
        ledger.start({"p": pool})
        made = Member(pool, log, ledger, wall)
        members.append(made)
        return made

    yield make
    for each in members:
        each.ledger.close()
        each.log.close()


def company(*members: Member) -> None:
    """All see each other."""
    for each in members:
        each.wall.now += 10
        each.ledger.look()


def in_flight(store: Store) -> int:
    with closing(store.connect()) as connection:
        return int(connection.execute("SELECT COALESCE(SUM(requests), 0) FROM in_flight").fetchone()[0])


def test_a_key_that_joined_is_shared_and_one_that_left_ends_its_calls(member: Join, store: Store) -> None:
    first, second = member(Limits(rpm=2)), member(Limits(rpm=2))
    company(first, second)
    new = Credential("p@new", Secret("a-new-secret"))
    for each in (first, second):
        each.pool.change_keys([new], [key.id for key in KEYS])
    lease = first.pool.acquire("m")
    assert second.calls(key_id=None) == 1
    first.pool.change_keys([], [new.id])
    lease.release()
    first.log.flush()
    assert in_flight(store) == 0
    first.wall.now += 1
    assert second.calls(key_id=None) == 1


class TestComing:
    def test_a_process_that_is_alone_asks_nobody(self, member: Join, store: Store) -> None:
        alone = member(Limits(rpm=5))
        alone.ledger.look()
        alone.call()
        assert not alone.ledger.shared
        assert alone.pool._reservations.ledger is None

    def test_a_newcomer_makes_those_who_are_there_share(self, member: Join) -> None:
        first = member(Limits(rpm=5))
        second = member(Limits(rpm=5))
        first.ledger.look()
        assert first.ledger.shared
        assert second.ledger.shared

    def test_what_was_in_flight_counts_from_then_on(self, member: Join, store: Store) -> None:
        first = member(Limits(rpm=2))
        lease = first.pool.acquire("m", key_id="p#1")
        second = member(Limits(rpm=2))
        company(first, second)
        assert in_flight(store) == 1
        assert second.calls() == 1
        lease.release()
        assert first.log.flush()
        assert second.log.flush()
        assert in_flight(store) == 0

    def test_what_was_used_before_counts(self, member: Join) -> None:
        first = member(Limits(rpm=2))
        first.call()
        second = member(Limits(rpm=2))
        first.ledger.look()
        assert second.calls() == 1

    def test_the_newcomer_waits_for_those_who_are_there(self, member: Join, store: Store, wall: Time) -> None:
        first = member(Limits(rpm=2))
        lease = first.pool.acquire("m", key_id="p#1")
        second = member(Limits(rpm=2))
        answered: list[int] = []
        thread = threading.Thread(target=lambda: answered.append(second.calls()))
        thread.start()
        # The clock stands still, so that nothing but the acknowledgement ends the waiting.
        assert not answered
        first.ledger.look()
        thread.join(30)
        assert answered == [1]
        lease.release()

    def test_it_waits_for_half_a_second_at_most(self, member: Join, wall: Time) -> None:
        member(Limits(rpm=2))
        second = member(Limits(rpm=2))
        wall.now += 0.6
        assert second.calls() == 2


class TestSharing:
    @pytest.mark.parametrize(
        ("limits", "calls"),
        [
            (Limits(rpm=5), 5),
            (Limits(rph=5), 5),
            (Limits(rpd=5), 5),
            (Limits(rpd=5, day_zone="America/Los_Angeles"), 5),
            (Limits(tpm=50), 5),
            (Limits(tph=50), 5),
            (Limits(tpd=50), 5),
            (Limits(rpm=9, rph=7, rpd=5, tpm=80), 5),
            (Limits(rpm=0), 0),
            (Limits(tpm=0), 0),
        ],
    )
    def test_a_limit_holds_over_all(self, member: Join, limits: Limits, calls: int) -> None:
        first, second = member(limits), member(limits)
        company(first, second)
        done = 0
        for _ in range(10):
            for each in (first, second):
                try:
                    each.call()
                except PoolExhaustedError:
                    continue
                done += 1
                each.log.flush()
        assert done == calls

    def test_the_naive_way_uses_it_once_for_each(self, member: Join) -> None:
        first, second = member(Limits(rpm=5)), member(Limits(rpm=5))
        for each in (first, second):
            each.pool.leave()
        assert first.calls() + second.calls() == 10

    def test_keys_count_apart(self, member: Join) -> None:
        first, second = member(Limits(rpm=5)), member(Limits(rpm=5))
        company(first, second)
        assert first.calls(key_id="p#1") == 5
        assert second.calls(key_id="p#2") == 5

    def test_endpoints_without_keys_count_apart(self, member: Join) -> None:
        first, second = member(Limits(rpm=2), KEYLESS), member(Limits(rpm=2), KEYLESS)
        company(first, second)
        assert first.calls(key_id="p#1") == 2
        assert second.calls(key_id="p#1") == 0
        assert second.calls(key_id="p#2") == 2

    def test_an_account_counts_together(self, member: Join) -> None:
        keys = [Credential(key.id, key.secret, {"account": "us"}) for key in KEYS]
        first, second = member(Limits(rpm=3), keys), member(Limits(rpm=3), keys)
        company(first, second)
        assert first.calls(key_id="p#1") == 3
        first.log.flush()
        assert second.calls(key_id="p#2") == 0

    def test_models_that_share_an_allowance_count_together(self, member: Join) -> None:
        limits = Limits(rpm=3, shared=True)
        first, second = member(limits), member(limits)
        company(first, second)
        assert first.calls(model="a") == 3
        first.log.flush()
        assert second.calls(model="b") == 0

    def test_models_count_apart_else(self, member: Join) -> None:
        first, second = member(Limits(rpm=3)), member(Limits(rpm=3))
        company(first, second)
        assert first.calls(model="a") == 3
        assert second.calls(model="b") == 3

    def test_what_leaves_the_window_is_free_again_and_not_before(self, member: Join, wall: Time) -> None:
        first, second = member(Limits(rpm=2)), member(Limits(rpm=2))
        company(first, second)
        first.call()
        wall.now += 20
        first.call()
        first.log.flush()
        assert second.calls() == 0
        assert second.pool.statuses("m")[0].state == "limited"
        assert second.pool.statuses("m")[0].free_in == pytest.approx(40, abs=0.01)
        wall.now += 39.9
        assert second.calls() == 0
        wall.now += 0.2
        assert second.calls() == 1

    def test_an_estimate_beyond_the_limit_goes_when_the_window_is_empty(self, member: Join) -> None:
        first, second = member(Limits(tpm=50)), member(Limits(tpm=50))
        company(first, second)
        second.call(estimate=500)
        second.log.flush()
        with pytest.raises(PoolExhaustedError):
            first.call(estimate=500)

    def test_a_request_that_was_never_sent_counts_nothing(self, member: Join, store: Store) -> None:
        first, second = member(Limits(rpm=1)), member(Limits(rpm=1))
        company(first, second)
        first.pool.acquire("m", key_id="p#1").release()
        first.log.flush()
        assert in_flight(store) == 0
        assert second.calls() == 1

    def test_keys_without_limits_need_no_transaction(self, member: Join, store: Store) -> None:
        first, second = member(None), member(None)
        company(first, second)
        lease = first.pool.acquire("m")
        assert in_flight(store) == 0
        lease.commit(1)
        first.log.flush()
        assert in_flight(store) == 0
        assert second.pool.acquire("m").commit(1) is None

    def test_many_threads_of_many_processes_use_all_and_no_more(self, member: Join, store: Store) -> None:
        members = [member(Limits(rpm=40)) for _ in range(4)]
        company(*members)
        done: list[int] = []
        threads = [
            threading.Thread(target=lambda each=each: done.append(each.calls())) for each in members for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sum(done) <= 40
        for each in members:
            assert each.log.flush()
        members[0].wall.now += 0.3
        assert sum(done) + members[0].calls() == 40
        members[0].log.flush()
        assert in_flight(store) == 0


class TestTold:
    """What one process was told of a key, all know."""

    def pair(self, member: Join) -> tuple[Member, Member]:
        first, second = member(None), member(None)
        company(first, second)
        for each in (first, second):
            wrapper = type("Wrapper", (), {"pool": each.pool})
            keeper = StateKeeper(each.log.defer, {"p": wrapper}, each.wall)  # type: ignore[dict-item]  # all it needs

            def tell(*about: object, keeper: StateKeeper = keeper) -> None:
                from hfs_providers import Event

                change, key_id, model, reason, seconds = about
                keeper.note(Event(change, "p", model, key_id, reason, seconds))  # type: ignore[arg-type]

            each.pool._lending._on_change = tell
        return first, second

    def test_a_cooling_key(self, member: Join) -> None:
        first, second = self.pair(member)
        first.pool.acquire("m", key_id="p#1").rate_limited(40, reason="slow down")
        first.log.flush()
        assert second.pool.acquire("m", timeout=0).key_id == "p#2"
        with pytest.raises(PoolExhaustedError):
            second.call(key_id="p#1")
        status = second.pool.statuses("m")[0]
        assert (status.state, status.reason) == ("cooling", "slow down")
        assert second.pool.acquire("other", timeout=0, key_id="p#1")

    def test_a_key_that_cools_for_all_models(self, member: Join) -> None:
        first, second = self.pair(member)
        first.pool.acquire("m", key_id="p#1").rate_limited(40, scope="key")
        first.log.flush()
        with pytest.raises(PoolExhaustedError):
            second.call(key_id="p#1", model="other")

    def test_a_dead_key(self, member: Join, wall: Time) -> None:
        first, second = self.pair(member)
        first.pool.acquire("m", key_id="p#1").dead("401")
        first.log.flush()
        with pytest.raises(PoolExhaustedError):
            second.call(key_id="p#1")
        assert (second.pool.statuses()[0].state, second.pool.statuses()[0].reason) == ("dead", "401")
        wall.now += 3601
        second.call(key_id="p#1")
        assert second.pool.statuses()[0].state == "ready"

    def test_a_process_that_asks_nobody_hears_of_it_too(self, member: Join, wall: Time) -> None:
        first, second = self.pair(member)
        second.ledger.close()
        first.ledger.look()
        assert first.pool._reservations.ledger is None
        wall.now += 1
        # As the command line does it: a process that comes, says it, and goes.
        second.pool.retire("p#1", "retired: by its owner")
        second.pool.acquire("m", key_id="p#2").rate_limited(500, scope="key")
        second.log.flush()
        first.ledger.look()
        assert [status.state for status in first.pool.statuses()] == ["dead", "cooling"]
        wall.now += 1
        second.pool.revive("p#1")
        second.pool.revive("p#2")
        second.log.flush()
        first.ledger.look()
        assert [status.state for status in first.pool.statuses()] == ["ready", "ready"]

    def test_it_is_heard_though_the_clock_was_set_back(self, member: Join, wall: Time) -> None:
        first, second = self.pair(member)
        second.pool.retire("p#2", "out")
        second.log.flush()
        first.ledger.look()
        for said in ("retire", "revive", "retire"):
            wall.back += 3600
            second.pool.retire("p#1", "out") if said == "retire" else second.pool.revive("p#1")
            second.log.flush()
            first.ledger.look()
            assert first.pool.statuses()[0].state == ("dead" if said == "retire" else "ready")

    def test_what_was_heard_is_not_heard_again(self, member: Join, wall: Time) -> None:
        first, second = self.pair(member)
        wall.now += 1
        second.pool.retire("p#1", "out")
        second.log.flush()
        first.ledger.look()
        # Unlike `revive`, this is known here alone.
        first.pool._keyring.keys["p#1"].revive()
        wall.now += 5
        first.ledger.look()
        assert first.pool.statuses()[0].state == "ready"

    def test_a_key_that_this_process_revived_a_moment_ago(self, member: Join) -> None:
        first, _ = self.pair(member)
        first.pool.retire("p#1", "out")
        first.log.flush()
        first.pool.revive("p#1")
        first.call(key_id="p#1")
        assert first.pool.statuses()[0].state == "ready"


class TestGoing:
    def test_the_last_one_parts_and_knows_what_all_have_used(self, member: Join, wall: Time) -> None:
        first, second = member(Limits(rpm=5, rpd=5)), member(Limits(rpm=5, rpd=5))
        company(first, second)
        assert second.calls() == 5
        second.ledger.close()
        first.ledger.look()
        assert not first.ledger.shared
        assert first.pool._reservations.ledger is None
        assert first.calls() == 0
        assert first.pool.statuses("m")[0].state == "limited"

    def test_what_a_dead_process_had_in_flight_counts_for_a_minute(
        self, member: Join, store: Store, wall: Time
    ) -> None:
        dead = member(Limits(rpm=2))
        first = member(Limits(rpm=2))
        company(dead, first)
        dead.pool.acquire("m", key_id="p#1").model_id  # noqa: B018  it is lost with its process
        dead.lease = dead.pool.acquire("m", key_id="p#1")  # type: ignore[attr-defined]  # so that it is not collected
        with closing(store.connect()) as connection:
            connection.execute(
                "UPDATE processes SET pid = ?, born = 1.0 WHERE id = ?", (GONE.pid, dead.ledger._presence.id)
            )
        wall.now += 2
        first.ledger.look()
        assert first.ledger.shared
        dead.log.flush()
        assert first.calls() == 1
        wall.now += LINGER + 1
        first.ledger.look()
        assert not first.ledger.shared
        assert first.calls() == 2

    def test_a_dead_process_with_nothing_in_flight_is_nobody(self, member: Join, wall: Time) -> None:
        member(Limits(rpm=2), process=GONE)
        first = member(Limits(rpm=2))
        assert not first.ledger.shared

    def test_a_process_number_that_was_given_away_is_no_sign_of_life(self, member: Join) -> None:
        me = presence.this()
        member(Limits(rpm=2), process=Process(me.pid, me.born - 1, me.place))
        assert not member(Limits(rpm=2)).ledger.shared

    def test_one_of_another_machine_or_container_lives_while_it_says_so(self, member: Join, wall: Time) -> None:
        far = member(Limits(rpm=2), process=Process(1, 1.0, "elsewhere"))
        first = member(Limits(rpm=2))
        assert first.ledger.shared
        wall.now += 19
        far.ledger.look()
        wall.now += 19
        first.ledger.look()
        assert first.ledger.shared
        wall.now += 25
        first.ledger.look()
        assert not first.ledger.shared

    def test_a_closed_ledger_is_gone_from_the_file(self, member: Join, store: Store) -> None:
        first = member(Limits(rpm=2))
        first.ledger.close()
        first.ledger.close()
        with closing(store.connect()) as connection:
            assert connection.execute("SELECT COUNT(*) FROM processes").fetchone() == (0,)


class TestTrouble:
    def test_a_file_that_is_locked_stops_no_call_and_is_told(
        self, member: Join, store: Store, wall: Time, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hfs_providers.sharing.file_ledger.FILE_TIMEOUT", 0.02)
        monkeypatch.setattr("hfs_providers.usage.log._LOCKED", 0.02)
        first, second = member(Limits(rpm=2)), member(Limits(rpm=2))
        company(first, second)
        with closing(store.connect()) as other:
            other.execute("BEGIN EXCLUSIVE")
            lease = first.pool.acquire("m", timeout=0, key_id="p#1")
            assert first.ledger.problem is not None
            assert "locked" in first.ledger.problem.message
            other.execute("COMMIT")
        lease.release()
        first.log.flush()
        assert in_flight(store) == 0
        wall.now += 5
        first.ledger.look()
        assert first.ledger.problem is None
        assert first.calls() == 2

    def test_a_file_that_was_replaced_is_joined_again(self, member: Join, store: Store, wall: Time) -> None:
        first, second = member(Limits(rpm=2)), member(Limits(rpm=2))
        company(first, second)
        for path in store.path.parent.glob("usage.db*"):
            path.unlink()
        company(first, second)
        company(first, second)
        first.calls()
        first.log.flush()
        assert second.calls() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_shares_with_its_parent(tmp_path: Path) -> None:
    # In a process of its own, because a fork of the test runner would take its threads' state along.
    program = (
        "import os, sys, time\n"
        "from hfs_providers import ProviderManager\nfrom hfs_providers.errors import PoolExhaustedError\n"
        "from hfs_providers.usage import UsageRow\n"
        "keys = {'NUM_GROQ': '1', 'GROQ_API_KEY_1': 'gsk_test-0123456789abcdef', 'GROQ_LIMITS': 'rpm=20'}\n"
        "manager = ProviderManager({**keys, 'HFS_USAGE_DB': sys.argv[1]})\n"
        "def calls():\n"
        "    pool, done = manager.wrappers['groq'].pool, 0\n"
        "    end = time.monotonic() + 2\n"
        "    while time.monotonic() < end:\n"
        "        try:\n"
        "            lease = pool.acquire('m', timeout=0)\n"
        "        except PoolExhaustedError:\n"
        "            time.sleep(0.05)\n"
        "            continue\n"
        "        done += 1\n"
        "        mark = lease.credential.fingerprint\n"
        "        manager.record(UsageRow(time.time(), 'groq', 'm', 'groq#1', mark, 0, 0, 1, 0.1, 'ok', 1))\n"
        "        lease.commit(1)\n"
        "    return done\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(write, str(calls()).encode())\n"
        "    manager.shutdown()\n"
        "    os._exit(0)\n"
        "mine = calls()\n"
        "theirs = int(os.read(read, 100))\n"
        "os.wait()\n"
        "assert mine + theirs == 20, (mine, theirs)\n"
        "manager.shutdown()\n"
    )
    done = subprocess.run(
        [warm.python(), "-c", program, str(tmp_path / "usage.db")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_reserving_costs_the_same_with_a_history(store: Store, member: Join, wall: Time) -> None:
    # Counted in steps of SQLite's machine, which no load of this computer changes.
    limits = Limits(rpm=10**6, rph=10**6, rpd=10**6, tpm=10**9, tpd=10**9)
    first, second = member(limits), member(limits)
    company(first, second)

    def steps() -> int:
        taken = [0]

        def count() -> int:
            taken[0] += 1
            return 0

        with first.ledger._connection.use() as connection:
            connection.set_progress_handler(count, 1)
        first.call()
        with first.ledger._connection.use() as connection:
            connection.set_progress_handler(None, 1)
        return taken[0]

    steps()
    few = steps()
    rows = [
        UsageRow(wall() - 80_000 + place * 3, "p", "m", "p#1", KEYS[0].fingerprint, 0, 0, 1, 0.1, "ok", 1)
        for place in range(20_000)
    ]
    with closing(store.connect()) as connection:
        write_rows(connection, rows)
    assert steps() < few + 10_000
