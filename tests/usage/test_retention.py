"""How rows of usage leave the file: the oldest first, a few at a time, and none that is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection

import pytest

from hfs_providers import ProviderManager
from hfs_providers.usage import UsageRow, retention
from hfs_providers.usage.database import Store
from hfs_providers.usage.retention import STEP, SUMS, Pruned, Pruner, Retention, prune_step
from hfs_providers.usage.rows import write_rows

NOW = 1_700_049_600.0
DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


@pytest.fixture
def connection(store: Store) -> Iterator[Connection]:
    with closing(store.connect()) as found:
        yield found


def write(connection: Connection, days: float, count: int = 1) -> None:
    row = UsageRow(NOW - days * DAY, "p", "m", "p#1", "ab", 0, 0, 1, 0.1, "ok", 1)
    write_rows(connection, [row] * count)


def left(connection: Connection) -> list[int]:
    """Ages in days."""
    return [round((NOW - at) / DAY) for (at,) in connection.execute("SELECT at FROM usage ORDER BY id")]


def target(connection: Connection, forwarded: int, days: float = 0) -> None:
    connection.execute("INSERT INTO targets (name, forwarded, at) VALUES ('t', ?, ?)", (forwarded, NOW - days * DAY))


def test_old_rows_go_and_their_sums_stay(connection: Connection) -> None:
    for days in (40, 36, 34, 1):
        write(connection, days)
    assert prune_step(connection, Retention(), NOW) == Pruned(2, 0, more=False)
    assert left(connection) == [34, 1]
    assert connection.execute("SELECT SUM(requests) FROM quarter").fetchone() == (4,)


def test_rows_beyond_the_bound_go_oldest_first(connection: Connection) -> None:
    for days in (9, 8, 7, 6, 5):
        write(connection, days)
    prune_step(connection, Retention(rows=2), NOW)
    assert left(connection) == [6, 5]


def test_rows_of_the_last_two_days_stay_whatever_the_bounds_say(connection: Connection) -> None:
    for days in (3, 1.9, 1):
        write(connection, days)
    prune_step(connection, Retention(days=0.1, rows=1, megabytes=0.001), NOW)
    assert left(connection) == [2, 1]


def test_rows_that_a_database_has_not_got_stay(connection: Connection) -> None:
    write(connection, 40, 3)
    target(connection, 2)
    assert prune_step(connection, Retention(), NOW).rows == 2
    assert prune_step(connection, Retention(), NOW).rows == 0
    assert left(connection) == [40]


def test_so_do_those_of_a_database_that_never_got_any(connection: Connection) -> None:
    write(connection, 40, 3)
    assert prune_step(connection, Retention(), NOW, ["t"]).rows == 0


def test_a_database_that_is_not_used_any_more_holds_nothing_back(connection: Connection) -> None:
    write(connection, 40, 3)
    target(connection, 1, days=36)
    assert prune_step(connection, Retention(), NOW).rows == 3


def test_one_that_is_used_again_goes_on_where_it_was(connection: Connection) -> None:
    write(connection, 40, 3)
    target(connection, 1, days=100)
    assert prune_step(connection, Retention(), NOW, ["t"]).rows == 1


def test_a_file_that_outgrows_its_bound_loses_them_and_it_is_said(
    connection: Connection, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    write(connection, 3, 5)
    target(connection, 2)
    clock = [0.0]
    pruner = Pruner(store, Retention(megabytes=0.001), wall=lambda: NOW, clock=lambda: clock[0])
    assert pruner.problem is None
    clock[0] = 20.0
    pruner.step()
    assert left(connection) == []
    assert pruner.problem is not None
    assert "3 rows of usage were dropped" in pruner.problem.message
    assert "outgrown its bound" in caplog.text
    pruner.close()


def test_much_goes_in_small_steps(connection: Connection, store: Store) -> None:
    write(connection, 40, 2 * STEP + 1)
    clock = [0.0]
    pruner = Pruner(store, Retention(), wall=lambda: NOW, clock=lambda: clock[0])
    pruner.step()
    assert len(left(connection)) == 2 * STEP + 1
    counts = []
    clock[0] = 20.0
    for _ in range(4):
        pruner.step()
        counts.append(len(left(connection)))
        clock[0] += retention.SOON
    assert counts == [STEP + 1, 1, 0, 0]
    pruner.close()


def test_sums_go_after_more_than_a_year(connection: Connection) -> None:
    write(connection, SUMS / DAY + 1)
    write(connection, SUMS / DAY - 1)
    prune_step(connection, Retention(), NOW)
    assert connection.execute("SELECT COUNT(*) FROM quarter").fetchone() == (1,)


def test_an_empty_file_has_nothing_to_prune(connection: Connection) -> None:
    assert prune_step(connection, Retention(), NOW) == Pruned(0, 0, more=False)


def test_a_file_that_cannot_be_pruned_stops_nobody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    pruner = Pruner(store, Retention(), clock=lambda: clock[0])
    clock[0] = 20.0
    monkeypatch.setattr(Store, "prepare", lambda self: (_ for _ in ()).throw(OSError("no disk")))
    store.path.unlink()
    pruner.step()
    assert pruner.problem is None


class TestEnvironment:
    def test_it_may_say_how_much(self) -> None:
        env = {"HFS_USAGE_DAYS": "7", "HFS_USAGE_ROWS": "1000", "HFS_USAGE_MB": "0.5"}
        assert Retention.of(env) == (Retention(7.0, 1000, 0.5), [])

    @pytest.mark.parametrize("text", ["0", "-1", "abc", "nan"])
    def test_what_cannot_be_read_is_a_problem(self, text: str) -> None:
        with ProviderManager({"HFS_USAGE_DAYS": text}, plugins=[]) as manager:
            assert [problem.message for problem in manager.problems] == ["HFS_USAGE_DAYS is not a number above 0"]
