"""Looks at an Agno model class without importing it: its SDK need not be installed."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_OPENAI = frozenset({"OpenAILike", "OpenAIChat"})


@dataclass(frozen=True)
class ModelClass:
    """What the source of a model class says. The defaults are those of its fields that have a text as one."""

    speaks_openai: bool
    defaults: dict[str, str] = field(default_factory=dict)


class UnknownModelClassError(ValueError):
    """There is no such class."""


def look_at(path: str) -> ModelClass:
    """Read the class at `module:name`.

    Raises:
        UnknownModelClassError: there is no such module, or no such class in it.
    """
    module, separator, name = path.partition(":")
    if not separator or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise UnknownModelClassError(f"{path!r} is not of the form agno.models.x:X")
    tree = _tree(module)
    if tree is None:
        raise UnknownModelClassError(f"there is no module {module!r} that can be read")
    found = _find(module, name)
    if found is None:
        classes = sorted(
            {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)} | set(_imported(tree))
        )
        known = ", ".join(one for one in classes if one[:1].isupper())
        raise UnknownModelClassError(f"{module} has no class {name!r} (it has: {known or 'none'})")
    home, node = found
    return ModelClass(_speaks_openai(home, node), dict(_defaults(node)))


def _tree(module: str) -> ast.Module | None:
    top, *rest = module.split(".")
    # Only the top is asked for: looking for a module inside a package imports the package.
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that runs, such as __main__
        return None
    if spec is not None and not rest and spec.origin is not None and spec.origin.endswith(".py"):
        return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        place = Path(root).joinpath(*rest)
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                return ast.parse(file.read_text(encoding="utf-8"))
    return None


def _imported(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Names that a module imports from elsewhere, with their module and their name there; absolute imports only."""
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level
        for alias in node.names
    }


def _find(module: str, name: str, depth: int = 0) -> tuple[str, ast.ClassDef] | None:
    """The class and the module that defines it, through re-exports."""
    tree = _tree(module) if depth < 10 else None
    if tree is None:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
    elsewhere = _imported(tree).get(name)
    return _find(*elsewhere, depth + 1) if elsewhere is not None else None


def _speaks_openai(module: str, node: ast.ClassDef, depth: int = 0) -> bool:
    if node.name in _OPENAI:
        return True
    for base in node.bases:
        found = _find(module, base.id) if isinstance(base, ast.Name) and depth < 10 else None
        if found is not None and _speaks_openai(*found, depth + 1):
            return True
    return False


def _defaults(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for line in node.body:
        if (
            isinstance(line, ast.AnnAssign)
            and isinstance(line.target, ast.Name)
            and isinstance(line.value, ast.Constant)
            and isinstance(line.value.value, str)
        ):
            yield line.target.id, line.value.value
