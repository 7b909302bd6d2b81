"""What the usage log does where its file cannot be used: it goes on, says so, and comes back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hfs_providers import ProviderManager
from hfs_providers.errors import StoreError
from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import SCHEMA_VERSION, Store
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.row_writer import write_rows
from tests import warm

ROW = UsageRow(1_700_000_000.0, "groq", "llama", "groq#1", "ab12cd34", 2, 3, 5, 0.25, "ok", 5)

Make = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state" / "usage.db")


@pytest.fixture
def log(store: Store) -> Iterator[UsageLog]:
    log = UsageLog(store, retry=0.01, kept=10)
    yield log
    log.close()


def count(store: Store) -> int:
    with closing(store.connect()) as connection:
        (found,) = connection.execute("SELECT COUNT(*) FROM usage").fetchone()
        return int(found)


def garbage(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(b"this is no database " * 1000)


class TestCorruptFile:
    def test_one_that_is_found_at_the_start_is_put_aside(self, tmp_path: Path) -> None:
        garbage(tmp_path / "usage.db")
        log = UsageLog(Store(tmp_path / "usage.db"))
        log.record(ROW)
        assert log.flush()
        assert count(log.store) == 1
        [aside] = tmp_path.glob("usage.db.corrupt-*")
        assert aside.read_bytes().startswith(b"this is no database")
        assert log.problem is not None
        assert str(aside) in log.problem.message
        log.close()

    def test_one_that_breaks_meanwhile_is_put_aside_and_no_row_is_lost(self, log: UsageLog, store: Store) -> None:
        log.record(ROW)
        log.flush()
        log._connection.close()
        garbage(store.path)
        log.record(ROW)
        while not log.flush():
            assert log.problem is not None
        assert count(store) == 1
        assert log.problem is not None
        assert "was corrupt" in log.problem.message

    def test_a_broken_page_inside_is_noticed_too(self, log: UsageLog, store: Store) -> None:
        log.record(ROW)
        log.flush()
        log._connection.close()
        with closing(store.connect()) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        data = bytearray(store.path.read_bytes())
        data[4096:] = b"\xff" * (len(data) - 4096)
        store.path.write_bytes(data)
        log.record(ROW)
        while not log.flush():
            assert log.problem is not None
        assert count(store) == 1

    def test_a_good_file_that_another_process_began_meanwhile_is_left_alone(self, store: Store) -> None:
        store.set_aside((0, 0))
        assert store.path.exists()
        assert store.moved is None


class TestFileThatIsGone:
    def test_a_deleted_file_is_made_again(self, log: UsageLog, store: Store) -> None:
        log.record(ROW)
        log.flush()
        for path in store.path.parent.iterdir():
            path.unlink()
        log.record(ROW)
        assert log.flush()
        assert count(store) == 1

    def test_so_is_its_directory(self, log: UsageLog, store: Store) -> None:
        log.record(ROW)
        log.flush()
        for path in store.path.parent.iterdir():
            path.unlink()
        store.path.parent.rmdir()
        log.record(ROW)
        assert log.flush()
        assert count(store) == 1


class TestFileThatCannotBeWritten:
    def test_rows_wait_in_memory_and_are_written_when_there_is_room(
        self, log: UsageLog, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.fill_up(log, monkeypatch)
        for _ in range(5):
            log.record(ROW)
        assert not log.flush()
        assert log.problem is not None
        assert "database or disk is full" in log.problem.message
        assert "5 rows wait in memory" in log.problem.message
        monkeypatch.undo()
        assert log.flush()
        assert count(store) == 5
        assert log.problem is None
        assert [record.message for record in caplog.records if "kept in" in record.message][-1].endswith("again")

    def test_the_oldest_are_dropped_beyond_a_bound_and_counted(
        self, log: UsageLog, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fill_up(log, monkeypatch)
        for number in range(25):
            log.record(ROW._replace(tokens=number))
        assert not log.flush()
        assert log.dropped == 15
        assert log.problem is not None
        assert "15 were dropped" in log.problem.message
        monkeypatch.undo()
        assert log.flush()
        with closing(store.connect()) as connection:
            assert [row[0] for row in connection.execute("SELECT tokens FROM usage ORDER BY id")] == [*range(15, 25)]

    def test_a_close_meanwhile_ends(self, log: UsageLog, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
        self.fill_up(log, monkeypatch)
        log.record(ROW)
        log.close(timeout=1.0)
        assert "1 rows of usage are lost" in caplog.text

    @staticmethod
    def fill_up(log: UsageLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the file grow by no page."""
        connect = Store.connect

        def full(self: Store, **options: Any) -> sqlite3.Connection:
            connection = connect(self, **options)
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
            # The pages that there are have room for a few rows, but not for this.
            connection.execute(
                "CREATE TEMP TRIGGER full BEFORE INSERT ON main.usage BEGIN"
                " INSERT INTO meta VALUES ('fill', zeroblob(1000000)); END"
            )
            return connection

        monkeypatch.setattr(Store, "connect", full)
        log._connection.close()

    def test_a_limit_of_the_system_on_the_size_of_files_is_survived(self, store: Store) -> None:
        # The system's own refusal, as a full disk is: every write beyond it fails.
        pytest.importorskip("resource")
        program = (
            "import resource, sys\n"
            "from hfs_providers.usage import UsageRow\n"
            "from hfs_providers.usage.database import Store\n"
            "from hfs_providers.usage.log import UsageLog\n"
            "log = UsageLog(Store(sys.argv[1]), retry=0.01)\n"
            "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))\n"
            "row = UsageRow(1.7e9, 'groq', 'm' * 100, 'groq#1', 'ab', 1, 2, 3, 0.1, 'ok', 3)\n"
            "sent = 0\n"
            "while log.flush():\n"
            "    for _ in range(100):\n"
            "        log.record(row._replace(model=f'{sent:0100}'))\n"
            "        sent += 1\n"
            "    assert sent < 100_000\n"
            "print(log.problem.message, file=sys.stderr)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
            "assert log.flush(), log.problem\n"
            "assert log.problem is None\n"
            "log.close()\n"
            "print(sent)\n"
        )
        done = subprocess.run(
            [warm.python(), "-c", program, str(store.path)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "usage cannot be kept in" in done.stderr
        assert count(store) == int(done.stdout)
        with closing(store.connect()) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


class TestLockedFile:
    def test_rows_wait_until_the_other_lets_go(
        self, log: UsageLog, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hfs_providers.usage.log._LOCKED", 0.05)
        with closing(store.connect()) as other:
            other.execute("BEGIN IMMEDIATE")
            log.record(ROW)
            assert not log.flush()
            assert log.problem is not None
            assert "locked" in log.problem.message
            other.execute("COMMIT")
        assert log.flush()
        assert count(store) == 1


class TestNewerSchema:
    def test_it_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "usage.db"
        with closing(Store(path).connect()) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        with pytest.raises(StoreError, match="pip install -U hfs-providers"):
            Store(path)

    def test_one_that_comes_while_this_process_runs_is_left_alone(self, log: UsageLog, store: Store) -> None:
        log.record(ROW)
        log.flush()
        with closing(store.connect()) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        log.record(ROW)
        assert not log.flush()
        assert log.problem is not None
        assert "of a later version" in log.problem.message
        assert count(store) == 1

    def test_one_that_comes_is_left_alone_by_those_who_write_much_at_once(self, store: Store) -> None:
        log = UsageLog(store)
        with closing(store.connect()) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
            assert write_rows(connection, [ROW] * 250) == 0
        for _ in range(250):
            log.record(ROW)
        assert not log.flush()
        assert log.waiting == 250
        assert count(store) == 0
        log.close()


class TestManagerWithoutPersistence:
    """The library goes on, and says so."""

    @pytest.fixture
    def read_only(self, tmp_path: Path) -> Iterator[Path]:
        directory = tmp_path / "read-only"
        directory.mkdir(mode=0o500)
        if os.access(directory, os.W_OK):
            # A superuser may write anywhere: what no one can write to is no directory.
            directory.rmdir()
            directory.write_text("")
        yield directory / "usage.db"
        directory.chmod(0o700)

    def newer(self, path: Path) -> None:
        with closing(Store(path).connect()) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    def serve(self, path: Path, acme: Any) -> list[str]:
        with ProviderManager({"ACME_API_KEY": "a-key-of-acme", "HFS_USAGE_DB": str(path)}, plugins=[acme]) as manager:
            with manager.wrappers["acme"].pool.acquire("m") as lease:
                manager.record(ROW)
                lease.commit(1)
            return [problem.message for problem in manager.problems if "usage" in problem.message]

    def test_a_directory_that_cannot_be_written(self, read_only: Path, fake_provider: Make) -> None:
        [message] = self.serve(read_only, fake_provider("acme"))
        assert f"usage cannot be kept in {read_only}" in message

    def test_a_newer_schema(self, tmp_path: Path, fake_provider: Make) -> None:
        self.newer(tmp_path / "usage.db")
        [message] = self.serve(tmp_path / "usage.db", fake_provider("acme"))
        assert "of a later version of hfs-providers" in message

    def test_a_corrupt_file(self, tmp_path: Path, fake_provider: Make) -> None:
        garbage(tmp_path / "usage.db")
        [message] = self.serve(tmp_path / "usage.db", fake_provider("acme"))
        assert "was corrupt; a new one was begun" in message
        assert count(Store(tmp_path / "usage.db")) == 1

    def test_turned_off(self, tmp_path: Path, fake_provider: Make) -> None:
        env = {"ACME_API_KEY": "a-key-of-acme", "HFS_USAGE_DB": "off"}
        with ProviderManager(env, plugins=[fake_provider("acme")]) as manager:
            manager.record(ROW)
            assert manager.problems == []
        assert not (tmp_path / "home").exists()
