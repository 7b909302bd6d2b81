"""The sizes of the package's parts, and that each thing has one place."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import hfs_providers

ROOT = Path(hfs_providers.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ABOVE = ("agents", "cli", "dashboard", "gateway", "plugins", "testing")


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _place(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def _public_names(file: Path) -> Iterator[str]:
    """What a module defines for others. Commands, hooks and plugins are named by those who find them."""
    for node in _tree(file).body:
        match node:
            case ast.FunctionDef(decorator_list=[_, *_]):
                names = []
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names = [name]
            case ast.Assign(targets=targets):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case _:
                names = []
        yield from (name for name in names if not name.startswith("_") and name not in ("app", "plugin"))


def _too_big(sizes: Mapping[str, int], most: int) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if size > most}


def test_the_core_is_small() -> None:
    assert _too_big({"core": sum(map(_lines, (ROOT / "core").glob("*.py")))}, 2_500) == {}


def test_no_file_is_long() -> None:
    assert _too_big({_place(file): _lines(file) for file in FILES}, 450) == {}


def test_no_class_is_long() -> None:
    lengths = {
        f"{_place(file)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for file in FILES
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.ClassDef)
    }
    assert _too_big(lengths, 350) == {}


def test_no_folder_has_many_modules() -> None:
    assert _too_big(Counter(_place(file.parent) for file in FILES), 25) == {}


def test_a_name_is_defined_in_one_file() -> None:
    """Of the library; the packages above it have their own."""
    places: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for file in FILES:
        package = _place(file).split("/")[0]
        for name in _public_names(file):
            places[package if package in ABOVE else "", name].add(_place(file))
    assert {name: files for (_, name), files in places.items() if len(files) > 1} == {}


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports for type checking included."""
    graph = grimp.build_graph("hfs_providers")
    try:
        TopologicalSorter(
            {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
        ).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
