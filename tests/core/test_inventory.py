"""What is installed and what the environment says, put together without building anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from hfs_providers import Limits, ModelDefault, ProviderManager
from hfs_providers.core.inventory import Inventory, take_inventory

Make = Callable[..., Any]
BUILT_IN = ["cerebras", "groq", "gemini", "openrouter"]


def keys(provider: str, count: int = 1) -> dict[str, str]:
    numbered = {f"{provider}_API_KEY_{n}": f"key-{n}-of-{provider.lower()}" for n in range(1, count + 1)}
    return {f"NUM_{provider}": str(count), **numbered}


def said(found: Inventory) -> str:
    return "\n".join(f"{problem.level}: {problem.message} [{problem.remedy}]" for problem in found.problems)


class TestOrder:
    def test_the_built_in_ones_stand_first(self, fake_provider: Make) -> None:
        made = [fake_provider(name) for name in ("zeta", "groq", "alpha", "cerebras")]
        assert [*take_inventory({}, plugins=made).providers] == ["cerebras", "groq", "alpha", "zeta"]

    @pytest.mark.parametrize(
        ("wanted", "order"),
        [
            ("gemini,groq", ["gemini", "groq", "cerebras", "openrouter"]),
            ("openrouter gemini groq cerebras", ["openrouter", "gemini", "groq", "cerebras"]),
            (" GROQ , groq ,", ["groq", "cerebras", "gemini", "openrouter"]),
            ("", BUILT_IN),
        ],
    )
    def test_hfs_provider_order_puts_some_first(self, wanted: str, order: list[str]) -> None:
        assert [*take_inventory({"HFS_PROVIDER_ORDER": wanted}).providers] == order

    def test_the_manager_keeps_it(self, fake_provider: Make) -> None:
        made = [fake_provider("acme"), fake_provider("beta")]
        env = {**keys("ACME"), **keys("BETA"), "HFS_PROVIDER_ORDER": "beta,acme"}
        with ProviderManager(env, plugins=made) as manager:
            assert manager.available_providers == ["beta", "acme"]

    def test_an_unknown_name_is_a_problem_and_the_others_count(self) -> None:
        found = take_inventory({"HFS_PROVIDER_ORDER": "nonsense,gemini"})
        assert next(iter(found.providers)) == "gemini"
        assert "'nonsense'" in said(found)

    def test_the_nearest_name_is_suggested(self) -> None:
        found = take_inventory({"HFS_PROVIDER_ORDER": "grok"})
        problem = next(problem for problem in found.problems if "'grok'" in problem.message)
        assert "Did you mean 'groq'" in f"{problem.message} {problem.remedy}"

    def test_an_unknown_name_among_the_disabled_is_a_problem(self) -> None:
        found = take_inventory({"HFS_DISABLED_PLUGINS": "grok"})
        problem = next((problem for problem in found.problems if "grok" in problem.message), None)
        assert problem is not None
        assert "HFS_DISABLED_PLUGINS" in problem.message
        assert "'groq'" in f"{problem.message} {problem.remedy}"


class TestSlice:
    def test_a_name_with_a_dash_is_shown_its_variables(self, fake_provider: Make) -> None:
        found = take_inventory(keys("ACME_CLOUD", 2), plugins=[fake_provider("acme-cloud")])
        assert found.status["acme-cloud"]["keys"] == 2

    def test_google_api_key_reaches_gemini(self) -> None:
        assert take_inventory({"GOOGLE_API_KEY": "AIza-a-key-of-google"}).status["gemini"]["keys"] == 1

    def test_it_reaches_nobody_else(self) -> None:
        status = take_inventory({"GOOGLE_API_KEY": "AIza-a-key-of-google"}).status
        assert [name for name, entry in status.items() if entry["configured"]] == ["gemini"]

    def test_a_further_variable_is_shown_to_who_asks_for_it(self, fake_provider: Make) -> None:
        acme = fake_provider("acme", env_aliases=("CORPORATE_TOKEN",))
        found = take_inventory({"CORPORATE_TOKEN": "a-key-of-the-corporation"}, plugins=[acme])
        assert found.status["acme"]["keys"] == 1


class TestStatus:
    def test_of_each_installed_provider(self) -> None:
        assert [*take_inventory({}).status] == BUILT_IN

    def test_says_what_was_found(self) -> None:
        entry = take_inventory({**keys("GROQ", 3), "EXPECTED_GROQ": "3"}).status["groq"]
        assert (entry["configured"], entry["keys"], entry["declared"], entry["expected"]) == (True, 3, 3, 3)

    def test_says_what_is_wrong(self) -> None:
        entry = take_inventory({"NUM_GROQ": "abc"}).status["groq"]
        assert entry["configured"] is False
        assert "NUM_GROQ is not an integer" in entry["problems"]

    def test_problems_stand_by_their_provider(self) -> None:
        found = take_inventory({"NUM_GROQ": "abc", "NUM_GEMINI": "-1"})
        assert {problem.provider for problem in found.problems_of("groq")} == {"groq"}
        assert all("GROQ" in problem.message for problem in found.problems_of("groq"))

    def test_it_imports_no_sdk_agno_or_keycycle(self) -> None:
        program = (
            "import sys\nfrom hfs_providers.core.inventory import take_inventory\n"
            "found = take_inventory({'NUM_GROQ': '1', 'GROQ_API_KEY_1': 'gsk_0123456789'})\n"
            "assert found.status['groq']['configured']\n"
            "heavy = {'agno', 'keycycle', 'pydantic', 'sqlalchemy', 'openai', 'groq', 'google', 'cerebras'}\n"
            "print(sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestMissingSdk:
    @pytest.fixture
    def found(self, fake_provider: Make) -> Inventory:
        acme = fake_provider("acme", sdk="acme-sdk-that-is-nowhere", install="pip install 'acme-llm[acme]'")
        return take_inventory({**keys("ACME"), **keys("BETA")}, plugins=[acme, fake_provider("beta")])

    def test_it_is_listed_as_configured_without_an_sdk(self, found: Inventory) -> None:
        entry = found.status["acme"]
        assert (entry["configured"], entry["sdk"]) == (True, None)

    def test_it_is_not_usable_and_the_others_are(self, found: Inventory) -> None:
        assert [name for name, entry in found.providers.items() if entry.usable] == ["beta"]

    def test_the_problem_has_the_exact_command(self, found: Inventory) -> None:
        problem = next(problem for problem in found.problems if problem.provider == "acme")
        assert "acme-sdk-that-is-nowhere" in problem.message
        assert problem.remedy == "pip install 'acme-llm[acme]'"

    def test_one_without_keys_is_no_problem(self, fake_provider: Make) -> None:
        found = take_inventory({"NUM_ACME": "0"}, plugins=[fake_provider("acme", sdk="acme-sdk-that-is-nowhere")])
        assert found.problems == ()

    @pytest.mark.parametrize("name", BUILT_IN)
    def test_a_built_in_one_names_its_extra(self, name: str) -> None:
        requirement = take_inventory({}).providers[name].config.requirement
        assert requirement is not None
        assert requirement.install == f"pip install 'hfs-providers[{name}]'"

    def test_a_third_party_s_plugin_names_its_own_distribution(self, install: Callable[..., None]) -> None:
        source = (
            "from hfs_providers import KeyedProvider, ModelDefault\n"
            "models = (ModelDefault('m'),)\n"
            "plugin = KeyedProvider('acme', 'nowhere:Nothing', sdk='acme-sdk-that-is-nowhere', models=models)"
        )
        install("acme-llm", {"acme": "acme_of_test:plugin"}, {"acme_of_test": source})
        problem = next(problem for problem in take_inventory(keys("ACME")).problems if problem.provider == "acme")
        assert problem.remedy == "pip install 'acme-llm[acme]'"

    def test_an_sdk_that_needs_nothing_is_there(self, fake_provider: Make) -> None:
        assert take_inventory(keys("ACME"), plugins=[fake_provider("acme")]).providers["acme"].usable


LIST = (
    ModelDefault("first", retires=date(2026, 2, 16)),
    ModelDefault("second", retires=date(2026, 12, 1)),
    ModelDefault("third"),
)


class TestNotNamed:
    """Providers that are installed, while the environment has no variable of theirs."""

    def missing(self, found: Inventory) -> dict[str | None, str]:
        return {each.provider: each.level for each in found.problems if each.message.startswith("Missing NUM_")}

    def test_beside_a_configured_one_it_is_information(self, fake_provider: Make) -> None:
        made = [fake_provider("acme"), fake_provider("beta")]
        assert self.missing(take_inventory(keys("ACME"), plugins=made)) == {"beta": "info"}

    def test_the_config_says_the_same(self, fake_provider: Make) -> None:
        found = take_inventory(keys("ACME"), plugins=[fake_provider("acme"), fake_provider("beta")])
        assert [each.level for each in found.providers["beta"].config.problems] == ["info"]

    def test_where_none_is_configured_it_is_a_warning(self, fake_provider: Make) -> None:
        assert self.missing(take_inventory({}, plugins=[fake_provider("acme")])) == {"acme": "warning"}

    @pytest.mark.parametrize("env", [{"BETA_MODEL": "large"}, {"EXPECTED_BETA": "2"}, {"BETA_API_KEY_1": ""}])
    def test_one_that_is_named_is_a_warning(self, fake_provider: Make, env: dict[str, str]) -> None:
        made = [fake_provider("acme"), fake_provider("beta")]
        assert self.missing(take_inventory({**keys("ACME"), **env}, plugins=made)) == {"beta": "warning"}

    def test_a_configured_one_without_its_count_is_a_warning(self, fake_provider: Make) -> None:
        made = [fake_provider("acme"), fake_provider("beta")]
        env = {**keys("ACME"), "BETA_API_KEY_1": "some-key-of-beta"}
        assert self.missing(take_inventory(env, plugins=made)) == {"beta": "warning"}

    def test_another_s_variable_does_not_name_it(self, fake_provider: Make) -> None:
        made = [fake_provider("groq"), fake_provider("groq-eu")]
        assert self.missing(take_inventory(keys("GROQ_EU"), plugins=made)) == {"groq": "info"}

    @pytest.mark.parametrize("env", [{}, keys("ACME")], ids=["alone", "beside another"])
    def test_without_its_sdk_nothing_is_said(self, fake_provider: Make, env: dict[str, str]) -> None:
        made = [fake_provider("acme"), fake_provider("beta", sdk="no-such-sdk")]
        assert "beta" not in self.missing(take_inventory(env, plugins=made))


class TestDefaultModel:
    @pytest.fixture
    def found(self, fake_provider: Make) -> Any:
        return take_inventory(keys("ACME"), plugins=[fake_provider("acme", models=LIST)]).providers["acme"]

    @pytest.mark.parametrize(
        ("today", "model"),
        [
            (date(2026, 2, 15), "first"),
            (date(2026, 2, 16), "second"),
            (date(2026, 11, 30), "second"),
            (date(2026, 12, 1), "third"),
            (date(2036, 1, 1), "third"),
        ],
    )
    def test_is_the_first_that_is_not_past_its_date(self, found: Any, today: date, model: str) -> None:
        assert found.default_model(today) == model

    def test_is_not_one_that_is_known_gone(self, found: Any) -> None:
        assert found.default_model(date(2026, 1, 1), gone=["first", "second"]) == "third"

    def test_is_the_last_where_all_are_gone(self, found: Any) -> None:
        assert found.default_model(date(2026, 1, 1), gone=["first", "second", "third"]) == "third"

    def test_x_model_comes_before_all(self, fake_provider: Make) -> None:
        plugin = fake_provider("acme", models=LIST)
        found = take_inventory({**keys("ACME"), "ACME_MODEL": "mine"}, plugins=[plugin]).providers["acme"]
        assert found.default_model(date(2036, 1, 1), gone=["mine"]) == "mine"

    @pytest.mark.parametrize(
        ("model", "successor"), [("first", "second"), ("second", "third"), ("third", None), ("elsewhere", None)]
    )
    def test_a_model_s_successor_is_the_next_in_the_list(self, found: Any, model: str, successor: str | None) -> None:
        assert found.successor(model) == successor

    @pytest.mark.parametrize(
        ("provider", "models"),
        [
            ("cerebras", ["llama-3.3-70b", "gpt-oss-120b"]),
            ("groq", ["llama-3.3-70b-versatile", "openai/gpt-oss-120b"]),
            ("gemini", ["gemini-2.5-flash", "gemini-3.5-flash-lite"]),
            ("openrouter", ["meta-llama/llama-3.3-70b-instruct:free", "openrouter/free"]),
        ],
    )
    def test_those_of_the_built_in_providers(self, provider: str, models: list[str]) -> None:
        assert [model.id for model in take_inventory({}).providers[provider].models] == models

    def test_cerebras_has_retired_its_first(self) -> None:
        assert take_inventory({}).providers["cerebras"].default_model(date(2026, 10, 1)) == "gpt-oss-120b"

    def test_gemini_retires_its_first_on_a_known_day(self) -> None:
        gemini = take_inventory({}).providers["gemini"]
        assert gemini.default_model(date(2026, 11, 30)) == "gemini-2.5-flash"
        assert gemini.default_model(date(2026, 12, 1)) == "gemini-3.5-flash-lite"


class TestLimits:
    def test_the_plugin_s_stand_where_nothing_else_is_said(self, fake_provider: Make) -> None:
        acme = fake_provider("acme", limits={"m": Limits(rpm=1)})
        assert take_inventory(keys("ACME"), plugins=[acme]).providers["acme"].config.limits == {"m": Limits(rpm=1)}

    def test_x_limits_stands_for_all_models(self, fake_provider: Make) -> None:
        acme = fake_provider("acme", limits={"m": Limits(rpm=1)})
        found = take_inventory({**keys("ACME"), "ACME_LIMITS": "rpm=9"}, plugins=[acme])
        assert found.providers["acme"].config.limits == {"*": Limits(rpm=9)}

    def test_none_is_no_limits(self, fake_provider: Make) -> None:
        acme = fake_provider("acme", limits={"m": Limits(rpm=1)})
        found = take_inventory({**keys("ACME"), "ACME_LIMITS": "none"}, plugins=[acme])
        assert found.providers["acme"].config.limits == {"*": Limits()}

    def test_garbage_leaves_the_plugin_s(self, fake_provider: Make) -> None:
        acme = fake_provider("acme", limits={"m": Limits(rpm=1)})
        found = take_inventory({**keys("ACME"), "ACME_LIMITS": "garbage"}, plugins=[acme])
        assert found.providers["acme"].config.limits == {"m": Limits(rpm=1)}


def test_it_writes_nothing(tmp_path: Path) -> None:
    take_inventory(keys("GROQ"))
    assert list(tmp_path.iterdir()) == []
