"""The TOML file: where it is looked for, what it may say, what is stronger, and that no key is read from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from hfs_providers import Limits
from hfs_providers.contract.secret import fingerprint
from hfs_providers.core.config_file import FileConfig, ProviderOverrides, load_file_config
from hfs_providers.core.inventory import Inventory, take_inventory
from hfs_providers.core.settings import Settings

Make = Callable[..., Any]
ACME = {"NUM_ACME": "2", "ACME_API_KEY_1": "key-one-of-acme", "ACME_API_KEY_2": "key-two-of-acme"}


def write(text: str, path: str | Path = "hfs-providers.toml") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def load(**env: str) -> FileConfig:
    config, problems = load_file_config(Settings.load(env))
    assert problems == []
    return config


def problem(**env: str) -> str:
    config, problems = load_file_config(Settings.load(env))
    assert replace(config, path=None, providers={}) == FileConfig()
    assert all(overrides == ProviderOverrides() for overrides in config.providers.values())
    assert {item.level for item in problems} == {"error"}
    assert all(item.remedy for item in problems)
    return "\n".join(item.message for item in problems)


@pytest.fixture
def acme(fake_provider: Make) -> Callable[..., Inventory]:
    """Surveys `acme`, whose plugin limits model `m` to 1 request a minute and `other` to 2."""

    def run(**env: str) -> Inventory:
        limits = {"m": Limits(rpm=1), "other": Limits(rpm=2)}
        return take_inventory({**ACME, **env}, plugins=[fake_provider("acme", limits=limits), fake_provider("beta")])

    return run


class TestPlace:
    def test_no_file_is_fine(self) -> None:
        assert load() == FileConfig()

    def test_that_of_the_working_directory(self, tmp_path: Path) -> None:
        write('order = ["groq"]')
        assert (load().order, load().path) == (("groq",), tmp_path / "hfs-providers.toml")

    def test_that_of_the_user_s_config_directory(self) -> None:
        write(
            'order = ["groq"]', platformdirs.user_config_path("hfs-providers", appauthor=False) / "hfs-providers.toml"
        )
        assert load().order == ("groq",)

    def test_the_working_directory_comes_before_the_user_s(self) -> None:
        write('order = ["gemini"]')
        write(
            'order = ["groq"]', platformdirs.user_config_path("hfs-providers", appauthor=False) / "hfs-providers.toml"
        )
        assert load().order == ("gemini",)

    def test_hfs_config_comes_before_both(self) -> None:
        write('order = ["gemini"]')
        write('order = ["groq"]', "elsewhere/mine.toml")
        assert load(HFS_CONFIG="elsewhere/mine.toml").order == ("groq",)

    def test_hfs_config_may_name_the_home_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        write('order = ["groq"]', "mine.toml")
        assert load(HFS_CONFIG="~/mine.toml").order == ("groq",)

    def test_hfs_config_may_stand_in_the_env_file(self) -> None:
        Path(".env").write_text("HFS_CONFIG=mine.toml\n")
        write('order = ["groq"]', "mine.toml")
        assert load_file_config(Settings.load())[0].order == ("groq",)


class TestBadFile:
    def test_a_missing_one_that_was_named_is_a_problem(self) -> None:
        assert "nowhere.toml cannot be read" in problem(HFS_CONFIG="nowhere.toml")

    def test_a_missing_one_is_not_made_up_for_by_another(self) -> None:
        write('order = ["gemini"]')
        assert "nowhere.toml" in problem(HFS_CONFIG="nowhere.toml")

    def test_bad_toml_is_a_problem_with_its_line(self) -> None:
        write('order = ["groq"]\nmodel = = 1\n')
        assert "not valid TOML" in problem()
        assert "line 2" in problem()

    def test_a_binary_file_is_a_problem(self) -> None:
        Path("hfs-providers.toml").write_bytes(b"\x89PNG\xff\xfe\x00")
        assert "hfs-providers.toml" in problem()

    def test_a_directory_of_that_name_is_a_problem(self) -> None:
        Path("mine.toml").mkdir()
        assert "mine.toml cannot be read" in problem(HFS_CONFIG="mine.toml")

    @pytest.mark.parametrize("name", ["~nobody-of-this-name/x.toml", "x" * 300, "a\0b"], ids=["home", "long", "nul"])
    def test_a_name_that_can_be_no_file_is_a_problem(self, name: str) -> None:
        assert problem(HFS_CONFIG=name)

    def test_an_unreadable_one_is_a_problem(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> str:
            raise PermissionError(13, "Permission denied")

        write("order = []")
        monkeypatch.setattr(Path, "read_text", refuse)
        assert "Permission denied" in problem()

    @pytest.mark.parametrize(
        ("text", "where"),
        [
            ("ordr = []", "ordr"),
            ("[providers.groq]\nmodle = 'm'", "providers.groq.modle"),
            ("[providers.groq]\napi_key = 'gsk_mArKeD'", "providers.groq.api_key"),
            ("[providers.groq.limits.m]\nrps = 1", "providers.groq.limits.m.rps"),
            ("[providers.groq.limits.m]\nrpm = 'many'", "providers.groq.limits.m.rpm"),
            ("[providers.groq.limits.m]\nrpm = 0", "providers.groq.limits.m.rpm"),
            ("[providers.groq.limits.m]\nrpm = -1", "providers.groq.limits.m.rpm"),
            ("[providers.groq]\nlimits = 5", "providers.groq.limits"),
            ("order = 'groq'", "order"),
            ("order = [1]", "order.0"),
            ("providers = []", "providers"),
        ],
    )
    def test_what_it_may_not_say_is_named_by_its_place(self, text: str, where: str) -> None:
        write(text)
        assert f": {where}: " in problem()

    def test_all_else_in_it_counts(self) -> None:
        write(
            """
            order = ["groq"]
            tiers = {fast = ["groq/a", 5], careful = ["groq/b"]}
            [budgets]
            usd = 5
            per = "day"
            [prices."groq/a"]
            input = -1
            output = 2
            [prices."groq/b"]
            input = 1
            output = 2
            [providers.groq]
            model = "m"
            limits = {a = {rpm = 30, tpm = "many"}, b = {rpm = 30}}
            keys = {1 = {"*" = {rpm = 5}, b = {rpm = 0}}, x = {"*" = {rpm = 7}}, 2 = {free = true}}
            """
        )
        config, problems = load_file_config(Settings.load({}))
        places = ("tiers.fast.1", "prices.groq/a.input", "providers.groq.limits.a.tpm", "providers.groq.keys.?")
        assert [any(f": {place}" in each.message for each in problems) for place in places] == [True] * 4
        assert len(problems) == 5
        assert (config.order, config.tiers, [*config.prices]) == (("groq",), {"careful": ["groq/b"]}, ["groq/b"])
        assert config.providers["groq"] == ProviderOverrides(
            "m", {"b": Limits(rpm=30)}, {"groq#1": {"*": Limits(rpm=5)}, "groq#2": {}}
        )
        assert config.free == {"groq#2"}
        assert [budget.nanousd for budget in config.budgets] == [5_000_000_000]

    @pytest.mark.parametrize(
        "budget", ["usd = -1\nper = 'day'", "usd = 1\nper = 'week'", "per = 'day'", "usd = 1\nper = 'day'\neur = 1"]
    )
    @pytest.mark.parametrize("table", ["budgets", "providers.groq.budget", "clients.ann.budget"])
    def test_a_bad_budget_allows_nothing(self, table: str, budget: str) -> None:
        write(f"[{table}]\n{budget}")
        config, problems = load_file_config(Settings.load({}))
        assert [(each.name, each.nanousd) for each in config.budgets] == [(table, 0)]
        assert "until then what it limits may cost nothing" in problems[0].remedy

    @pytest.mark.parametrize(
        ("table", "meant"),
        [
            ("budget", "budgets"),
            ("providers.groq.budgets", "providers.groq.budget"),
            ("clients.ann.budgets", "clients.ann.budget"),
        ],
    )
    def test_a_budget_by_the_wrong_one_of_the_two_names_allows_nothing(self, table: str, meant: str) -> None:
        write(f"[{table}]\nusd = 5\nper = 'day'")
        config, (problem,) = load_file_config(Settings.load({}))
        assert [(each.name, each.nanousd) for each in config.budgets] == [(meant, 0)]
        assert f": {table}: Extra inputs are not permitted" in problem.message

    @pytest.mark.parametrize("name", ["budget", "budgets", "prices", "limits", "keys"])
    @pytest.mark.parametrize(
        "part", ["[clients.{}]\nrpm = 0", "[providers.{}]\nmodel = 3", "[tiers]\n{} = [1]", "[prices.{}]\ninput = 1"]
    )
    def test_the_name_of_a_table_may_be_anyone_s_own_name(self, part: str, name: str) -> None:
        write(f"{part.format(name)}\n[clients.ann]\nrpm = 5")
        config, (problem, *_) = load_file_config(Settings.load({}))
        assert (config.budgets, config.clients["ann"].limits) == ((), Limits(rpm=5))
        assert "the rest of the file is used" in problem.remedy

    def test_a_byte_order_mark_is_no_part_of_it(self) -> None:
        Path("hfs-providers.toml").write_bytes(b'\xef\xbb\xbforder = ["groq"]\r\n')
        assert load().order == ("groq",)

    def test_it_disturbs_nothing_else(self, acme: Callable[..., Inventory]) -> None:
        write("order = = 1")
        found = acme()
        assert found.providers["acme"].usable
        assert found.providers["acme"].config.limits["m"] == Limits(rpm=1)

    @pytest.mark.parametrize("name", ["grok", "nonsense"])
    def test_a_provider_that_is_not_installed_is_a_problem(self, name: str) -> None:
        write(f"[providers.{name}]\nmodel = 'm'")
        assert any(f"'{name}'" in problem.message for problem in take_inventory({}).problems)

    def test_an_unknown_name_in_its_order_is_said_of_the_file(self) -> None:
        write('order = ["nonsense"]')
        found = next(problem for problem in take_inventory({}).problems if "'nonsense'" in problem.message)
        assert "hfs-providers.toml" in found.message
        assert "HFS_PROVIDER_ORDER" not in found.message


class TestWhatItSays:
    def test_the_order_of_providers(self) -> None:
        write('order = ["gemini", "groq"]')
        assert [*take_inventory({}).providers] == ["gemini", "groq", "cerebras", "openrouter"]

    def test_names_in_the_order_may_be_in_capitals(self) -> None:
        write('order = ["Gemini"]')
        assert next(iter(take_inventory({}).providers)) == "gemini"

    def test_tiers(self) -> None:
        write('[tiers]\nfast = ["groq/llama-3.1-8b-instant", "cerebras/llama3.1-8b"]')
        assert load().tiers == {"fast": ["groq/llama-3.1-8b-instant", "cerebras/llama3.1-8b"]}

    def test_a_provider_s_default_model(self, acme: Callable[..., Inventory]) -> None:
        write("[providers.acme]\nmodel = 'from-the-file'")
        assert acme().providers["acme"].config.default_model == "from-the-file"

    def test_limits_of_a_model_beside_the_plugin_s_for_others(self, acme: Callable[..., Inventory]) -> None:
        write("[providers.acme.limits.m]\nrpm = 30\ntpd = 1_000_000\nday_zone = 'America/Los_Angeles'")
        limits = acme().providers["acme"].config.limits
        assert limits["m"] == Limits(rpm=30, tpd=1_000_000, day_zone="America/Los_Angeles")
        assert limits["other"] == Limits(rpm=2)

    def test_its_patterns_come_before_the_plugin_s_models(self, acme: Callable[..., Inventory]) -> None:
        write('[providers.acme.limits."*"]\nrpm = 30')
        assert [*acme().providers["acme"].config.limits] == ["*", "m", "other"]

    def test_limits_of_one_key(self, acme: Callable[..., Inventory]) -> None:
        write('[providers.acme.keys.2."*"]\nrpm = 500\nshared = true')
        assert acme().providers["acme"].config.key_limits == {"acme#2": {"*": Limits(rpm=500, shared=True)}}

    def test_limits_of_a_key_that_is_listed(self, acme: Callable[..., Inventory]) -> None:
        key_id = f"acme@{fingerprint('a-key')}"
        write(f'[providers.acme.keys."{key_id}"]\nfree = true\n"*".rpm = 7')
        found = acme()
        assert found.providers["acme"].config.key_limits == {key_id: {"*": Limits(rpm=7)}}
        assert found.file.free == {key_id}

    @pytest.mark.parametrize("name", ["beta@0123456789abcdef", "acme", "acme#1", "acme@0123", "0123456789abcdef"])
    def test_a_name_that_no_key_of_the_provider_has_is_an_error(
        self, acme: Callable[..., Inventory], name: str
    ) -> None:
        write(f'[providers.acme.keys."{name}"]\n"*".rpm = 7')
        (problem,) = [each for each in acme().problems if each.level == "error"]
        assert "a key of acme is named by its number, or as acme@ and its fingerprint" in problem.message

    def test_a_provider_may_be_written_in_capitals(self, acme: Callable[..., Inventory]) -> None:
        write("[providers.ACME]\nmodel = 'from-the-file'")
        assert acme().providers["acme"].config.default_model == "from-the-file"

    def test_nothing_of_one_provider_touches_another(self, acme: Callable[..., Inventory]) -> None:
        write("[providers.acme]\nmodel = 'from-the-file'\n[providers.acme.limits.m]\nrpm = 30")
        config = acme().providers["beta"].config
        assert (config.default_model, dict(config.limits)) == (None, {})


class TestEnvironmentWins:
    def test_for_the_order(self) -> None:
        write('order = ["gemini"]')
        assert next(iter(take_inventory({"HFS_PROVIDER_ORDER": "groq"}).providers)) == "groq"

    def test_for_the_model(self, acme: Callable[..., Inventory]) -> None:
        write("[providers.acme]\nmodel = 'from-the-file'")
        assert acme(ACME_MODEL="mine").providers["acme"].config.default_model == "mine"

    def test_for_the_limits(self, acme: Callable[..., Inventory]) -> None:
        write("[providers.acme.limits.m]\nrpm = 30")
        assert acme(ACME_LIMITS="rpm=9").providers["acme"].config.limits == {"*": Limits(rpm=9)}

    def test_for_no_limits_at_all(self, acme: Callable[..., Inventory]) -> None:
        write("[providers.acme.limits.m]\nrpm = 30")
        assert acme(ACME_LIMITS="none").providers["acme"].config.limits == {"*": Limits()}

    def test_also_over_the_limits_of_one_key(self, acme: Callable[..., Inventory]) -> None:
        write('[providers.acme.keys.1."*"]\nrpm = 30')
        assert acme(ACME_LIMITS="none").providers["acme"].config.key_limits == {}


class TestNoKey:
    @pytest.mark.parametrize(
        "text",
        [
            "NUM_ACME = 1\nACME_API_KEY_1 = 'acme-mArKeD0123456789'",
            "[env]\nACME_API_KEY_1 = 'acme-mArKeD0123456789'",
            "[providers.acme]\napi_key = 'acme-mArKeD0123456789'",
            "[providers.acme]\nkeys = ['acme-mArKeD0123456789']",
            "[providers.acme]\nkeys = 'acme-mArKeD0123456789'",
            "[providers.acme.keys]\nacme-mArKeD0123456789 = {}",
            "[providers.acme.keys.'acme-mArKeD0123456789']\n'*'.rpm = -1",
            "[providers.acme.keys.1]\nsecret = 'acme-mArKeD0123456789'",
            "api_key = acme-mArKeD0123456789",
        ],
    )
    def test_is_read_from_it_nor_shown(self, fake_provider: Make, text: str, caplog: pytest.LogCaptureFixture) -> None:
        write(text)
        found = take_inventory({}, plugins=[fake_provider("acme")])
        assert found.providers["acme"].config.credentials == ()
        assert "mArKeD" not in f"{found.problems}{found.file}{caplog.text}"
