"""What was used, read from the local file, and what becomes of old rows."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from hfs_providers.errors import StoreError
from hfs_providers.usage import Store, UsageReport, UsageRow, prunable, prune, usage_path
from tests.usage_rows import row, write

UTC = ZoneInfo("UTC")
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "usage.db")


def many(count: int = 600, spread: float = 3 * 86_400.0) -> list[UsageRow]:
    """Rows of two days and a half, in the order of their ends."""
    rng = random.Random(5)
    rows = [
        row(
            NOON + rng.uniform(0, spread),
            rng.choice(["groq", "gemini"]),
            rng.choice(["small", "large"]),
            rng.randint(1, 3),
            rng.choice(["ok", "ok", "rate_limited", "transport"]),
            rng.randint(0, 500),
            client=rng.choice(["", "web"]),
        )
        for _ in range(count)
    ]
    return sorted(rows)


DIMENSIONS: dict[str, Callable[[UsageRow], str]] = {
    "provider": lambda each: each.provider,
    "model": lambda each: each.model,
    "key": lambda each: each.key_id,
    "fingerprint": lambda each: each.fingerprint,
    "client": lambda each: each.client,
    "outcome": lambda each: each.outcome,
    "hour": lambda each: datetime.fromtimestamp(each.at // 3600 * 3600, UTC).isoformat(),
    "day": lambda each: datetime.fromtimestamp(each.at, UTC).date().isoformat(),
}


def by_hand(rows: Sequence[UsageRow], by: Sequence[str]) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Requests, answered ones, tokens in, out, all and cached, summed the slow way."""
    sums: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * 6)
    for each in rows:
        total = sums[tuple(DIMENSIONS[name](each) for name in by)]
        counts = (1, each.outcome == "ok", each.tokens_in, each.tokens_out, each.tokens, each.tokens_cached)
        for place, value in enumerate(counts):
            total[place] += value
    return {group: tuple(total) for group, total in sums.items()}


def found(report: UsageReport, by: Sequence[str] = (), **options: object) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {each.group: each[1:7] for each in report.totals(by, **options).rows}  # type: ignore[arg-type]


