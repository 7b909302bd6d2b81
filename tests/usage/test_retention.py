"""How rows of usage leave the file: the oldest first, a few at a time, and none that is needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection

import pytest

from hfs_providers import ProviderManager
from hfs_providers.usage import UsageRow, key_events, retention
from hfs_providers.usage.database import Store
from hfs_providers.usage.key_events import KeyEvent
from hfs_providers.usage.retention import STEP, SUMS, Pruned, Pruner, Retention, prune_step
from hfs_providers.usage.row_writer import write_rows

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


def test_events_of_keys_are_kept_a_week(connection: Connection) -> None:
    for days in (8, 7.1, 6.9, 0):
        KeyEvent(NOW - days * DAY, "p", "ab", "m", "key_cooling", "full", None).write(connection)
    prune_step(connection, Retention(), NOW)
    kept = connection.execute("SELECT (? - at) / ? FROM key_event ORDER BY at", (NOW, DAY)).fetchall()
    assert kept == [(pytest.approx(6.9),), (0.0,)]


def test_too_many_events_of_keys_go_oldest_first(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_events, "MOST_KEY_EVENTS", 3)
    for number in range(STEP + 5):
        KeyEvent(NOW, "p", str(number), None, "key_dead", None, None).write(connection)
    assert prune_step(connection, Retention(), NOW).more
    assert not prune_step(connection, Retention(), NOW).more
    kept = connection.execute("SELECT key FROM key_event").fetchall()
    assert kept == [(str(number),) for number in range(STEP + 2, STEP + 5)]


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
    target(connection, 1, days=34.9)
    assert prune_step(connection, Retention(), NOW).rows == 1
    connection.execute("UPDATE targets SET at = at - ?", (0.2 * DAY,))
    assert prune_step(connection, Retention(), NOW).rows == 2


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


def test_sums_of_many_keys_go_in_steps_that_follow_soon(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 2)
    for day in (1, 2, 3):
        write(connection, SUMS / DAY + day)
    # Else there were more of them every ten minutes than go.
    connection.execute("DELETE FROM usage")
    assert prune_step(connection, Retention(), NOW).more
    assert not prune_step(connection, Retention(), NOW).more
    assert connection.execute("SELECT COUNT(*) FROM quarter").fetchone() == (0,)


def test_an_empty_file_has_nothing_to_prune(connection: Connection) -> None:
    assert prune_step(connection, Retention(), NOW) == Pruned(0, 0, more=False)


def test_state_is_forgotten_after_sixty_days(connection: Connection) -> None:
    for days in (59, 61):
        connection.execute("INSERT INTO state VALUES ('p', 'key', ?, '{}', ?)", (str(days), NOW - days * DAY))
    write(connection, 1)
    prune_step(connection, Retention(), NOW)
    assert connection.execute("SELECT name FROM state").fetchall() == [("59",)]


def test_the_size_of_the_file_is_that_of_what_is_in_it(connection: Connection) -> None:
    write(connection, 3, 3 * STEP)
    (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    assert prune_step(connection, Retention(megabytes=pages * size / 1e6), NOW).rows == 0
    connection.execute("DELETE FROM usage WHERE id > 1")
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    assert free > 0
    used = (pages - free) * size / 1e6
    assert prune_step(connection, Retention(megabytes=used), NOW).rows == 0
    assert prune_step(connection, Retention(megabytes=used - 0.0001), NOW).rows == 1


def test_the_documented_figures_hold() -> None:
    assert Retention.of({}) == (Retention(35.0, 20_000_000, 8_000.0), [])
    assert (retention.NEEDED, retention.SUMS, retention.STATE) == (2 * DAY, 400 * DAY, 60 * DAY)
    # SQLite takes no greater number.
    assert Retention.of({"HFS_USAGE_ROWS": "inf"})[0].rows < 2**63


class TestWhenItPrunes:
    @pytest.fixture
    def clock(self) -> list[float]:
        return [1000.0]

    @pytest.fixture
    def pruner(self, store: Store, clock: list[float]) -> Iterator[Pruner]:
        pruner = Pruner(store, Retention(), wall=lambda: NOW, clock=lambda: clock[0])
        yield pruner
        pruner.close()

    def at(self, pruner: Pruner, clock: list[float], seconds: float, connection: Connection) -> int:
        clock[0] = 1000.0 + seconds
        pruner.step()
        return len(left(connection))

    def test_not_in_the_first_ten_seconds(self, pruner: Pruner, clock: list[float], connection: Connection) -> None:
        write(connection, 40)
        assert self.at(pruner, clock, 9.9, connection) == 1
        assert self.at(pruner, clock, 10.0, connection) == 0

    def test_then_every_ten_minutes(self, pruner: Pruner, clock: list[float], connection: Connection) -> None:
        pruner_sees = [self.at(pruner, clock, 10.0, connection)]
        write(connection, 40)
        pruner_sees += [self.at(pruner, clock, seconds, connection) for seconds in (609.9, 610.0)]
        assert pruner_sees == [0, 1, 0]

    def test_soon_again_while_there_is_more(self, pruner: Pruner, clock: list[float], connection: Connection) -> None:
        write(connection, 40, STEP + 1)
        assert [self.at(pruner, clock, seconds, connection) for seconds in (10.0, 10.1, 10.3)] == [1, 1, 0]

    def test_after_a_failure_as_late_as_ever(
        self, pruner: Pruner, clock: list[float], connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(connection, 40)
        monkeypatch.setattr(retention, "prune_step", lambda *_: (_ for _ in ()).throw(OSError("no disk")))
        assert self.at(pruner, clock, 10.0, connection) == 1
        monkeypatch.undo()
        assert self.at(pruner, clock, 609.9, connection) == 1
        assert self.at(pruner, clock, 610.0, connection) == 0

    def test_what_is_dropped_unforwarded_is_counted_and_logged_once(
        self, store: Store, connection: Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = [0.0]
        pruner = Pruner(store, Retention(megabytes=0.001), ["t"], lambda: NOW, lambda: clock[0])
        for number in (1, 2):
            write(connection, 3)
            clock[0] += 700.0
            pruner.step()
            assert pruner.unforwarded == number
        clock[0] += 700.0
        pruner.step()
        assert pruner.unforwarded == 2
        assert caplog.text.count("outgrown its bound") == 1
        pruner.close()


def test_a_file_that_cannot_be_pruned_stops_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hfs_providers")
    clock = [0.0]
    pruner = Pruner(store, Retention(), clock=lambda: clock[0])
    clock[0] = 20.0
    monkeypatch.setattr(Store, "prepare", lambda self: (_ for _ in ()).throw(OSError("no disk")))
    store.path.unlink()
    pruner.step()
    assert pruner.problem is None
    assert "usage was not pruned or added up: no disk" in caplog.text


class TestEnvironment:
    def test_it_may_say_how_much(self) -> None:
        env = {"HFS_USAGE_DAYS": "7", "HFS_USAGE_ROWS": "1000", "HFS_USAGE_MB": "0.5"}
        assert Retention.of(env) == (Retention(7.0, 1000, 0.5), [])

    @pytest.mark.parametrize("text", ["0", "-1", "abc", "nan"])
    def test_what_cannot_be_read_is_a_problem(self, text: str) -> None:
        with ProviderManager({"HFS_USAGE_DAYS": text}, plugins=[]) as manager:
            assert [problem.message for problem in manager.problems] == ["HFS_USAGE_DAYS is not a number above 0"]
