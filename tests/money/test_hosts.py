"""Budgets that several hosts share through Redis, and what each may spend while it is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hfs_providers.errors import BudgetExceededError
from hfs_providers.money.budgets import Budget, Claim, ProcessBudgets
from hfs_providers.sharing import redis_counts, redis_ledger
from hfs_providers.sharing.file_budgets import FileBudgets
from hfs_providers.sharing.redis_budgets import RedisBudgets
from hfs_providers.sharing.redis_ledger import RedisLedger
from hfs_providers.sharing.redis_messages import Spend
from hfs_providers.usage import Store
from hfs_providers.usage.log import UsageLog
from tests.money.spender import BUDGET, CLAIM, ESTIMATE, spent_row
from tests.money.spending import Shop, question
from tests.money.spending import shop as shop
from tests.money.test_shared_budgets import PROCESSES, check, run_together
from tests.sharing.redis_server import RedisServer, binary, eventually

ALL = Claim((BUDGET,), BUDGET.nanousd)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(binary(), tmp_path)
    yield made
    made.resume()
    made.kill()


class Host:
    """A process on a host of its own, whose rows go to a file of its own."""

    def __init__(self, server: RedisServer, path: Path | None) -> None:
        self.log = UsageLog(Store(path), group=0.001) if path is not None else None
        self.local: Any = ProcessBudgets(time.time) if self.log is None else FileBudgets(self.log, alone=True)
        self.budgets = RedisBudgets([BUDGET], self.local, self.log and self.log.store.source, time.time)
        store = self.log.store if self.log is not None else None
        self.ledger = RedisLedger(server.url, store, budgets=self.budgets)
        self.ledger.start({})

    def spend(self, cost: int) -> None:
        claim = Claim((BUDGET,), cost)
        assert self.budgets.reserve(claim) is None
        if self.log is not None:
            self.log.record(spent_row(cost))
        self.budgets.end(claim, cost, recorded=True)
        if self.log is not None:
            assert self.log.flush()

    def left(self) -> int:
        """What may be spent here."""
        over = self.budgets.reserve(ALL)
        if over is None:
            self.budgets.end(ALL, None, recorded=True)
            return ALL.nanousd or 0
        return over.use.limit - over.use.spent - over.use.held

    def beat(self) -> None:
        """Until the server has been asked how much of the budgets is used, once more."""
        before = self.ledger._counts._beats
        eventually(lambda: self.ledger._counts._beats > before + 1)

    def close(self) -> None:
        self.ledger.close()
        if self.log is not None:
            self.log.close()


@pytest.fixture
def host(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Host]]:
    for module in (redis_counts, redis_ledger):
        monkeypatch.setattr(module, "BEAT_INTERVAL", 0.05)
    monkeypatch.setattr(redis_counts, "SETTLE", 0.3)
    made: list[Host] = []

    def make(*, file: bool = True) -> Host:
        made.append(Host(server, tmp_path / f"{len(made)}.db" if file else None))
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[..., Host]


def test_sixteen_processes_of_four_hosts_never_overspend_by_more_than_they_misestimate(
    server: RedisServer, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number % 4}.db" for number in range(PROCESSES)]
    spent = run_together(paths, server.url)
    check(spent)
    (name,) = server.client().scan_iter("hfs:{budgets}:spent:*")
    # All of it, unless the server was away at the end.
    assert sum(spent) / 2 < sum(map(int, server.client().hvals(name))) <= sum(spent)


class TestHosts:
    @pytest.mark.parametrize("file", [True, False], ids=["with a file", "without"])
    def test_what_one_has_spent_and_reserved_the_others_cannot(self, host: Make, file: bool) -> None:
        first, second = host(file=file), host(file=file)
        first.spend(100 * ESTIMATE)
        assert first.budgets.reserve(CLAIM) is None
        assert second.left() == first.left() == BUDGET.nanousd - 101 * ESTIMATE
        first.budgets.end(CLAIM, None, recorded=True)
        eventually(lambda: second.left() == BUDGET.nanousd - 100 * ESTIMATE)

    def test_what_was_spent_before_it_came_counts(self, host: Make, server: RedisServer, tmp_path: Path) -> None:
        with_rows = UsageLog(Store(tmp_path / "0.db"))
        with_rows.record(spent_row(100 * ESTIMATE))
        with_rows.close()
        first, second = host(), host()
        assert second.left() == first.left() == BUDGET.nanousd - 100 * ESTIMATE

    def test_managers_of_two_hosts_share_their_budgets(
        self, shop: Callable[..., Shop], server: RedisServer, tmp_path: Path
    ) -> None:
        text = '[budgets]\nusd = 0.05\nper = "month"'
        shops = [
            shop(text, HFS_REDIS_URL=server.url, HFS_USAGE_DB=where) for where in (str(tmp_path / "shop.db"), "off")
        ]
        for each in shops:
            each.model().response(messages=question())
        for each in shops:
            with pytest.raises(BudgetExceededError, match=r"\$0\.0[24]0000 spent"):
                each.model(wait=False).response(messages=question())


class TestAway:
    def test_a_call_does_not_wait_for_a_ledger_that_is_closed_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger = RedisLedger("redis://127.0.0.1:1")
        ledger._mode = "here"
        ledger._looked.set()
        # At the very moment at which the call has seen that it is here.
        monkeypatch.setattr(ledger, "_work", SimpleNamespace(put=lambda _: ledger.close() if _ else None))
        spend = Spend(CLAIM)
        caller = threading.Thread(target=ledger._ask, args=(spend,), daemon=True)
        caller.start()
        caller.join(20)
        assert not caller.is_alive()
        assert spend.answer is None

    def test_nothing_is_remembered_of_calls_that_have_ended(self) -> None:
        budgets = RedisBudgets([BUDGET], ProcessBudgets(time.time), None, time.time)
        for estimate in range(1, 10):
            claim = Claim((BUDGET,), estimate)
            assert budgets.reserve(claim) is None
            budgets.end(claim, estimate, recorded=True)
        assert not budgets._alone

    def test_each_host_may_spend_its_part_of_what_was_left(self, host: Make, server: RedisServer) -> None:
        first, second = host(), host()
        first.spend(200 * ESTIMATE)
        for each in (first, second):
            each.beat()
        server.pause()
        assert (first.left(), second.left()) == (100 * ESTIMATE, 100 * ESTIMATE)
        first.spend(60 * ESTIMATE)
        assert (first.left(), second.left()) == (40 * ESTIMATE, 100 * ESTIMATE)
        server.resume()
        for each in (first, second):
            eventually(lambda each=each: each.ledger._mode == "here")
        eventually(lambda: first.left() == second.left() == 140 * ESTIMATE)

    def test_a_process_that_comes_then_knows_the_part_of_its_host(
        self, host: Make, server: RedisServer, tmp_path: Path
    ) -> None:
        first, second = host(), host()
        second.spend(200 * ESTIMATE)
        first.beat()
        server.pause()
        late = Host(server, tmp_path / "0.db")
        try:
            assert late.left() == 100 * ESTIMATE
        finally:
            late.close()

    def test_the_next_period_is_divided_equally(self, server: RedisServer, tmp_path: Path) -> None:
        ledger = FileBudgets(UsageLog(Store(tmp_path / "u.db")), lambda: now[0], alone=True)
        now = [1_780_000_000.0]
        budget = Budget("budgets", 90, "hour")

        def limit() -> int:
            over = ledger.reserve(Claim((budget,), 91))
            assert over is not None
            return over.use.limit

        assert limit() == 90
        ledger.allot(budget, 70, 3)
        assert ledger._log.flush()
        assert limit() == 70
        now[0] += 3600
        assert limit() == 30
        alone = ProcessBudgets(lambda: now[0])
        alone.allot(budget, 70, 3)
        over = alone.reserve(Claim((budget,), 71))
        assert over is not None
        assert over.use.limit == 70
        now[0] += 3600
        assert alone.reserve(Claim((budget,), 31)) is not None
        assert alone.reserve(Claim((budget,), 30)) is None

    def test_after_the_server_has_lost_everything_each_host_says_what_it_has_spent(
        self, host: Make, server: RedisServer
    ) -> None:
        first, second = host(), host()
        first.spend(100 * ESTIMATE)
        second.spend(50 * ESTIMATE)
        assert first.budgets.reserve(CLAIM) is None
        server.client().flushall()
        eventually(lambda: first.left() == second.left() == BUDGET.nanousd - 151 * ESTIMATE)

    def test_what_a_process_that_died_had_reserved_counts_as_spent(self, host: Make, server: RedisServer) -> None:
        first = host()
        name = "hfs:{budgets}:held:budgets"
        server.client().hset(name, "a-holder-that-died", f"1 {7 * ESTIMATE} its-host")
        assert first.left() == BUDGET.nanousd - 7 * ESTIMATE
        assert server.client().hgetall(name) == {}
