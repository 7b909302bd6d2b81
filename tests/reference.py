"""The parts of the documents that are made from the code: `python -m tests.reference` writes them.

docs/configuration.md has the variables and the tables of the TOML file, docs/commands.md the commands.
"""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import typer

from hfs_providers.cli import app
from hfs_providers.contract import environment
from hfs_providers.core import config_schema

DOCS = Path(__file__).parents[1] / "docs"


def variables() -> str:
    """A table of the variables that are no provider's own."""
    body = ast.parse(inspect.getsource(environment)).body
    lines = ["| variable | meaning |", "|---|---|"]
    for target, text in pairwise(body):
        if isinstance(target, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            name = ast.literal_eval(target.value)
            if not name.startswith("_"):
                shown = f"{name}<NAME>" if name.endswith("_") else name
                lines.append(f"| `{shown}` | {' '.join(str(text.value.value).split())} |")
    return "\n".join(lines)


def tables() -> str:
    """The tables of the TOML file, each with its fields."""
    return "\n\n".join(_table(table) for table in _reached(config_schema.FileTable))


def _reached(table: Any) -> Iterator[Any]:
    found = [table]
    for each in found:
        for field in each.model_fields.values():
            found += [inner for inner in _models(field.annotation) if inner not in found]
        extra = each.__annotations__.get("__pydantic_extra__")
        found += [inner for inner in _models(extra) if inner not in found]
    return iter(found)


def _models(annotation: Any) -> list[Any]:
    if inspect.isclass(annotation) and issubclass(annotation, config_schema._Table | config_schema.KeyTable):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _table(table: Any) -> str:
    lines = [" ".join((table.__doc__ or "").split()), "", "| field | type | default |", "|---|---|---|"]
    for name, field in table.model_fields.items():
        default = "required" if field.is_required() else field.get_default(call_default_factory=True)
        shown = default if default == "required" else "" if default is None or default in ({}, []) else _toml(default)
        lines.append(f"| `{name}` | {_type(field.annotation)} | {shown} |")
    if table.model_config.get("extra") == "allow":
        lines.append('| `"MODEL"` | table: the limits for models of this name or pattern | |')
    return "\n".join(lines)


def _toml(value: Any) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else repr(value)}`".replace("'", '"')


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _type(next(each for each in inner if each is not type(None)))
    if origin is dict:
        return f"table, each value a {_type(inner[1])}"
    if origin is list:
        return f"list, each item a {_type(inner[0])}"
    if str(origin) == "typing.Literal":
        return " or ".join(f'`"{each}"`' for each in inner)
    if origin is not None:
        return _type(inner[0])
    if _models(annotation):
        return "table"
    return {str: "string", int: "whole number", float: "number", bool: "`true` or `false`"}[annotation]


def commands() -> str:
    """All commands, in the order of `--help`, with their arguments and options."""
    return "\n\n".join(_commands(typer.main.get_command(app), "hfs-providers"))


def _commands(command: Any, path: str) -> Iterator[str]:
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            # `usage` alone is the command `usage usage`.
            inner = path if path.endswith(f" {name}") else f"{path} {name}"
            yield from _commands(command.get_command(None, name), inner)
        return
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "verbose"]
    usage = " ".join([path, *(_usage(each) for each in arguments)])
    text = [f"## {path}", f"`{usage}`", inspect.cleandoc(command.help or "")]
    rows = [f"| `{_usage(each)}` | {_line(each.help)} |" for each in arguments]
    rows += [f"| `{', '.join([*each.opts, *each.secondary_opts])}` | {_line(each.help)} |" for each in options]
    if rows:
        text.append("\n".join(["| argument or option | meaning |", "|---|---|", *rows]))
    yield "\n\n".join(text)


def _usage(argument: Any) -> str:
    shown = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return shown if argument.required else f"[{shown}]"


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


PARTS = {"configuration.md": {"variables": variables, "tables": tables}, "commands.md": {"commands": commands}}


def renewed(name: str) -> str:
    """A document with its parts as they have to be."""
    text = (DOCS / name).read_text(encoding="utf-8")
    for part, make in PARTS[name].items():
        begin, end = f"<!-- {part}: written by python -m tests.reference -->", f"<!-- end of {part} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{make()}\n\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    for document in PARTS:
        (DOCS / document).write_text(renewed(document), encoding="utf-8")
