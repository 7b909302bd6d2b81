"""Tasks that share their keys through Redis: they ask together, and none of them holds up the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Limits
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.leases import Lease
from hfs_providers.keys.ledger import Reservation
from hfs_providers.keys.pool import KeyPool
from hfs_providers.sharing.redis_connection import RedisConnection, ScriptCall
from hfs_providers.sharing.redis_counts import Reserve
from hfs_providers.sharing.redis_ledger import RedisLedger
from tests.sharing.redis_server import RedisServer, binary, eventually


class Host:
    """A ledger, and a pool of one key that is joined to it."""

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        credential = Credential("acme#1", Secret("a-key-that-nobody-may-see-0123456789"))
        self.pool = KeyPool("acme", [credential], limits=lambda model, key: limits)
        self.ledger = RedisLedger(url)
        self.ledger.start({"acme": self.pool})

    async def call(self) -> bool:
        """Whether a call was let through; it is over at once."""
        try:
            (await self.pool.aacquire("m", 0, timeout=0)).commit()
        except PoolExhaustedError:
            return False
        return True

    async def leases(self, count: int) -> list[Lease]:
        return await asyncio.gather(*(self.pool.aacquire("m", 0, timeout=0) for _ in range(count)))


class Road:
    """The way to the server: counts what passes, and holds it back while it is closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0
        self.open = threading.Event()
        self.open.set()
        run = RedisConnection._pipeline

        def passing(server: RedisConnection, calls: Sequence[ScriptCall]) -> list[Any]:
            assert self.open.wait(10)
            self.passed += 1
            return run(server, calls)

        monkeypatch.setattr(RedisConnection, "_pipeline", passing)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(binary(), tmp_path)
    yield server
    server.kill()


@pytest.fixture
def hosts(server: RedisServer) -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def make(limits: Limits | None = None) -> Host:
        made.append(Host(server.url, limits))
        return made[-1]

    yield make
    for each in made:
        each.ledger.close()


async def all_ask(host: Host, count: int) -> None:
    """Let tasks run until they have asked."""
    while host.pool.counts("m").in_flight < count:
        await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_a_hundred_tasks_are_asked_for_in_a_few_round_trips(
    hosts: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, road = hosts(), Road(monkeypatch)

    async def main() -> list[Lease]:
        assert await host.call()  # the server knows the scope
        road.open.clear()
        road.passed = 0
        asking = asyncio.ensure_future(host.leases(100))
        await all_ask(host, 100)
        road.open.set()
        return await asking

    assert len(asyncio.run(main())) == 100
    assert road.passed <= 6  # what had come first, the rest, and maybe a heartbeat


def test_event_loops_may_come_in_turn(hosts: Callable[..., Host]) -> None:
    host = hosts(Limits(rpm=2))
    assert [asyncio.run(host.call()) for _ in range(3)] == [True, True, False]
    assert host.ledger.problem is None


def test_event_loops_may_run_side_by_side(hosts: Callable[..., Host]) -> None:
    host = hosts(Limits(rpm=5))
    granted: list[bool] = []
    threads = [threading.Thread(target=lambda: granted.append(asyncio.run(host.call()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert granted.count(True) == 5


@pytest.mark.parametrize("answered", [False, True], ids=["before the answer", "after the answer"])
def test_a_task_that_is_cancelled_while_it_asks_leaves_nothing_in_flight(
    hosts: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    here, there, road = hosts(Limits(rpm=1)), hosts(Limits(rpm=1)), Road(monkeypatch)

    async def main() -> None:
        road.open.clear()
        asking = asyncio.ensure_future(here.pool.aacquire("m", 0, timeout=0))
        await all_ask(here, 1)
        if answered:
            road.open.set()
            # The loop does not run meanwhile, so the task has not heard of it.
            eventually(lambda: here.ledger._counts.in_flight)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(main())
    road.open.set()
    assert here.pool.counts("m").in_flight == 0
    eventually(lambda: asyncio.run(there.call()))


def test_what_is_granted_to_a_closed_event_loop_is_given_back() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    reserve = Reserve(Reservation("acme", "a", ("a",), "a", "m", None, 0), loop, lambda: None)
    assert not reserve.settle(None)


def test_a_server_that_hangs_lets_tasks_go_on_alone(server: RedisServer, hosts: Callable[..., Host]) -> None:
    host = hosts(Limits(rpm=20))
    server.pause()
    leases = asyncio.run(host.leases(20))
    assert len(leases) == 20
    assert host.ledger.problem is not None
    assert "did not answer within 250 ms" in host.ledger.problem.message
    assert not asyncio.run(host.call())  # alone, it still keeps to what it knows
    server.resume()
    eventually(lambda: host.ledger.problem is None)


def test_after_fork_tasks_of_a_child_share_from_the_first(hosts: Callable[..., Host]) -> None:
    host = hosts(Limits(rpm=3))
    lease = host.pool.acquire("m")

    async def calls() -> list[bool]:
        return await asyncio.gather(*(host.call() for _ in range(3)))

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if sorted(asyncio.run(calls())) == [False, True, True] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lease.commit()
