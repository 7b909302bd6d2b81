"""The thread of the usage log: what wakes it, what it does not wait for, and how it ends."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.errors import StoreError
from hfs_providers.usage import Store, UsageRow
from hfs_providers.usage.log import UsageLog, _Bell
from tests.usage.test_usage import count, eventually

ROW = UsageRow(1_700_000_000.0, "groq", "llama", "groq#1", "ab12cd34", 2, 3, 5, 0.25, "ok", 5)

NEVER = 3600.0
"""Seconds that no test waits for."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


@pytest.fixture
def slow(store: Store) -> Iterator[UsageLog]:
    """A log whose rows gather for longer than any test lasts."""
    log = UsageLog(store, group=NEVER, retry=NEVER)
    yield log
    log.close()


@pytest.fixture
def quick(store: Store) -> Iterator[UsageLog]:
    log = UsageLog(store, group=0.0, retry=0.01)
    yield log
    log.close()


def idle(log: UsageLog) -> bool:
    return log._idle and not log._queue and not log._pending


def test_the_documented_figures_hold(store: Store) -> None:
    log = UsageLog(store)
    assert (log._group, log._retry, log._most) == (0.06, 1.0, 100_000)
    log.close()


class TestBell:
    def test_makes_wait_until_it_is_rung(self) -> None:
        bell = _Bell()
        began = time.monotonic()
        bell.wait(0.05)
        assert time.monotonic() - began > 0.04

    def test_rung_before_is_heard_once(self) -> None:
        bell = _Bell()
        bell.ring()
        bell.ring()
        bell.wait()
        began = time.monotonic()
        bell.wait(0.05)
        assert time.monotonic() - began > 0.04


class TestWakesFor:
    def test_a_row(self, quick: UsageLog, store: Store) -> None:
        for number in (1, 2):
            assert eventually(lambda: idle(quick))
            quick.record(ROW)
            assert eventually(lambda number=number: count(store) == number)  # type: ignore[misc]

    def test_work_that_is_deferred(self, quick: UsageLog) -> None:
        for _ in "12":
            done = threading.Event()
            assert eventually(lambda: idle(quick))
            quick.defer(lambda connection, done=done: done.set())  # type: ignore[misc]
            assert done.wait(20)

    def test_a_row_that_came_while_it_wrote(self, store: Store) -> None:
        def once_more() -> None:
            if count(store) == 1:
                log.record(ROW)

        log = UsageLog(store, on_commit=once_more, group=0.0)
        log.record(ROW)
        assert eventually(lambda: count(store) == 2)
        log.close()

    def test_a_flush_that_overtakes_a_record(self, quick: UsageLog, store: Store) -> None:
        quick.record(ROW)
        assert quick.flush(20)
        assert eventually(lambda: idle(quick))
        quick._queue.append(ROW)  # what `record` does first
        assert quick.flush(20)
        assert count(store) == 2

    @pytest.mark.parametrize("group", [0.0, NEVER], ids=["idle", "while rows gather"])
    def test_the_end(self, store: Store, group: float) -> None:
        log = UsageLog(store, group=group)
        log.record(ROW)
        assert log.flush(20)
        assert eventually(lambda: idle(log) or group == NEVER)
        thread = log._thread
        assert thread is not None
        log.close(20)
        assert not thread.is_alive()


def test_rows_gather_before_they_are_written(slow: UsageLog, store: Store) -> None:
    slow.record(ROW)
    assert not eventually(lambda: count(store) > 0, seconds=0.1)


def test_a_close_waits_for_whoever_is_told_of_the_last_rows(store: Store) -> None:
    told: list[bool] = []
    log = UsageLog(store, on_commit=lambda: told.append(time.sleep(0.05) is None), group=0.0)
    log.record(ROW)
    log.close(20)
    assert told == [True]


