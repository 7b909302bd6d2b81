"""Plugins of every bad kind, as wheels in one fresh environment: each is named, and none disturbs the others."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.testing import LoopbackServer
from tests.packaging.installed import Installed, start

pytestmark = pytest.mark.skipif(
    not os.environ.get("HFS_TEST_INDEX"),
    reason="installs from a package index; set HFS_TEST_INDEX=1 to run it",
)

BUILT_IN = ["cerebras", "gemini", "groq", "openrouter", "otel"]
GOOD = """
from hfs_providers import KeyedProvider, ModelDefault, hookimpl
class P(KeyedProvider):
    {hook}
plugin = P(name="{name}", model_class="agno.models.groq:Groq", sdk="groq", {more}models=[ModelDefault("{name}-large")])
"""
OTHER = "from hfs_providers import hookimpl\nhfs_contract = 1\n"


@dataclass(frozen=True)
class Bad:
    """A bad plugin.

    Args:
        source: of its module.
        says: what is said of it.
        remedy: what mends it; `{}` is its distribution.
    """

    source: str
    says: str
    remedy: str = "pip install -U {}"


def good(name: str, hook: str = "pass", more: str = "", **signature: str) -> str:
    """The source of a provider: `more` arguments, and a `hook`; or `signature` names one and gives its body."""
    arguments = {"configure_env": "env", "build_wrapper": "config, services", "health": "config, wrapper, live"}
    for hook_name, body in signature.items():
        hook = f"@hookimpl\n    def {hook_name}(self, {arguments[hook_name]}):\n        {body}"
    return GOOD.format(name=name, hook=hook, more=more)


FORECAST = "@hookimpl\n    def forecast(self, config): pass"
BAD = {
    "not-there": Bad("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
    "too-new-name": Bad("from hfs_providers import Forecast", "Forecast", "pip install -U hfs-providers {}"),
    "misspelt": Bad(good("misspelt", "@hookimpl\n    def configure_enc(self, env): pass"), "configure_enc"),
    "odd-contract": Bad(good("odd-contract", more="hfs_contract='one', "), "'one'"),
    "older": Bad(good("older", more="hfs_contract=0, "), "was written for contract 0"),
    "newer": Bad(
        good("newer", FORECAST, "hfs_contract=2, "), "was written for contract 2", "pip install -U hfs-providers"
    ),
    "raising": Bad(good("raising", configure_env="raise ValueError('bad day')"), "ValueError: bad day"),
    "slow": Bad(good("slow", configure_env="import time; time.sleep(30)"), "took longer than 5 s"),
    "hanging": Bad("import threading\nthreading.Event().wait()", "importing it hangs"),
    "nonsense": Bad(good("nonsense", configure_env="return 42"), "configure_env returned int"),
    "wrapping": Bad(
        OTHER + "@hookimpl(wrapper=True)\ndef configure_env(env):\n    yield\n    raise ValueError('bad day')",
        "its wrapper of configure_env failed for groq (ValueError)",
    ),
    "stalling": Bad(
        OTHER
        + "import time\n@hookimpl(wrapper=True)\ndef default_model(config):\n    time.sleep(30)\n    return (yield)",
        "its wrapper of default_model hangs",
    ),
    "unawaited": Bad(OTHER + "@hookimpl\nasync def on_event(event): pass", "coroutine"),
}
HARMLESS = {
    "grumbling": OTHER + "@hookimpl\ndef on_event(event): raise ValueError('bad day')",
}
CLASH = ("first-of-two", "second-of-two")
BUILDING = {
    "unbuilt": good("unbuilt", build_wrapper="raise ValueError('bad day')"),
    "unwell": good("unwell", health="import time; time.sleep(30)"),
}


def wheel_of(folder: Path, distribution: str, plugin: str, source: str) -> Path:
    """A wheel with one module and its entry point, as a build backend would have written it."""
    module = distribution.replace("-", "_")
    target = f"{module}:plugin" if "plugin = P(" in source else module
    info = f"{module}-1.0.dist-info"
    files = {
        f"{module}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[hfs_providers]\n{plugin} = {target}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def groq_only(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    installed = Installed.fresh(tmp_path_factory.mktemp("isolation"))
    installed.install(f"{wheel}[groq]")
    return installed


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def commands(installed: Installed, cwd: Path, env: dict[str, str], *lines: str) -> list[Ended]:
    """Run command lines side by side: those that have to give up on a hanging plugin do so together."""
    running = [start(installed.script, *line.split(), env=env, cwd=cwd) for line in lines]
    try:
        outputs = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    return [Ended(process.returncode, *output) for process, output in zip(running, outputs, strict=True)]


@dataclass(frozen=True)
class Seen:
    """What the commands said with every bad plugin installed."""

    plugins: Ended
    listing: Ended
    doctor: Ended
    status: Ended
    asked: Ended


@pytest.fixture(scope="module")
def seen(groq_only: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Every bad plugin at once, beside the built-in ones."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = {name: bad.source for name, bad in BAD.items()} | HARMLESS | BUILDING
    wheels = [wheel_of(folder, f"{name}-llm", name, source) for name, source in sources.items()]
    wheels += [wheel_of(folder, name, "both", good("both")) for name in CLASH]
    groq_only.install("--no-deps", "--no-index", *map(str, wheels))
    with LoopbackServer() as server:
        lines = ("plugins --json", "plugins", "doctor --json", "status --build --json", "ask hello")
        env = server.env({"groq": 2}) | {"UNBUILT_API_KEY": "sk-unbuilt-1", "UNWELL_API_KEY": "sk-unwell-1"}
        yield Seen(*commands(groq_only, folder, env, *lines))
    groq_only.uninstall(*(f"{name}-llm" for name in sources), *CLASH)


def test_a_good_plugin_appears_serves_and_vanishes(groq_only: Installed, tmp_path: Path) -> None:
    def listed() -> list[str]:
        (done,) = commands(groq_only, tmp_path, {}, "plugins --json")
        assert (done.code, done.json["problems"]) == (0, [])
        return [plugin["name"] for plugin in done.json["plugins"]]

    assert listed() == BUILT_IN
    groq_only.install("--no-deps", "--no-index", str(wheel_of(tmp_path, "fine-llm", "fine", good("fine"))))
    assert listed() == sorted([*BUILT_IN, "fine"])
    with LoopbackServer() as server:
        env = {"FINE_API_KEY": server.new_key("groq"), "FINE_BASE_URL": server.base_url("groq")}
        (done,) = commands(groq_only, tmp_path, env, "ask hello --provider fine")
    assert (done.code, "hello" in done.out) == (0, True), done.err
    groq_only.uninstall("fine-llm")
    assert listed() == BUILT_IN


class TestEachBadPlugin:
    @pytest.mark.parametrize("name", BAD)
    def test_is_named_by_plugins_with_what_mends_it(self, seen: Seen, name: str) -> None:
        problems = [problem for problem in seen.plugins.json["problems"] if problem["plugin"] == name]
        assert problems
        assert {problem["distribution"] for problem in problems} == {f"{name}-llm"}
        assert any(BAD[name].says in problem["message"] for problem in problems)
        assert all(BAD[name].remedy.format(f"{name}-llm") in problem["remedy"] for problem in problems)

    @pytest.mark.parametrize("name", BAD)
    def test_is_named_in_the_table_too(self, seen: Seen, name: str) -> None:
        assert f"plugin '{name}' (from {name}-llm)" in seen.listing.out

    @pytest.mark.parametrize("name", BAD)
    def test_is_named_by_doctor_as_an_error(self, seen: Seen, name: str) -> None:
        findings = [f for f in seen.doctor.json["findings"] if f["provider"] == name and f["topic"] == "plugins"]
        assert {finding["level"] for finding in findings} == {"error"}
        assert any(BAD[name].says in finding["message"] for finding in findings)

    @pytest.mark.parametrize("name", sorted(set(BAD) - {"wrapping", "stalling"}))
    def test_is_not_loaded(self, seen: Seen, name: str) -> None:
        providers = [provider["name"] for provider in seen.status.json["providers"]]
        assert name not in providers


class TestTwoThatClaimOneName:
    def test_are_both_named(self, seen: Seen) -> None:
        problems = [problem for problem in seen.plugins.json["problems"] if problem["plugin"] == "both"]
        assert {problem["distribution"] for problem in problems} == set(CLASH)
        assert all(name in problem["message"] for problem in problems for name in CLASH)

    def test_neither_is_loaded(self, seen: Seen) -> None:
        assert "both" not in [plugin["name"] for plugin in seen.plugins.json["plugins"]]


class TestWhatOnlyBuildingShows:
    def test_a_wrapper_that_cannot_be_built_is_named(self, seen: Seen) -> None:
        unbuilt = next(p for p in seen.status.json["providers"] if p["name"] == "unbuilt")
        assert (unbuilt["usable"], unbuilt["initialized"]) == (False, False)
        assert any("ValueError: bad day" in problem["message"] for problem in unbuilt["problems"])

    def test_doctor_names_it_too(self, seen: Seen) -> None:
        (error,) = [f for f in seen.doctor.json["findings"] if f["provider"] == "unbuilt" and f["topic"] == "plugins"]
        assert error["level"] == "error"
        assert "(from unbuilt-llm): build_wrapper raised ValueError: bad day" in error["message"]

    def test_a_health_hook_that_hangs_is_a_provider_in_bad_health(self, seen: Seen) -> None:
        unwell = next(p for p in seen.status.json["providers"] if p["name"] == "unwell")
        assert (unwell["usable"], unwell["initialized"]) == (False, True)


class TestTheOthers:
    def test_are_listed(self, seen: Seen) -> None:
        listed = [plugin["name"] for plugin in seen.plugins.json["plugins"]]
        assert set(BUILT_IN) <= set(listed)

    def test_are_built(self, seen: Seen) -> None:
        groq = next(p for p in seen.status.json["providers"] if p["name"] == "groq")
        assert (groq["usable"], groq["initialized"], groq["problems"]) == (True, True, [])

    def test_answer(self, seen: Seen) -> None:
        assert seen.asked.code == 0, seen.asked.err
        assert "[groq/" in seen.asked.out

    def test_the_exit_codes_say_that_something_is_wrong_and_that_it_works_all_the_same(self, seen: Seen) -> None:
        codes = {name: getattr(seen, name).code for name in ("plugins", "listing", "doctor", "status", "asked")}
        assert codes == {"plugins": 1, "listing": 1, "doctor": 1, "status": 0, "asked": 0}

    def test_no_command_shows_a_traceback(self, seen: Seen) -> None:
        for done in (seen.plugins, seen.listing, seen.doctor, seen.status, seen.asked):
            assert "Traceback" not in done.out + done.err
