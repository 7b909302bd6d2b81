"""`hfs-providers usage` and `hfs-providers usage prune`."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
import time
import xml.etree.ElementTree as ET
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hfs_providers.cli.usage.chart import bar, columns
from hfs_providers.cli.usage.plot import draw, lines_of
from hfs_providers.usage import Store, UsageReport
from hfs_providers.usage.report import UsageTimeline
from tests.cli.conftest import Cli
from tests.usage_rows import row, write

NOW = time.time()
HOUR, DAY = 3600.0, 86_400.0


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A week's usage."""
    path = tmp_path / "u.db"
    rows = [row(NOW - 60 - number * HOUR, tokens=100) for number in range(48)]
    rows += [row(NOW - 60 - number * HOUR, "gemini", "flash", 2, "rate_limited", 0) for number in range(0, 48, 4)]
    rows += [row(NOW - 6 * DAY, "gemini", "pro", 1, tokens=7000, latency=2.5, client="web")]
    write(Store(path), rows)
    return path


@pytest.fixture
def env(database: Path) -> dict[str, str]:
    return {"HFS_USAGE_DB": str(database), "TZ": "UTC"}


class TestTables:
    def test_are_by_provider_and_model(self, cli: Cli, env: dict[str, str]) -> None:
        done = cli("usage", env=env)
        assert done.returncode == 0, done.stderr
        assert re.search(
            r"provider +model +requests +failed +tokens in +cached +tokens out +tokens +mean ms", done.stdout
        )
        assert re.search(r"groq +m +48 +0 +1,440 +50% +3,360 +4,800 +500 +█{16}\n", done.stdout)
        assert re.search(r"gemini +flash +12 +12 +0 +- +0 +0 +500 +█{4} *\n", done.stdout)
        assert re.search(r"all +61 +12 +3,540 +50% +8,260 +11,800 +533", done.stdout)

    @pytest.mark.parametrize(
        ("by", "names"),
        [
            ("key", ["gemini#1", "gemini#2", "groq#1"]),
            ("keys", ["gemini#1", "gemini#2", "groq#1"]),
            ("client", ["", "web"]),
            ("outcome", ["ok", "rate_limited"]),
        ],
    )
    def test_can_be_by_something_else(self, cli: Cli, env: dict[str, str], by: str, names: list[str]) -> None:
        report = json.loads(cli("usage", "--json", "--by", by, env=env).stdout)
        assert [each[by.removesuffix("s")] for each in report["rows"]] == names

    def test_can_be_by_several_things(self, cli: Cli, env: dict[str, str]) -> None:
        report = json.loads(cli("usage", "--json", "--by", "day,provider", "--by", "outcome", env=env).stdout)
        assert report["by"] == ["day", "provider", "outcome"]
        assert list(report["rows"][0])[:4] == ["day", "provider", "outcome", "requests"]

    def test_are_of_what_was_asked_for(self, cli: Cli, env: dict[str, str]) -> None:
        args = ("usage", "--json", "--provider", "gemini", "--model", "flash", "--since", "24h")
        report = json.loads(cli(*args, env=env).stdout)
        assert report["total"]["requests"] == 6
        assert json.loads(cli("usage", "--json", "--client", "web", env=env).stdout)["total"]["requests"] == 1
        since = datetime.fromisoformat(report["since"])
        assert timedelta(hours=23) < datetime.now().astimezone() - since < timedelta(hours=25)
        assert (report["until"], report["exact"]) == (None, True)

    def test_take_iso_dates(self, cli: Cli, env: dict[str, str]) -> None:
        until = datetime.fromtimestamp(NOW - 3 * DAY).isoformat()
        report = json.loads(cli("usage", "--json", "--until", until, env=env).stdout)
        assert report["total"]["requests"] == 1

    def test_end_with_a_chart_of_time(self, cli: Cli, env: dict[str, str]) -> None:
        wide = cli("usage", "--since", "47h", env={**env, "COLUMNS": "100"}).stdout.splitlines()
        at = next(number for number, line in enumerate(wide) if line.startswith("Requests; a column is one hour"))
        assert re.search(r"2 ┤.*█", wide[at + 1])
        assert max(map(len, wide[at:])) <= 100

    def test_of_nothing_say_so(self, cli: Cli, env: dict[str, str]) -> None:
        done = cli("usage", "--provider", "openrouter", env=env)
        assert done.returncode == 0
        assert "No requests so far in" in done.stdout


