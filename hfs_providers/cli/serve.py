"""`serve`: the pool of keys as an HTTP endpoint, until a signal ends it."""

from __future__ import annotations

import gc
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from hfs_providers.cli import output
from hfs_providers.cli.dashboard import page_address
from hfs_providers.contract.environment import CLIENTS, CONFIG, USAGE

if TYPE_CHECKING:
    from hfs_providers import ProviderManager
    from hfs_providers.dashboard.app import DashboardApp
    from hfs_providers.gateway.client_file import ClientsPlace
    from hfs_providers.gateway.clients import Clients

_NEEDED = ("uvicorn", "httptools", "starlette", "msgspec", "prometheus_client")
_ALLOCATIONS = 10_000
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def serve_gateway(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 is any free port.")] = 8321,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="NAME", help="A host name that clients may use for it.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option("--allow-origin", metavar="URL", help="A web origin whose pages may use it.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", exists=True, dir_okay=False, help="A PEM certificate: serve https.")
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", exists=True, dir_okay=False, help="Its private key, if it is in another file."),
    ] = None,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Serve no dashboard at /.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Serve simulated providers; needs no API key.")] = False,
) -> None:
    """Serve OpenAI's and Anthropic's protocols over all your keys."""
    output.require_extra("serve", _NEEDED)
    place = _clients_place(host, tls_cert is not None)
    output.log_to_stderr("hfs_providers", "uvicorn")
    from hfs_providers.gateway.app import Gateway
    from hfs_providers.gateway.client_history import used_by_client
    from hfs_providers.gateway.clients import Clients
    from hfs_providers.gateway.guard import Guard
    from hfs_providers.gateway.server import GatewayServer

    with _bound(host, port) as listening, _manager(demo) as manager:
        if not manager.wrappers:
            output.fail("no provider can be used", "hfs-providers doctor; or try it without keys: --demo")
        address = _address(listening, "https" if tls_cert is not None else "http")
        shown, token = (None, None) if no_dashboard else _dashboard(manager)
        clients = Clients(manager.inventory.file.clients, used_by_client(manager.persistence.store))
        gateway = Gateway(manager, Guard(allow_host or (), allow_origin or ()), clients, shown)
        if place.path is not None:
            clients.follow(place.path)
        ready = partial(_started, manager, address, demo, token, clients)
        try:
            server = GatewayServer(gateway, listening, ready, tls_cert, tls_key)
        except OSError as error:
            output.fail(f"the certificate cannot be used: {error}", "Give PEM files that belong together")
        server.run()


def _clients_place(host: str, tls: bool) -> ClientsPlace:
    """Where clients are listed. Ends the command if nobody may use the gateway, or anybody in the network."""
    from hfs_providers.core.config_file import load_file_config
    from hfs_providers.core.settings import Settings
    from hfs_providers.gateway.client_file import ADD_ONE, ClientsPlace, clients_of, unlisted
    from hfs_providers.keys.key_files import read_private_file

    settings = Settings.load()
    place = ClientsPlace.of(settings.env)
    listed = None
    if place.path is not None and (place.named or os.path.lexists(place.path)):
        listed = clients_of(read_private_file(place.path))
        if not listed.tokens:
            problem = listed.problems(place.path, False)[0]
            output.fail(problem.message, f"{problem.remedy}. Without tokens, on this machine only: {CLIENTS}=off")
    if host not in _LOOPBACK:
        if listed is None:
            remedy = f"Run: {ADD_ONE}" if place.path else f"Set {CLIENTS} to the path of a file, and run: {ADD_ONE}"
            output.fail(f"on {host} anybody who reaches this machine could use your keys", remedy, code=2)
        if not tls:
            output.note("Without --tls-cert, tokens and requests pass through the network unencrypted.")
    file, problems = load_file_config(settings)
    if problems and place.path is not None:
        # Without it, clients could do whatever it forbids, also those that are added later.
        output.fail(problems[0].message, "Correct it: it may restrict what clients may do")
    if listed is not None:
        for problem in unlisted(file.clients, listed.names, file.path):
            output.note(f"Warning: {problem.message} {problem.remedy}")
    return place


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        output.fail(f"cannot listen on {host}:{port}: {error.strerror}", "hfs-providers serve --port ANOTHER")
    with listening:
        yield listening


@contextmanager
def _manager(demo: bool) -> Iterator[ProviderManager]:
    from hfs_providers.cli.demo.stage import Stage
    from hfs_providers.gateway.manager import GatewayManager

    if not demo:
        with GatewayManager() as manager:
            yield manager
        return
    # No file of the user's is read, and what is stored is deleted at the end.
    with Stage(seed=1) as stage, TemporaryDirectory(prefix="hfs-demo-") as folder:
        kept = {CONFIG: os.devnull, USAGE: str(Path(folder) / "usage.db")}
        with GatewayManager(env={**stage.env, **kept}) as manager:
            yield manager


def _dashboard(manager: ProviderManager) -> tuple[DashboardApp, str]:
    """What is served at `/`, and the token for its actions."""
    from hfs_providers.dashboard.app import DashboardApp
    from hfs_providers.dashboard.source import DashboardSource
    from hfs_providers.dashboard.summary import Dashboard

    token = secrets.token_urlsafe(32)
    shown = Dashboard(DashboardSource(lambda: manager.inventory))
    return DashboardApp(shown, token, lambda: nullcontext(manager)), token


def _address(listening: socket.socket, scheme: str) -> str:
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _started(manager: ProviderManager, address: str, demo: bool, token: str | None, clients: Clients) -> None:
    # What is there now stays: the garbage collector need not scan it again, and new objects less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS)
    keys = ", ".join(f"{name}: {len(wrapper.pool.credentials)}" for name, wrapper in manager.wrappers.items())
    output.note(f"Serving {address}/v1 with {'simulated ' if demo else ''}keys ({keys})")
    if token is not None:
        output.note(f"Dashboard: {page_address(address, token)}")
    output.note("Try:")
    body = json.dumps({"model": "any", "messages": [{"role": "user", "content": "Hello"}]})
    header = ' -H "authorization: Bearer $TOKEN"' if clients.required else ""
    print(f"curl {address}/v1/chat/completions{header} -H 'content-type: application/json' -d '{body}'", flush=True)
