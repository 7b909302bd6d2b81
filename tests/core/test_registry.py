"""Finding plugins: a bad one becomes a problem that names it, and the others work beside it."""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from hfs_providers import Event, ModelDefault, ProviderHealth, ProviderManager, hookimpl
from hfs_providers.authoring import ProviderConfig
from hfs_providers.contract import records
from hfs_providers.contract.deadline import bounded, within_deadline
from hfs_providers.core import hookspecs, registry
from hfs_providers.core.inventory import Inventory, take_inventory
from hfs_providers.core.provider_configs import provider_configs
from hfs_providers.core.registry import Registry
from hfs_providers.errors import PluginConflictError, PluginContractError, PluginLoadError

Install = Callable[[str, Mapping[str, str], Mapping[str, str]], None]
Make = Callable[..., Any]

BUILT_IN = ["cerebras", "groq", "gemini", "openrouter"]
GOOD = """
from hfs_providers import KeyedProvider, ModelDefault
plugin = KeyedProvider(name={name!r}, model_class="nowhere:Nothing", models=(ModelDefault("m"),))
"""


@pytest.fixture
def beside_a_good_one(install: Install) -> Callable[[str], Inventory]:
    """Installs the source of a plugin `bad` beside a good one, `good`, and takes inventory of both."""

    def run(source: str) -> Inventory:
        install("bad-llm", {"bad": "bad_plugin_of_test"}, {"bad_plugin_of_test": source})
        install("good-llm", {"good": "good_plugin_of_test:plugin"}, {"good_plugin_of_test": GOOD.format(name="good")})
        return take_inventory({"NUM_GOOD": "1", "GOOD_API_KEY_1": "a-key-of-good"})

    return run


def hooks(**changes: str) -> str:
    """The source of a plugin module with all four hooks, some of them changed."""
    bodies = {
        "configure_env(env)": "return ProviderConfig('bad', configured=True)",
        "build_wrapper(config, services)": "return None",
        "default_model(config)": "return [ModelDefault('m')]",
        "health(config, wrapper, live)": "return ProviderHealth('bad', True)",
    }
    lines = [
        "from hfs_providers.authoring import ModelDefault, ProviderConfig, ProviderHealth, hookimpl",
        "hfs_contract = 1",
    ]
    for signature, body in bodies.items():
        name = signature.partition("(")[0]
        lines += ["@hookimpl", f"def {signature}:", f"    {changes.get(name, body)}"]
    return "\n".join(lines)


class TestDiscovery:
    def test_the_built_in_providers_come_through_the_entry_points(self) -> None:
        registry = Registry()
        assert registry.providers == BUILT_IN
        assert {plugin.distribution for plugin in registry.plugins.values()} == {"hfs-providers"}

    def test_others_follow_by_name(self, install: Install) -> None:
        install(
            "more-llm",
            {"zeta": "zeta_of_test:plugin", "alpha": "alpha_of_test:plugin"},
            {"zeta_of_test": GOOD.format(name="zeta"), "alpha_of_test": GOOD.format(name="alpha")},
        )
        assert Registry().providers == [*BUILT_IN, "alpha", "zeta"]

    def test_a_plugin_is_known_with_its_distribution_version_and_hooks(self, install: Install) -> None:
        install("good-llm", {"good": "good_of_test:plugin"}, {"good_of_test": GOOD.format(name="good")})
        plugin = Registry().plugins["good"]
        assert (plugin.distribution, plugin.version, plugin.provider) == ("good-llm", "1.2.3", True)
        assert plugin.hooks == ("build_wrapper", "configure_env", "default_model", "health")

    def test_a_module_may_be_a_plugin(self, install: Install) -> None:
        install("module-llm", {"bad": "module_plugin_of_test"}, {"module_plugin_of_test": hooks()})
        registry = Registry()
        assert registry.plugins["bad"].provider
        assert registry.problems == []

    def test_plugins_may_be_given_instead_of_the_installed_ones(self, fake_provider: Make) -> None:
        assert Registry(plugins=[fake_provider("acme"), fake_provider("beta")]).providers == ["acme", "beta"]

    def test_no_plugins_may_be_given(self) -> None:
        assert Registry(plugins=[]).providers == []

    def test_a_distribution_seen_twice_on_the_path_is_one(self, install: Install) -> None:
        install("good-llm", {"good": "good_of_test:plugin"}, {"good_of_test": GOOD.format(name="good")})
        sys.path.append(sys.path[0] + "/.")
        try:
            registry = Registry()
        finally:
            sys.path.pop()
        assert "good" in registry.plugins
        assert registry.problems == []


