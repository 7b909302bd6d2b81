"""The command line `hfs-providers`. `main` is its entry point, `app` the typer application.

Nothing heavy is imported here or at the top of a command's module: `status` must stay within 0.2 s.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer

from hfs_providers.cli import output
from hfs_providers.cli.commands import Group, LazyCommands

_COMMANDS = {
    "status": "hfs_providers.cli.status:status",
    "plugins": "hfs_providers.cli.status:plugins",
    "models": "hfs_providers.cli.models:models",
    "check": "hfs_providers.cli.check:check",
    "ask": "hfs_providers.cli.ask:ask",
    "demo": "hfs_providers.cli.demo.command:demo",
    "doctor": "hfs_providers.cli.doctor:doctor",
    "new-plugin": "hfs_providers.cli.new_plugin:new_plugin",
    "serve": "hfs_providers.cli.serve:serve_gateway",
    "dashboard": "hfs_providers.cli.dashboard:dashboard",
    "top": "hfs_providers.cli.top:top",
    "clients": "hfs_providers.cli.clients:app",
    "agents": "hfs_providers.cli.agents.command:app",
    "usage": "hfs_providers.cli.usage.command:app",
    "keys": "hfs_providers.cli.keys:app",
    "capacity": "hfs_providers.cli.capacity:capacity",
}


class _Outermost(Group):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands: Any = LazyCommands(_COMMANDS)


app = typer.Typer(
    cls=_Outermost,
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


def main() -> None:
    """Run the command line. It always ends with an exit code; a traceback is shown only with `HFS_DEBUG=1`."""
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
