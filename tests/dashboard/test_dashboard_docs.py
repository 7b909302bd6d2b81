"""docs/dashboard.md: its commands run, and what it says of the page is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hfs_providers.cli import app
from hfs_providers.dashboard.key_list import STATES
from hfs_providers.usage.key_events import KEY_EVENTS_FOR

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
STATIC = ROOT / "hfs_providers" / "dashboard" / "static"
COMMANDS = [*re.findall(r"^\$ hfs-providers (.*)", TEXT, re.MULTILINE), "demo --watch", "keys revive", "keys retire"]


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_and_options_are_there(command: str) -> None:
    name, *rest = shlex.split(command)
    words = [word for word in rest if not word.startswith("-") and not word.isdigit()]
    said = CliRunner().invoke(app, [name, *words, "--help"], env={"COLUMNS": "200"})
    assert said.exit_code == 0, said.output
    for option in (word for word in rest if word.startswith("--")):
        assert option in said.output


def test_every_page_and_state_is_described() -> None:
    pages = re.findall(r'<a href="#\w+">(\w+)</a>', (STATIC / "index.html").read_text())
    assert re.findall(r"^\| (\w+) \|", TEXT, re.MULTILINE)[1:] == pages == ["Overview", "Keys", "Live", "Usage"]
    shapes = re.search(r"A state has a shape.*?dead", TEXT, re.DOTALL)
    assert shapes is not None
    assert re.findall(r"[■◐▲✕] (\w+)", shapes[0]) == list(STATES)


def test_what_it_says_of_time_is_what_is_kept() -> None:
    assert f"kept for {KEY_EVENTS_FOR / 86_400:.0f} days" in TEXT


def test_its_pictures_are_there_and_small() -> None:
    for name in ("light", "dark"):
        found = (ROOT / "docs" / f"dashboard-{name}.png").read_bytes()
        assert found.startswith(b"\x89PNG")
        assert len(found) < 150_000
        assert f"docs/dashboard-{name}.png" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_of_its_plots_is_named_with_licence_and_version() -> None:
    said = (STATIC / "uplot-LICENSE.txt").read_text(encoding="utf-8")
    assert "MIT License" in said
    version = re.search(r"uPlot (\d+\.\d+\.\d+) ", said)
    assert version is not None
    assert f"v{version[1]}" in (STATIC / "uplot.js").read_text(encoding="utf-8")[:300]
