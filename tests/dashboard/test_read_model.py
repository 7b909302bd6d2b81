"""What the dashboard says is what the command line says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hfs_providers import KeyedProvider, ModelDefault, ProviderManager
from hfs_providers.core.inventory import take_inventory
from hfs_providers.dashboard.key_list import HOURS, KeyFilter
from hfs_providers.dashboard.source import DashboardSource, Fresh
from hfs_providers.dashboard.summary import Dashboard
from hfs_providers.dashboard.sums import OTHERS, timeline
from hfs_providers.usage import Store, UsageReport, UsageTimeline
from tests.cli.conftest import bare_env as bare_env
from tests.cli.conftest import cli as cli
from tests.dashboard import made_up
from tests.dashboard.made_up import KEYS, environment, fill
from tests.usage_rows import row, write


@pytest.fixture(scope="module")
def dashboard(made_up: dict[str, str]) -> Dashboard:
    return Dashboard(DashboardSource(lambda: take_inventory(dict(made_up))))


class TestOverview:
    def test_counts_every_key_once(self, dashboard: Dashboard) -> None:
        counts = dashboard.overview()["counts"]
        assert {name: sum(states.values()) for name, states in counts.items()} == KEYS
        assert counts["groq"]["dead"] >= 1

    def test_its_hour_is_that_of_the_usage_command(self, dashboard: Dashboard, made_up: dict[str, str]) -> None:
        found = dashboard.overview()
        total = UsageReport(Store(made_up["HFS_USAGE_DB"])).totals((), since=found["at"] - 3600).total
        assert found["hour"]["requests"] == pytest.approx(total.requests, abs=2)
        assert sum(each["requests"] for each in found["hours"].values()) == found["hour"]["requests"]

    def test_a_day_has_24_hours(self, dashboard: Dashboard) -> None:
        line = dashboard.overview()["timeline"]
        assert (line["period"], len(line["starts"])) == ("hour", 24)
        assert {each["name"] for each in line["lines"]} == set(KEYS)

    def test_a_day_ends_now_even_if_nothing_was_asked_for_hours(self, tmp_path: Path) -> None:
        env, now = environment(tmp_path, {"groq": 1}), 1_780_000_000.0
        write(Store(env["HFS_USAGE_DB"]), [row(now - 5 * 3600)])
        line = Dashboard(DashboardSource(lambda: take_inventory(dict(env)), lambda: now)).overview()["timeline"]
        assert [start for start in line["starts"] if start <= now][-24:] == line["starts"]
        assert now - line["starts"][-1] < 3600
        assert line["lines"][0]["values"] == [0] * 18 + [1] + [0] * 5

    def test_without_keys_or_file_it_says_what_to_do(self, tmp_path: Path) -> None:
        env = environment(tmp_path, {})
        found = Dashboard(DashboardSource(lambda: take_inventory(dict(env)))).overview()
        assert (found["kept"], found["hour"], found["providers"]) == (False, None, [])
        assert found["problems"][-1]["message"] == "no provider has a key"
        assert not Path(env["HFS_USAGE_DB"]).exists()

    def test_usage_that_is_not_kept_is_told(self, tmp_path: Path) -> None:
        env = environment(tmp_path, {"groq": 1}) | {"HFS_USAGE_DB": "off"}
        found = Dashboard(DashboardSource(lambda: take_inventory(dict(env)))).overview()
        assert "HFS_USAGE_DB is off" in found["unkept"]["message"]

    def test_looking_registers_no_process_and_writes_nothing(self, made_up: dict[str, str]) -> None:
        path = Path(made_up["HFS_USAGE_DB"])
        before = path.read_bytes()
        shown = Dashboard(DashboardSource(lambda: take_inventory(dict(made_up))))
        shown.overview()
        shown.keys.page(KeyFilter())
        shown.requests.newest()
        assert path.read_bytes() == before


class TestKeys:
    def test_states_are_those_of_the_keys_command(
        self, dashboard: Dashboard, made_up: dict[str, str], cli: Any
    ) -> None:
        shown = {key["id"]: key["state"] for key in dashboard.keys.page(KeyFilter(), limit=200)["keys"]}
        said = json.loads(cli("keys", "--json", env=made_up).stdout)
        assert shown == {key["id"]: key["state"] for each in said["providers"] for key in each["keys"]}

    def test_pages_follow_each_other(self, dashboard: Dashboard) -> None:
        for sort in ("order", "state", "requests"):
            wanted, ids, after = KeyFilter(sort=sort), [], ""
            while after is not None:
                page = dashboard.keys.page(wanted, after, limit=3)
                ids += [key["id"] for key in page["keys"]]
                after = page["next"]
            assert len(ids) == len(set(ids)) == page["total"] == sum(KEYS.values())
            assert ids == dashboard.keys.map(wanted)["ids"]

    def test_are_filtered(self, dashboard: Dashboard) -> None:
        dead = dashboard.keys.page(KeyFilter(provider="groq", state="dead"))["keys"]
        assert dead
        assert {(key["provider"], key["state"]) for key in dead} == {("groq", "dead")}
        assert [key["id"] for key in dashboard.keys.page(KeyFilter(text="GROQ#2"))["keys"]] == ["groq#2"]
        with pytest.raises(ValueError, match="sort"):
            dashboard.keys.page(KeyFilter(sort="colour"))

    def test_a_day_adds_up(self, dashboard: Dashboard) -> None:
        (key,) = dashboard.keys.page(KeyFilter(text="cerebras#1"))["keys"]
        assert len(key["strip"]) == HOURS
        assert 0 < sum(cell["requests"] for cell in key["strip"]) <= key["requests"]

    def test_endpoints_without_keys_are_told_apart(self, tmp_path: Path) -> None:
        plugin = KeyedProvider(
            name="acme", model_class="acme:Acme", sdk="acme", models=(ModelDefault("m"),), keyless=True
        )
        env = environment(tmp_path, {}) | {f"ACME_ENDPOINT_{number}": f"http://127.0.0.{number}" for number in (1, 2)}
        rows = [row(time.time() - 5, "acme", number=number)._replace(fingerprint="keyless") for number in (1, 2, 2)]
        write(Store(env["HFS_USAGE_DB"]), rows)
        keys = Dashboard(DashboardSource(lambda: take_inventory(dict(env), None, [plugin]))).keys
        page = {key["id"]: key for key in keys.page(KeyFilter())["keys"]}
        assert {key_id: key["requests"] for key_id, key in page.items()} == {"acme#1": 1, "acme#2": 2}
        assert [sum(cell["requests"] for cell in key["strip"]) for key in page.values()] == [1, 2]
        assert [len((keys.one(key_id) or {})["rows"]) for key_id in page] == [1, 2]

    def test_why_a_key_rested_is_among_what_happened_to_it(self, own: dict[str, str]) -> None:
        with ProviderManager(env=own) as manager:
            manager.wrapper("groq").pool.pause("groq#1", "openai/gpt-oss-20b", 90.0, "rate_limit_exceeded")
        shown = Dashboard(DashboardSource(lambda: take_inventory(dict(own))))
        found = shown.keys.one("groq#1")
        assert found is not None
        event = found["events"][0]
        assert (event["kind"], event["model"], event["reason"]) == (
            "key_cooling",
            "openai/gpt-oss-20b",
            "rate_limit_exceeded",
        )
        assert event["until"] - event["at"] == pytest.approx(90, abs=1)
        assert (found["state"], found["strip"][-1]["state"]) == ("cooling", "cooling")
        assert found["rows"][0]["at"] >= found["rows"][-1]["at"]
        assert shown.keys.one("groq#99") is None


class TestRequests:
    def test_the_newest_come_first_and_go_on_before_a_number(self, dashboard: Dashboard) -> None:
        first = dashboard.requests.newest(limit=10)
        numbers = [row["id"] for row in first]
        assert numbers == sorted(numbers, reverse=True)
        assert dashboard.requests.last() == numbers[0]
        assert dashboard.requests.newest(before=numbers[-1], limit=1)[0]["id"] == numbers[-1] - 1
        assert [row["id"] for row in dashboard.requests.newest(after=numbers[2])] == numbers[:2]


class TestUsage:
    def test_groups_and_money_are_those_of_the_usage_command(
        self, dashboard: Dashboard, made_up: dict[str, str], cli: Any
    ) -> None:
        found = dashboard.sums.span(("model",), None, None, "requests")
        said = json.loads(cli("usage", "--by", "model", "--cost", "--json", env=made_up).stdout)
        shown = {each["group"][0]: {**each, "group": None} for each in found["rows"]}
        assert shown == {each.pop("model"): {**each, "group": None} for each in said["rows"]}
        spent = {each["name"]: (each["usd"], each["spent_usd"]) for each in found["budgets"]}
        assert spent == {each["name"]: (each["usd"], each["spent_usd"]) for each in said["budgets"]}
        assert len(spent) == 2

    def test_many_lines_become_few(self) -> None:
        lines = {f"key {number}": [number, 1] for number in range(12)}
        drawn = timeline(UsageTimeline("hour", ("2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00"), lines))
        assert [line["name"] for line in drawn["lines"]][-1] == OTHERS
        assert len(drawn["lines"]) == 8
        assert sum(line["values"][0] for line in drawn["lines"]) == sum(range(12))

    def test_a_cell_that_is_a_formula_is_quoted_in_csv(self, tmp_path: Path) -> None:
        env = environment(tmp_path, {"groq": 1})
        write(Store(env["HFS_USAGE_DB"]), [row(time.time() - 5, model="=cmd|'/c calc'!A1")])
        shown = Dashboard(DashboardSource(lambda: take_inventory(dict(env))))
        heading, line, _ = shown.sums.table(("model",), None, None).split("\r\n")
        assert heading.split(",")[:3] == ["model", "requests", "ok"]
        assert line.startswith("'=cmd")


class TestFresh:
    def test_an_old_value_is_given_while_the_new_one_is_made(self) -> None:
        now, made = 0.0, iter(range(10))
        found = Fresh(lambda: next(made), 5.0, lambda: now)
        assert [found.get(), found.get()] == [0, 0]
        now = 6.0
        assert found.get() == 0
        with found._renewing:
            assert found.get() == 1

    def test_what_takes_no_time_is_waited_for(self) -> None:
        now, made = 0.0, iter(range(10))
        found = Fresh(lambda: next(made), 5.0, lambda: now, wait=0.5)
        given = [found.get(), found.get()]
        now = 6.0
        assert [*given, found.get(), found.get()] == [0, 0, 1, 1]

    def test_what_costs_much_becomes_older_but_for_the_first_time(self) -> None:
        now, cost, made = 0.0, 0.0, iter(range(10))

        def make() -> int:
            nonlocal cost
            cost += 2.0
            return next(made)

        found = Fresh(make, 5.0, lambda: now, wait=2.5, cpu=lambda: cost)
        given = []
        for seconds in (0.0, 4.9, 0.2, 17.9, 0.2):
            now += seconds
            given.append(found.get())
        assert given == [0, 0, 1, 1, 2]

    def test_what_was_dropped_is_made_at_once(self) -> None:
        made = iter(range(10))
        found = Fresh(lambda: next(made), 5.0, lambda: 0.0)
        found.get()
        found.drop()
        assert found.get() == 1

    def test_what_fails_is_told_and_tried_again(self) -> None:
        answers = iter([ValueError("no"), 7])

        def make() -> int:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        found = Fresh(make, 5.0, lambda: 0.0)
        with pytest.raises(ValueError, match="no"):
            found.get()
        assert found.get() == 7


def test_the_made_up_machine_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_up, "time", SimpleNamespace(time=lambda: 1_780_000_000.0))
    found = []
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        (tmp_path / name).mkdir()
        env = environment(tmp_path / name, {"groq": 2})
        fill(env, hours=1, a_minute=2, seed=seed)
        found.append(UsageReport(Store(env["HFS_USAGE_DB"])).totals(("key", "model", "client")).rows)
    assert found[0] == found[1] != found[2]