class TestOtherForms:
    def test_csv_has_every_number(self, cli: Cli, env: dict[str, str]) -> None:
        rows = list(csv.DictReader(io.StringIO(cli("usage", "--csv", env=env).stdout)))
        assert rows[-1] == {
            "provider": "groq",
            "model": "m",
            "requests": "48",
            "ok": "48",
            "tokens_in": "1440",
            "tokens_out": "3360",
            "tokens": "4800",
            "tokens_cached": "720",
            "cost_usd": "0.0",
            "unpriced": "48",
            "latency": "0.5",
        }

    def test_an_svg_is_drawn(self, cli: Cli, env: dict[str, str], tmp_path: Path) -> None:
        pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
        done = cli("usage", "--plot", "out.svg", env=env)
        assert "Chart written to out.svg" in done.stderr
        picture = ET.parse(tmp_path / "out.svg").getroot()
        words = "".join(picture.itertext())
        assert "Requests by day" in words
        assert "groq: 48 requests; gemini: 13 requests" in words

    def test_a_png_is_drawn(self, cli: Cli, env: dict[str, str], tmp_path: Path) -> None:
        pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
        assert cli("usage", "--by", "key", "--plot", "out.png", env=env).returncode == 0
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")

    def test_a_picture_without_matplotlib_names_the_command(
        self, cli: Cli, env: dict[str, str], tmp_path: Path
    ) -> None:
        hidden = tmp_path / "hidden"
        hidden.mkdir()
        (hidden / "sitecustomize.py").write_text(
            "import importlib.util as u\nf = u.find_spec\n"
            "u.find_spec = lambda name, *a: None if name == 'matplotlib' else f(name, *a)\n"
        )
        done = cli("usage", "--plot", "out.svg", env=env, path=[hidden])
        assert done.returncode == 1
        assert "pip install 'hfs-providers[plot]'" in done.stderr


class TestWhatIsAsked:
    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (["--by", "colour"], "there is no 'colour'"),
            (["--since", "yesterday"], "'yesterday' is not a date, time or span"),
            (["--until", "99999999-01-01"], "is not a date, time or span"),
            (["--json", "--csv"], "exclude each other"),
            (["--plot", "out.gif"], "neither .svg nor .png"),
        ],
    )
    def test_wrongly_is_said(self, cli: Cli, env: dict[str, str], args: list[str], words: str) -> None:
        done = cli("usage", *args, env=env)
        assert done.returncode == 2
        assert words in done.stderr

    def test_of_a_file_that_is_not_there_is_said_and_makes_none(self, cli: Cli, tmp_path: Path) -> None:
        done = cli("usage", env={"HFS_USAGE_DB": str(tmp_path / "none" / "u.db")})
        assert done.returncode == 1
        assert "no usage has been kept yet" in done.stderr
        assert not (tmp_path / "none").exists()

    def test_of_an_empty_file_is_nothing(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "u.db").touch()
        done = cli("usage", env={"HFS_USAGE_DB": str(tmp_path / "u.db")})
        assert (done.returncode, done.stdout[:11]) == (0, "No requests")

    def test_of_a_corrupt_file_is_said(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "u.db").write_bytes(b"this is no database" * 1000)
        done = cli("usage", env={"HFS_USAGE_DB": str(tmp_path / "u.db")})
        assert done.returncode == 0
        assert "was corrupt" in done.stderr

    def test_where_usage_is_off_is_said(self, cli: Cli) -> None:
        done = cli("usage", env={"HFS_USAGE_DB": "off"})
        assert done.returncode == 1
        assert "HFS_USAGE_DB is off" in done.stderr

    def test_of_a_later_version_s_file_is_said(self, cli: Cli, env: dict[str, str], database: Path) -> None:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA user_version = 99")
        done = cli("usage", env=env)
        assert done.returncode == 1
        assert "schema 99" in done.stderr
        assert "pip install -U hfs-providers" in done.stderr

    def test_while_others_write_is_answered(self, cli: Cli, env: dict[str, str], database: Path) -> None:
        with closing(Store(database).connect()) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM quarter")
            assert json.loads(cli("usage", "--json", env=env).stdout)["total"]["requests"] == 61
            writer.execute("ROLLBACK")


