"""`dashboard`: what happens to keys and requests, on a web page of this machine, until it is stopped."""

from __future__ import annotations

import gc
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from hfs_providers.cli import output

if TYPE_CHECKING:
    from hfs_providers import ProviderManager
    from hfs_providers.core.inventory import Inventory
    from hfs_providers.dashboard.app import Managers

HOST = "127.0.0.1"
_NEEDED = ("uvicorn", "httptools", "starlette", "msgspec")


def dashboard(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 is any free port.")] = 8322,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Keys cannot be tried, revived or retired on it.")
    ] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Show keys, requests, usage and money on a web page of this machine, live."""
    from hfs_providers.core.inventory import take_inventory

    serve_dashboard(take_inventory, None if read_only else _manager, port, not no_open)


def serve_dashboard(
    inventory: Callable[[], Inventory], managers: Managers | None, port: int, open_page: bool, name: str = "dashboard"
) -> None:
    """Serve it until SIGINT or SIGTERM.

    Args:
        inventory: what is shown.
        managers: for actions; None if there are none.
        open_page: whether to open it in a browser.
        name: of the command, for messages.
    """
    output.require_extra("dashboard", _NEEDED)
    output.log_to_stderr("hfs_providers", "uvicorn")
    from hfs_providers.dashboard.app import DashboardApp
    from hfs_providers.dashboard.source import DashboardSource
    from hfs_providers.dashboard.summary import Dashboard
    from hfs_providers.gateway.guard import Guard
    from hfs_providers.gateway.guarded_dashboard import GuardedDashboard
    from hfs_providers.gateway.server import GatewayServer

    # With thousands of keys, each look makes hundreds of thousands of objects, which the collector would scan.
    gc.set_threshold(100_000)
    token = secrets.token_urlsafe(32)
    shown = Dashboard(DashboardSource(inventory))
    shown.warm()
    with _listening(port, name) as listening:
        address = page_address(f"http://{HOST}:{listening.getsockname()[1]}", None if managers is None else token)
        app = GuardedDashboard(DashboardApp(shown, token, managers), Guard())

        def ready() -> None:
            output.note(f"The dashboard{' (read-only)' if managers is None else ''} is at:")
            print(address, flush=True)
            output.note("Ctrl-C ends it.")
            if open_page and can_open():
                webbrowser.open(address)

        GatewayServer(app, listening, ready).run()


def page_address(url: str, token: str | None) -> str:
    """The address of the page. The token follows the `#`: a browser does not send that part."""
    return f"{url}/" if token is None else f"{url}/#token={token}"


def can_open() -> bool:
    """Whether there is a screen for a browser."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _manager() -> ProviderManager:
    from hfs_providers import ProviderManager

    # It shows keys, and uses only those that are tried.
    return ProviderManager(shares=False)


@contextmanager
def _listening(port: int, name: str) -> Iterator[socket.socket]:
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        output.fail(f"cannot listen on {HOST}:{port}: {error.strerror}", f"hfs-providers {name} --port ANOTHER")
    with listening:
        yield listening
