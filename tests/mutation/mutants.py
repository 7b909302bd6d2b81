"""The faults that are planted: each changes one expression or drops one statement of a module."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
_NOT_RUN = ("annotation", "returns", "decorator_list", "bases")


@dataclass(frozen=True)
class Mutant:
    """One fault: in the module `path`, from byte `start` to `end`, `new` makes the text `before` of `lines` `after`."""

    path: str
    lines: range
    start: int
    end: int
    new: str
    before: str
    after: str

    @property
    def package(self) -> str:
        return self.path.split("/")[1]

    def planted(self, source: bytes) -> bytes:
        """The module with the fault in it."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.path}:{self.lines[0]}  {self.before}  ->  {self.after}"


def sample(root: Path, packages: Sequence[str], size: int, seed: int) -> list[Mutant]:
    """A random choice among all mutants of the packages, in the order of the files.

    Whether a mutant is chosen depends on its own text: a change of the code leaves most of the choice as it was.
    """
    files = [file for package in packages for file in sorted((root / "hfs_providers" / package).rglob("*.py"))]
    every = [each for file in files for each in mutants(file.relative_to(root).as_posix(), file.read_bytes())]
    seen = Counter[str]()
    lots = list[bytes]()
    for mutant in every:
        text = f"{seed} {mutant.path} {mutant.before} {mutant.after}"
        seen[text] += 1
        lots.append(hashlib.sha256(f"{text} {seen[text]}".encode()).digest())
    return [every[number] for number in sorted(sorted(range(len(every)), key=lots.__getitem__)[:size])]


def mutants(path: str, source: bytes) -> Iterator[Mutant]:
    """All faults of a module."""
    begins = [0, 0]
    for line in source.splitlines(keepends=True):
        begins.append(begins[-1] + len(line))
    for node in _nodes(ast.parse(source)):
        start, end = begins[node.lineno] + node.col_offset, begins[node.end_lineno or 0] + (node.end_col_offset or 0)
        lines = range(node.lineno, (node.end_lineno or 0) + 1)
        first, last = begins[lines[0]], begins[lines[-1] + 1]
        for new in _changes(node):
            texts = source[first:last], source[first:start] + new.encode() + source[end:last]
            yield Mutant(path, lines, start, end, new, *(" ".join(text.decode().split()) for text in texts))


def _nodes(node: ast.AST) -> Iterator[ast.stmt | ast.expr]:
    """What runs below a node."""
    for name, value in ast.iter_fields(node):
        if name not in _NOT_RUN:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _shows_nothing(child):
                    if isinstance(child, (ast.stmt, ast.expr)):
                        yield child
                    yield from _nodes(child)


def _shows_nothing(node: ast.AST) -> bool:
    """Whether no test could tell: docstrings, imports, slots, texts that are put together, log lines."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.JoinedStr() | ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__" | "__all__")]):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="_log"))):
            return True
    return False


def _changes(node: ast.AST) -> Iterator[str]:
    """The texts that may stand in place of a node."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            yield _text(ast.Compare(left, [_swapped(op)], [right]))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SWAPPED:
            yield _text(ast.BinOp(left, _swapped(op), right))
        case ast.AugAssign(target=target, op=op, value=value) if type(op) in _SWAPPED:
            yield ast.unparse(ast.AugAssign(target, _swapped(op), value))
        case ast.BoolOp(op=op, values=values):
            yield _text(ast.BoolOp(_swapped(op), values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield _text(operand)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield _text(ast.IfExp(test, orelse, body))
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int() | float() as value):
            yield str(value + 1)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield "return None"
    match node:
        case ast.AugAssign() | ast.Raise() | ast.Delete() | ast.Continue() | ast.Break():
            yield "pass"
        case ast.Expr() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "pass"


def _swapped(operator: ast.AST) -> ast.AST:
    return _SWAPPED[type(operator)]()


def _text(node: ast.expr) -> str:
    return f"({ast.unparse(node)})"
