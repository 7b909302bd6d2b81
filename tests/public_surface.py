"""The public names and their signatures as text. `python -m tests.public_surface` writes it to public_surface.txt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ForwardRef, Union, get_args, get_origin

MODULES = [f"hfs_providers{name}" for name in ("", ".agents", ".authoring", ".errors", ".keys", ".testing", ".usage")]
FILE = Path(__file__).with_suffix(".txt")


def text() -> str:
    """All of it. What several modules export is spelled out where it comes first."""
    seen: dict[int, str] = {}
    lines: list[str] = []
    for path in MODULES:
        module = import_module(path)
        lines += [path, ""]
        for name in module.__all__:
            value = getattr(module, name)
            first = seen.setdefault(id(value), path) if inspect.isclass(value) or inspect.isroutine(value) else path
            lines += [f"    {name}: see {first}"] if first != path else [f"    {line}" for line in _of(name, value)]
        lines.append("")
    return "\n".join(lines)


def _of(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield from _class(value)
    elif inspect.isfunction(value):
        yield _function(name, value)
    elif isinstance(value, (int, str)):
        yield f"{name} = {value!r}"
    else:
        yield f"{name}: {type(value).__name__}"


def _class(value: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    yield f"class {value.__name__}({bases})" if bases else f"class {value.__name__}"
    ours = [each for each in value.__mro__ if each.__module__.startswith("hfs_providers.")]
    maker = next((vars(each)["__init__"] for each in ours if "__init__" in vars(each)), None)
    if issubclass(value, tuple):
        yield f"    {_function('__new__', value.__new__)}"
    elif maker is not None and getattr(maker, "__name__", "") == "__init__":
        yield f"    {_function('__init__', maker)}"
    for name, field in sorted(getattr(value, "model_fields", {}).items()):
        yield f"    {name}: {_annotation(field.annotation)}"
    found: dict[str, Any] = {}
    for each in reversed(ours):
        found.update({name: member for name, member in vars(each).items() if not name.startswith("_")})
    for name, member in sorted(found.items()):
        if isinstance(member, property):
            yield f"    {name} -> {_annotation(inspect.signature(member.fget).return_annotation)}"
        elif isinstance(member, (classmethod, staticmethod)):
            yield f"    {_function(name, member.__func__)}"
        elif inspect.isfunction(member):
            yield f"    {_function(name, member)}"


def _function(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = []
    for each in signature.parameters.values():
        default = each.default if each.default is inspect.Parameter.empty else _Shown(each.default)
        parameters.append(each.replace(annotation=_Shown(each.annotation, bare=True), default=default))
    shown = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    words = str(shown).replace(": _", "")
    is_async = "async " if inspect.iscoroutinefunction(function) else ""
    return f"{is_async}{name}{words} -> {_annotation(signature.return_annotation)}"


class _Shown:
    """A default or an annotation that is printed the same by each version of Python."""

    def __init__(self, value: object, bare: bool = False) -> None:
        self.value = value
        self.bare = bare

    def __repr__(self) -> str:
        if self.bare:
            return _annotation(self.value)
        plain = isinstance(self.value, (int, float, str, bytes, tuple, frozenset, type(None)))
        return repr(self.value) if plain else "..."


def _annotation(value: object) -> str:
    if value is inspect.Parameter.empty:
        return "_"
    if isinstance(value, ForwardRef):
        value = value.__forward_arg__
    if isinstance(value, str):
        return value.strip("'\"")
    if get_origin(value) in (Union, UnionType):
        return " | ".join("None" if each is NoneType else _annotation(each) for each in get_args(value))
    return inspect.formatannotation(value).replace("typing.", "")


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
