"""The suite for plugin authors: what it takes from a subclass, what it refuses, and that it finds what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hfs_providers.plugins.groq import plugin as groq
from hfs_providers.testing import ProviderConformance
from hfs_providers.testing.conformance import CAPABILITIES
from tests import warm

ROOT = Path(__file__).parents[2]


class Passes(ProviderConformance):
    """A subclass that is not collected."""

    plugin = groq


class TestWhatASubclassMayNotDo:
    @pytest.mark.parametrize("name", ["test_an_agent_runs", "test_no_key_is_shown"])
    def test_delete_a_check(self, name: str) -> None:
        with pytest.raises(TypeError, match=f"TestGroq deletes or overrides {name}"):
            type("TestGroq", (ProviderConformance,), {"plugin": groq, name: None})

    def test_override_a_check(self) -> None:
        with pytest.raises(TypeError, match=r"overrides test_an_agent_runs .* `lacks`.*xfail"):
            type("TestGroq", (ProviderConformance,), {"plugin": groq, "test_an_agent_runs": lambda self: None})

    def test_override_a_check_through_another_class(self) -> None:
        mixin = type("Mixin", (), {"test_an_agent_runs": lambda self: None})
        with pytest.raises(TypeError, match="overrides test_an_agent_runs"):
            type("TestGroq", (mixin, ProviderConformance), {"plugin": groq})

    def test_override_a_check_with_a_mark_that_says_no_reason(self) -> None:
        # No lambda: pytest would take it for an argument of the mark.
        @pytest.mark.xfail(reason=" ")
        def check(self: object) -> None:
            raise AssertionError

        with pytest.raises(TypeError, match="overrides test_an_agent_runs"):
            type("TestGroq", (ProviderConformance,), {"plugin": groq, "test_an_agent_runs": check})

    @pytest.mark.parametrize("name", ["server", "manager", "_able", "name"])
    def test_replace_what_the_checks_stand_on(self, name: str) -> None:
        with pytest.raises(TypeError, match=f"overrides {name}, which the conformance suite needs"):
            type("TestGroq", (ProviderConformance,), {"plugin": groq, name: None})

    @pytest.mark.parametrize("mark", [pytest.mark.skip, pytest.mark.skipif(True, reason="later"), pytest.mark.xfail])
    def test_leave_out_the_whole(self, mark: pytest.MarkDecorator) -> None:
        with pytest.raises(TypeError, match="as a whole"):
            type("TestGroq", (ProviderConformance,), {"plugin": groq, "pytestmark": mark})

    def test_be_marked_later(self) -> None:
        with pytest.raises(TypeError, match="is marked skip as a whole"):

            @pytest.mark.skip(reason="later")
            class TestGroq(ProviderConformance):
                plugin = groq

    def test_lose_a_check_later(self) -> None:
        cls: type = type("TestGroq", (ProviderConformance,), {"plugin": groq})
        with pytest.raises(TypeError, match="overrides test_an_agent_runs"):
            cls.test_an_agent_runs = None  # type: ignore[attr-defined]  # what is refused

    def test_name_no_plugin(self) -> None:
        with pytest.raises(TypeError, match="TestGroq needs an attribute `plugin`"):
            type("TestGroq", (ProviderConformance,), {})

    def test_lack_what_is_unknown(self) -> None:
        with pytest.raises(TypeError, match="'stream', which is not one of") as caught:
            type("TestGroq", (ProviderConformance,), {"plugin": groq, "lacks": {"stream": "none"}})
        assert all(f"{name}: {meaning}" in str(caught.value) for name, meaning in CAPABILITIES.items())

    def test_lack_something_without_a_reason(self) -> None:
        with pytest.raises(TypeError, match="no reason for 'streaming'"):
            type("TestGroq", (ProviderConformance,), {"plugin": groq, "lacks": {"streaming": ""}})


class TestWhatItMay:
    def test_expect_a_check_to_fail_with_a_reason(self) -> None:
        @pytest.mark.xfail(reason="their SDK closes each connection: issue 12")
        def check(self: object) -> None:
            raise AssertionError

        failing = type("Failing", (Passes,), {"test_an_agent_runs": check})
        assert issubclass(failing, ProviderConformance)

    def test_add_checks_of_its_own_and_declare_what_is_missing(self) -> None:
        own = {"test_of_mine": lambda self: None, "lacks": {"streaming": "the API has none"}}
        assert issubclass(type("More", (Passes,), own), ProviderConformance)


@pytest.fixture
def conform(tmp_path: Path) -> Callable[..., str]:
    """Runs a module of tests in a process of its own, beside what is installed here; gives what pytest prints."""

    def run(source: str, *options: str) -> str:
        (tmp_path / "test_it.py").write_text(source)
        done = subprocess.run(
            [warm.python(), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *options, "test_it.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.stdout

    return run


TOOL_CALLS = "test_its_models_take_the_tool_calls_of_others"
CHANGED = """
from dataclasses import replace
from hfs_providers.authoring import ErrorRules, HttpApi, Meaning, MessageRules
from hfs_providers.plugins.groq import plugin
from hfs_providers.testing import ProviderConformance

