"""Public names that are loaded on first use (PEP 562), so that importing a package loads none of its modules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    module: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a module that exports names of others.

    The module repeats its names under `TYPE_CHECKING` (`from home import Name as Name`) and calls this in the `else`:
    type checkers then see exactly these names and report every other one.

    Args:
        module: `__name__` of the exporting module.
        homes: the names that it exports, separated by blanks, by the module that defines them.
    """
    home_of = {name: home for home, names in homes.items() for name in names.split()}

    def load(name: str) -> Any:
        home = home_of.get(name)
        if home is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = getattr(import_module(home), name)
        setattr(sys.modules[module], name, value)
        return value

    return load, lambda: sorted(home_of), sorted(home_of)
