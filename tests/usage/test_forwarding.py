"""Forwarding, with a SQLite file for the database: what arrives, what is said, and what is left for later."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import math
import multiprocessing
import os
import pickle
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.engine.default import DefaultDialect

from hfs_providers.contract.secret import fingerprint
from hfs_providers.errors import ForwardingError, MissingDriverError
from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import Store
from hfs_providers.usage.forwarding import forwarder as forwarding
from hfs_providers.usage.forwarding import process_lock
from hfs_providers.usage.forwarding import target as remote
from hfs_providers.usage.forwarding import url as address
from hfs_providers.usage.forwarding.forwarder import Forwarder, Pace, behind
from hfs_providers.usage.forwarding.process_lock import try_lock
from hfs_providers.usage.forwarding.url import DatabaseUrl, mysql_tls
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.row_writer import write_rows

DEADLINE = 60.0
QUICK = Pace(batch=100, linger=0.0, first=0.01, longest=0.05, taken=0.01)


def usage_rows(count: int, **changes: Any) -> list[UsageRow]:
    row = UsageRow(1_760_000_000.5, "groq", "m", "groq#1", "0a1b2c3d", 10, 20, 30, 0.25, "ok", 30)._replace(**changes)
    return [row._replace(at=row.at + number) for number in range(count)] if "at" not in changes else [row] * count


def write(store: Store, count: int = 1, **changes: Any) -> None:
    with contextlib.closing(store.connect()) as connection:
        write_rows(connection, usage_rows(count, **changes))


def eventually(holds: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.005)


class Target:
    """A SQLite file in the place of a database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    def query(self, statement: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=DEADLINE, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()

    @property
    def ids(self) -> list[int]:
        return [row[0] for row in self.query("SELECT id FROM hfs_usage ORDER BY id")]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else can write: an outage."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path / "target.db")


@pytest.fixture
def forwarder(store: Store, target: Target) -> Iterator[Forwarder]:
    # Locked for this long, the target counts as down.
    made = Forwarder(store, f"{target.url}?timeout=0.01", pace=QUICK)
    yield made
    made.close()


@pytest.mark.parametrize(("gone", "named"), [("sqlalchemy", "SQLAlchemy"), ("pymysql", "PyMySQL")])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, gone: str, named: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == gone else find(name))
    with pytest.raises(MissingDriverError, match=f"the package '{named}' is not installed"):
        DatabaseUrl("mysql://me:secret@host/db")


def test_a_password_that_is_a_part_of_another_leaves_nothing_of_it() -> None:
    url = DatabaseUrl("sqlite://me:abc@host/db?token=abcdef")
    assert url.scrub("abcdef or abc") == "[password] or [password]"


def test_an_answer_that_does_not_come_is_cut_off(target: Target) -> None:
    here, there = socket.socketpair()
    made = remote.Target(DatabaseUrl(target.url))
    made._raw = here
    with here, there:
        made.cut()
        there.settimeout(DEADLINE)
        assert there.recv(1) == b""


