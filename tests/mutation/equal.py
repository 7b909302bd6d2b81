"""Faults that no test can find, because the module behaves as before: each with its reason in `equal.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.mutants import Mutant, mutants

LIST = Path(__file__).with_name("equal.toml")


def equal_mutants(root: Path, listed: str) -> Sequence[Mutant]:
    """The mutants that a list names.

    Raises:
        ValueError: an entry has no reason, or its file has no such mutant (any more); says which.
    """
    found = list[Mutant]()
    for entry in tomllib.loads(listed)["equal"]:
        path, before, after = entry["path"], entry["before"], entry["after"]
        said = f"{path}  {before}  ->  {after}"
        if not entry.get("reason"):
            raise ValueError(f"an equal mutant has no reason: {said}")
        module = root / path
        every = mutants(path, module.read_bytes()) if module.exists() else ()
        these = [mutant for mutant in every if (mutant.before, mutant.after) == (before, after)]
        if not these:
            raise ValueError(f"no mutant is like this one of {LIST.name}: {said}")
        found += these
    return found