class TestTotals:
    @pytest.mark.parametrize(
        "by",
        [
            (),
            ("provider",),
            ("model",),
            ("key",),
            ("client",),
            ("outcome",),
            ("hour",),
            ("day",),
            ("key", "provider"),
            ("fingerprint", "day"),
            ("day", "model", "outcome"),
            ("client", "key", "hour"),
            ("provider", "hour", "day"),
        ],
        ids="-".join,
    )
    def test_are_the_sums_of_the_rows(self, store: Store, by: tuple[str, ...]) -> None:
        write(store, rows := many())
        assert found(UsageReport(store, UTC), by) == by_hand(rows, by)

    @pytest.mark.parametrize(
        ("since", "until"),
        [
            (NOON + 1000.5, NOON + 90_000.25),
            (NOON + 900, NOON + 9_000),
            (NOON + 100, NOON + 800),
            (NOON + 899, NOON + 901),
            (None, NOON + 40_000.75),
            (NOON + 40_000.75, None),
        ],
    )
    @pytest.mark.parametrize("by", [(), ("hour", "key")], ids=["all", "hours"])
    def test_are_exact_at_both_ends(
        self, store: Store, since: float | None, until: float | None, by: tuple[str, ...]
    ) -> None:
        write(store, rows := many(3000))
        inside = [each for each in rows if (since or 0) <= each.at < (until or 1e12)]
        report = UsageReport(store, UTC).totals(by, since=since, until=until)  # type: ignore[arg-type]
        assert {each.group: each[1:7] for each in report.rows} == by_hand(inside, by)
        assert (report.since, report.until, report.exact) == (since, until, True)

    def test_include_the_beginning_and_not_the_end(self, store: Store) -> None:
        write(store, [row(NOON + 10), row(NOON + 20)])
        assert found(UsageReport(store), since=NOON + 10, until=NOON + 20) == {(): (1, 1, 3, 7, 10, 1)}

    @pytest.mark.parametrize("until", [NOON + 60, NOON])
    def test_of_an_empty_span_are_none(self, store: Store, until: float) -> None:
        write(store, many())
        report = UsageReport(store).totals(since=NOON + 60, until=until)
        assert (report.rows, report.exact, report.since, report.until) == ((), True, NOON + 60, until)
        assert report.total.latency == 0.0

    def test_can_be_of_some_providers_models_and_keys(self, store: Store) -> None:
        write(store, rows := many())
        kept = [each for each in rows if each.provider == "groq" and each.model == "small"]
        report = UsageReport(store, UTC)
        assert found(report, ["key"], providers=["groq"], models=["small"]) == by_hand(kept, ["key"])
        one = [each for each in rows if each.key_id == "groq#2"]
        assert found(report, keys=["groq#2"]) == by_hand(one, [])
        web = [each for each in rows if each.client == "web"]
        assert found(report, ["key"], clients=["web"]) == by_hand(web, ["key"])

    def test_find_a_key_by_its_fingerprint_whatever_its_number_was(self, store: Store) -> None:
        old = row(NOON, number=1)
        write(store, [old, old._replace(key_id="groq#7")])
        assert found(UsageReport(store), ["key"], keys=[old.fingerprint]).keys() == {("groq#1",), ("groq#7",)}

    def test_have_the_mean_latency(self, store: Store) -> None:
        write(store, [row(NOON, latency=1.0), row(NOON, latency=2.0), row(NOON, outcome="dead", latency=6.0)])
        (whole,) = UsageReport(store).totals().rows
        assert whole.latency == pytest.approx(3.0)

    def test_add_up_to_one(self, store: Store) -> None:
        write(store, rows := many())
        report = UsageReport(store, UTC)
        whole = report.totals(("provider", "hour")).total
        assert {(): whole[1:7]} == by_hand(rows, ())
        assert whole.latency == pytest.approx(report.totals().rows[0].latency)

    def test_of_an_empty_file_are_none(self, store: Store) -> None:
        report = UsageReport(store).totals(("provider",))
        assert (report.rows, report.total.requests, UsageReport(store).extent()) == ([], 0, None)

    def test_by_what_there_is_not_say_what_there_is(self, store: Store) -> None:
        with pytest.raises(ValueError, match="choose from provider, model, key, fingerprint"):
            UsageReport(store).totals(["colour"])  # type: ignore[list-item]

    def test_do_not_see_half_of_a_transaction(self, store: Store) -> None:
        write(store, [row(NOON)])
        with closing(store.connect()) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM usage")
            assert found(UsageReport(store), since=NOON - 1) == {(): (1, 1, 3, 7, 10, 1)}
            writer.execute("ROLLBACK")

    def test_of_a_file_that_is_gone_bad_are_a_typed_error(self, store: Store) -> None:
        store.path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
        with pytest.raises(StoreError, match="usage cannot be kept in"):
            UsageReport(store).totals()


class TestHoursAndDays:
    def test_are_those_of_the_zone(self, store: Store) -> None:
        kathmandu = ZoneInfo("Asia/Kathmandu")  # 5:45 before UTC
        write(store, [row(datetime(2026, 3, 10, 18, 14, tzinfo=UTC).timestamp())])
        write(store, [row(datetime(2026, 3, 10, 18, 15, tzinfo=UTC).timestamp())])
        report = UsageReport(store, kathmandu)
        assert [each.group for each in report.totals(["day"]).rows] == [("2026-03-10",), ("2026-03-11",)]
        assert [each.group[0] for each in report.totals(["hour"]).rows] == [
            "2026-03-10T23:00:00+05:45",
            "2026-03-11T00:00:00+05:45",
        ]

    def test_the_hour_that_comes_twice_is_two_hours(self, store: Store) -> None:
        berlin = ZoneInfo("Europe/Berlin")
        first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
        write(store, [row(first), row(first + 3600), row(first + 3600)])
        report = UsageReport(store, berlin)
        assert [(each.group[0], each.requests) for each in report.totals(["hour"]).rows] == [
            ("2026-10-25T02:00:00+01:00", 2),
            ("2026-10-25T02:00:00+02:00", 1),
        ]
        assert report.totals(["day"]).rows[0].requests == 3


