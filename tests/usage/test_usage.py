"""The usage log: rows are written together, in order, once, and by nobody who waits."""

from __future__ import annotations

import math
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import QUARTER, Store
from hfs_providers.usage.location import default_path
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.row_writer import SELECT, Series, write_rows
from tests import warm

ROW = UsageRow(1_700_000_000.0, "groq", "llama", "groq#1", "ab12cd34", 2, 3, 5, 0.25, "ok", 5)
WHOLE = ROW._replace(
    call_id="c1",
    attempt=2,
    client="web",
    status=429,
    reason="tokens",
    cooled_until=1_700_000_030.5,
    tokens_cached=1,
    tokens_cache_write=1,
    cost_nanousd=12_345,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


@pytest.fixture
def log(store: Store) -> Iterator[UsageLog]:
    log = UsageLog(store)
    yield log
    log.close()


def ask(store: Store, query: str) -> list[tuple[object, ...]]:
    with closing(store.connect()) as connection:
        return connection.execute(query).fetchall()


def count(store: Store) -> int:
    (found,) = ask(store, "SELECT COUNT(*) FROM usage")[0]
    assert isinstance(found, int)
    return found


def eventually(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether it becomes true within a generous time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


class TestWriteRows:
    def test_a_row_is_written_whole(self, store: Store) -> None:
        with closing(store.connect()) as connection:
            write_rows(connection, [ROW, WHOLE])
        assert ask(store, SELECT) == [(1, *ROW), (2, *WHOLE)]

    def test_sums_are_kept_by_quarter_and_outcome(self, store: Store) -> None:
        start = int(ROW.at // QUARTER) * QUARTER
        rows = [ROW, ROW._replace(at=ROW.at + 1), ROW._replace(outcome="dead"), ROW._replace(at=ROW.at + QUARTER)]
        with closing(store.connect()) as connection:
            write_rows(connection, rows[:2])
            write_rows(connection, rows[2:])
        query = "SELECT start, outcome, requests, tokens, charged, latency FROM quarter ORDER BY start, outcome"
        assert ask(store, query) == [
            (start, "dead", 1, 5, 5, 0.25),
            (start, "ok", 2, 10, 10, 0.5),
            (start + QUARTER, "ok", 1, 5, 5, 0.25),
        ]

    def test_a_row_that_no_database_takes_is_mended_and_costs_no_other(self, store: Store) -> None:
        bad = ROW._replace(model="\ud800", tokens=10**30, tokens_in=-1, latency=math.nan, at=math.inf)
        with closing(store.connect()) as connection:
            write_rows(connection, [ROW, bad, ROW])
        found = ask(store, "SELECT tokens, tokens_in, latency FROM usage ORDER BY id")
        assert found == [(5, 2, 0.25), (2**53, 0, 0.0), (5, 2, 0.25)]

    @pytest.mark.parametrize("at", [math.nan, -0.5, 2.0**53, "never", None])
    def test_a_row_without_a_time_has_that_of_its_writing(self, store: Store, at: Any) -> None:
        began = time.time()
        with closing(store.connect()) as connection:
            assert write_rows(connection, [ROW._replace(at=at)]) == 1
        ((found,),) = ask(store, "SELECT at FROM usage")
        assert isinstance(found, float)
        assert began <= found <= time.time()

    @pytest.mark.parametrize("at", [0.0, 0.5, 2.0**53 - 1])
    def test_any_time_that_can_be_is_kept(self, store: Store, at: float) -> None:
        with closing(store.connect()) as connection:
            write_rows(connection, [ROW._replace(at=at)])
        assert ask(store, "SELECT at FROM usage") == [(at,)]

    @pytest.mark.parametrize(
        ("column", "value", "kept"),
        [
            *[
                ("tokens", 0, 0),
                ("tokens", -1, 0),
                ("tokens", "many", 0),
                ("tokens", None, 0),
                ("tokens", 2**53, 2**53),
            ],
            *[("tokens", 2**53 + 1, 2**53), ("tokens", math.inf, 0), ("latency", 0.25, 0.25), ("latency", -0.25, 0.0)],
            *[("latency", "slow", 0.0), ("latency", None, 0.0), ("latency", 2.0**53, 0.0), ("outcome", "ok", "ok")],
            *[("outcome", None, "None"), ("outcome", "\ud800", "?")],
        ],
    )
    def test_other_values_of_a_mended_row_are_such_as_fit(
        self, store: Store, column: str, value: Any, kept: object
    ) -> None:
        with closing(store.connect()) as connection:
            write_rows(connection, [ROW._replace(at=math.nan, **{column: value})])
        assert ask(store, f"SELECT {column} FROM usage") == [(kept,)]

    def test_it_is_part_of_the_transaction_that_is_under_way(self, store: Store) -> None:
        with closing(store.connect()) as connection:
            connection.execute("BEGIN")
            write_rows(connection, [ROW])
            connection.execute("ROLLBACK")
        assert count(store) == 0
        assert ask(store, "SELECT * FROM quarter") == []

    def test_series_are_numbered_once(self, store: Store) -> None:
        with closing(store.connect()) as one, closing(store.connect()) as other:
            for connection in (one, other, one):
                write_rows(connection, [ROW, ROW._replace(key_id="groq#2")])
        assert ask(store, "SELECT id, key_id FROM series") == [(1, "groq#1"), (2, "groq#2")]


class TestWriting:
    def test_rows_arrive_without_anybody_asking(self, log: UsageLog, store: Store) -> None:
        log.record(ROW)
        assert eventually(lambda: count(store) == 1)

    def test_flush_waits_for_what_was_recorded_before(self, log: UsageLog, store: Store) -> None:
        for _ in range(100):
            log.record(ROW)
        assert log.flush()
        assert count(store) == 100

    def test_an_idle_log_is_flushed_at_once(self, log: UsageLog) -> None:
        assert log.flush(0)

    def test_no_thread_runs_before_the_first_row(self, store: Store) -> None:
        before = set(threading.enumerate())
        log = UsageLog(store)
        assert set(threading.enumerate()) <= before
        log.record(ROW)
        assert [thread.name for thread in set(threading.enumerate()) - before] == ["hfs-usage"]
        log.close()

    def test_many_threads_lose_and_repeat_nothing(self, log: UsageLog, store: Store) -> None:
        def record(number: int) -> None:
            for place in range(500):
                log.record(ROW._replace(key_id=f"groq#{number}", tokens=place))

        threads = [threading.Thread(target=record, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.flush()
        assert ask(store, "SELECT COUNT(*), COUNT(DISTINCT series || '/' || tokens) FROM usage") == [(4000, 4000)]

    def test_rows_are_numbered_in_the_order_of_their_records(self, log: UsageLog, store: Store) -> None:
        for place in range(50):
            log.record(ROW._replace(tokens=place))
        log.flush()
        assert [row[0] for row in ask(store, "SELECT tokens FROM usage ORDER BY id")] == list(range(50))

    def test_work_that_is_deferred_finds_the_rows_that_were_recorded_before(self, log: UsageLog) -> None:
        found: list[int] = []
        log.record(ROW)
        log.defer(lambda connection: found.append(connection.execute("SELECT COUNT(*) FROM usage").fetchone()[0]))
        log.flush()
        assert found == [1]

    def test_work_that_fails_costs_no_row(self, log: UsageLog, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        log.defer(lambda connection: 1 / 0)
        log.record(ROW)
        assert log.flush()
        assert count(store) == 1
        assert "could not be" in caplog.text

    def test_whoever_forwards_is_told_of_rows(self, store: Store) -> None:
        told = threading.Event()
        log = UsageLog(store, on_commit=told.set)
        log.record(ROW)
        assert told.wait(20)
        log.close()

    def test_a_row_after_the_close_is_kept_too(self, log: UsageLog, store: Store) -> None:
        log.record(ROW)
        log.close()
        log.close()
        log.record(ROW)
        assert log.flush()
        assert count(store) == 2


# A program that records rows and ends in the way that is asked for.
PROGRAM = """
import atexit, os, signal, sys, time
from hfs_providers.usage.database import Store
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage import UsageRow
log = UsageLog(Store(sys.argv[1]))
row = UsageRow(1.7e9, "groq", "m", "groq#1", "ab", 1, 2, 3, 0.1, "ok", 3)
"""


def run(path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM + "\n".join(lines)
    return subprocess.run([warm.python(), "-c", program, str(path)], capture_output=True, text=True, timeout=60)


class TestEnds:
    def test_a_normal_exit_loses_nothing(self, store: Store) -> None:
        done = run(store.path, "for _ in range(1000): log.record(row)")
        assert (done.returncode, done.stderr) == (0, "")
        assert count(store) == 1000

    def test_an_error_loses_nothing(self, store: Store) -> None:
        assert run(store.path, "log.record(row)", "raise SystemExit(3)").returncode == 3
        assert count(store) == 1

    def test_a_row_recorded_while_the_interpreter_ends_is_kept(self, store: Store) -> None:
        done = run(store.path, "log.record(row); log.close()", "atexit.register(log.record, row)")
        assert done.returncode == 0
        assert eventually(lambda: count(store) >= 1)

    def test_the_command_line_s_sigterm_loses_nothing(self, store: Store) -> None:
        lines = (
            "from hfs_providers import cli",
            "def app(**_):",
            "    log.record(row)",
            "    os.kill(os.getpid(), signal.SIGTERM)",
            "    time.sleep(60)",
            "cli.app = app",
            "cli.main()",
        )
        assert run(store.path, *lines).returncode == 143
        assert count(store) == 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_forked_worker_of_multiprocessing_loses_nothing(self, store: Store) -> None:
        lines = (
            "import multiprocessing",
            "process = multiprocessing.get_context('fork').Process(target=log.record, args=(row,))",
            "process.start(); process.join(); sys.exit(process.exitcode)",
        )
        assert run(store.path, *lines).returncode == 0
        assert count(store) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
class TestFork:
    def test_a_child_writes_its_own_rows_and_none_of_its_parent_s(self, log: UsageLog, store: Store) -> None:
        log.record(ROW)
        child = multiprocessing.get_context("fork").Process(target=_record_and_flush, args=(log,))
        child.start()
        log.record(ROW)
        child.join(30)
        assert child.exitcode == 0
        assert log.flush()
        assert ask(store, "SELECT outcome, COUNT(*) FROM usage GROUP BY outcome") == [("child", 1), ("ok", 2)]

    def test_a_fork_in_the_middle_of_writing_harms_nobody(self, log: UsageLog, store: Store) -> None:
        stop = threading.Event()

        def record() -> None:
            while not stop.is_set():
                log.record(ROW)
                time.sleep(0.0005)

        thread = threading.Thread(target=record)
        thread.start()
        children = [multiprocessing.get_context("fork").Process(target=_record_and_flush, args=(log,)) for _ in "12345"]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
        stop.set()
        thread.join()
        assert [child.exitcode for child in children] == [0] * 5
        assert log.flush()
        assert ask(store, "SELECT COUNT(*) FROM usage WHERE outcome = 'child'") == [(5,)]
        assert ask(store, "PRAGMA integrity_check") == [("ok",)]


def _record_and_flush(log: UsageLog) -> None:
    log.record(ROW._replace(outcome="child"))
    sys.exit(0 if log.flush(30) else 1)


def test_the_default_file_is_in_the_user_s_state_directory(tmp_path: Path) -> None:
    assert default_path() == tmp_path / "home" / "state" / "usage.db"


def test_the_file_is_readable_by_its_owner_alone(store: Store) -> None:
    assert store.path.stat().st_mode & 0o077 == 0


def test_who_reads_the_file_does_not_hold_up_who_writes_it(store: Store) -> None:
    with closing(store.connect()) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT COUNT(*) FROM usage").fetchone() == (0,)
        with closing(store.connect(patience=0.0)) as writer:
            write_rows(writer, [ROW])
    assert count(store) == 1


def test_the_naive_way_waits_for_the_disk_at_each_row(tmp_path: Path) -> None:
    # One transaction for each row is one entry in the log of transactions for each; the group is one for all.
    def frames(write: Callable[[sqlite3.Connection], object], path: Path) -> int:
        with closing(Store(path).connect()) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            write(connection)
            (_, frames, _) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            return int(frames)

    naive = frames(lambda connection: [write_rows(connection, [ROW]) for _ in range(100)], tmp_path / "naive.db")
    ours = frames(lambda connection: write_rows(connection, [ROW] * 100), tmp_path / "ours.db")
    assert naive > 20 * ours


def test_the_naive_way_takes_the_interpreter_from_the_calls_at_each_row(store: Store) -> None:
    # Each statement lets go of the interpreter's lock and waits for it anew. The sums and the schema are seen to by the
    # one that brings the rows.
    class Counting(sqlite3.Connection):
        statements = 0

        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            self.statements += 1
            return super().execute(*arguments)

    def statements(write: Callable[[sqlite3.Connection], object]) -> int:
        with closing(sqlite3.connect(store.path, isolation_level=None, factory=Counting)) as connection:
            write(connection)
            return connection.statements

    known: dict[Series, int] = {}
    statements(lambda connection: write_rows(connection, [ROW], known))
    naive = statements(lambda connection: [write_rows(connection, [ROW], known) for _ in range(60)])
    ours = statements(lambda connection: write_rows(connection, [ROW] * 60, known))
    assert (naive, ours) == (60, 1)
    assert ask(store, "SELECT requests FROM quarter") == [(121,)]


def test_many_that_begin_at_once_all_get_the_file(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def begin(path: Path, gate: threading.Barrier) -> None:
        gate.wait()
        try:
            Store(path)
        except Exception as error:
            failures.append(error)

    for number in range(5):
        gate = threading.Barrier(8)
        threads = [threading.Thread(target=begin, args=(tmp_path / f"{number}.db", gate)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_file_that_another_makes_just_now_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(0.05, other.execute, ("COMMIT",))
        timer.start()
        assert Store(path).source
        timer.join()
