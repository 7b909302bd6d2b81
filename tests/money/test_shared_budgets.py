"""Budgets that several processes share through the usage file."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.errors import BudgetExceededError
from hfs_providers.money.budgets import Budget, Budgets, Claim
from hfs_providers.sharing.file_budgets import FileBudgets
from hfs_providers.usage import Store
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.totals import add_up
from tests.money import spender
from tests.money.spender import BUDGET, CLAIM, ESTIMATE, spent_row
from tests.money.spending import Shop, question
from tests.money.spending import shop as shop
from tests.usage_rows import write

PROCESSES = 16
NOW = 1_780_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


@pytest.fixture
def log(store: Store) -> Iterator[UsageLog]:
    made = UsageLog(store, group=0.001)
    yield made
    made.close()


def run_together(paths: list[Path], url: str = "") -> list[int]:
    """What each of the processes has spent, that began at the same time."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    args = [sys.executable, spender.__file__, url, *map(str, paths)]
    done = subprocess.run(args, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [int(each) for each in done.stdout.split()]


def check(spent: list[int]) -> None:
    """That all have spent the budget, and exceeded it by no more than what was in flight can have cost too much."""
    assert BUDGET.nanousd - ESTIMATE < sum(spent) <= BUDGET.nanousd + len(spent) * ESTIMATE
    assert min(spent) > 0


def test_sixteen_processes_never_overspend_by_more_than_they_misestimate(store: Store) -> None:
    spent = run_together([store.path] * PROCESSES)
    check(spent)
    with closing(store.connect()) as connection:
        (rows,) = connection.execute("SELECT sum(cost_nanousd) FROM usage").fetchone()
        assert (rows,) == connection.execute("SELECT spent FROM budget").fetchone() == (sum(spent),)
        assert connection.execute("SELECT count(*) FROM budget_held").fetchone() == (0,)


class TestWhatIsKept:
    def test_what_was_spent_before_counts_after_a_restart(self, store: Store, log: UsageLog) -> None:
        log.record(spent_row(BUDGET.nanousd - 2 * ESTIMATE))
        assert log.flush()
        assert [FileBudgets(log).reserve(CLAIM) for _ in range(2)] == [None, None]
        over = FileBudgets(log).reserve(CLAIM)
        assert over is not None
        assert (over.use.spent, over.use.held) == (BUDGET.nanousd - 2 * ESTIMATE, 2 * ESTIMATE)

    # Up to when rows are added up without keys before the budget is asked for: not at all, to the row before, to all.
    @pytest.mark.parametrize("totalled", [0.0, NOW, NOW + 3600])
    def test_only_rows_of_its_period_provider_and_client_count(
        self, store: Store, log: UsageLog, totalled: float
    ) -> None:
        rows = [
            spent_row(1)._replace(at=NOW - 86_400),
            spent_row(20)._replace(at=NOW),
            spent_row(300, client="web")._replace(at=NOW),
            spent_row(4000, client="web")._replace(at=NOW, provider="groq"),
        ]
        budgets = (
            Budget("all", 10**9, "day"),
            Budget("provider", 10**9, "day", provider="acme"),
            Budget("client", 10**9, "day", client="web"),
        )
        ledger = FileBudgets(log, lambda: NOW)

        def spent() -> list[int]:
            found = [ledger.reserve(Claim((each,), 10**9 + 1)) for each in budgets]
            return [over.use.spent for over in found if over is not None]

        write(store, rows)
        with closing(store.connect()) as connection:
            add_up(connection, totalled)
        assert spent() == [4320, 320, 4300]
        write(store, rows)
        assert spent() == [8640, 640, 8600]

    def test_a_period_begins_with_nothing_spent(self, log: UsageLog) -> None:
        now = [NOW]
        ledger = FileBudgets(log, lambda: now[0])
        claim = Claim((Budget("budgets", 10, "hour"),), 10)
        log.record(spent_row(10)._replace(at=NOW))
        assert log.flush()
        over = ledger.reserve(claim)
        assert over is not None
        now[0] = over.until
        assert ledger.reserve(claim) is None

    def test_a_cost_that_no_row_has_counts_too(self, log: UsageLog) -> None:
        ledger = FileBudgets(log)
        assert ledger.reserve(CLAIM) is None
        ledger.end(CLAIM, BUDGET.nanousd, recorded=False)
        assert log.flush()
        over = ledger.reserve(CLAIM)
        assert over is not None
        assert (over.use.spent, over.use.held) == (BUDGET.nanousd, 0)


class TestTrouble:
    def test_a_reservation_that_cannot_be_written_is_held_once(self, store: Store, log: UsageLog) -> None:
        full = "CREATE TRIGGER no BEFORE INSERT ON budget_held BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        with closing(store.connect()) as connection:
            connection.execute(full)
        ledger = FileBudgets(log)
        assert ledger.reserve(CLAIM) is None
        over = ledger.reserve(Claim((BUDGET,), BUDGET.nanousd))
        assert over is not None
        assert over.use.held == ESTIMATE

    def test_what_a_killed_process_had_in_flight_is_taken_to_be_spent(self, store: Store, log: UsageLog) -> None:
        program = (
            "import sys; from hfs_providers.sharing.file_budgets import FileBudgets\n"
            "from tests.money.spender import *\n"
            "ledger = FileBudgets(UsageLog(Store(sys.argv[1])))\n"
            "claim = Claim((BUDGET,), BUDGET.nanousd)\n"
            "print(ledger.reserve(claim), flush=True)\n"
            "sys.stdin.readline()\n"
        )
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        args = [sys.executable, "-c", program, str(store.path)]
        with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "None\n"
            ledger = FileBudgets(log)
            over = ledger.reserve(CLAIM)
            assert over is not None
            assert (over.use.spent, over.use.held) == (0, BUDGET.nanousd)
            process.send_signal(signal.SIGKILL)
        over = ledger.reserve(CLAIM)
        assert over is not None
        assert (over.use.spent, over.use.held) == (BUDGET.nanousd, 0)

    def test_while_the_file_cannot_be_used_it_goes_on_with_what_it_knows(
        self, log: UsageLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = FileBudgets(log)
        log.record(spent_row(BUDGET.nanousd - 3 * ESTIMATE))
        assert log.flush()
        assert ledger.reserve(CLAIM) is None

        def broken(*_: object) -> Any:
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(ledger._connection, "use", broken)
            assert [ledger.reserve(CLAIM) for _ in range(2)] == [None, None]
            assert ledger.reserve(CLAIM) is not None
        ledger._paused_until = 0.0
        over = ledger.reserve(CLAIM)
        assert over is not None
        assert over.use.held == 3 * ESTIMATE
        for _ in range(3):
            ledger.end(CLAIM, None, recorded=True)
        assert log.flush()
        assert ledger.reserve(CLAIM) is None

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    def test_a_child_reserves_for_itself(self, store: Store, log: UsageLog) -> None:
        ledger = FileBudgets(log)
        assert ledger.reserve(CLAIM) is None
        child = os.fork()
        if child == 0:
            ledger.reserve(CLAIM)
            os._exit(0)
        os.waitpid(child, 0)
        with closing(store.connect()) as connection:
            held = connection.execute("SELECT pid, nanousd FROM budget_held").fetchall()
        assert sorted(held) == sorted([(os.getpid(), ESTIMATE), (child, ESTIMATE)])


@pytest.mark.parametrize("file", ["shared.db", "off"])
def test_a_task_reserves_in_a_thread_if_that_waits_for_a_file(
    shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    reserve, threads = Budgets.reserve, list[threading.Thread]()

    def watched(budgets: Budgets, claim: Claim) -> Any:
        threads.append(threading.current_thread())
        return reserve(budgets, claim)

    monkeypatch.setattr(Budgets, "reserve", watched)
    here = shop('[budgets]\nusd = 1\nper = "month"', HFS_USAGE_DB=file)
    asyncio.run(here.model().aresponse(messages=question()))
    assert [thread is threading.main_thread() for thread in threads] == [file == "off"]


def test_managers_with_the_same_file_share_their_budgets(shop: Callable[..., Shop], tmp_path: Path) -> None:
    where = {"HFS_USAGE_DB": str(tmp_path / "shared.db")}
    first, second = (shop('[budgets]\nusd = 0.05\nper = "month"', **where) for _ in range(2))
    for each in (first, second):
        each.model().response(messages=question())
    for each in (first, second):
        with pytest.raises(BudgetExceededError, match=r"\$0\.0[24]0000 spent"):
            each.model().response(messages=question())
    assert first.manager.persistence.flush()
    assert second.manager.persistence.flush()
    with pytest.raises(BudgetExceededError, match=r"\$0\.040000 spent, \$0\.000000 reserved"):
        first.model().response(messages=question())