class TestTimeline:
    def test_shows_quiet_hours(self, store: Store) -> None:
        write(store, [row(NOON + 60), row(NOON + 3 * 3600), row(NOON + 3 * 3600, "gemini")])
        line = UsageReport(store, UTC).timeline("provider")
        assert line.period == "hour"
        assert [start[11:16] for start in line.starts] == ["12:00", "13:00", "14:00", "15:00"]
        assert line.lines == {"groq": [1, 0, 0, 1], "gemini": [0, 0, 0, 1]}

    def test_shows_the_hours_of_a_zone_that_begin_at_a_quarter(self, store: Store) -> None:
        kathmandu = ZoneInfo("Asia/Kathmandu")  # 5:45 before UTC
        write(store, [row(NOON + 14 * 60), row(NOON + 15 * 60)])
        line = UsageReport(store, kathmandu).timeline("provider")
        assert [start[11:16] for start in line.starts] == ["17:00", "18:00"]
        assert line.lines == {"groq": [1, 1]}

    def test_shows_the_half_hour_that_a_clock_change_leaves(self, store: Store) -> None:
        lord_howe = ZoneInfo("Australia/Lord_Howe")  # from 2:00 to 2:30
        begin = datetime(2025, 10, 5, 1, tzinfo=lord_howe).timestamp()
        write(store, [row(begin), row(begin + 4500), row(begin + 9000)])
        line = UsageReport(store, lord_howe).timeline("provider")
        assert [start[11:16] for start in line.starts] == ["01:00", "02:00", "03:00", "04:00"]
        assert line.lines == {"groq": [1, 1, 0, 1]}

    @pytest.mark.parametrize(("more", "period"), [(0, "hour"), (1, "day")])
    def test_has_hours_for_three_days_at_most(self, store: Store, more: float, period: str) -> None:
        write(store, [row(NOON), row(NOON + 86_400)])
        line = UsageReport(store, UTC).timeline("provider", since=NOON, until=NOON + 3 * 86_400 + more)
        assert line.period == period

    @pytest.mark.parametrize(("days", "count"), [(399, 400), (401, 1)])
    def test_begins_where_it_was_told_if_anything_could_be_kept_of_it(
        self, store: Store, days: int, count: int
    ) -> None:
        write(store, [row(NOON)])
        assert len(UsageReport(store, UTC).timeline("provider", since=NOON - days * 86_400).starts) == count
        assert len(UsageReport(store, UTC).timeline("provider", until=NOON + days * 86_400).starts) in (
            count,
            count + 1,
        )

    def test_has_days_where_it_is_long(self, store: Store) -> None:
        write(store, [row(NOON), row(NOON + 4 * 86_400)])
        line = UsageReport(store, UTC).timeline("outcome")
        assert (line.period, len(line.starts), line.lines) == ("day", 5, {"ok": [1, 0, 0, 0, 1]})

    def test_counts_the_day_of_the_clock_change_once(self, store: Store) -> None:
        berlin = ZoneInfo("Europe/Berlin")
        begin = datetime(2026, 3, 27, tzinfo=berlin).timestamp()
        write(store, [row(begin), row(begin + 5 * 86_400)])
        days = UsageReport(store, berlin).timeline("key").starts
        assert days == ("2026-03-27", "2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31", "2026-04-01")

    def test_has_the_last_day_if_there_is_only_a_quarter_of_an_hour_of_it(self, store: Store) -> None:
        kathmandu = ZoneInfo("Asia/Kathmandu")  # 5:45 before UTC
        midnight = datetime(2026, 3, 11, tzinfo=kathmandu).timestamp()
        write(store, [row(midnight - 4 * 86_400), row(midnight)])
        line = UsageReport(store, kathmandu).timeline("provider")
        assert (line.starts[-1], line.lines) == ("2026-03-11", {"groq": [1, 0, 0, 0, 1]})

    def test_of_nothing_is_empty(self, store: Store) -> None:
        assert UsageReport(store).timeline("key").starts == ()