BAD_MODULES = {
    "raises at import": ("raise RuntimeError('boom')", "RuntimeError: boom"),
    "imports what is not there": ("import nothing_of_that_name", "nothing_of_that_name"),
    "has a syntax error": ("def (", "SyntaxError"),
    "exits at import": ("import sys; sys.exit(3)", "SystemExit"),
    "misspells a hook": (hooks() + "\n@hookimpl\ndef configure_enc(env): pass", "configure_enc"),
    "declares an argument that the hook has not": (
        hooks().replace("configure_env(env)", "configure_env(environment)"),
        "environment",
    ),
    "has no hooks": ("hfs_contract = 1", "no hook"),
    "forgets to mark its hooks": (hooks().replace("@hookimpl", ""), "no hook"),
    "marks its hooks for another project": (
        hooks()
        .replace("@hookimpl", "@pluggy.HookimplMarker('pytest')")
        .replace("hfs_contract", "import pluggy\nhfs_contract"),
        "no hook",
    ),
    "says no contract": (hooks().replace("hfs_contract = 1", ""), "hfs_contract = 1"),
    "was written for an older contract": (hooks().replace("hfs_contract = 1", "hfs_contract = 0"), "contract 0"),
    "was written for a newer contract": (
        hooks().replace("hfs_contract = 1", "hfs_contract = 2"),
        "pip install -U hfs-providers",
    ),
    "has a contract of another type": (hooks().replace("hfs_contract = 1", "hfs_contract = 'one'"), "'one'"),
    "lacks a provider's hook": (hooks().replace("@hookimpl\ndef health", "def health"), "health"),
    "calls itself otherwise": (hooks() + "\nname = 'other'", "'other'"),
    "raises when it is looked at": (
        "from hfs_providers import hookimpl\ndef __getattr__(name): raise RuntimeError('do not look')",
        "do not look",
    ),
}


class TestBadPlugin:
    @pytest.mark.parametrize(("source", "words"), BAD_MODULES.values(), ids=BAD_MODULES)
    def test_is_a_problem_that_names_it_and_its_distribution(
        self, beside_a_good_one: Callable[[str], Inventory], source: str, words: str
    ) -> None:
        found = [problem for problem in beside_a_good_one(source).problems if "'bad'" in problem.message]
        assert len(found) == 1
        assert found[0].level == "error"
        assert "bad-llm" in found[0].message
        assert words in found[0].message + str(found[0].remedy)

    @pytest.mark.parametrize(("source", "words"), BAD_MODULES.values(), ids=BAD_MODULES)
    def test_disturbs_nobody(self, beside_a_good_one: Callable[[str], Inventory], source: str, words: str) -> None:
        found = beside_a_good_one(source)
        assert [*found.providers] == [*BUILT_IN, "good"]
        assert found.providers["good"].config.configured

    def test_a_missing_attribute_of_the_entry_point_is_a_problem(self, install: Install) -> None:
        install("bad-llm", {"bad": "good_of_test:plugjn"}, {"good_of_test": GOOD.format(name="bad")})
        assert [(type(p), p.plugin, p.distribution) for p in Registry().problems] == [
            (PluginLoadError, "bad", "bad-llm")
        ]

    def test_a_plugin_with_a_bad_hook_leaves_no_trace(self, install: Install) -> None:
        source = hooks() + "\n@hookimpl\ndef on_event(event): raise SystemError\n@hookimpl\ndef misspelt(): pass"
        install("bad-llm", {"bad": "bad_of_test"}, {"bad_of_test": source})
        registry = Registry()
        assert "bad" not in registry.plugins
        registry.emit(Event("provider_built", "groq"))

    def test_one_object_behind_two_names_disturbs_nobody(self, install: Install) -> None:
        source = (
            "from hfs_providers import hookimpl\nclass Observer:\n    hfs_contract = 1\n"
            "    @hookimpl\n    def on_event(self, event): pass\nplugin = Observer()"
        )
        install(
            "twice-llm", {"once": "twice_of_test:plugin", "twice": "twice_of_test:plugin"}, {"twice_of_test": source}
        )
        assert Registry().providers == BUILT_IN

    def test_a_keyboard_interrupt_is_the_user_s(self, install: Install) -> None:
        install("bad-llm", {"bad": "bad_of_test"}, {"bad_of_test": "raise KeyboardInterrupt"})
        with pytest.raises(KeyboardInterrupt):
            Registry()