def test_the_first_answer_may_be_cut_off_too(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    made = remote.Target(DatabaseUrl(target.url))
    known: list[Any] = []
    initialize = DefaultDialect.initialize
    monkeypatch.setattr(DefaultDialect, "initialize", lambda *args: known.append(made._raw) or initialize(*args))
    made.send([remote.fitted("here", ROW)])
    made.close()
    assert [type(each) for each in known] == [sqlite3.Connection]


def test_an_end_waits_for_the_documented_five_seconds() -> None:
    assert Forwarder.close.__defaults__ == (5.0,)


def test_where_there_is_nothing_to_send_no_thread_starts(forwarder: Forwarder) -> None:
    assert forwarder.flush(0.0)
    assert forwarder._thread is None


class TestRows:
    def test_arrive_as_they_are(self, store: Store, target: Target, forwarder: Forwarder) -> None:
        write(store)
        assert forwarder.flush(DEADLINE)
        (row,) = target.query(
            "SELECT source, id, at, provider, model, key_id, fingerprint, tokens_in, tokens_out, tokens, charged,"
            " latency, outcome FROM hfs_usage"
        )
        assert row == (
            *(store.source, 1, "2025-10-09 08:53:20.500000", "groq", "m", "groq#1", "0a1b2c3d"),
            *(10, 20, 30, 30, 0.25, "ok"),
        )

    def test_are_sent_when_the_writer_says_so(self, store: Store, target: Target, forwarder: Forwarder) -> None:
        log = UsageLog(store, on_commit=forwarder.wake, group=0.0)
        log.record(usage_rows(1)[0])
        eventually(lambda: [each for each in behind(store) if not each.rows])
        log.close()
        assert target.ids == [1]

    def test_of_a_former_life_are_sent_as_well(self, store: Store, target: Target) -> None:
        write(store, 250)
        with contextlib.closing(Forwarder(Store(store.path), target.url, pace=QUICK)) as forwarder:
            assert forwarder.flush(DEADLINE)
        assert target.ids == list(range(1, 251))

    def test_that_were_sent_are_not_sent_again(
        self, store: Store, target: Target, forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[int] = []
        send = remote.Target.send
        monkeypatch.setattr(
            remote.Target, "send", lambda self, rows: sent.extend(row["id"] for row in rows) or send(self, rows)
        )
        for _ in range(3):
            write(store, 2)
            with contextlib.closing(Forwarder(store, target.url, pace=QUICK)) as another:
                assert another.flush(DEADLINE)
        assert sent == [1, 2, 3, 4, 5, 6]

    def test_count_once_where_the_cursor_was_lost(self, store: Store, target: Target, forwarder: Forwarder) -> None:
        write(store, 5)
        assert forwarder.flush(DEADLINE)
        with contextlib.closing(store.connect()) as connection:
            connection.execute("DELETE FROM targets")
        with contextlib.closing(Forwarder(store, target.url, pace=QUICK)) as again:
            assert again.flush(DEADLINE)
        assert target.ids == [1, 2, 3, 4, 5]

    def test_count_once_in_a_database_without_a_statement_for_that(
        self, store: Store, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "_once", lambda dialect: None)
        made = remote.Target(DatabaseUrl(target.url))
        rows = [remote.fitted("here", {"id": number, **usage_rows(1)[0]._asdict()}) for number in range(1, 6)]
        for count in (1, 3, 5):
            assert made.send(rows[:count]) == {}
        made.close()
        assert target.ids == [1, 2, 3, 4, 5]

    def test_of_two_files_do_not_mix(self, tmp_path: Path, target: Target) -> None:
        for name in ("one", "two"):
            store = Store(tmp_path / name / "usage.db")
            write(store, 3)
            with contextlib.closing(Forwarder(store, target.url, pace=QUICK)) as forwarder:
                assert forwarder.flush(DEADLINE)
        assert target.ids == [1, 1, 2, 2, 3, 3]

    def test_of_a_file_begun_anew_are_all_sent(self, store: Store, target: Target, forwarder: Forwarder) -> None:
        write(store, 3)
        assert forwarder.flush(DEADLINE)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{store.path}{suffix}").unlink(missing_ok=True)
        store.prepare()
        write(store, 2)
        assert forwarder.flush(DEADLINE)
        assert target.ids == [1, 1, 2, 2, 3]


def looks_within_a_transaction(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each look at the tables from now on, whether a transaction was under way. PostgreSQL answers nothing more in
    one in which a statement has failed.
    """
    found: list[bool] = []
    inspect = sqlalchemy.inspect

    def looked(connection: Any) -> Any:
        found.append(connection.in_transaction())
        return inspect(connection)

    monkeypatch.setattr(sqlalchemy, "inspect", looked)
    return found


def test_a_table_that_another_process_makes_first_is_used(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    create = sqlalchemy.Table.create
    within = looks_within_a_transaction(monkeypatch)

    def create_late(self: Any, connection: Any) -> None:
        create(self, connection)
        connection.commit()
        create(self, connection, checkfirst=False)

    monkeypatch.setattr(sqlalchemy.Table, "create", create_late)
    made = remote.Target(DatabaseUrl(target.url))
    assert made.send([remote.fitted("here", ROW)]) == {}
    made.close()
    assert target.ids == [1]
    assert within == [False, False]


class TestATableOfAnOlderVersion:
    def test_gets_the_columns_that_came_later(self, store: Store, target: Target, forwarder: Forwarder) -> None:
        columns = [column for column in remote.table().c if column.name not in remote.ADDED]
        target.query(
            f"CREATE TABLE hfs_usage ({', '.join(f'{each.name} NOT NULL' for each in columns)}, "
            "PRIMARY KEY (source, id))"
        )
        write(store, client="web", cost_nanousd=7, status=429)
        assert forwarder.flush(DEADLINE), forwarder.problem
        assert target.query("SELECT client, cost_nanousd, status, cooled_until FROM hfs_usage") == [
            ("web", 7, 429, None)
        ]

    def test_that_can_have_no_more_of_them_gets_the_others_and_is_told(
        self, store: Store, target: Target, forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        within = looks_within_a_transaction(monkeypatch)
        columns = [column.name for column in remote.table().c if column.name not in remote.ADDED]
        most = [*columns, *(f"c{number}" for number in range(2000 - len(columns)))]
        target.query(f"CREATE TABLE hfs_usage ({', '.join(most)}, PRIMARY KEY (source, id))")
        write(store, client="web")
        assert forwarder.flush(DEADLINE), forwarder.problem
        assert target.query("SELECT id, provider, outcome FROM hfs_usage") == [(1, "groq", "ok")]
        assert behind(store)[0].lacking == ", ".join(sorted(remote.ADDED))
        # For the table, for its columns, for those after the failure, and for what is lacking in the end.
        assert within == [False, True, False, True]


class TestAnOutage:
    def test_loses_and_repeats_nothing(self, store: Store, target: Target, forwarder: Forwarder) -> None:
        write(store, 150)
        assert forwarder.flush(DEADLINE)
        with target.locked():
            write(store, 150)
            forwarder.wake()
            eventually(lambda: forwarder.problem)
        eventually(lambda: not behind(store)[0].rows)
        assert target.ids == list(range(1, 301))
        assert forwarder.problem is None

    def test_is_said_once_and_so_is_its_end(
        self, store: Store, target: Target, forwarder: Forwarder, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "hfs_providers")
        write(store)
        assert forwarder.flush(DEADLINE)
        with target.locked():
            write(store)
            for _ in range(3):
                assert not forwarder.flush(DEADLINE)
        eventually(lambda: not behind(store)[0].rows)
        forwarder.close()
        said = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert [level for level, _ in said] == ["WARNING", "INFO"]
        assert "database is locked" in said[0][1]
        assert str(store.path) in said[0][1]

    def test_shows_in_how_far_it_is_behind(self, store: Store, target: Target, forwarder: Forwarder) -> None:
        write(store, 2)
        assert forwarder.flush(DEADLINE)
        with target.locked():
            write(store, 3, at=1_760_000_777.0)
            assert not forwarder.flush(DEADLINE)
            (found,) = behind(store, forwarder.name)
        assert (found.rows, found.oldest, found.refused) == (3, 1_760_000_777.0, 0)
        assert found.error is not None
        assert "locked" in found.error
        assert forwarder.flush(DEADLINE)
        (found,) = behind(store, forwarder.name)
        assert (found.rows, found.oldest, found.error) == (0, None, None)

    def test_is_over_with_the_first_rows_that_arrive_though_more_come(
        self, store: Store, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send, flushed, more = remote.Target.send, threading.Event(), list[bool]()

        def busy(self: Any, rows: Any) -> Any:
            if rows[0]["id"] == 1:
                write(store)
            else:
                more.append(flushed.wait(DEADLINE / 6))
            return send(self, rows)

        never = Pace(batch=2, linger=0, first=3600.0, longest=3600.0)
        with contextlib.closing(Forwarder(store, f"{target.url}?timeout=0.01", pace=never)) as forwarder:
            with target.locked():
                write(store, 2)
                assert not forwarder.flush(DEADLINE)
            monkeypatch.setattr(remote.Target, "send", busy)
            assert forwarder.flush(DEADLINE)
            assert forwarder.problem is None
            flushed.set()
        assert (target.ids, more) == ([1, 2, 3], [True])

    def test_is_over_where_another_process_has_sent_the_rows(
        self, store: Store, target: Target, forwarder: Forwarder
    ) -> None:
        with target.locked():
            write(store)
            assert not forwarder.flush(DEADLINE)
            assert forwarder.problem is not None
            with contextlib.closing(store.connect()) as connection:
                connection.execute("UPDATE targets SET forwarded = 1")
            eventually(lambda: forwarder.problem is None)
        assert not forwarder._failures

    def test_of_a_whole_life_leaves_the_rows_to_the_next(self, store: Store, tmp_path: Path) -> None:
        target = Target(tmp_path / "missing" / "target.db")
        write(store, 3)
        with contextlib.closing(Forwarder(store, target.url, pace=QUICK)) as forwarder:
            assert not forwarder.flush(DEADLINE)
        target.path.parent.mkdir()
        write(store, 3)
        with contextlib.closing(Forwarder(store, target.url, pace=QUICK)) as forwarder:
            assert forwarder.flush(DEADLINE)
        assert target.ids == [1, 2, 3, 4, 5, 6]

    def test_that_is_known_does_not_delay_the_end(self, store: Store, tmp_path: Path) -> None:
        forwarder = Forwarder(
            store, f"sqlite:///{tmp_path}/missing/target.db", pace=Pace(linger=0, first=3600.0, longest=3600.0)
        )
        write(store)
        assert not forwarder.flush(DEADLINE)
        tried = forwarder._failures
        forwarder.close(DEADLINE)
        assert forwarder._failures == tried == 1

    def test_is_waited_for_longer_and_longer_up_to_a_bound(self) -> None:
        pace = Pace()
        assert [pace.pause(failures, 0.0) for failures in (1, 2, 3, 7, 8, 10_000)] == [0.5, 1.0, 2.0, 30.0, 30.0, 30.0]
        assert pace.pause(8, 1.0) == 15.0

    def test_is_not_tried_more_often_because_rows_come(self, store: Store, tmp_path: Path) -> None:
        forwarder = Forwarder(
            store, f"sqlite:///{tmp_path}/missing/target.db", pace=Pace(linger=0, first=3600.0, longest=3600.0)
        )
        write(store)
        assert not forwarder.flush(DEADLINE)
        due = forwarder._next
        for _ in range(10):
            forwarder.wake()
        assert forwarder._next == due
        assert forwarder._begun == 1
        forwarder.close()


class TestStarting:
    def test_connects_to_nothing_and_imports_nothing(self, store: Store) -> None:
        program = (
            "import sys, threading\n"
            "from hfs_providers.usage.forwarding.forwarder import Forwarder\n"
            "from hfs_providers.usage.database import Store\n"
            f"forwarder = Forwarder(Store({str(store.path)!r}), 'mysql://me:secret@192.0.2.1/usage')\n"
            "assert forwarder.flush(0)\n"
            "forwarder.close()\n"
            "assert 'sqlalchemy' not in sys.modules and 'pymysql' not in sys.modules\n"
            "assert threading.active_count() == 1\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_wakes_nobody_after_the_end(self, store: Store, target: Target) -> None:
        forwarder = Forwarder(store, target.url, pace=QUICK)
        forwarder.close()
        forwarder.close()
        write(store)
        forwarder.wake()
        assert not forwarder.flush(DEADLINE)
        assert not target.path.exists()

    def test_needs_no_driver_for_the_connection_that_is_idle(self, store: Store, target: Target) -> None:
        with contextlib.closing(Forwarder(store, target.url, pace=Pace(linger=0, idle=0.0))) as forwarder:
            write(store)
            assert forwarder.flush(DEADLINE)
            eventually(lambda: not forwarder._target.connected)
            write(store)
            assert forwarder.flush(DEADLINE)
        assert (target.ids, forwarder._target.connected) == ([1, 2], False)

    def test_is_one_thread_that_keeps_no_program_from_its_end(self, store: Store, forwarder: Forwarder) -> None:
        threads = []
        for _ in "12":
            write(store)
            assert forwarder.flush(DEADLINE)
            threads.append(forwarder._thread)
        assert threads[0] is not None
        assert threads[0].daemon
        assert threads[1] is threads[0]

    def test_keeps_no_connection_after_the_end(self, store: Store, target: Target) -> None:
        forwarder = Forwarder(store, target.url)
        write(store)
        assert forwarder.flush(DEADLINE)
        assert forwarder._target.connected
        forwarder.close(DEADLINE)
        assert not forwarder._target.connected


class TestRowsThatAreRefused:
    CHECKED = (
        "CREATE TABLE hfs_usage (source TEXT, id INTEGER, at TEXT, provider TEXT, model TEXT CHECK (model != 'bad'),"
        " key_id TEXT, fingerprint TEXT, tokens_in INTEGER, tokens_out INTEGER, tokens INTEGER, charged INTEGER,"
        " latency REAL, outcome TEXT, PRIMARY KEY (source, id))"
    )

    def test_do_not_hold_up_the_others(
        self, store: Store, target: Target, forwarder: Forwarder, caplog: pytest.LogCaptureFixture
    ) -> None:
        target.query(self.CHECKED)
        for model, count in (("good", 40), ("bad", 1), ("good", 9), ("bad", 2), ("good", 120)):
            write(store, count, model=model)
        assert forwarder.flush(DEADLINE)
        assert target.ids == [number for number in range(1, 173) if number not in (41, 51, 52)]
        (found,) = behind(store)
        assert (found.rows, found.refused, found.error) == (0, 3, None)
        assert found.refusal is not None
        assert "CHECK constraint failed" in found.refusal
        assert str(found.trouble).startswith("refused 3 rows for good")
        assert "refuses 3 rows of usage for good (41, 51, 52)" in caplog.text

    def test_all_of_them_are_a_fault_of_the_table_and_wait(
        self, store: Store, target: Target, forwarder: Forwarder
    ) -> None:
        target.query(self.CHECKED.replace("model != 'bad'", "model = 'other'"))
        write(store, 7)
        assert not forwarder.flush(DEADLINE)
        (found,) = behind(store)
        assert (found.rows, found.refused) == (7, 0)
        target.query("DROP TABLE hfs_usage")
        assert forwarder.flush(DEADLINE)
        assert target.ids == [1, 2, 3, 4, 5, 6, 7]

    @pytest.mark.parametrize(("number", "taken"), [(3819, [1, 3]), (4025, [1, 3]), (1205, [])])
    def test_are_known_by_the_numbers_of_mysql_and_mariadb(
        self,
        store: Store,
        target: Target,
        forwarder: Forwarder,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        taken: Any,
    ) -> None:
        from sqlalchemy.exc import OperationalError

        insert = remote.Target._insert

        def checked(self: Any, connection: Any, rows: Any) -> None:
            if any(row["id"] == 2 for row in rows):
                # As their drivers raise it.
                raise OperationalError("INSERT", {}, Exception(number, "of the server"))
            insert(self, connection, rows)

        monkeypatch.setattr(remote.Target, "_insert", checked)
        write(store, 3)
        assert forwarder.flush(DEADLINE) == bool(taken)
        assert target.ids == taken
        assert behind(store)[0].refused == (1 if taken else 0)

    def test_that_no_database_could_take_are_counted(self, store: Store, target: Target, forwarder: Forwarder) -> None:
        write(store, 3)
        with contextlib.closing(store.connect()) as connection:
            connection.execute("UPDATE usage SET tokens = 'many' WHERE id = 2")
        assert forwarder.flush(DEADLINE)
        assert target.ids == [1, 3]
        assert behind(store)[0].refused == 1

    @pytest.mark.parametrize(("count", "told"), [(5, "(1, 2, 3, 4, 5)"), (6, "(1, 2, 3, 4, 5, ...)")])
    def test_are_named_if_they_are_few(
        self, store: Store, forwarder: Forwarder, count: int, told: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(store, 7)
        with contextlib.closing(store.connect()) as connection:
            connection.execute("UPDATE usage SET tokens = 'many' WHERE id <= ?", (count,))
        assert forwarder.flush(DEADLINE)
        assert f"refuses {count} rows of usage for good {told}: " in caplog.text


ROW = {"id": 1, **usage_rows(1)[0]._asdict()}


class TestFitting:
    @pytest.mark.parametrize(("column", "length"), [item for item in remote.LENGTHS.items() if item[0] != "source"])
    def test_cuts_what_is_longer_than_its_column(self, column: str, length: int) -> None:
        assert remote.fitted("here", {**ROW, column: "ü" * 1000})[column] == "ü" * length

    def test_replaces_what_postgresql_does_not_have(self) -> None:
        assert remote.fitted("here", {**ROW, "model": "a\0b"})["model"] == "a\ufffdb"

    @pytest.mark.parametrize("at", [math.inf, math.nan, -1e300, 1e300])
    def test_gives_every_row_a_time(self, at: float) -> None:
        assert 1970 <= remote.fitted("here", {**ROW, "at": at})["at"].year <= 9999

    def test_bounds_numbers(self) -> None:
        row = remote.fitted("here", {**ROW, "tokens": 10**30, "latency": math.inf})
        assert (row["tokens"], row["latency"]) == (2**63 - 1, 0.0)


class TestSeveralForwarders:
    def test_take_turns(
        self, store: Store, target: Target, forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store, 1000)
        at_it, most, lock = 0, 0, threading.Lock()
        send = remote.Target.send

        def watched(self: remote.Target, rows: Any) -> dict[int, str]:
            nonlocal at_it, most
            with lock:
                at_it += 1
                most = max(most, at_it)
            try:
                return send(self, rows)
            finally:
                with lock:
                    at_it -= 1

        monkeypatch.setattr(remote.Target, "send", watched)
        others = [Forwarder(store, forwarder.name, pace=QUICK) for _ in range(4)]
        for other in others:
            other.wake()
        for other in others:
            assert other.flush(DEADLINE)
            other.close()
        assert target.ids == list(range(1, 1001))
        assert most == 1

    def test_are_right_even_where_they_do_not(
        self, store: Store, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forwarding, "try_lock", lambda path: contextlib.nullcontext(True))
        write(store, 1000)
        others = [Forwarder(store, target.url, pace=QUICK) for _ in range(4)]
        for other in others:
            other.wake()
        eventually(lambda: not behind(store, target.url)[0].rows)
        for other in others:
            other.close()
        assert target.ids == list(range(1, 1001))

    def test_one_that_found_the_lock_held_tries_again_by_itself(self, store: Store, target: Target) -> None:
        write(store)
        with try_lock(f"{store.path}.{fingerprint(target.url)}") as mine:
            assert mine
            other = Forwarder(store, target.url, pace=QUICK)
            other.wake()
            eventually(lambda: other._ended)
        eventually(lambda: not behind(store, target.url)[0].rows)
        other.close()
        assert target.ids == [1]

    def test_the_lock_is_one_file(self, tmp_path: Path) -> None:
        with try_lock(str(tmp_path / "lock")):
            assert [each.name for each in tmp_path.iterdir() if each.name.startswith("lock")] == ["lock"]

    def test_the_lock_is_not_waited_for_and_nothing_is_left_of_it(self, tmp_path: Path) -> None:
        before = set(process_lock._held)
        with try_lock(str(tmp_path / "lock")):
            (lock,) = process_lock._held - before
            assert lock.execute("PRAGMA busy_timeout").fetchone() == (0,)
        assert lock not in process_lock._held

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    def test_a_child_keeps_the_lock_of_its_parent_open(self, tmp_path: Path) -> None:
        before = set(process_lock._held)
        with try_lock(str(tmp_path / "lock")):
            (lock,) = process_lock._held - before
            child = os.fork()
            if child == 0:
                # Dropped, it would be closed.
                os._exit(0 if lock in process_lock._left_alone and not process_lock._held else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_one_that_was_killed_leaves_no_lock(self, tmp_path: Path) -> None:
        lock = str(tmp_path / "lock")
        program = (
            "import sys\n"
            "from hfs_providers.usage.forwarding.process_lock import try_lock\n"
            f"with try_lock({lock!r}) as mine:\n"
            "    print(mine, flush=True)\n"
            "    sys.stdin.read()\n"
        )
        child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"True\n"
            with try_lock(lock) as mine:
                assert not mine
            child.kill()
        with try_lock(lock) as mine:
            assert mine

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    def test_a_child_of_fork_forwards_by_itself(self, store: Store, target: Target, forwarder: Forwarder) -> None:
        write(store, 3)
        assert forwarder.flush(DEADLINE)
        child = multiprocessing.get_context("fork").Process(target=_in_a_child, args=(store, forwarder))
        child.start()
        child.join(DEADLINE)
        assert child.exitcode == 0
        write(store, 3)
        assert forwarder.flush(DEADLINE)
        assert target.ids == list(range(1, 10))


def _in_a_child(store: Store, forwarder: Forwarder) -> None:
    write(store, 3)
    assert forwarder.flush(DEADLINE)
    gc.collect()
    forwarder.close()


PASSWORD = "hunter2/§&x"
ENCODED = "hunter2%2F%C2%A7%26x"


class TestTheUrl:
    @pytest.mark.parametrize(
        ("url", "name", "driver"),
        [
            ("mysql://me:secret@db.example/usage", "mysql://me@db.example/usage", "pymysql"),
            (
                "mysql+pymysql://me:secret@db.example:3306/usage?ssl_ca=/a@b",
                "mysql://me@db.example:3306/usage",
                "pymysql",
            ),
            ("mysql+mysqldb://me:secret@db.example/usage", "mysql://me@db.example/usage", "mysqldb"),
            (
                "tidb://p.root:secret@gateway01.eu.prod.aws.tidbcloud.com:4000/test",
                "mysql://p.root@gateway01.eu.prod.aws.tidbcloud.com:4000/test",
                "pymysql",
            ),
            ("mariadb://me@db.example/usage", "mysql://me@db.example/usage", "pymysql"),
            ("postgres://me:secret@db.example/usage?sslmode=require", "postgresql://me@db.example/usage", "psycopg"),
            ("postgresql://me:a/b?c@[::1]:5432/usage", "postgresql://me@[::1]:5432/usage", "psycopg"),
            ("sqlite:////var/lib/usage.db", "sqlite:////var/lib/usage.db", ""),
            (" mysql://db.example ", "mysql://db.example", "pymysql"),
        ],
    )
    def test_gives_a_name_and_a_driver(self, url: str, name: str, driver: str) -> None:
        found = DatabaseUrl(url)
        assert (found.name, found.driver) == (name, driver)

    def test_is_the_same_target_with_another_password_and_other_options(self) -> None:
        assert DatabaseUrl("mysql://me:a@db/usage").name == DatabaseUrl("mysql+pymysql://me:b@db/usage?ssl_ca=x").name

    @pytest.mark.parametrize(
        "url",
        ["mysql://me:sec@ret@db/usage", "mysql://me:secret/usage", "secret", "mysql:secret", "mysql://[secret", ""],
    )
    def test_that_cannot_be_read_is_not_shown(self, store: Store, url: str) -> None:
        with pytest.raises(ForwardingError, match="%40") as raised:
            Forwarder(store, url)
        assert "sec" not in str(raised.value)

    def test_with_a_driver_that_is_missing_says_what_installs_it(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        find = importlib.util.find_spec
        for missing, url, command in (
            ("pymysql", "mysql://me:secret@db/usage", "pip install 'hfs-providers[mysql]'"),
            ("psycopg", "postgres://me:secret@db/usage", "pip install 'hfs-providers[postgres]'"),
            ("sqlalchemy", "postgres://me:secret@db/usage", "pip install 'hfs-providers[postgres]'"),
            ("sqlalchemy", "sqlite:///usage.db", "pip install 'hfs-providers[mysql]'"),
        ):
            monkeypatch.setattr(
                address.importlib.util, "find_spec", lambda name, gone=missing: None if name == gone else find(name)
            )
            with pytest.raises(MissingDriverError) as raised:
                Forwarder(store, url)
            assert command in raised.value.remedy
            assert "secret" not in str(raised.value)
            assert isinstance(raised.value, ImportError)

    def test_of_a_dialect_that_is_not_there_is_told(self, store: Store) -> None:
        with pytest.raises(ForwardingError, match="knows no dialect 'nosuch'") as raised:
            Forwarder(store, "nosuch://me:secret@db/usage")
        assert "secret" not in str(raised.value)

    def test_of_a_dialect_of_another_package_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        there = EntryPoint("acme.odbc", "acme:Dialect", "sqlalchemy.dialects")
        monkeypatch.setattr(address.metadata, "entry_points", lambda group: [there])
        assert DatabaseUrl("acme://me:secret@db/usage").name == "acme://me@db/usage"

    def test_of_a_driver_that_is_not_there_is_a_problem(self, store: Store) -> None:
        with contextlib.closing(Forwarder(store, "oracle+oracledb://me:secret@db/usage", pace=QUICK)) as forwarder:
            write(store)
            assert not forwarder.flush(DEADLINE)
            assert forwarder.problem is not None
            assert "secret" not in forwarder.problem.message

    def test_of_an_asynchronous_driver_is_a_problem(self, store: Store) -> None:
        with contextlib.closing(Forwarder(store, "sqlite+aiosqlite:///usage.db", pace=QUICK)) as forwarder:
            write(store)
            assert not forwarder.flush(DEADLINE)
            assert forwarder.problem is not None
            assert "asynchronous" in forwarder.problem.message

    @pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
    def test_keeps_its_password_to_itself(
        self, store: Store, scheme: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def leak(self: remote.Target) -> None:
            raise RuntimeError(f"cannot log in as me with {PASSWORD} ({ENCODED}, {scheme})")

        caplog.set_level(logging.DEBUG)
        monkeypatch.setattr(remote.Target, "_connect", leak)
        with contextlib.closing(
            Forwarder(store, f"{scheme}://me:{ENCODED}@127.0.0.1:1/usage", pace=QUICK)
        ) as forwarder:
            write(store)
            assert not forwarder.flush(DEADLINE)
            with pytest.raises(TypeError):
                pickle.dumps(forwarder)
            shown = (
                f"{forwarder!r} {forwarder.name} {forwarder.problem} {behind(store)} {vars(forwarder)} {caplog.text}"
            )
            shown += str(vars(forwarder._url))
        assert "cannot log in as me with [password] ([password]" in shown
        assert "hunter2" not in shown
        assert b"hunter2" not in store.path.read_bytes()


class TestTlsOptionsOfMysql:
    CLOUD = "gateway01.eu-central-1.prod.aws.tidbcloud.com"

    @pytest.mark.parametrize(
        ("query", "host", "mode"),
        [
            ({}, "db.example", None),
            ({"ssl_mode": "PREFERRED"}, CLOUD, None),
            ({}, CLOUD, "identity"),
            ({"ssl_verify_cert": "true", "ssl_verify_identity": "true"}, "db.example", "identity"),
            ({"ssl_verify_cert": "true"}, "db.example", "authority"),
            ({"ssl_verify_cert": "false"}, "db.example", "encrypted"),
            ({"ssl_check_hostname": "false"}, "db.example", "authority"),
            ({"ssl_mode": "VERIFY_IDENTITY"}, "db.example", "identity"),
            ({"ssl_mode": "verify_ca"}, "db.example", "authority"),
            ({"ssl_mode": "REQUIRED"}, "db.example", "encrypted"),
            ({"ssl": "true"}, "db.example", "identity"),
        ],
    )
    def test_mean_what_they_say(self, query: dict[str, str], host: str, mode: str | None) -> None:
        rest, given = mysql_tls({**query, "charset": "utf8mb4"}, host)
        assert rest == {"charset": "utf8mb4"}
        wanted = {
            "identity": (True, ssl.CERT_REQUIRED),
            "authority": (False, ssl.CERT_REQUIRED),
            "encrypted": (False, ssl.CERT_NONE),
        }
        context = given.get("ssl")
        assert (context and (context.check_hostname, context.verify_mode)) == (wanted[mode] if mode else None)

    @pytest.mark.parametrize("query", [{"ssl_mode": "DISABLED"}, {"ssl_disabled": "true"}, {"ssl": "false"}])
    def test_can_turn_it_off(self, query: dict[str, str]) -> None:
        assert mysql_tls(query, "db.example") == ({}, {"ssl_disabled": True})

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ({"ssl_mode": "SOMETIMES"}, "VERIFY_IDENTITY"),
            ({"ssl_ca": "/no/such/ca.pem"}, "/no/such/ca.pem"),
            ({"ssl_verify_cert": "perhaps"}, "ssl_verify_cert"),
        ],
    )
    def test_that_are_not_understood_are_a_problem_in_words(
        self, store: Store, query: dict[str, str], words: str
    ) -> None:
        options = "&".join(f"{key}={value}" for key, value in query.items())
        with contextlib.closing(Forwarder(store, f"mysql://me:secret@127.0.0.1:1/usage?{options}", pace=QUICK)) as made:
            write(store)
            assert not made.flush(DEADLINE)
            assert made.problem is not None
            assert words in made.problem.message

    def test_reach_the_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import pymysql

        given: dict[str, Any] = {}

        def connect(**options: Any) -> Any:
            given.update(options)
            raise OSError("nobody there")

        monkeypatch.setattr(pymysql, "connect", connect)
        with pytest.raises(OSError, match="nobody there"):
            remote.Target(
                DatabaseUrl("mysql://me:p\u00e4ss@db.example/usage?ssl_mode=REQUIRED&connect_timeout=3")
            ).send([{"id": 1}])
        assert isinstance(given["ssl"], ssl.SSLContext)
        assert given["password"] == "p\u00e4ss".encode()
        assert (given["connect_timeout"], given["read_timeout"], given["write_timeout"]) == (3, 30, 30)

    def test_that_sqlalchemy_and_pymysql_would_get_wrong(self, tmp_path: Path) -> None:
        """With both options of TiDB Cloud's example they leave the host name unchecked."""
        from pymysql.connections import Connection
        from sqlalchemy import make_url

        url = make_url("mysql+pymysql://me@db.example/usage?ssl_verify_cert=true&ssl_verify_identity=true")
        _, options = url.get_dialect()().create_connect_args(url)
        naive = Connection(**options, defer_connect=True)
        assert not naive.ctx.check_hostname
        assert mysql_tls(url.query, "db.example")[1]["ssl"].check_hostname