class TestPrune:
    def rows(self, database: Path) -> int:
        with closing(sqlite3.connect(database)) as connection:
            return int(connection.execute("SELECT count(*) FROM usage").fetchone()[0])

    def test_takes_out_what_is_old_and_keeps_the_totals(self, cli: Cli, env: dict[str, str], database: Path) -> None:
        before = json.loads(cli("usage", "--json", env=env).stdout)
        done = cli("usage", "prune", "--keep", "2d", "--yes", env=env)
        assert done.returncode == 0, done.stderr
        assert "1 rows were deleted" in done.stdout
        assert self.rows(database) == 60
        assert json.loads(cli("usage", "--json", env=env).stdout) == before

    def test_says_where_a_span_had_to_be_widened(self, cli: Cli, env: dict[str, str]) -> None:
        cli("usage", "prune", "--keep", "2d", "--yes", env=env)
        since = datetime.fromtimestamp((NOW - 6 * DAY) // 900 * 900 + 1).isoformat()
        done = cli("usage", "--json", "--since", since, env=env)
        report = json.loads(done.stdout)
        assert (report["exact"], report["total"]["requests"]) == (False, 61)
        assert "widened to whole quarters" in done.stderr

    def test_asks_first(self, cli: Cli, env: dict[str, str], database: Path) -> None:
        done = cli("usage", "prune", "--before", "2d", env=env, given="y\n")
        assert done.returncode == 1
        assert "1 rows in" in done.stdout
        assert "--yes" in done.stderr
        assert self.rows(database) == 61

    def test_only_looks_where_it_is_told_to(self, cli: Cli, env: dict[str, str], database: Path) -> None:
        done = cli("usage", "prune", "--keep", "2d", "--dry-run", "--json", env=env)
        said = json.loads(done.stdout)
        assert (said["pruned"], said["kept"], said["done"]) == (1, 0, False)
        assert self.rows(database) == 61

    def test_leaves_the_last_two_days_which_limits_need(self, cli: Cli, env: dict[str, str], database: Path) -> None:
        done = cli("usage", "prune", "--keep", "1h", "--yes", env=env)
        assert "last two days" in done.stderr
        assert self.rows(database) == 60

    def test_leaves_what_a_database_has_not_got(self, cli: Cli, env: dict[str, str], database: Path) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("INSERT INTO targets (name, forwarded, at) VALUES ('mysql://db/usage', 0, ?)", (NOW,))
        done = cli("usage", "prune", "--keep", "2d", "--yes", env=env)
        assert "1 more wait to be forwarded and stay" in done.stdout
        assert self.rows(database) == 61

    @pytest.mark.parametrize("args", [[], ["--keep", "1d", "--before", "1d"], ["--keep", "soon"]])
    def test_wants_one_age(self, cli: Cli, env: dict[str, str], args: list[str]) -> None:
        assert cli("usage", "prune", *args, env=env).returncode == 2


class TestChart:
    def test_a_bar_is_as_long_as_its_value(self) -> None:
        assert [bar(value, 8, 4) for value in (0, 1, 4, 5, 8)] == ["", "▌", "██", "██▌", "████"]
        assert bar(1, 10_000, 4) == "▏"
        assert bar(0, 0, 4) == ""

    def test_columns_are_as_high_as_theirs(self) -> None:
        lines = columns([8, 4, 0, 1], ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"], "day", 40, height=2)
        assert lines == [
            "Requests; a column is one day",
            "    8 ┤█████",
            "    4 ┤█████ █████       ▂▂▂▂▂",
            "    0 └────────────────────────",
            "       Jan 1       Jan 3",
        ]

    def test_neighbours_share_a_column_where_there_are_many(self) -> None:
        starts = [(datetime(2026, 1, 1) + timedelta(hours=number)).isoformat() for number in range(72)]
        lines = columns([1] * 72, starts, "hour", 43)
        assert lines[0] == "Requests; a column is 2 hours"
        assert lines[1] == f"    2 ┤{'█' * 36}"
        assert max(map(len, lines)) <= 43

    def test_another_day_is_named(self) -> None:
        starts = [f"2026-01-0{1 + number // 24}T{number % 24:02}:00:00+00:00" for number in range(20, 30)]
        assert columns([1] * 10, starts, "hour", 80)[-1].split() == [
            "Jan",
            "1",
            "20:00",
            "23:00",
            "Jan",
            "2",
            "01:00",
            "04:00",
        ]


class TestPicture:
    def line(self, count: int) -> UsageTimeline:
        return UsageTimeline("day", ("2026-01-01", "2026-01-02"), {f"<k{n}>": [n, 1] for n in range(1, count + 1)})

    def test_puts_together_what_there_are_no_colours_for(self) -> None:
        lines = lines_of(self.line(9))
        assert list(lines) == [*(f"<k{n}>" for n in (9, 8, 7, 6, 5, 4)), "3 others"]
        assert lines["3 others"] == [6, 3]

    def test_is_xml_whatever_the_names_are(self, tmp_path: Path) -> None:
        assert "<k9>: 10 requests" in self.words(tmp_path, self.line(9), "<all> & more $x$")

    def test_of_nothing_is_empty(self, tmp_path: Path) -> None:
        assert "requests" not in self.words(tmp_path, UsageTimeline("hour", (), {}), "none")

    @staticmethod
    def words(tmp_path: Path, line: UsageTimeline, subtitle: str) -> str:
        pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
        draw(tmp_path / "out.svg", line, subtitle)
        words = "".join(ET.parse(tmp_path / "out.svg").getroot().itertext())
        assert f"Requests by {line.period}" in words
        assert subtitle in words
        return words


class TestOddTerminals:
    def test_json_stays_json(self, cli: Cli, env: dict[str, str], database: Path) -> None:
        write(Store(database), [row(NOW - 60, model="mod\u00e8le-\u65e5")])
        done = cli("usage", "--json", env={**env, "PYTHONIOENCODING": "latin-1"})
        assert "mod\u00e8le-\u65e5" in [each["model"] for each in json.loads(done.stdout)["rows"]]

    def test_a_path_that_is_no_text_is_shown_escaped(self, cli: Cli, env: dict[str, str], tmp_path: Path) -> None:
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/u\xff.db"))
        write(Store(path), [row(NOW - 60)])
        done = cli("usage", "--since", "1s", env={**env, "HFS_USAGE_DB": str(path)})
        assert done.returncode == 0, done.stderr
        assert "u\\udcff.db" in done.stdout


class TestOddSpans:
    @pytest.mark.parametrize("span", ["99999999999999d", f"{'9' * 400}d", "800000d"])
    @pytest.mark.parametrize("args", [["--since"], ["--until"], ["prune", "--keep"], ["prune", "--before"]])
    def test_one_that_no_calendar_holds_is_wrong_usage(
        self, cli: Cli, env: dict[str, str], args: list[str], span: str
    ) -> None:
        done = cli("usage", *args, span, env=env)
        assert done.returncode == 2
        assert "goes back too far" in done.stderr
        assert "HFS_DEBUG" not in done.stderr


def test_a_timeline_does_not_count_the_days_since_the_romans(database: Path) -> None:
    line = UsageReport(Store(database)).timeline("provider", since=NOW - 700_000 * DAY)
    assert len(line.starts) < 10


def test_a_timeline_does_not_count_the_days_of_the_future(database: Path) -> None:
    line = UsageReport(Store(database)).timeline("provider", until=NOW + 700_000 * DAY)
    assert len(line.starts) < 10


class TestSend:
    def test_sends_what_a_database_has_not_got(self, cli: Cli, env: dict[str, str], tmp_path: Path) -> None:
        env = {**env, "HFS_FORWARD_DB": f"sqlite:///{tmp_path}/all.db"}
        done = cli("usage", "send", env=env)
        assert (done.returncode, done.stdout) == (0, f"61 rows sent to sqlite:///{tmp_path}/all.db\n"), done.stderr
        with closing(sqlite3.connect(tmp_path / "all.db")) as connection:
            assert connection.execute("SELECT count(*) FROM hfs_usage").fetchone() == (61,)

    def test_says_why_it_cannot(self, cli: Cli, env: dict[str, str], tmp_path: Path) -> None:
        assert "Set HFS_FORWARD_DB" in cli("usage", "send", env=env).stderr
        env = {**env, "HFS_FORWARD_DB": f"sqlite:///{tmp_path}/no/such/all.db"}
        done = cli("usage", "send", "--json", env=env)
        assert (done.returncode, json.loads(done.stdout)["targets"][0]["left"]) == (1, 61)
        assert "does not reach" in done.stderr
