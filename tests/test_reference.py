"""docs/configuration.md and docs/commands.md say what the code says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests import reference

PACKAGE = Path(__file__).parents[1] / "hfs_providers"


@pytest.mark.parametrize("name", list(reference.PARTS))
def test_it_is_as_it_would_be_written(name: str) -> None:
    text = (reference.DOCS / name).read_text(encoding="utf-8")
    assert text == reference.renewed(name), "run: python -m tests.reference"


def test_every_variable_that_the_code_names_is_described() -> None:
    described = set(re.findall(r"^\| `(\w+)", reference.variables(), re.MULTILINE))
    code = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    named = {name for name in re.findall(r"\bHFS_[A-Z_]*[A-Z]\b", code) if not name.startswith("HFS_TIER_")}
    assert len(named) > 10
    assert named <= described


def test_every_command_has_its_place() -> None:
    headings = re.findall(r"^## hfs-providers (.*)$", reference.commands(), re.MULTILINE)
    assert {"status", "ask", "usage", "usage send", "keys import", "agents run", "serve"} <= set(headings)
    assert os.fspath(reference.DOCS) not in reference.commands()