def codes(value, kind):
    table = {{value: Meaning(kind)}}
    return ErrorRules(codes=table) if isinstance(value, str) else ErrorRules(statuses=table)

class TestGroq(ProviderConformance):
    plugin = replace(plugin, {change})
    lacks = {lacks}
"""

WRONG = [
    ("limits={}, name='Groq'", "test_its_name_fits_a_variable_and_an_extra"),
    ("models=()", "test_a_default_model_serves_today"),
    ("hfs_contract=99", "test_it_says_which_contract_it_was_written_for"),
    ("name='grok'", "test_its_entry_point_has_its_name"),
    ("model_class='agno.models.groq:Grok'", "test_an_agent_runs"),
    ("errors=codes('invalid_api_key', 'bad_request')", "test_a_refused_key_dies_and_the_next_answers"),
    ("errors=codes(500, 'bad_request')", "test_a_transient_failure_is_repeated"),
    ("errors=codes('4711', 'wrong_request')", "test_the_meanings_that_it_declares_are_known"),
    ("errors=ErrorRules(decide=lambda evidence: 1 / 0)", "test_what_decides_takes_any_answer"),
    (
        "errors=replace(codes('4711', 'refused'), decide=lambda evidence: Meaning('bad_request'))",
        "test_a_declared_code_means_what_it_says",
    ),
    ("messages=MessageRules(tool_calls=lambda model, calls: calls)", TOOL_CALLS),
    ("messages=MessageRules(tool_calls=lambda model, calls: calls[:1])", TOOL_CALLS),
    ("messages=MessageRules(tool_calls=lambda model, calls: [c.pop('type') and c for c in calls])", TOOL_CALLS),
    ("openai_path='openai/v1/'", "test_what_it_offers_over_http_can_be_asked_for"),
    ("http=HttpApi(openai=['chat'])", "test_what_it_offers_over_http_can_be_asked_for"),
    ("http=HttpApi(key_header='x-api-key')", "test_each_key_is_taken_over_http"),
    ("client='own'", "test_a_stream_that_breaks_is_never_repeated_silently"),
    ("client='own'", "test_rotated_calls_share_one_connection"),
]
"""Changes of the plugin, and the check that each fails."""


class TestWhatItFinds:
    def test_a_deleted_check_fails_at_collection(self, conform: Callable[..., str]) -> None:
        source = CHANGED.format(change="", lacks="{}") + "    test_an_agent_runs = None\n"
        said = conform(source)
        assert "TestGroq deletes or overrides test_an_agent_runs" in said
        assert "1 error" in said

    def test_a_lack_is_skipped_and_its_reason_shown(self, conform: Callable[..., str]) -> None:
        said = conform(CHANGED.format(change="", lacks="{'tools': 'the API has none'}"), "-k", "tool")
        assert "groq lacks tools: the API has none" in said
        assert "3 skipped" in said

    def test_what_is_wrong_with_a_plugin_fails_its_check(self, conform: Callable[..., str], tmp_path: Path) -> None:
        # One process for all: each module has a plugin, and the check that it has to fail.
        (tmp_path / "conftest.py").write_text(
            "def pytest_collection_modifyitems(items):\n"
            "    items[:] = [item for item in items if item.originalname == getattr(item.module, 'CHECK', None)]\n"
        )
        names = [f"test_{number}.py" for number in range(len(WRONG))]
        for name, (change, check) in zip(names, WRONG, strict=True):
            source = CHANGED.format(change=change, lacks="{}")
            (tmp_path / name).write_text(f"{source}\nCHECK = {check!r}\n")
        said = conform("", "-rfE", "--tb=no", "--continue-on-collection-errors", *names)
        assert [name for name in names if not re.search(rf"^(FAILED|ERROR) {name}", said, re.MULTILINE)] == [], said

    def test_an_impure_import_is_found(self, conform: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "hfs_providers_eager.py").write_text(
            "import groq\nfrom hfs_providers import KeyedProvider, ModelDefault\n"
            "plugin = KeyedProvider(name='eager', model_class='agno.models.groq:Groq', sdk='groq',\n"
            "                       base_url='https://x', models=[ModelDefault('large')])\n"
        )
        info = tmp_path / "eager-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: eager\nVersion: 1.0\nProvides-Extra: eager\n")
        (info / "entry_points.txt").write_text("[hfs_providers]\neager = hfs_providers_eager:plugin\n")
        said = conform(
            "from hfs_providers.testing import ProviderConformance\nimport hfs_providers_eager\n"
            "class TestEager(ProviderConformance):\n    plugin = hfs_providers_eager.plugin\n",
            "-k",
            "touch_neither",
        )
        assert "'sdk imported by': ['import']" in said


def test_a_plugin_whose_dialect_is_not_known_is_asked_for_it(conform: Callable[..., str]) -> None:
    said = conform(CHANGED.format(change="name='own', client='own'", lacks="{}"), "-k", "test_an_agent_runs")
    assert "TestGroq needs an attribute `dialect`" in said


def test_the_loopback_server_needs_no_pytest(tmp_path: Path) -> None:
    program = "import sys, hfs_providers.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
