"""A usage file of an older version becomes one of this version, whatever happens meanwhile, and loses nothing."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.errors import StoreError
from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import MIGRATIONS, QUARTER, SCHEMA_VERSION, Store
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.row_writer import SELECT, write_rows

ROW = UsageRow(1_700_000_000.0, "groq", "llama", "groq#1", "ab12cd34", 2, 3, 5, 0.25, "ok", 5)


def write_older(path: Path, version: int, rows: int = 1) -> Path:
    """A file of that version with rows and their sums."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for step in range(1, version + 1):
            connection.executescript(MIGRATIONS[step])
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("INSERT INTO meta VALUES ('source', 'here')")
        connection.execute(
            "INSERT INTO series (id, provider, model, key_id, fingerprint) VALUES (7, ?, ?, ?, ?)", ROW[1:5]
        )
        connection.executemany(
            "INSERT INTO usage (series, at, tokens_in, tokens_out, tokens, latency, outcome, charged)"
            " VALUES (7, ?, ?, ?, ?, ?, ?, ?)",
            [(ROW.at, *ROW[5:11])] * rows,
        )
        if version == 1:
            # It summed the rows up itself.
            start = int(ROW.at // QUARTER) * QUARTER
            connection.execute("INSERT INTO quarter VALUES (7, ?, 'ok', ?, 2, 3, 5, 5, 0.25)", (start, rows))
        connection.commit()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_older(tmp_path / "usage.db", SCHEMA_VERSION - 1)


def ask(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_rows_and_sums_are_kept_and_go_on(tmp_path: Path, version: int) -> None:
    store = Store(write_older(tmp_path / "usage.db", version))
    new = ROW._replace(tokens_cached=1, cost_nanousd=9)
    other = new._replace(client="web")
    with closing(store.connect()) as connection:
        write_rows(connection, [new, other])
        assert store.check(connection) == SCHEMA_VERSION
        assert connection.execute(SELECT).fetchall() == [(1, *ROW), (2, *new), (3, *other)]
        sums = connection.execute(
            "SELECT client, requests, tokens, charged, latency, tokens_cached, priced, quarter.cost_nanousd"
            " FROM quarter JOIN series ON series.id = quarter.series ORDER BY client"
        )
        # The older row has no price.
        assert sums.fetchall() == [("", 2, 10, 10, 0.5, 1, 1, 9), ("web", 1, 5, 5, 0.25, 1, 1, 9)]


def test_no_row_is_written_anew(tmp_path: Path) -> None:
    """So nobody waits for it, however many there are."""
    path = write_older(tmp_path / "usage.db", SCHEMA_VERSION - 1, rows=20_000)
    with closing(sqlite3.connect(path)) as reader:
        # While somebody has the file open, the log of what is written to it stays.
        reader.execute("SELECT count(*) FROM usage").fetchone()
        Store(path)
        written = Path(f"{path}-wal").stat().st_size
    assert 0 < written < path.stat().st_size / 5


def test_several_that_open_it_at_once_agree(path: Path) -> None:
    together = threading.Barrier(8)

    def use(number: int) -> None:
        together.wait()
        store = Store(path)
        with closing(store.connect()) as connection:
            write_rows(connection, [ROW._replace(client=str(number))])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    assert ask(path, "SELECT count(*), count(DISTINCT series) FROM usage") == [(9, 9)]
    assert ask(path, "SELECT sum(requests) FROM quarter") == [(9,)]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]


# What ends the migration before its end: the process is killed, or there is no more room.
KILLED = "import os, signal; database.uuid.uuid4 = lambda: os.kill(os.getpid(), signal.SIGKILL)"
FULL = """
connect = database.Store.connect
def full(*args, **options):
    connection = connect(*args, **options)
    connection.execute("PRAGMA max_page_count = 1")  # which is as much as saying: no more than there are
    return connection
database.Store.connect = full
"""


@pytest.mark.parametrize(
    ("breaking", "code", "said"), [(KILLED, -signal.SIGKILL, ""), (FULL, 3, "disk is full")], ids=["killed", "full"]
)
def test_one_that_breaks_off_has_changed_nothing(path: Path, breaking: str, code: int, said: str) -> None:
    before = ask(path, "SELECT name, sql FROM sqlite_master ORDER BY name")
    source = (
        "import sys\n"
        "from hfs_providers.usage import database\n"
        "from hfs_providers.errors import StoreError\n"
        f"{breaking}\n"
        "try:\n"
        "    database.Store(sys.argv[1])\n"
        "except StoreError as error:\n"
        "    print(error)\n"
        "    sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", source, path], capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
    assert ask(path, "PRAGMA user_version") == [(SCHEMA_VERSION - 1,)]
    assert ask(path, "SELECT name, sql FROM sqlite_master ORDER BY name") == before
    Store(path)
    assert ask(path, "SELECT count(*), max(attempt), max(call_id) FROM usage") == [(1, 1, "")]


def test_of_a_file_that_cannot_be_written_waits_until_it_can(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect: Callable[..., sqlite3.Connection] = Store.connect

    def read_only(self: Store, **options: Any) -> sqlite3.Connection:
        connection = connect(self, **options)
        # As a file without permission: also the superuser, who may write to any, is refused.
        connection.execute("PRAGMA query_only = ON")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(Store, "connect", read_only)
        with pytest.raises(StoreError, match="readonly"):
            Store(path)
        log = UsageLog(Store(path, at_once=False), retry=0.01)
        log.record(ROW)
        assert not log.flush()
        assert log.problem is not None
        assert "1 rows wait" in log.problem.message
    while not log.flush():
        pass
    log.close()
    assert ask(path, "SELECT count(*) FROM usage") == [(2,)]
