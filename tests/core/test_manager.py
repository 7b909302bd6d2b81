"""`ProviderManager`: what it builds, what it says of it, what it hands out, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hfs_providers
from hfs_providers import (
    HfsProvidersError,
    MissingKeyError,
    MissingSdkError,
    ProviderManager,
    ProviderUnavailableError,
    UnknownProviderError,
    get_any_model,
    get_model,
    get_provider_manager,
    list_available_providers,
)
from hfs_providers.core.provider_configs import provider_configs
from tests import warm

Make = Callable[..., Any]
BUILT_IN = ["cerebras", "groq", "gemini", "openrouter"]


def keys(provider: str, count: int = 1) -> dict[str, str]:
    name = provider.upper()
    numbered = {f"{name}_API_KEY_{n}": f"{provider}-mArKeD-{n:02d}-0123456789" for n in range(1, count + 1)}
    return {f"NUM_{name}": str(count), **numbered}


FOUR = {name: value for provider in BUILT_IN for name, value in keys(provider).items()}
ACME_AND_BETA = {**keys("acme", 2), **keys("beta", 3)}


@pytest.fixture
def two(fake_provider: Make) -> Iterator[ProviderManager]:
    """A manager of `acme` with two keys and `beta` with three."""
    with ProviderManager(ACME_AND_BETA, plugins=[fake_provider("acme"), fake_provider("beta")]) as manager:
        yield manager


@pytest.fixture
def process_env(monkeypatch: pytest.MonkeyPatch, fresh_manager: None) -> None:
    """One key of each built-in provider in the process environment, and no manager yet."""
    for name, value in FOUR.items():
        monkeypatch.setenv(name, value)


def cool(manager: ProviderManager, provider: str, seconds: float = 30.0) -> None:
    """Every key of the provider is told to wait."""
    pool = manager.wrappers[provider].pool
    for credential in pool.credentials:
        pool.acquire("any-model", key_id=credential.id).rate_limited(seconds, "key")


def kill(manager: ProviderManager, provider: str) -> None:
    pool = manager.wrappers[provider].pool
    for credential in pool.credentials:
        pool.retire(credential.id, "refused")


class TestEmptyEnvironment:
    @pytest.fixture
    def manager(self, caplog: pytest.LogCaptureFixture) -> Iterator[ProviderManager]:
        caplog.set_level(logging.INFO, "hfs_providers")
        with ProviderManager() as manager:
            yield manager

    def test_it_builds(self, manager: ProviderManager) -> None:
        assert manager.available_providers == []
        assert manager.wrappers == {}

    @pytest.mark.parametrize("name", ["CEREBRAS", "GROQ", "GEMINI", "OPENROUTER"])
    def test_it_warns_of_each_missing_count(
        self, manager: ProviderManager, caplog: pytest.LogCaptureFixture, name: str
    ) -> None:
        message = f"Missing NUM_{name} environment variable"
        assert [r.levelno for r in caplog.get_records("setup") if r.getMessage() == message] == [logging.WARNING]

    def test_nobody_is_configured_nor_healthy(self, manager: ProviderManager) -> None:
        assert not any(entry["configured"] for entry in manager.environment_status.values())
        assert not any(manager.is_provider_healthy(name) for name in BUILT_IN)

    def test_the_summary_says_so(self, manager: ProviderManager) -> None:
        assert "  groq: configured=No, initialized=No, keys=0" in manager.get_status_summary().splitlines()

    def test_its_repr_says_so(self, manager: ProviderManager) -> None:
        assert repr(manager) == "ProviderManager(no provider available)"


class TestEnvironmentStatus:
    def test_has_every_installed_provider(self) -> None:
        with ProviderManager({}) as manager:
            assert [*manager.environment_status] == BUILT_IN

    def test_says_configured_keys_and_expected(self) -> None:
        with ProviderManager({**keys("groq", 3), "EXPECTED_GROQ": "16"}) as manager:
            groq, gemini = manager.environment_status["groq"], manager.environment_status["gemini"]
        assert (groq["configured"], groq["keys"], groq["expected"], groq["initialized"]) == (True, 3, 16, True)
        assert (gemini["configured"], gemini["keys"], gemini["expected"]) == (False, 0, None)

    def test_counts_usable_keys(self) -> None:
        with ProviderManager({**keys("groq", 2), "GROQ_API_KEY_2": "xxxx"}) as manager:
            assert manager.environment_status["groq"]["keys"] == 1

    @pytest.mark.parametrize("count", ["abc", "-1", "1.5"])
    def test_a_bad_count_is_logged_as_an_error_and_not_configured(
        self, count: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with ProviderManager({**keys("groq"), "NUM_GROQ": count}) as manager:
            assert manager.environment_status["groq"]["configured"] is False
        assert [r.levelname for r in caplog.records if "NUM_GROQ" in r.getMessage()] == ["ERROR"]

    @pytest.mark.parametrize(
        "env",
        [{**keys("groq", 2), "NUM_GROQ": "5"}, {**keys("groq", 2), "EXPECTED_GROQ": "16"}],
        ids=["NUM", "EXPECTED"],
    )
    def test_a_count_that_differs_is_logged_as_a_warning_and_configured(
        self, env: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        with ProviderManager(env) as manager:
            assert manager.environment_status["groq"]["configured"] is True
        assert [r.levelname for r in caplog.records if "GROQ" in r.getMessage()] == ["WARNING"]

    def test_what_it_gives_is_the_caller_s(self) -> None:
        with ProviderManager(keys("groq")) as manager:
            manager.environment_status["groq"]["keys"] = 99
            assert manager.environment_status["groq"]["keys"] == 1


class TestBuilding:
    def test_every_usable_provider_has_its_wrapper(self) -> None:
        with ProviderManager(FOUR) as manager:
            assert manager.available_providers == list(manager.wrappers) == BUILT_IN

    def test_list_available_providers_is_the_same(self, two: ProviderManager) -> None:
        assert two.list_available_providers() == two.available_providers == ["acme", "beta"]

    def test_no_sdk_is_imported_for_it(self) -> None:
        program = (
            "import sys, hfs_providers\n"
            f"manager = hfs_providers.ProviderManager({FOUR!r})\n"
            "assert len(manager.wrappers) == 4, manager.problems\n"
            "print(sorted({'openai', 'groq', 'google.genai', 'cerebras.cloud'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_one_that_fails_leaves_the_others_and_is_recorded(
        self, fake_provider: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        def explode(*_: object) -> None:
            raise RuntimeError("boom")

        with ProviderManager(
            ACME_AND_BETA, plugins=[fake_provider("acme", build_wrapper=explode), fake_provider("beta")]
        ) as manager:
            assert manager.available_providers == ["beta"]
            assert [(p.level, p.provider) for p in manager.problems] == [("error", "acme")]
            assert "boom" in manager.problems[0].message
            assert manager.environment_status["acme"]["initialized"] is False
        assert [r.levelname for r in caplog.records if "acme could not be built" in r.getMessage()] == ["ERROR"]

    def test_one_that_failed_says_so_in_its_status(self, fake_provider: Make) -> None:
        def explode(*_: object) -> None:
            raise RuntimeError("boom")

        with ProviderManager(ACME_AND_BETA, plugins=[fake_provider("acme", build_wrapper=explode)]) as manager:
            assert any("boom" in text for text in manager.environment_status["acme"]["problems"])

    def test_the_summary_is_logged_at_the_start(self, fake_provider: Make, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "hfs_providers")
        with ProviderManager(keys("acme"), plugins=[fake_provider("acme")]) as manager:
            summary = manager.get_status_summary()
        assert [r.levelname for r in caplog.records if r.getMessage() == summary] == ["INFO"]

    def test_each_problem_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        with ProviderManager({"NUM_GROQ": "abc"}) as manager:
            expected = [problem.message for problem in manager.problems]
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == expected

    def test_nothing_shown_or_logged_has_a_key(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        with ProviderManager({**FOUR, "NUM_GROQ": "7", "GEMINI_API_KEY_2": FOUR["GEMINI_API_KEY_1"]}) as manager:
            shown = [manager, manager.problems, manager.environment_status, manager.inventory, manager.wrappers]
            shown += [manager.get_status_summary(), [manager.health(name) for name in BUILT_IN]]
            text = f"{shown!r} {shown} {caplog.text}"
        assert "mArKeD" not in text

    def test_a_fresh_directory_stays_empty(self, tmp_path: Path) -> None:
        with ProviderManager(FOUR):
            assert [each.name for each in tmp_path.iterdir()] == ["home"]


class TestSummary:
    def test_a_line_for_each_provider_and_for_persistence(self) -> None:
        with ProviderManager({**keys("groq", 16), **keys("cerebras", 2)}) as manager:
            lines = manager.get_status_summary().splitlines()
        assert lines[1:] == [
            "  cerebras: configured=Yes, initialized=Yes, keys=2",
            "  groq: configured=Yes, initialized=Yes, keys=16",
            "  gemini: configured=No, initialized=No, keys=0",
            "  openrouter: configured=No, initialized=No, keys=0",
            "  TiDB persistence: No",
        ]

    @pytest.mark.parametrize("variable", ["TIDB_DB_URL", "HFS_USAGE_DB"])
    def test_no_persistence_is_claimed_that_is_not_there(self, variable: str) -> None:
        with ProviderManager({variable: "nosuch+driver://u:hunter2@127.0.0.1:1/d"}, plugins=[]) as manager:
            assert manager.get_status_summary().splitlines()[-1] == "  TiDB persistence: No"
            assert variable in manager.problems[0].message
            assert "hunter2" not in str(manager.problems)

    def test_nothing_is_forwarded_where_usage_is_not_kept(self) -> None:
        with ProviderManager({"HFS_USAGE_DB": "off", "TIDB_DB_URL": "mysql://u:p@127.0.0.1/d"}, plugins=[]) as manager:
            assert manager.get_status_summary().splitlines()[-1] == "  TiDB persistence: No"
            assert "nothing is forwarded to TIDB_DB_URL" in manager.problems[0].message

    def test_configured_but_not_built(self, fake_provider: Make) -> None:
        acme = fake_provider("acme", sdk="acme-sdk-that-is-nowhere")
        with ProviderManager(keys("acme"), plugins=[acme]) as manager:
            assert "  acme: configured=Yes, initialized=No, keys=1" in manager.get_status_summary().splitlines()


class TestHealth:
    def test_a_provider_with_a_living_key_is_healthy(self, two: ProviderManager) -> None:
        two.wrappers["acme"].pool.retire("acme#1", "refused")
        assert two.is_provider_healthy("acme") is True

    def test_one_whose_keys_cool_is_healthy(self, two: ProviderManager) -> None:
        cool(two, "acme")
        assert two.is_provider_healthy("acme") is True

    def test_one_whose_keys_are_all_dead_is_not(self, two: ProviderManager) -> None:
        kill(two, "acme")
        assert two.is_provider_healthy("acme") is False
        assert two.is_provider_healthy("beta") is True

    def test_one_whose_key_comes_back_is_again(self, two: ProviderManager) -> None:
        kill(two, "acme")
        two.wrappers["acme"].pool.revive("acme#2")
        assert two.is_provider_healthy("acme") is True

    def test_an_unknown_one_is_not(self, two: ProviderManager) -> None:
        assert two.is_provider_healthy("nonsense") is False

    def test_one_that_is_not_configured_is_not_and_says_why(self, fake_provider: Make) -> None:
        with ProviderManager({}, plugins=[fake_provider("acme")]) as manager:
            assert manager.is_provider_healthy("acme") is False
            assert manager.health("acme").reasons

    def test_one_without_its_sdk_is_not_and_says_the_command(self, fake_provider: Make) -> None:
        acme = fake_provider("acme", sdk="acme-sdk-that-is-nowhere", install="pip install 'acme-llm[acme]'")
        with ProviderManager(keys("acme"), plugins=[acme]) as manager:
            assert manager.is_provider_healthy("acme") is False
            assert "pip install 'acme-llm[acme]'" in manager.health("acme").reasons[0]

    def test_one_that_was_not_built_is_not(self, fake_provider: Make) -> None:
        with ProviderManager(keys("acme"), plugins=[fake_provider("acme", build_wrapper=lambda *_: None)]) as manager:
            assert manager.is_provider_healthy("acme") is False

    def test_it_tells_the_state_of_each_key(self, two: ProviderManager) -> None:
        two.wrappers["acme"].pool.retire("acme#1", "refused")
        assert [(key.id, key.state, key.reason) for key in two.health("acme").keys] == [
            ("acme#1", "dead", "refused"),
            ("acme#2", "ready", None),
        ]

    def test_of_an_unknown_name_is_an_error(self, two: ProviderManager) -> None:
        with pytest.raises(UnknownProviderError):
            two.health("nonsense")


class TestGetModel:
    def test_gives_a_model_of_that_id(self) -> None:
        with ProviderManager(FOUR) as manager:
            assert manager.get_model("cerebras", model_id="llama3.1-8b").id == "llama3.1-8b"

    @pytest.mark.parametrize("provider", BUILT_IN)
    def test_gives_an_agno_model_of_each_provider(self, provider: str) -> None:
        from agno.models.base import Model

        with ProviderManager(FOUR) as manager:
            model = manager.get_model(provider)
            assert isinstance(model, Model)
            assert model.id == manager.default_model(provider)

    @pytest.mark.parametrize("provider", BUILT_IN)
    def test_shows_no_key(self, provider: str) -> None:
        with ProviderManager(FOUR) as manager:
            model = manager.get_model(provider)
            assert "mArKeD" not in f"{model!r} {model} {vars(model)} {manager.wrappers[provider]!r}"

    def test_agno_s_own_arguments_reach_the_model(self) -> None:
        with ProviderManager(FOUR) as manager:
            assert manager.get_model("groq", temperature=0.25).temperature == 0.25

    def test_without_an_id_x_model_is_meant(self, fake_provider: Make) -> None:
        with ProviderManager({**keys("acme"), "ACME_MODEL": "mine"}, plugins=[fake_provider("acme")]) as manager:
            assert manager.get_model("acme").id == "mine"

    def test_without_any_the_plugin_s_first_is_meant(self, two: ProviderManager) -> None:
        assert two.get_model("acme").id == "acme-large"

    def test_says_whether_the_caller_named_it(self, two: ProviderManager) -> None:
        assert two.get_model("acme").options["explicit"] is False
        assert two.get_model("acme", "acme-large").options["explicit"] is True

    def test_passes_its_options_on(self, two: ProviderManager) -> None:
        model: Any = two.get_model(
            "acme", estimated_tokens=7, wait=False, timeout=1.5, max_retries=2, request_timeout=9.0, temperature=0.5
        )
        assert model.options == {
            "explicit": False,
            "estimated_tokens": 7,
            "wait": False,
            "timeout": 1.5,
            "max_retries": 2,
            "request_timeout": 9.0,
            "temperature": 0.5,
        }

    def test_has_the_documented_defaults(self, two: ProviderManager) -> None:
        model: Any = two.get_model("acme")
        options = {name: model.options[name] for name in ("estimated_tokens", "wait", "timeout", "max_retries")}
        assert options == {"estimated_tokens": 1000, "wait": True, "timeout": 10.0, "max_retries": 5}
        assert model.options["request_timeout"] is None


class TestGetModelRefuses:
    def test_an_unknown_provider_with_what_is_installed(self) -> None:
        with ProviderManager({}) as manager, pytest.raises(UnknownProviderError) as caught:
            manager.get_model("grok")
        assert isinstance(caught.value, ValueError)
        assert all(name in str(caught.value) for name in BUILT_IN)
        assert caught.value.suggestion == "groq"

    @pytest.mark.parametrize("name", ["", "GROQ ", "__class__", "groq/llama"])
    def test_any_other_name(self, name: str) -> None:
        with ProviderManager({}) as manager, pytest.raises(UnknownProviderError):
            manager.get_model(name)

    @pytest.mark.parametrize("name", BUILT_IN)
    def test_one_without_keys_and_names_the_variables(self, name: str) -> None:
        with ProviderManager({}) as manager, pytest.raises(MissingKeyError) as caught:
            manager.get_model(name)
        assert caught.value.provider == name
        assert f"NUM_{name.upper()}" in str(caught.value)
        assert f"{name.upper()}_API_KEY_1" in str(caught.value)

    def test_one_whose_count_stands_without_a_key(self) -> None:
        with ProviderManager({"NUM_GROQ": "3"}) as manager, pytest.raises(MissingKeyError, match="GROQ_API_KEY_1"):
            manager.get_model("groq")

    def test_one_whose_variables_have_a_dash_in_its_name(self, fake_provider: Make) -> None:
        with (
            ProviderManager({}, plugins=[fake_provider("acme-cloud")]) as manager,
            pytest.raises(MissingKeyError, match="ACME_CLOUD_API_KEY_1"),
        ):
            manager.get_model("acme-cloud")

    def test_one_with_a_bad_count_and_says_so(self) -> None:
        env = {**keys("groq"), "NUM_GROQ": "abc"}
        with ProviderManager(env) as manager, pytest.raises(HfsProvidersError, match="NUM_GROQ is not an integer"):
            manager.get_model("groq")

    def test_one_without_its_sdk_and_says_the_command(self, fake_provider: Make) -> None:
        acme = fake_provider("acme", sdk="acme-sdk-that-is-nowhere", install="pip install 'acme-llm[acme]'")
        with ProviderManager(keys("acme"), plugins=[acme]) as manager, pytest.raises(MissingSdkError) as caught:
            manager.get_model("acme")
        assert caught.value.install == "pip install 'acme-llm[acme]'"

    def test_one_that_failed_to_build_with_its_cause_and_no_key(self, fake_provider: Make) -> None:
        def explode(config: Any, services: Any) -> None:
            raise RuntimeError(f"boom {config.credentials[0].secret.reveal()}")

        acme = fake_provider("acme", build_wrapper=explode)
        with ProviderManager(keys("acme"), plugins=[acme]) as manager:
            with pytest.raises(ProviderUnavailableError, match="boom") as caught:
                manager.get_model("acme")
            assert caught.value.__cause__ is not None
            assert "mArKeD" not in "".join(traceback.format_exception(caught.value))

    def test_one_whose_plugin_failed_and_says_why(self, fake_provider: Make) -> None:
        def explode(*_: object) -> None:
            raise RuntimeError("boom")

        acme = fake_provider("acme", configure_env=explode)
        with ProviderManager(keys("acme"), plugins=[acme]) as manager, pytest.raises(HfsProvidersError, match="boom"):
            manager.get_model("acme")


class TestBrokenSdk:
    """An SDK that is installed and fails to import."""

    @pytest.fixture
    def broken(self, install: Callable[..., None]) -> Callable[[str], Any]:
        def make(source: str) -> Any:
            # As Agno's modules do: whatever goes wrong in the SDK becomes "not installed".
            model = (
                "try:\n    import broken_sdk_of_test\n"
                "except ImportError:\n    raise ImportError('broken-sdk not installed')\n"
                "class Model: pass\n"
            )
            install("broken-sdk", {}, {"broken_sdk_of_test": source, "model_of_test": model})
            default = hfs_providers.ModelDefault("m")
            return hfs_providers.KeyedProvider("acme", "model_of_test:Model", sdk="broken-sdk", models=(default,))

        return make

    @pytest.mark.parametrize(
        ("source", "error", "words"),
        [
            ("import nothing_of_that_name", ImportError, "nothing_of_that_name"),
            ("raise ImportError('libfoo.so.1: cannot open')", ImportError, "libfoo"),
            ("raise RuntimeError('wrong libc')", RuntimeError, "wrong libc"),
        ],
    )
    def test_its_own_error_is_raised_rather_than_missing(
        self, broken: Callable[[str], Any], source: str, error: type[Exception], words: str
    ) -> None:
        with ProviderManager(keys("acme"), plugins=[broken(source)]) as manager:
            with pytest.raises(error, match=words) as caught:
                manager.get_model("acme")
            assert not isinstance(caught.value, MissingSdkError)

    def test_the_others_work(self, broken: Callable[[str], Any], fake_provider: Make) -> None:
        plugins = [broken("import nothing_of_that_name"), fake_provider("beta")]
        with ProviderManager(ACME_AND_BETA, plugins=plugins) as manager:
            with pytest.raises(ImportError):
                manager.get_model("acme")
            assert manager.get_model("beta").id == "beta-large"


class TestGetAnyModel:
    def test_gives_the_first_in_order_with_a_free_key(self, two: ProviderManager) -> None:
        name, model = two.get_any_model()
        assert (name, model.id) == ("acme", "acme-large")

    def test_passes_over_one_whose_keys_cool(self, two: ProviderManager) -> None:
        cool(two, "acme")
        assert two.get_any_model()[0] == "beta"

    def test_passes_over_one_whose_keys_are_dead(self, two: ProviderManager) -> None:
        kill(two, "acme")
        assert two.get_any_model(wait=False)[0] == "beta"

    def test_follows_hfs_provider_order(self, fake_provider: Make) -> None:
        plugins = [fake_provider("acme"), fake_provider("beta")]
        with ProviderManager({**ACME_AND_BETA, "HFS_PROVIDER_ORDER": "beta"}, plugins=plugins) as manager:
            assert manager.get_any_model()[0] == "beta"

    def test_passes_its_options_on(self, two: ProviderManager) -> None:
        model: Any = two.get_any_model(estimated_tokens=7, timeout=3.0, max_retries=1, temperature=0.5)[1]
        assert {**model.options, "estimated_tokens": 7, "timeout": 3.0, "max_retries": 1, "temperature": 0.5} == (
            model.options
        )

    def test_waits_for_the_earliest_within_the_timeout(
        self, fake_provider: Make, fake_time: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for room in ("manager", "selection"):
            monkeypatch.setattr(f"hfs_providers.core.{room}.time", fake_time)
        with ProviderManager(ACME_AND_BETA, plugins=[fake_provider("acme"), fake_provider("beta")]) as manager:
            cool(manager, "acme", 8.0)
            cool(manager, "beta", 5.0)
            assert manager.get_any_model(timeout=10.0)[0] == "beta"
        assert sum(fake_time.slept) == pytest.approx(5.0)

    def test_does_not_wait_beyond_the_timeout(
        self, fake_provider: Make, fake_time: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for room in ("manager", "selection"):
            monkeypatch.setattr(f"hfs_providers.core.{room}.time", fake_time)
        with ProviderManager(keys("acme"), plugins=[fake_provider("acme")]) as manager:
            cool(manager, "acme", 30.0)
            with pytest.raises(HfsProvidersError):
                manager.get_any_model(timeout=10.0)
        assert fake_time.slept == []

    def test_does_not_wait_where_it_is_told_not_to(
        self, fake_provider: Make, fake_time: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for room in ("manager", "selection"):
            monkeypatch.setattr(f"hfs_providers.core.{room}.time", fake_time)
        with ProviderManager(keys("acme"), plugins=[fake_provider("acme")]) as manager:
            cool(manager, "acme", 1.0)
            with pytest.raises(HfsProvidersError):
                manager.get_any_model(wait=False)
        assert fake_time.slept == []


class TestNobodyFree:
    """What `get_any_model` raises."""

    @pytest.fixture
    def error(self, fake_provider: Make) -> Any:
        from hfs_providers.calls._keycycle import NoAvailableKeyError

        def explode(*_: object) -> None:
            raise RuntimeError("boom")

        plugins = [
            fake_provider("acme"),
            fake_provider("beta"),
            fake_provider("bare"),
            fake_provider("sdkless", sdk="sdk-that-is-nowhere"),
            fake_provider("broken", build_wrapper=explode),
        ]
        env = {**ACME_AND_BETA, **keys("sdkless"), **keys("broken")}
        with ProviderManager(env, plugins=plugins) as manager:
            cool(manager, "acme", 40.0)
            kill(manager, "beta")
            with pytest.raises(NoAvailableKeyError) as caught:
                manager.get_any_model(timeout=5.0)
        return caught.value

    def test_is_ours_agno_s_and_keycycle_s(self, error: Any) -> None:
        from agno.exceptions import ModelRateLimitError

        assert isinstance(error, hfs_providers.KeysExhaustedError)
        assert isinstance(error, ModelRateLimitError)

    def test_names_all_and_any(self, error: Any) -> None:
        assert (error.provider, error.model_id) == ("all", "any")

    def test_has_true_counts(self, error: Any) -> None:
        assert (error.total_keys, error.cooling_down, error.dead, error.limited) == (5, 2, 3, 0)

    def test_says_when_the_next_key_is_free(self, error: Any) -> None:
        assert error.free_in == pytest.approx(40.0, abs=5.0)

    def test_remembers_how_it_was_asked(self, error: Any) -> None:
        assert (error.wait, error.timeout) == (True, 5.0)

    @pytest.mark.parametrize(
        ("provider", "why"),
        [
            ("acme", "2 cooling"),
            ("beta", "3 dead"),
            ("bare", "not configured"),
            ("sdkless", "missing SDK"),
            ("broken", "boom"),
        ],
    )
    def test_has_every_provider_s_own_reason(self, error: Any, provider: str, why: str) -> None:
        assert why in error.reasons[provider]
        assert why in str(error)

    def test_is_the_same_where_no_provider_is_configured(self) -> None:
        from hfs_providers.calls._keycycle import NoAvailableKeyError

        with ProviderManager({}) as manager, pytest.raises(NoAvailableKeyError) as caught:
            manager.get_any_model()
        assert (caught.value.provider, caught.value.model_id, caught.value.total_keys) == ("all", "any", 0)
        assert [*caught.value.reasons] == BUILT_IN


class TestShutdown:
    def test_closes_every_provider_once(self, two: ProviderManager) -> None:
        two.shutdown()
        two.shutdown()
        assert [wrapper.closed for wrapper in two.wrappers.values()] == [1, 1]  # type: ignore[attr-defined]

    def test_one_that_fails_does_not_stop_the_rest(
        self, two: ProviderManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def explode() -> None:
            raise RuntimeError("boom mArKeD")

        monkeypatch.setattr(two.wrappers["acme"], "close", explode)
        two.shutdown()
        assert two.wrappers["beta"].closed == 1  # type: ignore[attr-defined]
        assert "acme did not shut down cleanly" in caplog.text
        assert "mArKeD" not in caplog.text

    def test_two_threads_close_once(self, two: ProviderManager) -> None:
        threads = [threading.Thread(target=two.shutdown) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [wrapper.closed for wrapper in two.wrappers.values()] == [1, 1]  # type: ignore[attr-defined]

    def test_a_manager_is_a_context_manager(self, fake_provider: Make) -> None:
        with ProviderManager(keys("acme"), plugins=[fake_provider("acme")]) as manager:
            assert manager.wrappers["acme"].closed == 0  # type: ignore[attr-defined]
        assert manager.wrappers["acme"].closed == 1  # type: ignore[attr-defined]

    def test_a_manager_is_an_async_context_manager(self, fake_provider: Make) -> None:
        async def run() -> ProviderManager:
            async with ProviderManager(keys("acme"), plugins=[fake_provider("acme")]) as manager:
                assert manager.wrappers["acme"].closed == 0  # type: ignore[attr-defined]
            return manager

        assert asyncio.run(run()).wrappers["acme"].closed == 1  # type: ignore[attr-defined]

    def test_an_error_in_the_block_is_the_caller_s(self, fake_provider: Make) -> None:
        with pytest.raises(KeyError), ProviderManager({}, plugins=[]):
            raise KeyError

    def test_the_end_of_the_process_closes(self) -> None:
        program = (
            "import hfs_providers as h\n"
            "class W:\n"
            "    pool = None\n"
            "    def get_model(self): ...\n"
            "    def close(self): print('closed')\n"
            "class P(h.KeyedProvider):\n"
            "    @h.hookimpl\n"
            "    def build_wrapper(self, config, services): return W()\n"
            "acme = P('acme', '', models=[h.ModelDefault('m')])\n"
            "h.ProviderManager({'ACME_API_KEY': 'a-key-of-acme'}, plugins=[acme])\n"
        )
        done = subprocess.run([warm.python(), "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "closed\n"

    def test_after_it_nothing_is_left_for_the_end_of_the_process(
        self, fake_provider: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waiting: list[Any] = []
        monkeypatch.setattr("atexit.register", waiting.append)
        monkeypatch.setattr("atexit.unregister", waiting.remove)
        manager = ProviderManager({}, plugins=[])
        assert waiting == [manager.shutdown]
        manager.shutdown()
        assert waiting == []

    def test_real_clients_close_too(self) -> None:
        manager = ProviderManager(FOUR)
        for name in BUILT_IN:
            manager.get_model(name)
        manager.shutdown()
        manager.shutdown()
        assert manager.available_providers == BUILT_IN


@pytest.mark.usefixtures("process_env")
class TestProcessManager:
    def test_is_one(self) -> None:
        assert get_provider_manager() is get_provider_manager()

    def test_is_built_once_by_any_number_of_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        built: list[int] = []
        original = ProviderManager.__init__

        def counting(self: ProviderManager) -> None:
            built.append(1)
            original(self)

        monkeypatch.setattr(ProviderManager, "__init__", counting)
        barrier = threading.Barrier(16)
        got: list[ProviderManager] = []

        def run() -> None:
            barrier.wait()
            got.append(get_provider_manager())

        threads = [threading.Thread(target=run) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(got), len({id(manager) for manager in got}), len(built)) == (16, 1, 1)

    def test_after_its_shutdown_there_is_a_new_one(self) -> None:
        first = get_provider_manager()
        first.shutdown()
        assert get_provider_manager() is not first

    def test_lists_its_providers(self) -> None:
        assert list_available_providers() == BUILT_IN

    def test_gives_a_model(self) -> None:
        assert get_model("cerebras", model_id="llama3.1-8b").id == "llama3.1-8b"

    def test_gives_any_model(self) -> None:
        name, model = get_any_model()
        assert name == "cerebras"
        assert model.id == get_provider_manager().default_model("cerebras")

    @pytest.mark.parametrize("provider", BUILT_IN)
    def test_a_helper_for_each_built_in_provider(self, provider: str) -> None:
        helper = getattr(hfs_providers, f"get_{provider}_model")
        assert helper().id == get_provider_manager().default_model(provider)
        assert helper("some-model").id == "some-model"
        assert helper(model_id="some-model", temperature=0.5).temperature == 0.5

    def test_reads_the_env_file_of_the_working_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith(("NUM_", "GEMINI_", "GROQ_", "OPENROUTER_"))]:
            monkeypatch.delenv(name)
        monkeypatch.delenv("CEREBRAS_API_KEY_1")
        Path(".env").write_text("NUM_GROQ=1\nGROQ_API_KEY_1=gsk_mArKeD0123456789\n")
        assert list_available_providers() == ["groq"]


class TestProviderConfigs:
    def test_are_name_and_first_default_model(self) -> None:
        assert provider_configs() == hfs_providers.PROVIDER_CONFIGS
        assert provider_configs() == [
            ("cerebras", "llama-3.3-70b"),
            ("groq", "llama-3.3-70b-versatile"),
            ("gemini", "gemini-2.5-flash"),
            ("openrouter", "meta-llama/llama-3.3-70b-instruct:free"),
        ]

    def test_the_others_follow_by_name(self, install: Callable[..., None]) -> None:
        source = (
            "from hfs_providers import KeyedProvider, ModelDefault\n"
            "zeta = KeyedProvider('zeta', '', models=[ModelDefault('z')])\n"
            "acme = KeyedProvider('acme', '', models=[ModelDefault('a')])\n"
        )
        install("more-llm", {"zeta": "more_of_test:zeta", "acme": "more_of_test:acme"}, {"more_of_test": source})
        assert provider_configs()[4:] == [("acme", "a"), ("zeta", "z")]

    def test_no_order_of_the_user_s_changes_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HFS_PROVIDER_ORDER", "openrouter")
        Path("hfs-providers.toml").write_text('order = ["gemini"]')
        assert [name for name, _ in provider_configs()] == BUILT_IN