class TestHangingImport:
    """A plugin that never ends importing is abandoned like a hook that hangs."""

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def soon(calls: Mapping[str, Callable[[], Any]], **options: Any) -> dict[str, Any]:
            return within_deadline(calls, 0.5, **options)

        monkeypatch.setattr("hfs_providers.core.discovery.within_deadline", soon)

    @pytest.fixture
    def gate(self, install: Install, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """Installs a plugin whose import waits for it."""
        gate = threading.Event()
        monkeypatch.setattr(threading, "gate_of_test", gate, raising=False)
        source = "import threading\nthreading.gate_of_test.wait(30)\n" + GOOD.format(name="bad")
        install("bad-llm", {"bad": "hanging_of_test:plugin"}, {"hanging_of_test": source})
        yield gate
        gate.set()

    def test_is_named_and_the_others_work(self, gate: threading.Event) -> None:
        found = take_inventory({"NUM_GROQ": "1", "GROQ_API_KEY_1": "a-key-of-groq"})
        assert [*found.providers] == BUILT_IN
        (problem,) = [problem for problem in found.problems if "'bad' (from bad-llm)" in problem.message]
        assert problem.level == "error"
        assert "importing it hangs: it took longer than 0.5 s" in problem.message

    def test_that_ends_after_all_is_not_loaded(self, gate: threading.Event) -> None:
        registry = Registry()
        gate.set()
        importing = [thread for thread in threading.enumerate() if thread.name == "hfs-bad"]
        for thread in importing:
            thread.join(30)
        assert "bad" not in registry.plugins

    def test_several_cost_one_wait(self, gate: threading.Event, install: Install) -> None:
        source = "import threading\nthreading.gate_of_test.wait(30)\n"
        modules = {f"hanging_{n}_of_test": source for n in range(3)}
        install("more-llm", {f"more-{n}": module for n, module in enumerate(modules)}, modules)
        started = time.monotonic()
        registry = Registry()
        # Four head starts and one deadline; the gate opens after 30.
        assert time.monotonic() - started < 10
        assert [problem.plugin for problem in registry.problems] == ["bad", "more-0", "more-1", "more-2"]

    def test_quick_ones_are_imported_one_at_a_time(self, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        source = "import threading\nthreading.order_of_test.append({n})\n" + hooks()
        order: list[int] = []
        monkeypatch.setattr(threading, "order_of_test", order, raising=False)
        modules = {f"quick_{n}_of_test": source.format(n=n) for n in range(5)}
        install("quick-llm", {f"quick-{n}": module for n, module in enumerate(modules)}, modules)
        Registry()
        assert order == [0, 1, 2, 3, 4]


class TestPluginOfAnotherContract:
    @pytest.mark.parametrize(("written", "outdated"), [(2, "hfs-providers"), (0, "bad-llm")])
    def test_is_refused_with_who_upgrades_what(
        self, beside_a_good_one: Callable[[str], Inventory], written: int, outdated: str
    ) -> None:
        found = beside_a_good_one(hooks().replace("hfs_contract = 1", f"hfs_contract = {written}"))
        (problem,) = [problem for problem in found.problems if "'bad'" in problem.message]
        assert f"written for contract {written}" in problem.message
        assert problem.remedy == f"pip install -U {outdated}, or set HFS_DISABLED_PLUGINS=bad"
        assert "bad" not in found.providers

    @pytest.mark.parametrize(
        "source",
        [
            "from hfs_providers import Forecast",
            "from hfs_providers.forecasts import Forecast",
            "from hfs_providers import KeyedProvider\nplugin = KeyedProvider(name='bad', model_class='', forecast=1)",
        ],
    )
    def test_that_imports_what_we_have_not_is_told_so(
        self, beside_a_good_one: Callable[[str], Inventory], source: str
    ) -> None:
        (problem,) = [problem for problem in beside_a_good_one(source).problems if "'bad'" in problem.message]
        assert str(problem.remedy).startswith("pip install -U hfs-providers bad-llm, or")

    @pytest.mark.parametrize("said", ["True", "1.0", "None", "'1'"])
    def test_nonsense_about_it_is_refused(self, beside_a_good_one: Callable[[str], Inventory], said: str) -> None:
        found = beside_a_good_one(hooks().replace("hfs_contract = 1", f"hfs_contract = {said}"))
        (problem,) = [problem for problem in found.problems if "'bad'" in problem.message]
        assert "hfs_contract" in problem.message

    def test_its_own_argument_with_a_default_is_left_alone(self, beside_a_good_one: Callable[[str], Inventory]) -> None:
        source = hooks(configure_env="return ProviderConfig('bad', configured=profile == 'plain')")
        found = beside_a_good_one(source.replace("configure_env(env)", "configure_env(env, profile='plain')"))
        assert found.providers["bad"].config.configured


class TestContractVersion1:
    """What may not change without a change of the version: see `CONTRACT_VERSION`."""

    def test_each_hook_takes_at_least_these_arguments(self) -> None:
        hooks = {
            "configure_env": {"env"},
            "build_wrapper": {"config", "services"},
            "default_model": {"config"},
            "health": {"config", "wrapper", "live"},
            "on_event": {"event"},
        }
        for name, arguments in hooks.items():
            assert arguments <= set(inspect.signature(getattr(hookspecs, name)).parameters)

    @pytest.mark.parametrize(
        ("record", "required"),
        [
            (records.ProviderConfig, ["name"]),
            (records.Credential, ["id", "secret"]),
            (records.Limits, []),
            (records.ModelDefault, ["id"]),
            (records.Requirement, ["distribution", "module"]),
            (records.Problem, ["message"]),
            (records.ProviderHealth, ["name", "usable"]),
            (records.KeyStatus, ["id", "fingerprint", "state"]),
        ],
    )
    def test_a_plugin_need_give_no_more_than_these_fields(self, record: type[Any], required: list[str]) -> None:
        parameters = inspect.signature(record).parameters.values()
        assert [parameter.name for parameter in parameters if parameter.default is parameter.empty] == required


class TestConflict:
    @pytest.fixture(autouse=True)
    def two(self, install: Install) -> None:
        for distribution in ("first-llm", "second-llm"):
            module = distribution.replace("-", "_") + "_of_test"
            source = GOOD.format(name="acme").replace('"m"', repr(distribution))
            install(distribution, {"acme": f"{module}:plugin"}, {module: source})

    def test_neither_is_loaded(self) -> None:
        registry = Registry()
        assert "acme" not in registry.plugins
        assert not {"first_llm_of_test", "second_llm_of_test"} & set(sys.modules)

    def test_both_are_named(self) -> None:
        problems = Registry().problems
        assert [type(problem) for problem in problems] == [PluginConflictError] * 2
        assert {problem.distribution for problem in problems} == {"first-llm", "second-llm"}
        assert all("first-llm" in str(problem) and "second-llm" in str(problem) for problem in problems)

    def test_it_is_said_how_to_pick_one(self) -> None:
        texts = [str(problem) for problem in Registry().problems]
        assert any("HFS_DISABLED_PLUGINS=acme@second-llm" in text for text in texts)

    @pytest.mark.parametrize(
        ("disabled", "kept"),
        [
            ("acme@second-llm", "first-llm"),
            ("acme@first-llm", "second-llm"),
            ("ACME@First-LLM", "second-llm"),
            ("acme@first_llm", "second-llm"),
        ],
    )
    def test_the_user_picks_one(self, disabled: str, kept: str) -> None:
        found = take_inventory({"HFS_DISABLED_PLUGINS": disabled})
        assert found.providers["acme"].models == (ModelDefault(kept),)
        assert not [problem for problem in found.problems if "acme" in problem.message and problem.level == "error"]

    def test_the_name_alone_disables_both(self) -> None:
        registry = Registry(["acme"])
        assert ("acme" in registry.plugins, registry.problems) == (False, [])

    def test_the_others_work(self) -> None:
        assert Registry().providers == BUILT_IN

    def test_a_built_in_name_is_no_exception(self, install: Install) -> None:
        install("imposter", {"groq": "imposter_of_test:plugin"}, {"imposter_of_test": GOOD.format(name="groq")})
        registry = Registry()
        assert "groq" not in registry.providers
        assert {p.distribution for p in registry.problems if p.plugin == "groq"} == {"hfs-providers", "imposter"}

    def test_nobody_is_told_to_uninstall_this_library(self, install: Install) -> None:
        install("imposter", {"groq": "imposter_of_test:plugin"}, {"imposter_of_test": GOOD.format(name="groq")})
        assert "pip uninstall hfs-providers" not in [problem.remedy for problem in take_inventory({}).problems]


class TestDisabled:
    def test_a_disabled_plugin_is_never_imported(self, install: Install) -> None:
        source = "raise AssertionError('imported')"
        install("bad-llm", {"bad": "disabled_of_test"}, {"disabled_of_test": source})
        found = take_inventory({"HFS_DISABLED_PLUGINS": "bad"})
        assert "disabled_of_test" not in sys.modules
        assert not [problem for problem in found.problems if "bad" in problem.message]

    @pytest.mark.parametrize("text", ["groq,gemini", "groq gemini", " GROQ , gemini,"])
    def test_several_may_be_named(self, text: str) -> None:
        assert [*take_inventory({"HFS_DISABLED_PLUGINS": text}).providers] == ["cerebras", "openrouter"]

    def test_they_are_known_as_disabled(self) -> None:
        assert take_inventory({"HFS_DISABLED_PLUGINS": "groq"}).registry.disabled == ["groq"]

    def test_nor_does_the_list_of_providers_import_it(self, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        install("bad-llm", {"bad": "disabled_of_test:plugin"}, {"disabled_of_test": GOOD.format(name="bad")})
        monkeypatch.setenv("HFS_DISABLED_PLUGINS", "bad")
        assert "bad" not in dict(provider_configs())
        assert "disabled_of_test" not in sys.modules


def raiser(error: BaseException) -> Callable[..., Any]:
    def run(*_: object) -> Any:
        raise error

    return run


def giver(value: object) -> Callable[..., Any]:
    return lambda *_: value


ENV = {"NUM_ACME": "1", "ACME_API_KEY_1": "a-key-of-acme", "NUM_BAD": "1", "BAD_API_KEY_1": "a-key-of-bad"}


class TestBadHook:
    """A hook that raises, returns nothing or the wrong thing."""

    @pytest.mark.parametrize("hook", ["configure_env", "default_model", "build_wrapper"])
    @pytest.mark.parametrize(
        "outcome",
        [
            raiser(ValueError("boom")),
            raiser(ImportError("boom")),
            raiser(SystemExit("boom")),
            raiser(TimeoutError("boom")),
            giver(None),
            giver("nonsense"),
            giver(42),
            giver([]),
        ],
        ids=["ValueError", "ImportError", "SystemExit", "TimeoutError", "nothing", "text", "number", "empty list"],
    )
    def test_at_assembly_is_a_problem_of_that_provider_alone(
        self, fake_provider: Make, hook: str, outcome: Callable[..., Any]
    ) -> None:
        bad = fake_provider("bad", **{hook: outcome})
        with ProviderManager(ENV, plugins=[bad, fake_provider("acme")]) as manager:
            assert manager.available_providers == ["acme"]
            errors = [problem for problem in manager.problems if problem.level == "error"]
            assert [problem.provider for problem in errors] == ["bad"]
            assert "bad" in errors[0].message

    @pytest.mark.parametrize("hook", ["configure_env", "default_model", "build_wrapper"])
    def test_that_raised_is_reported_with_what_it_raised(self, fake_provider: Make, hook: str) -> None:
        bad = fake_provider("bad", **{hook: raiser(ValueError("boom"))})
        with ProviderManager(ENV, plugins=[bad]) as manager:
            messages = [problem.message for problem in manager.problems if problem.level == "error"]
            assert len(messages) == 1
            assert "ValueError: boom" in messages[0]
            assert hook in messages[0]

    @pytest.mark.parametrize(
        "outcome",
        [raiser(ValueError("boom")), raiser(ImportError("boom")), raiser(SystemExit(1)), giver(None), giver("well")],
        ids=["ValueError", "ImportError", "SystemExit", "nothing", "text"],
    )
    def test_of_health_is_a_provider_in_bad_health(self, fake_provider: Make, outcome: Callable[..., Any]) -> None:
        bad = fake_provider("bad", health=outcome)
        with ProviderManager(ENV, plugins=[bad, fake_provider("acme")]) as manager:
            assert manager.is_provider_healthy("bad") is False
            assert manager.health("bad").reasons
            assert manager.is_provider_healthy("acme") is True

    def test_keeps_no_other_out_of_the_list_of_providers(self, install: Install) -> None:
        install("bad-llm", {"bad": "raising_of_test"}, {"raising_of_test": hooks(configure_env="raise ValueError")})
        assert [name for name, _ in provider_configs()] == BUILT_IN

    def test_a_configuration_of_another_name_is_refused(self, fake_provider: Make) -> None:
        bad = fake_provider("bad", configure_env=giver(ProviderConfig("acme", configured=True)))
        with pytest.raises(PluginContractError, match="'acme'"):
            Registry(plugins=[bad]).configure_env("bad", {})

    @pytest.mark.parametrize(
        "models", [None, [], (), "m", ["m"], [None], ModelDefault("m"), {ModelDefault("m")}], ids=repr
    )
    def test_default_models_must_be_a_sequence_of_them(self, fake_provider: Make, models: object) -> None:
        bad = fake_provider("bad", default_model=giver(models))
        with pytest.raises(PluginContractError, match="default_model"):
            Registry(plugins=[bad]).default_model("bad", ProviderConfig("bad"))

    def test_a_wrapper_must_have_what_the_manager_needs(self, fake_provider: Make) -> None:
        bad = fake_provider("bad", build_wrapper=giver(types.SimpleNamespace(pool=None)))
        with pytest.raises(PluginContractError, match="get_model, close"):
            Registry(plugins=[bad]).build_wrapper("bad", ProviderConfig("bad"), None)  # type: ignore[arg-type]

    @pytest.mark.parametrize("hook", ["configure_env", "default_model", "build_wrapper", "health"])
    def test_that_raises_with_a_key_in_its_words_shows_no_key(
        self, fake_provider: Make, hook: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        key = "bad-mArKeD5c0ffee9d8e7f6"
        bad = fake_provider("bad", **{hook: raiser(ValueError(f"Invalid API key {key}"))})
        with ProviderManager({"NUM_BAD": "1", "BAD_API_KEY_1": key}, plugins=[bad]) as manager:
            shown = [caplog.text, repr(manager.problems), repr(manager.environment_status)]
            shown += [manager.get_status_summary()]
            if "bad" in manager.installed_providers:
                shown.append(repr(manager.health("bad")))
        assert "mArKeD" not in "\n".join(shown)


class TestSlowHook:
    """A hook that hangs at assembly is abandoned, and the others do not wait for it."""

    @pytest.fixture
    def gate(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        def impatient(calls: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
            return within_deadline(calls, 0.5)

        monkeypatch.setattr("hfs_providers.core.inventory.within_deadline", impatient)
        monkeypatch.setattr("hfs_providers.core.manager.within_deadline", impatient)
        gate = threading.Event()
        yield gate
        gate.set()

    @pytest.mark.parametrize("hook", ["configure_env", "default_model", "build_wrapper"])
    def test_becomes_a_problem_and_the_others_work(self, fake_provider: Make, gate: threading.Event, hook: str) -> None:
        slow = fake_provider("bad", **{hook: lambda *_: gate.wait(30)})
        started = time.monotonic()
        with ProviderManager(ENV, plugins=[slow, fake_provider("acme")]) as manager:
            assert time.monotonic() - started < 5
            assert manager.available_providers == ["acme"]
            errors = [problem for problem in manager.problems if problem.level == "error"]
            assert [problem.provider for problem in errors] == ["bad"]
            assert "0.5 s" in errors[0].message

    def test_several_are_abandoned_together(self, fake_provider: Make, gate: threading.Event) -> None:
        slow = [fake_provider(f"slow-{n}", configure_env=lambda *_: gate.wait(30)) for n in range(20)]
        started = time.monotonic()
        found = take_inventory(ENV, plugins=[*slow, fake_provider("acme")])
        assert time.monotonic() - started < 3
        assert [*found.providers] == ["acme"]

    def test_what_it_gives_in_the_end_is_not_used(self, fake_provider: Make, gate: threading.Event) -> None:
        gave = threading.Event()

        def late(env: Mapping[str, str]) -> ProviderConfig:
            gate.wait(30)
            gave.set()
            return ProviderConfig("bad", configured=True)

        found = take_inventory(ENV, plugins=[fake_provider("bad", configure_env=late)])
        gate.set()
        assert gave.wait(30)
        assert [*found.providers] == []

    def test_of_health_is_a_provider_in_bad_health(
        self, fake_provider: Make, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hfs_providers.core.registry.bounded", lambda call: bounded(call, 0.5))
        slow = fake_provider("bad", health=lambda *_: gate.wait(30))
        with ProviderManager(ENV, plugins=[slow, fake_provider("acme")]) as manager:
            assert "0.5 s" in manager.health("bad").reasons[0]
            assert manager.is_provider_healthy("acme")

    def test_the_limit_is_five_seconds(self) -> None:
        from hfs_providers.contract.deadline import HOOK_TIMEOUT

        assert HOOK_TIMEOUT == 5.0


class Wrapping:
    """A plugin that is no provider, around every provider's hooks."""

    hfs_contract = 1
    name = "wrapping"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    @hookimpl(wrapper=True)
    def configure_env(self, env: Mapping[str, str]) -> Any:
        config = yield
        self.seen.append(("configure_env", config.name))
        return config

    @hookimpl(wrapper=True)
    def default_model(self, config: ProviderConfig) -> Any:
        models: Sequence[ModelDefault] = yield
        self.seen.append(("default_model", config.name))
        return [*models, ModelDefault("from-the-wrapper")]

    @hookimpl(wrapper=True)
    def build_wrapper(self, config: ProviderConfig, services: Any) -> Any:
        wrapper = yield
        self.seen.append(("build_wrapper", config.name))
        return wrapper

    @hookimpl(wrapper=True)
    def health(self, config: ProviderConfig, wrapper: Any, live: bool) -> Any:
        health = yield
        self.seen.append(("health", config.name))
        return health


class TestHookWrapper:
    @pytest.mark.parametrize("hook", ["configure_env", "default_model", "build_wrapper", "health"])
    def test_wraps_the_hook_of_every_provider(self, fake_provider: Make, hook: str) -> None:
        wrapping = Wrapping()
        with ProviderManager(ENV, plugins=[fake_provider("acme"), wrapping, fake_provider("bad")]) as manager:
            assert manager.is_provider_healthy("acme")
            assert manager.is_provider_healthy("bad")
        assert sorted(name for seen, name in wrapping.seen if seen == hook) == ["acme", "bad"]

    def test_may_change_what_a_hook_gives(self, fake_provider: Make) -> None:
        found = take_inventory(ENV, plugins=[fake_provider("acme"), Wrapping()])
        assert found.providers["acme"].models[-1] == ModelDefault("from-the-wrapper")

    def test_is_no_provider_itself(self, fake_provider: Make) -> None:
        registry = Registry(plugins=[fake_provider("acme"), Wrapping()])
        assert registry.providers == ["acme"]
        assert not registry.plugins["wrapping"].provider

    def test_of_a_provider_does_not_wrap_another(self, fake_provider: Make) -> None:
        seen = []

        class Nosy(type(fake_provider("nosy"))):  # type: ignore[misc]
            @hookimpl(wrapper=True)
            def default_model(self, config: ProviderConfig) -> Any:
                seen.append(config.name)
                return (yield)

            @hookimpl(specname="default_model")
            def own_default_model(self, config: ProviderConfig) -> Sequence[ModelDefault]:
                return [ModelDefault("nosy-model")]

        registry = Registry(plugins=[Nosy("nosy", ""), fake_provider("acme")])
        registry.default_model("acme", ProviderConfig("acme"))
        assert seen == []

    def test_that_raises_takes_down_no_provider(self, fake_provider: Make) -> None:
        class Breaking:
            hfs_contract = 1
            name = "breaking"

            @hookimpl(wrapper=True)
            def configure_env(self, env: Mapping[str, str]) -> Any:
                yield
                raise RuntimeError("boom")

        with ProviderManager(ENV, plugins=[fake_provider("acme"), Breaking()]) as manager:
            assert manager.available_providers == ["acme"]
            assert any("breaking" in problem.message for problem in manager.problems)

    @pytest.mark.parametrize("hook", ["configure_env", "default_model", "build_wrapper", "health"])
    def test_that_raises_is_reported_once_for_each_provider(self, fake_provider: Make, hook: str) -> None:
        def raising(self: object) -> Any:
            yield
            raise RuntimeError("boom")

        plugin = type("Breaking", (), {hook: hookimpl(wrapper=True)(raising), "hfs_contract": 1, "name": "breaking"})()
        with ProviderManager(ENV, plugins=[fake_provider("acme"), fake_provider("bad"), plugin]) as manager:
            for _ in range(3):
                assert manager.is_provider_healthy("acme")
                assert manager.is_provider_healthy("bad")
            problems = [str(problem) for problem in manager.inventory.registry.problems]
        assert sorted(problem.partition("for ")[2] for problem in problems) == [
            "acme (RuntimeError) and was left out",
            "bad (RuntimeError) and was left out",
        ]
        assert all("'breaking'" in problem and hook in problem for problem in problems)

    @pytest.mark.parametrize("hook", ["configure_env", "default_model", "build_wrapper", "health"])
    def test_that_hangs_takes_down_no_provider_and_is_not_called_again(
        self, fake_provider: Make, hook: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(registry._WRAPPED_TIMEOUT, hook, 0.3)
        gate = threading.Event()
        calls: list[str] = []

        def hanging(self: object) -> Any:
            calls.append(hook)
            gate.wait(30)
            return (yield)

        plugin = type("Hanging", (), {hook: hookimpl(wrapper=True)(hanging), "hfs_contract": 1, "name": "hanging"})()
        try:
            with ProviderManager(ENV, plugins=[fake_provider("acme"), fake_provider("bad"), plugin]) as manager:
                assert manager.available_providers == ["acme", "bad"]
                assert manager.is_provider_healthy("acme")
                before = len(calls)
                assert manager.is_provider_healthy("acme")
                assert len(calls) == before > 0
                (problem,) = manager.inventory.registry.problems
        finally:
            gate.set()
        assert "'hanging'" in str(problem)
        assert f"its wrapper of {hook} hangs" in str(problem)


class TestOwnHooksOnly:
    @pytest.mark.parametrize("name", ["acme", "bad"])
    def test_a_provider_is_asked_for_itself_only(self, fake_provider: Make, name: str) -> None:
        asked: list[tuple[str, str]] = []

        def model_of(owner: str) -> Callable[[ProviderConfig], Sequence[ModelDefault]]:
            def default_model(config: ProviderConfig) -> Sequence[ModelDefault]:
                asked.append((owner, config.name))
                return [ModelDefault(f"model-of-{owner}")]

            return default_model

        plugins = [fake_provider(owner, default_model=model_of(owner)) for owner in ("acme", "bad")]
        models = Registry(plugins=plugins).default_model(name, ProviderConfig(name))
        assert models == [ModelDefault(f"model-of-{name}")]
        assert asked == [(name, name)]

    def test_a_provider_that_gives_nothing_gets_no_other_s_answer(self, fake_provider: Make) -> None:
        plugins = [fake_provider("acme"), fake_provider("bad", health=giver(None))]
        with pytest.raises(PluginContractError):
            Registry(plugins=plugins).health("bad", ProviderConfig("bad"), None, False)

    def test_a_provider_sees_no_variable_of_another(self, fake_provider: Make) -> None:
        seen: dict[str, str] = {}

        def peek(env: Mapping[str, str]) -> ProviderConfig:
            seen.update(env)
            return ProviderConfig("bad")

        take_inventory({**ENV, "TIDB_DB_URL": "mysql://u:p@h"}, plugins=[fake_provider("bad", configure_env=peek)])
        assert seen == {"NUM_BAD": "1", "BAD_API_KEY_1": "a-key-of-bad"}


class Observer:
    hfs_contract = 1
    name = "observer"

    def __init__(self, error: Exception | None = None) -> None:
        self.events: list[Event] = []
        self.error = error

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.events.append(event)
        if self.error is not None:
            raise self.error


EVENT = Event("key_cooling", "groq", "m", "groq#1", "limited", 3.0)


class TestObserver:
    def test_an_installed_plugin_may_observe(self) -> None:
        observer = Observer()
        Registry(plugins=[observer]).emit(EVENT)
        assert observer.events == [EVENT]

    def test_one_that_raises_is_logged_once_and_goes_on_being_called(self, caplog: pytest.LogCaptureFixture) -> None:
        observer = Observer(RuntimeError("boom"))
        registry = Registry(plugins=[observer])
        for _ in range(5):
            registry.emit(EVENT)
        assert len(observer.events) == 5
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "observer" in caplog.text
        assert "RuntimeError" in caplog.text

    def test_one_that_raises_keeps_nothing_from_the_others(self) -> None:
        good, bad = Observer(), Observer(RuntimeError("boom"))
        bad.name = "bad"
        registry = Registry(plugins=[good, bad])
        after: list[Event] = []
        registry.observe(after.append)
        registry.emit(EVENT)
        assert good.events == bad.events == after == [EVENT]

    def test_one_that_raises_with_a_key_in_its_words_shows_no_key(self, caplog: pytest.LogCaptureFixture) -> None:
        Registry(plugins=[Observer(RuntimeError("gsk_mArKeD"))]).emit(EVENT)
        assert "mArKeD" not in caplog.text

    def test_one_may_take_fewer_arguments_as_with_any_hook(self, caplog: pytest.LogCaptureFixture) -> None:
        class Counting:
            hfs_contract = 1
            name = "counting"
            count = 0

            @hookimpl
            def on_event(self) -> None:
                self.count += 1

        counting = Counting()
        Registry(plugins=[counting]).emit(EVENT)
        assert (counting.count, caplog.text) == (1, "")

    def test_a_function_observes_until_it_is_taken_away(self) -> None:
        events: list[Event] = []
        registry = Registry(plugins=[])
        remove = registry.observe(events.append)
        registry.emit(EVENT)
        remove()
        registry.emit(EVENT)
        assert events == [EVENT]

    def test_taking_a_function_away_twice_is_fine(self) -> None:
        remove = Registry(plugins=[]).observe(lambda event: None)
        remove()
        remove()
        assert callable(remove)

    def test_one_function_may_observe_twice(self) -> None:
        events: list[Event] = []
        registry = Registry(plugins=[])
        registry.observe(events.append)
        registry.observe(events.append)
        registry.emit(EVENT)
        assert events == [EVENT, EVENT]

    def test_one_that_does_not_listen_is_told_nothing_and_nothing_is_made_for_it(self) -> None:
        class Sleepy(Observer):
            awake = False

            def hfs_listening(self) -> bool:
                return self.awake

        observer = Sleepy()
        registry = Registry(plugins=[observer])
        assert not registry.observed
        registry.emit(EVENT)
        observer.awake = True
        assert registry.observed
        registry.emit(EVENT)
        assert observer.events == [EVENT]

    def test_one_that_cannot_say_whether_it_listens_is_reported_once(self, caplog: pytest.LogCaptureFixture) -> None:
        class Confused(Observer):
            def hfs_listening(self) -> bool:
                raise RuntimeError("boom")

        registry = Registry(plugins=[Confused()])
        for _ in range(3):
            assert registry.observed
            registry.emit(EVENT)
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    @pytest.mark.parametrize("kind", ["wrapper", "coroutine"])
    def test_one_that_could_not_be_called_is_refused(self, kind: str) -> None:
        class Wrapper:
            hfs_contract = 1
            name = "odd"

            @hookimpl(wrapper=True)
            def on_event(self, event: Event) -> Any:
                return (yield)

        class Coroutine:
            hfs_contract = 1
            name = "odd"

            @hookimpl
            async def on_event(self, event: Event) -> None:
                raise AssertionError("awaited")

        registry = Registry(plugins=[Wrapper() if kind == "wrapper" else Coroutine()])
        assert not registry.observed
        assert [type(problem) for problem in registry.problems] == [PluginContractError]
        assert kind in str(registry.problems[0])

    def test_the_manager_tells_of_what_it_built(self, fake_provider: Make) -> None:
        observer = Observer()
        bad = fake_provider("bad", build_wrapper=raiser(ValueError("boom")))
        with ProviderManager(ENV, plugins=[observer, bad, fake_provider("acme")]):
            assert {(event.kind, event.provider) for event in observer.events} == {
                ("provider_built", "acme"),
                ("provider_failed", "bad"),
            }


def test_health_of_a_provider_is_its_own_account(fake_provider: Make) -> None:
    health = ProviderHealth("acme", False, ("on holiday",))
    registry = Registry(plugins=[fake_provider("acme", health=giver(health))])
    assert registry.health("acme", ProviderConfig("acme"), None, False) is health
