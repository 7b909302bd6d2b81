"""That many failing checks do not end pytest itself."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator

import pytest

from hfs_providers.testing import conformance

SOURCE = "\n".join(
    f"def f{number}(a, b=({number}, [1, {{2: 3}}])):\n    return [a for a in b]" for number in range(400)
)


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """Collections of garbage that parse something, deeper in the stack, as a finalizer that fails may do."""
    seen = []

    def parse(depth: int) -> None:
        if depth:
            parse(depth - 1)
        else:
            getattr(ast.parse, "__wrapped__", ast.parse)("a = 1")

    def collected(phase: str, info: object) -> None:
        seen.append(phase)
        parse(20)

    gc.callbacks.append(collected)
    yield seen
    gc.callbacks.remove(collected)


def test_a_collection_within_a_parse_does_not_break_it(collections: list[str]) -> None:
    assert conformance.ProviderConformance
    for _ in range(10):
        ast.parse(SOURCE)
    assert gc.isenabled()
    gc.collect()
    assert collections


@pytest.mark.skipif(sys.version_info >= (3, 11, 8), reason="this Python counts each parse by itself")
def test_without_the_suite_it_does(collections: list[str]) -> None:
    naive = ast.parse.__wrapped__  # type: ignore[attr-defined]

    def parse_often() -> None:
        for _ in range(100):
            naive(SOURCE)

    with pytest.raises(SystemError, match="AST constructor recursion depth mismatch"):
        parse_often()
    assert collections


@pytest.mark.skipif(sys.version_info < (3, 11, 8), reason="this Python needs it")
def test_other_pythons_are_left_alone() -> None:
    assert conformance.ProviderConformance
    assert not hasattr(ast.parse, "__wrapped__")
