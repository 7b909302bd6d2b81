"""The classes of the commands and their groups, and commands that are imported when they are first used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hfs_providers.cli import output


class _LightHelp:
    """Mixed in before typer's classes: gives `--help` the default that it lacks."""

    def get_help_option(self, ctx: Any) -> Any:
        # Without one, typer 0.29 imports pydantic at each start, only to find that None is not a bool: 0.1 s.
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None and option.default is None:
            option.default = False
        return option


def made(command: Any, name: str, cls: type[TyperCommand]) -> Any:
    """Typer's command of a function. Through an application, which is the only public way in every version."""
    alone = typer.Typer(add_completion=False)
    alone.command(name, cls=cls)(command)
    return typer.main.get_command(alone)


def _show_log(wanted: bool) -> None:
    if wanted:
        output.set_up_logging(True)


_Verbosity = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=_show_log, expose_value=False, help="Show the library's log on stderr."),
]


def _verbosity() -> Any:
    """The option `-v` by itself. Made by typer, because its class takes other arguments in each version."""

    def command(verbose: _Verbosity = False) -> None:
        pass

    plain = made(command, "plain", type("_Plain", (_LightHelp, TyperCommand), {}))
    return next(option for option in plain.params if option.name == "verbose")


_VERBOSE = _verbosity()


class _Verbose:
    """Mixed in before typer's classes: takes `-v` after the command's name, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params: list[Any] = [*self.params, _VERBOSE]


class Command(_Verbose, _LightHelp, TyperCommand):
    """A command."""


class Group(_LightHelp, TyperGroup):
    """The outermost group."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Left to older versions of typer, it would end as "Aborted!" with exit code 1.
            raise typer.Exit(130) from None


class SubGroup(_Verbose, Group):
    """A command that has commands."""


class DefaultGroup(Group):
    """A command that has commands, of which the first runs if none is named: `keys groq`, `usage --by day`."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if named else [next(iter(self.commands)), *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == next(iter(self.commands)) else name), command, rest


class LazyCommands(Mapping[str, Any]):
    """Commands by name, each imported when it is first used, so that a command does not import what only others need.

    Args:
        homes: by name, where a command's function or typer application is, as `module:name`.
    """

    def __init__(self, homes: Mapping[str, str]) -> None:
        self._homes = homes
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module, _, attribute = self._homes[name].partition(":")
            found = getattr(import_module(module), attribute)
            group = isinstance(found, typer.Typer)
            self._made[name] = typer.main.get_command(found) if group else made(found, name, Command)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


class Unquoted:
    """Mixed in before typer's classes: quotes no argument in a message, because it may be a pasted key."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        with _unquoted(args):
            return super().parse_args(ctx, args)  # type: ignore[misc]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        with _unquoted(args):
            return super().resolve_command(ctx, args)  # type: ignore[misc]


@contextmanager
def _unquoted(args: Sequence[str]) -> Iterator[None]:
    given = list(args)
    try:
        yield
    except Exception as error:
        # Older versions of typer use click's errors, newer ones their own.
        if isinstance(message := getattr(error, "message", None), str):
            for arg in sorted(given, key=len, reverse=True):
                message = message.replace(arg, "...") if arg else message
            error.message = message  # type: ignore[attr-defined]  # of a usage error
        raise