class TestDoesNotWait:
    def test_for_more_rows_where_somebody_flushes(self, slow: UsageLog, store: Store) -> None:
        slow.record(ROW)
        assert slow.flush(20)
        assert count(store) == 1

    def test_for_more_rows_where_the_program_ends(self, slow: UsageLog, store: Store) -> None:
        slow.record(ROW)
        slow.close(20)
        assert count(store) == 1

    def test_for_more_rows_where_the_file_comes_back(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        log = UsageLog(store, group=NEVER, retry=0.01)
        monkeypatch.setattr(log, "_commit", refuse)
        log.record(ROW)
        assert not log.flush(20)
        assert log.failing
        monkeypatch.undo()
        assert eventually(lambda: count(store) == 1)
        assert not log.failing
        log.close()

    def test_where_there_is_nothing_to_flush(self, slow: UsageLog) -> None:
        assert slow.flush(0)
        assert slow._thread is None

    def test_for_a_flush_of_a_file_that_cannot_be_written(
        self, slow: UsageLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(slow, "_commit", refuse)
        slow.record(ROW)
        began = time.monotonic()
        assert not slow.flush(60)
        assert time.monotonic() - began < 30
        assert slow.waiting == 1
        monkeypatch.undo()
        assert slow.flush(20)
        assert slow.waiting == 0


class TestThread:
    def test_is_one_for_all_rows(self, quick: UsageLog) -> None:
        quick.record(ROW)
        quick.flush()
        thread = quick._thread
        assert thread is not None
        for _ in "12":
            assert eventually(lambda: idle(quick))
            quick.record(ROW)
            assert quick.flush(20)
        assert quick._thread is thread
        assert thread.is_alive()

    def test_after_a_close_is_another_one_that_stays(self, quick: UsageLog, store: Store) -> None:
        quick.record(ROW)
        quick.close()
        assert quick._thread is None
        quick.record(ROW)
        assert eventually(lambda: idle(quick) and count(store) == 2)
        thread = quick._thread
        assert thread is not None
        quick.record(ROW)
        assert quick.flush(20)
        assert quick._thread is thread

    def test_that_ends_leaves_no_row_of_somebody_who_did_not_know(self, store: Store) -> None:
        class Late(UsageLog):
            """A row comes after the thread has looked for the last time and before it says that it is gone."""

            late = True

            def __setattr__(self, name: str, value: Any) -> None:
                if name == "_thread" and value is None and self.__dict__.get("_thread") is not None and self.late:
                    self.late = False
                    self._queue.append(ROW)
                super().__setattr__(name, value)

        log = Late(store, group=0.0)
        log.record(ROW)
        log.close(20)
        assert not log.late
        assert eventually(lambda: count(store) == 2)
        log.close(20)

    def test_that_cannot_be_started_is_done_without(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        # As at the end of the interpreter.
        def no_more(thread: threading.Thread) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr(threading.Thread, "start", no_more)
        log = UsageLog(store)
        for number in (1, 2):
            log.record(ROW)
            assert count(store) == number
        monkeypatch.undo()
        log.close()


class TestWork:
    def test_is_done_again_where_the_file_was_busy(self, quick: UsageLog, store: Store) -> None:
        tries: list[int] = []

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO meta VALUES ('tried', '')")
            tries.append(1)
            if len(tries) == 1:
                raise sqlite3.OperationalError("database is locked")

        quick.record(ROW)
        quick.defer(work)
        assert eventually(lambda: len(tries) == 2 and idle(quick))
        assert count(store) == 1

    def test_that_fails_for_good_is_shown_with_its_traceback(
        self, quick: UsageLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        quick.defer(lambda connection: 1 / 0)
        assert quick.flush(20)
        (record,) = [record for record in caplog.records if "could not be" in record.message]
        assert record.exc_info is not None


class TestFailure:
    def test_is_logged_once(self, quick: UsageLog, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
        monkeypatch.setattr(quick, "_commit", refuse)
        quick.record(ROW)
        for _ in "123":
            assert not quick.flush(20)
        assert sum("cannot be kept" in record.message for record in caplog.records) == 1

    def test_says_what_helps(self, quick: UsageLog, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        assert quick.problem is None
        monkeypatch.setattr(quick, "_commit", refuse)
        quick.record(ROW)
        quick.flush(20)
        assert quick.problem is not None
        assert quick.problem.remedy == (
            f"Free space on the disk and make {store.path} writable, or set HFS_USAGE_DB to another path or to off"
        )

    def test_that_knows_its_remedy_says_that_one(self, quick: UsageLog, store: Store) -> None:
        with closing(store.connect()) as connection:
            connection.execute("PRAGMA user_version = 99")
        quick.record(ROW)
        assert not quick.flush(20)
        assert quick.problem is not None
        assert quick.problem.remedy == "Run: pip install -U hfs-providers"
        assert "schema 99" in quick.problem.message

    def test_at_the_start_is_a_problem_before_the_first_row(self, tmp_path: Path) -> None:
        (tmp_path / "usage.db").mkdir()
        log = UsageLog(Store(tmp_path / "usage.db", at_once=False))
        assert log.failing
        assert log.problem is not None
        log.close()

    def test_forgets_the_numbers_of_series_that_were_undone(self, quick: UsageLog, store: Store) -> None:
        def fail(connection: sqlite3.Connection) -> None:
            if not failed:
                failed.append(1)
                raise sqlite3.OperationalError("disk I/O error")

        failed: list[int] = []
        quick.record(ROW)
        quick.defer(fail)
        assert eventually(lambda: count(store) == 1)
        with closing(store.connect()) as connection:
            assert connection.execute("SELECT count(*) FROM usage JOIN series ON series.id = series").fetchone() == (1,)

    def test_forgets_the_numbers_of_series_of_another_file(self, quick: UsageLog, store: Store) -> None:
        quick.record(ROW._replace(model="another"))
        quick.record(ROW)
        assert quick.flush(20)
        for path in store.path.parent.glob("usage.db*"):
            path.unlink()
        quick.record(ROW)
        assert quick.flush(20)
        with closing(store.connect()) as connection:
            query = "SELECT model FROM usage JOIN series ON series.id = series"
            assert connection.execute(query).fetchall() == [("llama",)]

    def test_drops_the_oldest_rows_and_no_more(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        log = UsageLog(store, group=0.0, retry=0.01, kept=3)
        monkeypatch.setattr(log, "_commit", refuse)
        for number in range(3):
            log.record(ROW._replace(tokens=number))
        assert not log.flush(20)
        assert (log.dropped, log.waiting) == (0, 3)
        log.record(ROW._replace(tokens=3))
        assert not log.flush(20)
        assert (log.dropped, log.waiting) == (1, 3)
        monkeypatch.undo()
        assert log.flush(20)
        with closing(store.connect()) as connection:
            assert connection.execute("SELECT tokens FROM usage ORDER BY id").fetchall() == [(1,), (2,), (3,)]
        log.close()

    def test_at_the_end_is_told_with_the_number_of_rows(
        self, slow: UsageLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(slow, "_commit", refuse)
        slow.close(0.1)
        assert "lost" not in caplog.text
        slow.record(ROW)
        slow.record(ROW)
        slow.close(0.5)
        assert "2 rows of usage are lost: usage cannot be kept in" in caplog.text
        monkeypatch.undo()


def refuse(*_: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


def test_nobody_is_told_of_rows_where_none_were_written(store: Store) -> None:
    told: list[int] = []
    log = UsageLog(store, on_commit=lambda: told.append(1), group=0.0)
    log.defer(lambda connection: None)
    assert log.flush(20)
    log.close()
    assert told == []


def test_a_store_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    (tmp_path / "usage.db").mkdir()
    with pytest.raises(StoreError):
        Store(tmp_path / "usage.db")
