"""Sums of all keys together: right however many quarters they hold, and read where no key is asked for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from hfs_providers.usage import Store, UsageReport, UsageRow, totals
from hfs_providers.usage.database import QUARTER
from hfs_providers.usage.retention import SUMS, Pruner, Retention, prune_step
from hfs_providers.usage.totals import add_up, totalled_until
from tests.usage.test_migration import ROW, write_older
from tests.usage_rows import row, write

UTC = ZoneInfo("UTC")
BEGIN = 1_773_144_000.0
DAYS = 3 * 86_400.0
LATER = BEGIN + DAYS + 3600


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


def many(count: int = 1500, seed: int = 5) -> list[UsageRow]:
    """Rows of three days, in the order of their ends."""
    rng = random.Random(seed)
    rows = [
        row(
            BEGIN + rng.uniform(0, DAYS),
            rng.choice(["groq", "gemini"]),
            rng.choice(["small", "large"]),
            rng.randint(1, 9),
            rng.choice(["ok", "ok", "rate_limited"]),
            rng.randint(0, 500),
            client=rng.choice(["", "web"]),
        )._replace(cost_nanousd=rng.choice([None, 0, 7]))
        for _ in range(count)
    ]
    return sorted(rows, key=lambda each: each.at)


def asked(store: Store, by: Sequence[Any] = (), **only: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Each sum but the mean time, which is a float."""
    return {each.group: each[1:-1] for each in UsageReport(store, UTC).totals(by, **only).rows}


def by_hand(rows: Sequence[UsageRow], by: Sequence[str] = ()) -> dict[tuple[str, ...], tuple[int, ...]]:
    found: dict[tuple[str, ...], list[int]] = {}
    for each in rows:
        sums = found.setdefault(tuple(getattr(each, name) for name in by), [0] * 8)
        counts = (1, each.outcome == "ok", each.tokens_in, each.tokens_out, each.tokens, each.tokens_cached)
        for place, value in enumerate((*counts, each.cost_nanousd or 0, each.cost_nanousd is None)):
            sums[place] += value
    return {group: tuple(sums) for group, sums in found.items()}


def use(store: Store) -> closing[Connection]:
    return closing(store.connect())


def total(store: Store, wall: float = LATER) -> int:
    """Add up all that is over. Returns in how many steps."""
    with use(store) as connection:
        steps = 0
        while add_up(connection, wall):
            steps += 1
    return steps


# Of the rows' time, how much is added up before the rest of them come.
@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 1.0])
class TestSums:
    @pytest.mark.parametrize("by", [(), ("provider",), ("model", "client"), ("outcome",), ("key_id",)], ids=str)
    def test_are_those_of_the_rows(self, store: Store, part: float, by: tuple[str, ...]) -> None:
        rows = many()
        write(store, rows[::2])
        total(store, BEGIN + part * DAYS)
        write(store, rows[1::2])
        assert asked(store, ["key" if name == "key_id" else name for name in by]) == by_hand(rows, by)

    @pytest.mark.parametrize(
        ("since", "until"),
        [(1000.5, 190_000.25), (900.0, 90_000.0), (899.0, 901.0), (100.0, 800.0), (100_000.25, DAYS)],
    )
    def test_are_exact_at_both_ends(self, store: Store, part: float, since: float, until: float) -> None:
        rows = many()
        write(store, rows)
        total(store, BEGIN + part * DAYS)
        span = {"since": BEGIN + since, "until": BEGIN + until}
        inside = [each for each in rows if span["since"] <= each.at < span["until"]]
        assert asked(store, ["provider", "outcome"], **span) == by_hand(inside, ("provider", "outcome"))
        assert UsageReport(store).totals(**span).exact

    @pytest.mark.parametrize("only", [{"providers": ["groq"]}, {"clients": ["web"], "models": ["small"]}], ids=str)
    def test_are_of_what_is_asked_for(self, store: Store, part: float, only: dict[str, list[str]]) -> None:
        rows = many()
        write(store, rows)
        total(store, BEGIN + part * DAYS)
        names = {f"{name}s": name for name in ("provider", "client", "model")}
        inside = [each for each in rows if all(getattr(each, names[name]) in said for name, said in only.items())]
        assert asked(store, ["model"], **only) == by_hand(inside, ("model",))

    @pytest.mark.parametrize("period", ["hour", "day"])
    def test_have_the_same_hours_and_days_as_those_by_key(self, store: Store, part: float, period: str) -> None:
        write(store, many())
        total(store, BEGIN + part * DAYS)
        found: dict[tuple[str, ...], list[int]] = {}
        for (_, *group), counts in asked(store, ["key", "provider", period]).items():
            sums = found.setdefault(tuple(group), [0] * len(counts))
            sums[:] = [one + more for one, more in zip(sums, counts, strict=True)]
        assert asked(store, ["provider", period]) == {group: tuple(sums) for group, sums in found.items()}

    def test_have_the_mean_time_of_the_rows(self, store: Store, part: float) -> None:
        rows = many()
        write(store, rows)
        total(store, BEGIN + part * DAYS)
        (found,) = UsageReport(store).totals().rows
        assert found.latency == pytest.approx(sum(each.latency for each in rows) / len(rows))