class TestPruning:
    def test_leaves_the_totals_as_they_were(self, store: Store) -> None:
        write(store, rows := many())
        cut = NOON + 86_400
        assert prune(store, cut) == sum(each.at < cut for each in rows)
        assert found(UsageReport(store, UTC), ["hour", "key"]) == by_hand(rows, ["hour", "key"])

    def test_widens_a_span_whose_end_is_known_only_by_the_quarter(self, store: Store) -> None:
        write(store, [row(NOON + 100), row(NOON + 800), row(NOON + 1000)])
        prune(store, NOON + 900)
        report = UsageReport(store).totals(since=NOON + 500)
        assert (report.since, report.exact, report.total.requests) == (NOON, False, 3)

    def test_widens_both_ends_within_one_quarter(self, store: Store) -> None:
        write(store, [row(NOON + 100), row(NOON + 800)])
        prune(store, NOON + 200)
        report = UsageReport(store).totals(since=NOON + 500, until=NOON + 600)
        assert (report.since, report.until, report.total.requests) == (NOON, NOON + 900, 2)

    def test_widens_one_of_two_ends_in_neighbouring_quarters(self, store: Store) -> None:
        write(store, [row(NOON + second) for second in (100, 800, 1000, 1700)])
        prune(store, NOON + 900)
        report = UsageReport(store).totals(since=NOON + 500, until=NOON + 1200)
        assert (report.since, report.until, report.exact) == (NOON, NOON + 1200, False)
        assert report.total.requests == 3

    def test_widens_no_span_of_whole_quarters(self, store: Store) -> None:
        write(store, [row(NOON + second) for second in (100, 800, 1000, 1700)])
        prune(store, NOON + 1800)
        for since, until, requests in ((NOON, NOON + 900, 2), (NOON + 900, NOON + 1800, 2), (NOON, NOON + 1800, 4)):
            report = UsageReport(store).totals(since=since, until=until)
            assert (report.since, report.until, report.exact) == (since, until, True)
            assert report.total.requests == requests

    def test_keeps_what_one_database_has_not_got(self, store: Store) -> None:
        write(store, [row(NOON + second) for second in range(10)])
        with closing(store.connect()) as connection:
            connection.execute(
                "INSERT INTO targets (name, forwarded, at) VALUES ('fast', 9, ?), ('slow', 4, ?)", (time.time(),) * 2
            )
        assert prunable(store, NOON + 6) == (4, 2)
        assert prune(store, NOON + 6) == 4
        assert prunable(store, NOON + 6) == (0, 2)

    def test_keeps_the_last_two_days_whatever_it_is_told(self, store: Store) -> None:
        write(store, [row(NOON - 3 * 86_400), row(NOON - 1.9 * 86_400), row(NOON - 30)])
        assert prunable(store, NOON, wall=lambda: NOON) == (1, 0)
        assert prune(store, NOON, wall=lambda: NOON) == 1
        assert prune(store, NOON, wall=lambda: NOON) == 0

    def test_waits_for_no_database_that_is_not_used_any_more(self, store: Store) -> None:
        write(store, [row(NOON - 10 * 86_400)])
        with closing(store.connect()) as connection:
            connection.execute("INSERT INTO targets VALUES ('t', 0, ?, NULL, 0, NULL)", (NOON - 100 * 86_400,))
        assert prunable(store, NOON, wall=lambda: NOON) == (1, 0)
        assert prune(store, NOON, wall=lambda: NOON) == 1

    @pytest.mark.parametrize("known", [True, False])
    def test_waits_for_one_that_is_named(self, store: Store, known: bool) -> None:
        write(store, [row(NOON - 10 * 86_400)])
        with closing(store.connect()) as connection:
            if known:
                connection.execute("INSERT INTO targets VALUES ('t', 0, ?, NULL, 0, NULL)", (NOON - 100 * 86_400,))
        assert prunable(store, NOON, targets=["t"], wall=lambda: NOON) == (0, 1)
        assert prune(store, NOON, targets=["t"], wall=lambda: NOON) == 0

    def test_goes_in_steps_that_let_others_write(self, store: Store) -> None:
        write(store, [row(NOON + number / 100) for number in range(12_000)])
        assert prune(store, NOON + 3600) == 12_000
        write(store, [row(NOON)])
        with closing(store.connect()) as connection:
            # What was forwarded is known by its number, so no number is given twice.
            assert connection.execute("SELECT min(id) FROM usage").fetchone() == (12_001,)


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("", "usage.db"),
        ("mysql://user:secret@host/db", "usage.db"),
        ("/var/lib/hfs/u.db", "/var/lib/hfs/u.db"),
        (" off ", None),
        ("OFF", None),
    ],
)
def test_the_environment_names_the_file(said: str, path: str | None) -> None:
    named = usage_path({"HFS_USAGE_DB": said})
    assert str(named).endswith(path) if path else named is None


def test_a_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert usage_path({"HFS_USAGE_DB": "~/u.db"}) == Path("/somewhere/u.db")
