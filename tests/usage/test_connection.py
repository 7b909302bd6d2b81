"""The connection that a process keeps to the usage file."""

from __future__ import annotations

import gc
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from hfs_providers.usage import Store, connection, transaction
from hfs_providers.usage.connection import StoreConnection
from hfs_providers.usage.transaction import begin, patiently


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


@pytest.mark.parametrize(("options", "synchronous", "pages"), [({}, 1, 1000), ({"durable": False}, 0, 0)])
def test_it_waits_for_the_disk_unless_told_otherwise(
    store: Store, options: dict[str, bool], synchronous: int, pages: int
) -> None:
    with StoreConnection(store, **options).use() as opened:
        assert opened.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        # After how many pages the log is copied into the file, which waits for the disk.
        assert opened.execute("PRAGMA wal_autocheckpoint").fetchone() == (pages,)
        assert opened.execute("PRAGMA journal_size_limit").fetchone() == (16 * 1024**2,)


def test_a_close_is_one_for_whoever_still_has_it(store: Store) -> None:
    kept = StoreConnection(store)
    with kept.use() as opened:
        pass
    kept.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened.execute("SELECT 1")
    with kept.use() as again:
        assert (again.execute("SELECT 1").fetchone(), kept.opened) == ((1,), 2)


class TestPatience:
    def test_waits_for_who_locks_the_file(self, store: Store) -> None:
        with closing(store.connect(patience=0.0)) as theirs, closing(store.connect(patience=0.0)) as mine:
            theirs.execute("BEGIN IMMEDIATE")
            tries = 0

            def lock() -> None:
                nonlocal tries
                tries += 1
                if tries == 3:
                    theirs.execute("COMMIT")
                mine.execute("BEGIN IMMEDIATE")

            patiently(lock, 60.0)
            assert (tries, mine.in_transaction) == (3, True)

    def test_pauses_between_two_tries_for_longer_each_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tries: list[int] = []
        pauses: list[float] = []
        clock = SimpleNamespace(sleep=pauses.append, monotonic=lambda: 0.0)
        monkeypatch.setattr(transaction, "time", clock)
        monkeypatch.setattr(transaction.random, "uniform", lambda least, most: most)

        def locked() -> None:
            tries.append(1)
            if len(tries) <= 10:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error

        patiently(locked, 60.0)
        assert pauses[:3] == pytest.approx([0.0001, 0.00015, 0.000225])
        assert pauses[-1] == 0.002

    def test_ends_with_its_time(self, store: Store) -> None:
        with closing(store.connect(patience=0.0)) as theirs, closing(store.connect(patience=0.0)) as mine:
            theirs.execute("BEGIN IMMEDIATE")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                begin(mine, 0.0)

    def test_is_none_with_another_error(self, store: Store) -> None:
        tries = 0

        def wrong() -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                opened.execute("SELECT * FROM nowhere")

        with closing(store.connect()) as opened, pytest.raises(sqlite3.OperationalError, match="no such table"):
            patiently(wrong, 60.0)
        assert tries == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_never_closes_one_that_was_in_use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_FORK_PATIENCE", 0.0)
    kept = StoreConnection(store)
    with kept.use() as opened:
        child = os.fork()
    if child == 0:
        # Dropped, it would be closed.
        number = id(opened)
        del opened
        there = any(id(each) == number for each in gc.get_objects() if isinstance(each, sqlite3.Connection))
        os._exit(0 if there and kept._connection is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with kept.use() as same:
        assert same is opened