def test_where_no_key_is_asked_for_no_sums_by_key_are_read(store: Store) -> None:
    write(store, rows := many())
    total(store)
    with use(store) as connection:
        connection.execute("DELETE FROM quarter")
    assert asked(store, ["provider"]) == by_hand(rows, ("provider",))


def test_of_a_pruned_end_are_those_of_the_whole_quarter(store: Store) -> None:
    write(store, rows := many())
    total(store)
    with use(store) as connection:
        connection.execute("DELETE FROM usage")
    since = BEGIN // QUARTER * QUARTER + 10 * QUARTER
    inside = [each for each in rows if each.at >= since]
    found = UsageReport(store).totals(("provider",), since=since + 450)
    assert (found.exact, found.since) == (False, since)
    assert {each.group: each[1:-1] for each in found.rows} == by_hand(inside, ("provider",))


class TestAddingUp:
    def test_leaves_the_quarter_under_way_and_the_minute_after(self, store: Store) -> None:
        quarter = BEGIN // QUARTER * QUARTER
        write(store, [row(quarter + 1), row(quarter + QUARTER + 1)])
        with use(store) as connection:
            found = []
            for seconds in (0.0, 59.0, 60.0):
                more = add_up(connection, quarter + QUARTER + seconds)
                found.append((more, totalled_until(connection) > quarter))
        assert found == [(False, False), (False, False), (True, True)]

    def test_takes_few_quarters_at_a_time_if_they_are_big(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        write(store, rows := many())
        monkeypatch.setattr(totals, "_STEP", 100)
        assert total(store) > 10
        assert asked(store, ["provider"]) == by_hand(rows, ("provider",))

    def test_takes_a_whole_quarter_however_large(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        write(store, rows := [row(BEGIN, number=number) for number in range(1, 21)])
        monkeypatch.setattr(totals, "_STEP", 5)
        assert total(store) == 1
        assert asked(store) == by_hand(rows)

    def test_goes_on_with_what_comes_next(self, store: Store) -> None:
        rows = many()
        for part in range(3):
            write(store, rows[part::3])
            total(store, BEGIN + DAYS * part / 3)
        assert asked(store, ["model"]) == by_hand(rows, ("model",))

    def test_that_another_process_does_meanwhile_is_done_once(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store, rows := many())
        read = totals._read

        def meanwhile(connection: Connection, *span: int) -> bool:
            monkeypatch.setattr(totals, "_read", read)
            total(store)
            return read(connection, *span)

        monkeypatch.setattr(totals, "_read", meanwhile)
        assert total(store) == 1
        assert asked(store, ["provider"]) == by_hand(rows, ("provider",))

    def test_counts_a_row_that_comes_meanwhile(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = many()
        write(store, rows[1:])
        read = totals._read

        def meanwhile(connection: Connection, *span: int) -> bool:
            found = read(connection, *span)
            monkeypatch.setattr(totals, "_read", read)
            write(store, rows[:1])
            return found

        monkeypatch.setattr(totals, "_read", meanwhile)
        total(store)
        assert asked(store, ["provider"]) == by_hand(rows, ("provider",))

    def test_that_would_take_long_is_left_for_the_next_time(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store, rows := many())
        with monkeypatch.context() as patch, use(store) as connection:
            patch.setattr(totals, "_PATIENCE", -1.0)
            assert add_up(connection, LATER)
            assert totalled_until(connection) == 0
            # Nothing of it is left behind on the connection.
            assert connection.execute("SELECT count(*) FROM usage, usage u").fetchone() == (len(rows) ** 2,)
        total(store)
        assert asked(store, ["provider"]) == by_hand(rows, ("provider",))


def test_the_background_adds_up(store: Store) -> None:
    write(store, many())
    clock = [0.0]
    pruner = Pruner(store, Retention(), wall=lambda: LATER, clock=lambda: clock[0])
    with use(store) as connection:
        while totalled_until(connection) < LATER - QUARTER - 60:
            clock[0] += 20.0
            pruner.step()
        assert connection.execute("SELECT sum(requests) FROM total").fetchone() == (1500,)
    pruner.close()


def test_totals_go_with_the_sums_by_key(store: Store) -> None:
    write(store, many())
    total(store)
    with use(store) as connection:
        # A few at a time.
        for _ in range(3):
            prune_step(connection, Retention(), BEGIN + DAYS + SUMS)
        assert connection.execute("SELECT count(*) FROM total").fetchone() == (0,)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_file_is_added_up_as_any_other(tmp_path: Path, version: int) -> None:
    store = Store(write_older(tmp_path / "usage.db", version, rows=3))
    before = asked(store, ["provider"])
    write(store, [ROW._replace(key_id="groq#2")])
    total(store, ROW.at + 2 * QUARTER)
    write(store, [ROW._replace(key_id="groq#3")])
    ((group, (requests, *_)),) = asked(store, ["provider"]).items()
    assert (before[group][0], requests) == (3, 5)
