"""The command line `hfs-providers`. `main` is its entry point, `app` the typer application.

Nothing heavy is imported here or at the top of a command's module: `status` must stay within 0.4 s.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hfs_providers.cli import ask, check, doctor, keys, models, new_plugin, output, status
from hfs_providers.cli.agents.command import app as agents_app
from hfs_providers.cli.demo.command import demo as demo_command
from hfs_providers.cli.usage.command import prune as prune_command
from hfs_providers.cli.usage.command import usage as usage_command
from hfs_providers.cli.usage.send import send_rows


class _LightHelp:
    """Mixed in before typer's classes: gives `--help` the default that it lacks."""

    def get_help_option(self, ctx: Any) -> Any:
        # Without one, typer 0.29 imports pydantic at each start, only to find that None is no bool: 0.1 s.
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None and option.default is None:
            option.default = False
        return option


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

    alone = typer.Typer(add_completion=False)
    alone.command(cls=type("_Plain", (_LightHelp, TyperCommand), {}))(command)
    return next(option for option in typer.main.get_command(alone).params if option.name == "verbose")


_VERBOSE = _verbosity()


class _Verbose:
    """Mixed in before typer's classes: takes `-v` after the command's name, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params: list[Any] = [*self.params, _VERBOSE]


class _Command(_Verbose, _LightHelp, TyperCommand):
    pass


class _Group(_LightHelp, TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Left to older versions of typer, it would end as "Aborted!" with exit code 1.
            raise typer.Exit(130) from None


class _SubGroup(_Verbose, _Group):
    pass


app = typer.Typer(
    cls=_Group,
    name="hfs-providers",
    help="Turn all your API keys into one LLM model: status, checks, usage and a demo.",
    no_args_is_help=True,
    add_completion=False,
    # Typer's own would show local variables, and those can hold keys.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from hfs_providers import __version__

        print(f"hfs-providers {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the library's log on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turn all your API keys into one LLM model: status, checks, usage and a demo."""
    output.set_up_logging(verbose)


for _command in (
    status.status,
    status.plugins,
    models.models,
    check.check,
    ask.ask,
    demo_command,
    doctor.doctor,
    new_plugin.new_plugin,
):
    app.command(cls=_Command)(_command)
for _made in agents_app.registered_commands:
    _made.cls = _Command
app.add_typer(agents_app, name="agents", cls=_SubGroup)


class _Unquoted:
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


class _KeysGroup(_Unquoted, _SubGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            # As with `check` and `models`, what follows are names of providers.
            return "", self.commands[_OF], args
        return super().resolve_command(ctx, args)


class _KeysCommand(_Unquoted, _Command):
    pass


_usage = typer.Typer(cls=_SubGroup, invoke_without_command=True)
_usage.callback(help=usage_command.__doc__)(usage_command)
_usage.command("prune", cls=_Command)(prune_command)
_usage.command("send", cls=_Command)(send_rows)
app.add_typer(_usage, name="usage")

_OF = "PROVIDER..."
_keys = typer.Typer(cls=_KeysGroup, invoke_without_command=True, subcommand_metavar=f"[{_OF} | COMMAND [ARGS]...]")
_keys.callback(help=keys.keys.__doc__)(keys.keys)
_keys.command(_OF, cls=_KeysCommand, hidden=True)(keys.of)
_keys.command("revive", cls=_KeysCommand)(keys.revive)
_keys.command("retire", cls=_KeysCommand)(keys.retire)
app.add_typer(_keys, name="keys")


def main() -> None:
    """Run the command line. Every end is an exit code; a traceback is shown only with `HFS_DEBUG=1`."""
    if hasattr(signal, "SIGTERM"):
        # As an exception it runs the exit handlers, so that nothing recorded is lost.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    output.set_up_streams()
    try:
        try:
            app(prog_name="hfs-providers")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader is gone; the interpreter's own last flush must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(output.explain(error))
