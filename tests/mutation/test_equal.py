"""The list of mutants that are equal to what they change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation.equal import equal_mutants

ENTRY = """
[[equal]]
path = "hfs_providers/keys/one.py"
before = "most = 1 if most < 1 else most"
after = "most = 1 if {after} else most"
reason = "{reason}"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    module = tmp_path / "hfs_providers/keys/one.py"
    module.parent.mkdir(parents=True)
    module.write_text("def least(most: int) -> int:\n    most = 1 if most < 1 else most\n    return most\n")
    return tmp_path


def test_an_entry_names_its_mutant_without_a_line_number(root: Path) -> None:
    (found,) = equal_mutants(root, ENTRY.format(after="(most <= 1)", reason="The least of 1 is 1."))
    assert (found.path, found.lines[0], found.new) == ("hfs_providers/keys/one.py", 2, "(most <= 1)")


def test_one_that_has_no_mutant_any_more_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"no mutant .*keys/one.py  most = 1 .* -> .*\(most > 1\)"):
        equal_mutants(root, ENTRY.format(after="(most > 1)", reason="It was so once."))
    (root / "hfs_providers/keys/one.py").unlink()
    with pytest.raises(ValueError, match=r"no mutant"):
        equal_mutants(root, ENTRY.format(after="(most <= 1)", reason="The least of 1 is 1."))


def test_one_without_a_reason_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"no reason: .*\(most <= 1\)"):
        equal_mutants(root, ENTRY.format(after="(most <= 1)", reason=""))
