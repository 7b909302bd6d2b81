"""Hosts that share their keys' limits through Redis: what they agree on, and what becomes of it when Redis is away."""

from __future__ import annotations

import logging
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hfs_providers import ProviderManager
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Event, Limits
from hfs_providers.contract.secret import Secret
from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.keys.ledger import Refusal, Reservation
from hfs_providers.keys.pool import KeyPool
from hfs_providers.sharing import redis_connection
from hfs_providers.sharing.redis_connection import REDIS_TIMEOUT
from hfs_providers.sharing.redis_counts import SETTLE
from hfs_providers.sharing.redis_ledger import RedisLedger
from hfs_providers.usage.database import Store
from tests.sharing.redis_server import Clock, RedisServer, binary, by_clock, eventually, everything, free_port

NOON = 1_700_000_000.0 // 86_400 * 86_400 + 43_200
SECRET = "a-key-that-nobody-may-see-0123456789"


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(binary(), tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def server(_server: RedisServer) -> RedisServer:
    """One for all tests that leave it as it was; empty."""
    _server.client().flushall()
    return _server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Makes servers that may be stopped and killed."""
    made: list[RedisServer] = []

    def make(*options: str) -> RedisServer:
        made.append(RedisServer(binary(), tmp_path, *options))
        return made[-1]

    yield make
    for each in made:
        each.kill()


@pytest.fixture
def clock(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the server and all ledgers go by."""
    scripts = dict(redis_connection.SCRIPTS)
    by_clock(scripts)
    monkeypatch.setattr(redis_connection, "SCRIPTS", scripts)
    return Clock(server, NOON)


def test_every_script_is_found_and_begins_with_the_prelude() -> None:
    folder = Path(redis_connection.__file__).parent / "scripts"
    prelude = (folder / "prelude.lua").read_text()
    names = {file.stem for file in folder.iterdir()} - {"prelude"}
    of_keys = {"announce", "heartbeat", "look", "publish", "register", "release", "reserve", "revived"}
    assert names == of_keys | {"paid", "spend", "spent"}
    scripts = {name: prelude + (folder / f"{name}.lua").read_text() for name in names}
    assert scripts == redis_connection.SCRIPTS


class Host:
    """A ledger, and a pool of one key or more that is joined to it."""

    def __init__(self, url: str, limits: Limits | None, wall: Callable[[], float] | None, **options: Any) -> None:
        keys = options.pop("keys", 1)
        clocks: dict[str, Any] = {"wall": wall, "clock": wall} if wall else {}
        self.pool = KeyPool(
            "acme",
            [Credential(f"acme#{n}", Secret(f"{SECRET}{n}")) for n in range(keys)],
            limits=lambda model, key: limits,
            on_change=lambda change, key, model, reason, seconds: self.ledger.observe(
                Event(change, "acme", model, key, reason, seconds)
            ),
            **clocks,
        )
        self.pool.load(options.pop("state", {}))
        self.ledger = RedisLedger(url, options.pop("store", None), **({"wall": wall} if wall else {}), **options)
        self.ledger.start({"acme": self.pool})

    def call(self, tokens: int = 0, estimate: int = 0) -> bool:
        """Whether a call was let through; it is over at once."""
        try:
            self.pool.acquire("m", estimate, timeout=0).commit(tokens)
        except PoolExhaustedError:
            return False
        return True

    @property
    def shares(self) -> bool:
        return self.ledger.problem is None


@pytest.fixture
def hosts(request: pytest.FixtureRequest) -> Iterator[Callable[..., Host]]:
    """Makes hosts; by the clock where the test has one, by the server where it has one."""
    made: list[Host] = []

    def make(limits: Limits | None = None, *, url: str | None = None, **options: Any) -> Host:
        wall = request.getfixturevalue("clock") if "clock" in request.fixturenames else None
        made.append(Host(url or request.getfixturevalue("server").url, limits, wall, **options))
        return made[-1]

    yield make
    for each in made:
        each.ledger.close()


def reservation(limits: Limits | None = None, tokens: int = 0, account: str = "aa", model: str = "m") -> Reservation:
    return Reservation("acme", account, (account,), account, model, limits, tokens)


def settled(host: Host, clock: Clock) -> None:
    """What was said to the server has arrived: a claim comes behind it."""
    assert host.ledger.reserve(reservation(account="nobody's")) is None


# What is agreed on.


def test_a_limit_holds_over_all_hosts(server: RedisServer, hosts: Callable[..., Host]) -> None:
    limits = Limits(rpm=5)
    both = [hosts(limits), hosts(limits)]
    assert sum(host.call() for _ in range(5) for host in both) == 5
    alone = KeyPool("acme", both[0].pool.credentials, limits=lambda model, key: limits)
    for _ in range(5):
        alone.acquire("m", timeout=0).commit()  # and a pool that knows nobody would have let five more go


def test_a_key_that_joined_is_shared_and_one_that_left_ends_its_calls(clock: Clock, hosts: Callable[..., Host]) -> None:
    here, there = hosts(Limits(rpm=1), keys=2), hosts(Limits(rpm=1), keys=2)
    new = Credential("acme@new", Secret(f"{SECRET} new"))
    for host in (here, there):
        host.pool.change_keys([new], ["acme#0", "acme#1"])
    lease = here.pool.acquire("m")
    assert not there.call()
    here.pool.change_keys([], [new.id])
    lease.release()
    settled(here, clock)
    clock.pass_by(1)
    assert there.call()
    here.pool.change_keys([new])
    settled(there, clock)
    clock.pass_by(61)
    here.pool.acquire("m").dead("revoked")
    settled(here, clock)
    with pytest.raises(PoolExhaustedError) as caught:
        there.pool.acquire("m", timeout=0)
    assert caught.value.dead == 1


def test_calls_in_flight_count_for_everyone_and_a_release_counts_nothing(
    clock: Clock, hosts: Callable[..., Host]
) -> None:
    here, there = hosts(Limits(rpm=1)), hosts(Limits(rpm=1))
    lease = here.pool.acquire("m")
    assert not there.call()
    lease.release()
    settled(here, clock)
    clock.pass_by(1)
    assert there.call()


def test_tokens_are_reserved_as_estimated_and_counted_as_charged(clock: Clock, hosts: Callable[..., Host]) -> None:
    here, there = hosts(Limits(tpm=1000)), hosts(Limits(tpm=1000))
    lease = here.pool.acquire("m", 800)
    assert not there.call(estimate=300)
    lease.commit(100)
    settled(here, clock)
    clock.pass_by(1)
    assert there.call(tokens=900, estimate=900)
    settled(there, clock)
    assert not here.call(estimate=1)


def test_what_calls_in_flight_have_reserved_is_asked_for_again_soon(clock: Clock, hosts: Callable[..., Host]) -> None:
    here, there = hosts(Limits(tpm=1000)), hosts(Limits(tpm=1000))
    assert here.call(tokens=500)
    lease = here.pool.acquire("m", 400)
    refusal = there.ledger.reserve(_claim_of(there, Limits(tpm=1000), 300))
    assert isinstance(refusal, Refusal)
    assert refusal.until < NOON + 1
    lease.release()


def test_a_minute_ends_to_the_millisecond_after_the_call_did(clock: Clock, hosts: Callable[..., Host]) -> None:
    here, there = hosts(Limits(rpm=1)), hosts(Limits(rpm=1))
    assert here.call()
    settled(here, clock)
    clock.pass_by(59.999)
    refusal = there.ledger.reserve(_claim_of(there))
    assert isinstance(refusal, Refusal)
    assert refusal.until == pytest.approx(NOON + 60.001, abs=0.002)
    clock.pass_by(0.002)
    assert there.ledger.reserve(_claim_of(there)) is None


@pytest.mark.parametrize(("limits", "span", "grain"), [(Limits(rph=1), 3600, 60), (Limits(rpd=1), 86_400, 900)])
def test_hours_and_days_end_late_by_a_bucket_at_most_and_never_early(
    clock: Clock, hosts: Callable[..., Host], limits: Limits, span: float, grain: float
) -> None:
    here, there = hosts(limits), hosts(limits)
    assert here.call()
    settled(here, clock)
    clock.pass_by(span - 1)
    refusal = there.ledger.reserve(_claim_of(there, limits))
    assert isinstance(refusal, Refusal)
    assert NOON + span <= refusal.until <= NOON + span + grain
    clock.set(refusal.until + 0.001)
    assert there.ledger.reserve(_claim_of(there, limits)) is None


def test_a_calendar_day_ends_at_its_zones_midnight(clock: Clock, hosts: Callable[..., Host]) -> None:
    limits = Limits(rpd=1, day_zone="Asia/Kathmandu")  # a quarter of an hour off the hour: 5:45 ahead
    here, there = hosts(limits), hosts(limits)
    assert here.call()
    settled(here, clock)
    midnight = NOON + 12 * 3600 - 5.75 * 3600
    refusal = there.ledger.reserve(_claim_of(there, limits))
    assert isinstance(refusal, Refusal)
    assert refusal.until == pytest.approx(midnight, abs=0.01)
    clock.set(midnight + 0.001)
    assert there.ledger.reserve(_claim_of(there, limits)) is None


def test_what_one_host_was_told_of_a_key_all_heed(clock: Clock, hosts: Callable[..., Host]) -> None:
    here, there = hosts(keys=2), hosts(keys=2)
    here.pool.acquire("m", key_id="acme#0").rate_limited(30.0)
    here.pool.acquire("m", key_id="acme#1").dead("revoked")
    settled(here, clock)
    with pytest.raises(PoolExhaustedError) as caught:
        there.pool.acquire("m", timeout=0)
    assert (caught.value.cooling, caught.value.dead) == (1, 1)
    assert there.pool.acquire("another", timeout=0).key_id == "acme#0"
    here.pool.revive("acme#1")
    settled(here, clock)
    there.pool.revive("acme#1")
    assert there.pool.acquire("m", timeout=0).key_id == "acme#1"


def test_a_revival_beats_what_a_host_that_starts_still_believes(clock: Clock, hosts: Callable[..., Host]) -> None:
    here = hosts()
    here.pool.retire("acme#0", "by its owner")
    settled(here, clock)
    clock.pass_by(5)
    believed = here.pool.dump()
    here.pool.revive("acme#0")
    settled(here, clock)
    clock.pass_by(5)
    there = hosts(state=believed)
    assert there.pool.statuses()[0].state == "ready"
    assert here.call()
    # What is learned from then on counts again.
    there.pool.retire("acme#0", "once more")
    settled(there, clock)
    assert not here.call()


def test_a_rest_that_ended_with_a_revival_is_not_begun_anew(clock: Clock, hosts: Callable[..., Host]) -> None:
    here = hosts()
    here.pool.acquire("m").rate_limited(3600)
    settled(here, clock)
    believed = here.pool.dump()
    here.pool.revive("acme#0")
    settled(here, clock)
    hosts(state=believed)
    assert here.call()


def test_a_revival_reaches_hosts_that_run(clock: Clock, hosts: Callable[..., Host]) -> None:
    here, there = hosts(), hosts()
    here.pool.retire("acme#0", "by its owner")
    settled(here, clock)
    assert not there.call()
    clock.pass_by(5)
    here.pool.revive("acme#0")
    eventually(lambda: there.pool.statuses()[0].state == "ready")
    assert there.call()


def test_a_host_writes_down_the_revival_that_it_has_heard_of(server: RedisServer, tmp_path: Path) -> None:
    def manager(host: str, redis: bool = True) -> ProviderManager:
        env = {"GROQ_API_KEY": f"gsk_{SECRET}", "HFS_USAGE_DB": str(tmp_path / host / "usage.db")}
        return ProviderManager({**env, "HFS_REDIS_URL": server.url if redis else ""})

    # Each a program that comes and goes, as the command line does.
    with manager("one") as one:
        one.wrappers["groq"].pool.retire("groq#0", "by its owner")
    with manager("two") as two:
        two.wrappers["groq"].pool.revive("groq#0")
    for redis in (True, False):
        with manager("one", redis) as one:
            assert one.wrappers["groq"].pool.statuses()[0].state == "ready"


def test_a_rest_without_an_end_is_told_as_one_of_a_day(clock: Clock, hosts: Callable[..., Host]) -> None:
    here, there = hosts(), hosts()
    here.pool.acquire("m").rate_limited(math.inf)
    settled(here, clock)
    assert not there.call()
    clock.pass_by(86_401)
    assert there.ledger.reserve(_claim_of(there)) is None


@pytest.mark.parametrize("seed", range(6))
def test_no_limit_is_ever_exceeded_whatever_the_hosts_do(
    clock: Clock, hosts: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # The clock of the test runs ahead of the holders' signs of life.
    life = "local LIFE = 75000\n"
    assert all(life in body for body in redis_connection.SCRIPTS.values())
    scripts = {name: body.replace(life, "local LIFE = 1e9\n") for name, body in redis_connection.SCRIPTS.items()}
    monkeypatch.setattr(redis_connection, "SCRIPTS", scripts)
    draw = random.Random(seed)
    limits = Limits(rpm=4, tpm=900, rph=20, tph=6000)
    ledgers = [hosts().ledger for _ in range(3)]
    sent: list[tuple[float, int]] = []
    flying: list[tuple[RedisLedger, Reservation]] = []
    granted = 0
    for _ in range(250):
        act = draw.random()
        if act < 0.45:
            ledger, wish = draw.choice(ledgers), reservation(limits, draw.randint(0, 400), f"k{seed}")
            if ledger.reserve(wish) is None:
                granted += 1
                flying.append((ledger, wish))
                open_tokens = sum(each.tokens for _, each in flying)
                for span, requests, tokens in ((60, limits.rpm, limits.tpm), (3600, limits.rph, limits.tph)):
                    recent = [cost for at, cost in sent if at > clock.now - span]
                    assert len(recent) + len(flying) <= (requests or 0)
                    assert sum(recent) + open_tokens <= (tokens or 0)
        elif act < 0.8 and flying:
            ledger, wish = flying.pop(draw.randrange(len(flying)))
            charged = draw.choice([None, draw.randint(0, wish.tokens)])
            ledger.end(wish, charged)
            assert ledger.reserve(reservation(account="nobody's")) is None  # it has arrived
            if charged is not None:
                sent.append((clock.now, charged))
        else:
            clock.pass_by(draw.choice([0.5, 5, 20, 70, 900]))
    assert granted > 20


# What is kept.


def test_nothing_is_left_for_ever_and_nothing_holds_a_key(server: RedisServer, hosts: Callable[..., Host]) -> None:
    host = hosts(Limits(rpm=5, rpd=100), keys=3)
    host.pool.acquire("m").rate_limited(3.0)
    host.pool.acquire("m").dead("revoked")
    lease = host.pool.acquire("m")
    held: dict[str, Any] = {}

    def complete() -> bool:
        held.update(everything(server.client()))
        return sum(key.endswith(":told") for key in held) == 2 and any(":flying:" in key for key in held)

    eventually(complete)
    assert all(0 < life <= 26 * 3_600_000 for life, _ in held.values())
    assert SECRET not in repr(held)
    assert {key.partition(":")[0] for key in held} == {"hfs"}
    lease.release()


def test_buckets_that_have_left_every_window_are_dropped(
    clock: Clock, server: RedisServer, hosts: Callable[..., Host]
) -> None:
    host = hosts(Limits(rph=100))
    for _ in range(50):
        assert host.call(tokens=3)
        clock.pass_by(3600)
    settled(host, clock)
    shares = next(content for key, (_, content) in everything(server.client()).items() if ":shares:m" in key)
    assert len(shares) < 2 * (26 + 3) + 1


# Whose counts they are.


def test_a_dead_holders_calls_count_for_a_minute_more(
    clock: Clock, server: RedisServer, hosts: Callable[..., Host]
) -> None:
    program = (
        "import sys, time\n"
        "from hfs_providers.sharing import redis_connection\n"
        "from hfs_providers.keys.ledger import Reservation\n"
        "from hfs_providers.sharing.redis_ledger import RedisLedger\n"
        "from tests.sharing.redis_server import by_clock\n"
        "by_clock(redis_connection.SCRIPTS)\n"
        f"ledger = RedisLedger({server.url!r}, wall=lambda: {NOON})\n"
        "ledger.start({})\n"
        "print(ledger.reserve(Reservation('acme', 'aa', ('aa',), 'aa', 'm', None, 0)), flush=True)\n"
        "time.sleep(600)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    holder = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "None\n"
    finally:
        holder.kill()
        holder.communicate()
    ledger = hosts().ledger
    limits = Limits(rpm=1)
    assert ledger.reserve(reservation(limits)) is not None
    clock.pass_by(60)
    assert ledger.reserve(reservation(limits)) is not None
    clock.pass_by(16)
    assert ledger.reserve(reservation(limits)) is None


def test_a_host_tells_what_its_file_knows_once_whoever_tells_it(
    clock: Clock, server: RedisServer, hosts: Callable[..., Host], tmp_path: Path
) -> None:
    store = Store(tmp_path / "usage.db")
    limits = Limits(rpm=5, rpd=5)
    fingerprint = Secret(f"{SECRET}0").fingerprint
    rows = [UsageRow(NOON - 10 * n - 1, "acme", "m", "acme#0", fingerprint, 0, 0, 0, 0.1, "ok", 7) for n in range(3)]
    write(store, rows)
    first, second = hosts(limits, store=store), hosts(limits, store=store)
    for host in (first, second):
        assert host.ledger.reserve(_claim_of(host, limits)) is None
    assert isinstance(first.ledger.reserve(_claim_of(first, limits)), Refusal)
    used = next(content for key, (_, content) in everything(server.client()).items() if key.endswith(":used:m"))
    assert (used["mr"], used["mt"]) == ("3", "21")


def write(store: Store, rows: list[UsageRow]) -> None:
    connection = store.connect()
    for row in rows:
        connection.execute(
            "INSERT OR IGNORE INTO series (provider, model, key_id, fingerprint) VALUES (?, ?, ?, ?)", row[1:5]
        )
        (series,) = connection.execute("SELECT id FROM series").fetchone()
        connection.execute(
            "INSERT INTO usage (series, at, tokens_in, tokens_out, tokens, charged, latency, outcome)"
            " VALUES (?, ?, 0, 0, 0, ?, 0, 'ok')",
            (series, row.at, row.charged),
        )
    connection.close()


def test_after_fork_a_child_is_a_holder_of_its_own(server: RedisServer, hosts: Callable[..., Host]) -> None:
    host = hosts(Limits(rpm=3))
    lease = host.pool.acquire("m")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if [host.call() for _ in range(3)] == [True, True, False] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lease.commit()
    assert not host.call()
    assert host.shares


# When Redis is not as it should be.


def test_after_a_flush_all_hosts_count_anew_before_anything_is_granted(
    clock: Clock, server: RedisServer, hosts: Callable[..., Host]
) -> None:
    here, there = hosts(Limits(rpm=5)), hosts(Limits(rpm=5))
    assert [here.call() for _ in range(3)] == [True] * 3
    lease = there.pool.acquire("m")
    assert there.call()
    settled(here, clock)
    settled(there, clock)
    server.client().flushall()
    clock.set(clock.now)
    assert not here.call()  # nobody knows yet what the others have used
    eventually(lambda: _told_by(server) == 2)
    clock.pass_by(SETTLE + 1)
    lease.commit()
    settled(there, clock)
    clock.pass_by(1)
    assert not here.call()
    assert not there.call()
    clock.pass_by(61)
    assert here.call()


@pytest.mark.parametrize(
    ("limits", "span"), [(Limits(rph=2), 3600), (Limits(rpd=2), 86_400), (Limits(tpd=20, shared=True), 86_400)]
)
def test_after_a_flush_hours_and_days_are_counted_anew(
    clock: Clock, server: RedisServer, hosts: Callable[..., Host], limits: Limits, span: float
) -> None:
    here, there = hosts(limits), hosts(limits)
    assert [each.call(tokens=10) for each in (here, there)] == [True, True]
    settled(here, clock)
    settled(there, clock)
    server.client().flushall()
    clock.set(clock.now)
    assert not here.call(10, 10)
    clock.pass_by(120)  # out of the minute, in which counts are told by the entry
    eventually(lambda: _hosts(server) == 2)
    clock.pass_by(span - 200)
    assert not here.call(10, 10)
    assert not there.call(10, 10)
    clock.pass_by(200 + 900)
    assert here.call(10, 10)


def test_counts_that_redis_evicted_are_found_to_be_missing(
    clock: Clock, server: RedisServer, hosts: Callable[..., Host]
) -> None:
    here, there = hosts(Limits(rpm=5)), hosts(Limits(rpm=5))
    assert [each.call() for each in (here, there) for _ in range(2)] == [True] * 4
    settled(here, clock)
    settled(there, clock)
    client = server.client()
    client.delete(next(key for key in client.scan_iter() if ":minute:m" in key))
    assert not here.call()
    eventually(lambda: client.zcard(next((key for key in client.scan_iter() if ":minute:m" in key), "")) == 4)
    clock.pass_by(SETTLE + 1)
    assert here.call()
    settled(here, clock)
    clock.pass_by(1)
    assert not there.call()


def test_scripts_that_the_server_forgot_are_given_to_it_again(server: RedisServer, hosts: Callable[..., Host]) -> None:
    here, there = hosts(Limits(rpm=2)), hosts(Limits(rpm=2))
    assert here.call()
    server.client().script_flush()
    assert there.call()
    assert not there.call()
    assert here.shares
    assert there.shares


def test_a_server_that_hangs_lets_calls_go_on_alone_and_hears_of_them_later(
    own_server: Callable[..., RedisServer], hosts: Callable[..., Host], caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    here, there = hosts(Limits(rpm=5), url=server.url), hosts(Limits(rpm=5), url=server.url)
    assert here.call()
    server.pause()
    assert here.call()
    assert here.ledger.problem is not None
    assert "did not answer within 250 ms" in here.ledger.problem.message
    assert [here.call() for _ in range(3)] == [True] * 3
    assert not here.call()  # alone, it still keeps to what it knows
    server.resume()
    eventually(lambda: here.shares and there.shares)
    assert not there.call()
    said = [record.message for record in caplog.records if "did not answer" in record.message]
    assert 1 <= len(said) <= 2  # once for each that noticed


def test_a_process_that_stood_still_does_not_take_its_server_for_gone(
    server: RedisServer, hosts: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = hosts(Limits(rpm=2)), hosts(Limits(rpm=2))
    assert here.call()
    serve = here.ledger._counts.serve

    def late(*args: Any, **kwargs: Any) -> None:
        time.sleep(2 * REDIS_TIMEOUT)
        serve(*args, **kwargs)

    monkeypatch.setattr(here.ledger._counts, "serve", late)
    assert not here.call()
    monkeypatch.undo()
    assert here.shares
    assert there.call()
    assert not here.call()


def test_a_server_that_died_and_came_back_empty_is_told_what_was_used(
    own_server: Callable[..., RedisServer], hosts: Callable[..., Host]
) -> None:
    server = own_server()
    here, there = hosts(Limits(rpm=5), url=server.url), hosts(Limits(rpm=5), url=server.url)
    assert [each.call() for each in (here, here, there)] == [True] * 3
    server.kill()
    eventually(lambda: not here.shares and not there.shares)
    assert here.call()  # each goes on alone
    server.start()
    eventually(lambda: here.shares and there.shares)
    eventually(lambda: _told_by(server) == 2)
    granted = 0

    def spent() -> bool:
        nonlocal granted
        answers = [each.ledger.reserve(_claim_of(each, Limits(rpm=5))) for each in (here, there)]
        granted += answers.count(None)
        return any(answer is not None and "requests a minute" in answer.reason for answer in answers)

    eventually(spent)
    assert granted == 1


def test_a_start_without_a_server_is_not_held_up(hosts: Callable[..., Host]) -> None:
    host = hosts(Limits(rpm=2), url="redis://127.0.0.1:1/0")
    assert [host.call() for _ in range(3)] == [True, True, False]
    assert host.ledger.problem is not None
    assert "127.0.0.1:1/0" in host.ledger.problem.message
    assert "HFS_REDIS_URL" in (host.ledger.problem.remedy or "")


def test_a_wrong_password_is_said_and_never_shown(
    own_server: Callable[..., RedisServer], hosts: Callable[..., Host], caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server("--requirepass", "right-password")
    with caplog.at_level(logging.DEBUG):
        host = hosts(url=f"redis://:wrong-password@127.0.0.1:{server.port}/0")
        assert host.call()
    assert host.ledger.problem is not None
    assert "refuses the user or the password" in host.ledger.problem.message
    assert "wrong-password" not in f"{host.ledger!r} {host.ledger.problem} {caplog.text}"
    right = hosts(url=f"redis://:right-password@127.0.0.1:{server.port}/0")
    assert right.shares


def test_a_read_only_replica_is_no_place_to_share(
    own_server: Callable[..., RedisServer], hosts: Callable[..., Host]
) -> None:
    server = own_server("--replicaof", "127.0.0.1", "1")
    host = hosts(url=server.url)
    assert host.call()
    assert host.ledger.problem is not None
    assert "is a read-only replica" in host.ledger.problem.message
    server.client().replicaof("NO", "ONE")
    eventually(lambda: host.shares)


def test_a_server_out_of_memory_is_away_until_it_has_some(
    own_server: Callable[..., RedisServer], hosts: Callable[..., Host]
) -> None:
    server = own_server("--maxmemory-policy", "noeviction")
    host = hosts(Limits(rpm=9), url=server.url)
    assert host.call()
    server.client().config_set("maxmemory", 1)
    eventually(lambda: host.call() and not host.shares)
    assert host.ledger.problem is not None
    assert "is out of memory" in host.ledger.problem.message
    server.client().config_set("maxmemory", 0)
    eventually(lambda: host.shares)


def test_a_server_busy_with_a_strangers_script_is_away_until_it_is_killed(
    own_server: Callable[..., RedisServer], hosts: Callable[..., Host]
) -> None:
    server = own_server("--busy-reply-threshold", "10")
    host = hosts(url=server.url)

    def busy() -> None:
        import redis

        with pytest.raises(redis.ResponseError):
            server.client().eval("while true do end", 0)

    stranger = threading.Thread(target=busy)
    stranger.start()
    eventually(lambda: host.call() and not host.shares)
    eventually(lambda: _kills(server))
    stranger.join()
    eventually(lambda: host.shares)


@pytest.mark.parametrize("url", ["localhost:6379", "http://user:hush-hush@host/", "redis://:hush-hush@host:port/0", ""])
def test_a_url_that_cannot_be_read_is_said_without_being_shown(url: str, hosts: Callable[..., Host]) -> None:
    host = hosts(url=url or "nothing")
    assert host.call()
    assert host.ledger.problem is not None
    assert "HFS_REDIS_URL" in host.ledger.problem.message
    assert "hush-hush" not in f"{host.ledger!r} {host.ledger.problem}"


def test_without_redis_py_the_command_that_installs_it_is_said(
    monkeypatch: pytest.MonkeyPatch, hosts: Callable[..., Host]
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    host = hosts(url="redis://127.0.0.1:1/0")
    assert host.call()
    assert host.ledger.problem is not None
    assert host.ledger.problem.remedy == "Run: pip install 'hfs-providers[redis]'"


def test_a_cluster_serves_as_well(own_server: Callable[..., RedisServer], hosts: Callable[..., Host]) -> None:
    server = own_server("--cluster-enabled", "yes")
    client = server.client()
    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    eventually(lambda: client.cluster("INFO")["cluster_state"] == "ok")
    both = [hosts(Limits(rpm=5), url=server.url, keys=3) for _ in range(2)]
    assert sum(host.call() for _ in range(12) for host in both) == 15
    assert all(host.shares for host in both)


def test_tls_holds_the_server_to_its_certificate(
    own_server: Callable[..., RedisServer], hosts: Callable[..., Host], tmp_path: Path
) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"]
    own_server(*tls)
    trusting = hosts(Limits(rpm=5), url=f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
    assert trusting.call()
    assert trusting.shares
    assert not hosts(url=f"rediss://127.0.0.1:{port}/0").shares


def test_nothing_in_the_url_makes_a_call_wait_for_longer(
    own_server: Callable[..., RedisServer], hosts: Callable[..., Host]
) -> None:
    server = own_server()
    host = hosts(url=f"{server.url}?socket_timeout=600&socket_connect_timeout=600&retry_on_timeout=yes")
    assert host.call()
    server.pause()
    assert host.call()
    assert host.ledger.problem is not None


def test_a_dead_key_is_tried_by_who_found_it_dead_when_its_probation_is_over(
    clock: Clock, hosts: Callable[..., Host]
) -> None:
    host = hosts()
    host.pool.acquire("m").dead("revoked")
    settled(host, clock)
    clock.pass_by(3600.001)
    assert host.call()
    assert host.pool.statuses("m")[0].state == "ready"


def test_a_closed_ledger_lets_everything_go(server: RedisServer, hosts: Callable[..., Host]) -> None:
    host = hosts(Limits(rpm=5))
    assert host.call()
    host.ledger.close()
    host.ledger.close()
    assert host.call()
    assert host.ledger.reserve(reservation()) is None
    used = next(content for key, (_, content) in everything(server.client()).items() if key.endswith(":used:m"))
    assert used["mr"] == "1"  # what had ended by then was counted


def _claim_of(host: Host, limits: Limits | None = None, tokens: int = 0) -> Reservation:
    fingerprint = host.pool.credentials[0].fingerprint
    return Reservation("acme", fingerprint, (fingerprint,), fingerprint, "m", limits or Limits(rpm=1), tokens)


def _told_by(server: RedisServer) -> int:
    """How many hosts have told what they used of `m` in the last minute."""
    for key, (_, content) in everything(server.client()).items():
        if ":minute:m" in key:
            return len({member.partition("/")[0] for member, _ in content})
    return 0


def _hosts(server: RedisServer) -> int:
    """How many hosts have told what they used in the last hours."""
    for key, (_, content) in everything(server.client()).items():
        if ":shares:" in key and "nobody" not in key:
            return len({field.partition("/")[0] for field in content if "/" in field})
    return 0


def _kills(server: RedisServer) -> bool:
    import redis

    try:
        return bool(server.client().script_kill())
    except redis.ResponseError:
        return False
