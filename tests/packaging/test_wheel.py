"""The wheel, installed into fresh environments as a stranger would; needs a package index."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from hfs_providers.testing import LoopbackServer, OpenAIDialect
from tests.packaging.installed import ROOT, Installed, run

pytestmark = pytest.mark.skipif(
    not os.environ.get("HFS_TEST_INDEX"),
    reason="installs from a package index; set HFS_TEST_INDEX=1 to run it",
)


@pytest.fixture(scope="module")
def gemini_only(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    installed = Installed.fresh(tmp_path_factory.mktemp("gemini"))
    installed.install(f"{wheel}[gemini]")
    return installed


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"hfs_providers"}
    assert "hfs_providers/py.typed" in names
    assert "hfs_providers/sharing/scripts/prelude.lua" in names


def test_one_extra_leaves_the_other_three_missing_with_their_remedy(gemini_only: Installed, tmp_path: Path) -> None:
    env = {"NUM_GROQ": "1", "GROQ_API_KEY_1": "gsk_abcdef123456"}
    status = json.loads(run(gemini_only.script, "status", "--json", env=env, cwd=tmp_path))
    versions = {entry["name"]: entry["sdk_version"] for entry in status["providers"]}
    assert versions["gemini"] is not None
    assert [name for name, version in versions.items() if version is None] == ["cerebras", "groq", "openrouter"]
    groq = next(entry for entry in status["providers"] if entry["name"] == "groq")
    assert "pip install 'hfs-providers[groq]'" in [problem["remedy"] for problem in groq["problems"]]


def test_one_extra_alone_serves(gemini_only: Installed, tmp_path: Path) -> None:
    with LoopbackServer() as server:
        env = server.env({"gemini": 2, "groq": 2})
        output = run(gemini_only.script, "ask", "hello there", env=env, cwd=tmp_path)
        assert "hello there" in output
        assert sum(server.hits("gemini").values()) == 1


def test_a_third_partys_plugin_appears_serves_and_vanishes(gemini_only: Installed, tmp_path: Path) -> None:
    gemini_only.install(str(ROOT / "examples" / "hfs-providers-acme"))
    listed = json.loads(run(gemini_only.script, "plugins", "--json", cwd=tmp_path))
    acme = next(plugin for plugin in listed["plugins"] if plugin["name"] == "acme")
    assert (acme["distribution"], acme["version"]) == ("hfs-providers-acme", "0.1.0")
    missing = run(gemini_only.script, "status", "--json", env={"ACME_API_KEY": "sk-acme-123456"}, cwd=tmp_path)
    assert "pip install 'hfs-providers-acme[acme]'" in missing

    gemini_only.install("openai>=3.52,<4")
    with LoopbackServer(dialects=[OpenAIDialect("acme")]) as server:
        env = server.env({"acme": 1})
        output = run(gemini_only.script, "ask", "hello", "--provider", "acme", env=env, cwd=tmp_path)
        assert "[acme/acme-large]" in output

    gemini_only.uninstall("hfs-providers-acme", "openai")
    listed = json.loads(run(gemini_only.script, "plugins", "--json", cwd=tmp_path))
    assert "acme" not in [plugin["name"] for plugin in listed["plugins"]]


def test_it_runs_on_a_later_keycycle_as_well(gemini_only: Installed, tmp_path: Path) -> None:
    # Not within our range, because its licence forbids commercial use; whoever has it may use it with us.
    gemini_only.install("--no-deps", "keycycle==0.5.4")
    with LoopbackServer() as server:
        assert "hello" in run(gemini_only.script, "ask", "hello", env=server.env({"gemini": 2}), cwd=tmp_path)
    assert not list(tmp_path.iterdir())
