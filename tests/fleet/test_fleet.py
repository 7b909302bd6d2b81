"""Real processes: a fleet that shares keys uses its allowance and no more; one that is killed loses next to nothing."""

from __future__ import annotations

import os
import random
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from hfs_providers import Limits
from hfs_providers.authoring import Credential, Secret
from hfs_providers.errors import PoolExhaustedError
from hfs_providers.keys import KeyPool
from hfs_providers.sharing.file_ledger import FileLedger
from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import Store
from hfs_providers.usage.log import UsageLog
from tests.fleet.fleet import MINUTE, ROOT, Plan, Result, most_within, run

LONG = "HFS_TEST_FLEET"
takes_long = pytest.mark.skipif(not os.environ.get(LONG), reason=f"takes more than a minute; set {LONG}=1 to run it")

# Of rows, that may be lost by `kill -9`.
AT_RISK = 0.1


def test_the_measure_counts_what_lies_within_a_span() -> None:
    assert most_within([], 60) == 0
    assert most_within([0, 60, 120], 60) == 1
    assert most_within([100, 0, 59, 60, 61], 60) == 4


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One fleet for all the tests below."""
    return run(Plan({"HFS_USAGE_DB": str(tmp_path_factory.mktemp("fleet") / "usage.db")}))


class TestFleet:
    @takes_long
    def test_no_key_is_used_more_than_it_may(self, result: Result) -> None:
        assert result.busiest <= result.plan.rpm

    @takes_long
    def test_nine_tenths_of_what_is_allowed_are_used(self, result: Result) -> None:
        assert result.used >= 0.9

    @takes_long
    def test_every_call_is_answered_or_says_that_no_key_is_free(self, result: Result) -> None:
        assert set(result.endings) == {"answered", "exhausted"}
        assert result.endings["answered"] == len(result.seen)

    @takes_long
    def test_the_naive_way_uses_each_key_once_for_each_process(self, tmp_path: Path) -> None:
        result = run(Plan({"HFS_USAGE_DB": "off"}, processes=3, keys=2, seconds=3))
        assert result.busiest == 3 * result.plan.rpm


class _Clock:
    now = 1_700_049_600.0

    def __call__(self) -> float:
        return self.now


def test_a_fleet_in_one_process_by_a_clock_of_its_own(tmp_path: Path) -> None:
    plan = Plan({}, seconds=70)
    clock = _Clock()
    keys = [Credential(f"groq#{number}", Secret(f"a-key-{number}")) for number in range(1, plan.keys + 1)]
    store = Store(tmp_path / "usage.db")
    sent: dict[str, list[float]] = {key.id: [] for key in keys}
    with ExitStack() as stack:
        fleet = []
        for _ in range(plan.processes):
            log = UsageLog(store, group=0.001)
            pool = KeyPool("groq", keys, limits=lambda *_: Limits(rpm=plan.rpm), clock=clock, wall=clock)
            ledger = FileLedger(log, wall=clock, clock=clock, tick=3600)
            ledger.start({"groq": pool})
            stack.callback(log.close)
            stack.callback(ledger.close)
            fleet.append((pool, log, ledger))
        for _, _, ledger in fleet:
            ledger.look()
        clock.now += 1
        end = clock.now + plan.seconds
        while clock.now < end:
            for pool, log, ledger in fleet:
                ledger.look()
                while True:
                    try:
                        lease = pool.acquire("m", timeout=0)
                    except PoolExhaustedError:
                        break
                    sent[lease.key_id].append(clock())
                    mark = lease.credential.fingerprint
                    log.record(UsageRow(clock(), "groq", "m", lease.key_id, mark, 0, 0, 1, 0.1, "ok", 1))
                    lease.commit(1)
            clock.now += 1.0
    assert max(most_within(instants, MINUTE) for instants in sent.values()) <= plan.rpm
    assert sum(map(len, sent.values())) >= 0.9 * plan.allowed


class TestKill:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Iterator[Path]:
        yield tmp_path / "usage.db"
        with closing(sqlite3.connect(tmp_path / "usage.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def kill(self, path: Path, rows: int) -> float:
        """Kill a process at its `rows`th row; the age of the oldest row that was lost, in seconds."""
        recorder = subprocess.Popen(
            [sys.executable, "-m", "tests.fleet.recorder", str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert recorder.stdout is not None
        said = [recorder.stdout.readline().split() for _ in range(rows)]
        recorder.kill()
        said += [line.split() for line in recorder.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        recorder.wait()
        recorder.stdout.close()
        instants = {int(number): float(at) for number, at in said}
        with closing(Store(path).connect()) as connection:
            query = (
                "SELECT tokens FROM usage JOIN series ON series.id = usage.series WHERE fingerprint = ? ORDER BY tokens"
            )
            kept = [row[0] for row in connection.execute(query, (str(recorder.pid),))]
            assert kept == list(range(1, len(kept) + 1))
            totals = "SELECT (SELECT COUNT(*) FROM usage), (SELECT COALESCE(SUM(requests), 0) FROM quarter)"
            assert len(set(connection.execute(totals).fetchone())) == 1
        lost = [at for number, at in instants.items() if number > len(kept)]
        return max(instants.values()) - min(lost) if lost else 0.0

    def test_what_a_killed_process_leaves_is_whole(self, path: Path) -> None:
        for rows in (300, 401):
            self.kill(path, rows)
        with closing(Store(path).connect()) as connection:
            assert connection.execute("SELECT COUNT(DISTINCT series) FROM usage").fetchone() == (2,)

    @takes_long
    def test_twenty_times_it_loses_the_last_moment_at_most(self, path: Path) -> None:
        Store(path).connect().close()
        ages = [self.kill(path, random.randint(50, 1500)) for _ in range(20)]
        # A busy machine delays a few: its disk is not ours.
        assert statistics.quantiles(ages, n=4)[2] <= AT_RISK
        assert max(ages) <= 10 * AT_RISK
