"""`clients`, `clients add`, `clients revoke`: who may use the gateway.

JSON of `clients`: `file` (null if none is used), `clients` (`name`, `admin`, `added` (ISO day, or null), `models`
(patterns, or null: all), `limits` (by name), `budget` (`usd`, `per`, or null)), `problems` (`message`, `remedy`,
`level`). JSON of `clients add`: `name`, `admin`, `token`, `file`; of `clients revoke`: `name`, `tokens` (how many),
`file`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output
from hfs_providers.cli.commands import Command, DefaultGroup, Unquoted
from hfs_providers.contract.environment import CLIENTS

if TYPE_CHECKING:
    from hfs_providers.contract.records import Problem
    from hfs_providers.core.config_file import FileConfig
    from hfs_providers.gateway.client_file import ClientList, ClientsPlace, ClientToken

# Seconds to wait for others that change the file.
_PATIENCE = 10.0
_RETRIED = 0.02

ClientArgument = Annotated[str, typer.Argument(metavar="NAME", help="The client's name.")]


class _ClientsGroup(Unquoted, DefaultGroup):
    pass


class _ClientsCommand(Unquoted, Command):
    pass


app = typer.Typer(
    cls=_ClientsGroup, name="clients", help="List, add and revoke clients of the gateway.", add_completion=False
)


@app.command("list", cls=_ClientsCommand)
def list_clients(as_json: output.JsonOption = False) -> None:
    """List who may use the gateway, and for which models. Also: clients add, clients revoke."""
    from hfs_providers.core.config_file import load_file_config
    from hfs_providers.core.settings import Settings
    from hfs_providers.gateway.client_file import ADD_ONE, ClientsPlace, unlisted

    settings = Settings.load()
    place = ClientsPlace.of(settings.env)
    listed, problems = read_clients(place)
    file, wrong = load_file_config(settings)
    if listed.tokens:
        problems += [*wrong, *unlisted(file.clients, listed.names, file.path)]
    records = [_record(token, file) for token in listed.tokens]
    if as_json:
        shown = [asdict(problem) for problem in problems]
        output.print_json({"file": place.path, "clients": records, "problems": shown})
        return
    if records:
        columns = ["client", "admin", "added", "models", "limits", "budget"]
        output.print_table(None, columns, [[_in_words(record[name]) for name in _SHOWN] for record in records])
        print(f"File: {place.path}")
    elif not problems:
        output.note(f"There is no client: on this machine every program may use the gateway. To add one: {ADD_ONE}")
    for problem in problems:
        output.note(f"{problem.level.capitalize()}: {problem.message}. {problem.remedy or ''}")


@app.command(cls=_ClientsCommand)
def add(
    name: ClientArgument,
    admin: Annotated[bool, typer.Option("--admin", help="It may also read /metrics and the dashboard.")] = False,
    as_json: output.JsonOption = False,
) -> None:
    """Let a client use the gateway, and print its token. The token is not stored and cannot be shown again."""
    from hfs_providers.gateway.client_file import ClientToken, digest_of, new_token

    _check_name(name)
    token = new_token()
    path = _path()

    def change(listed: ClientList) -> Sequence[ClientToken]:
        if name in listed.names:
            output.fail(f"there is a client {name} already", f"hfs-providers clients revoke {name}, or another name")
        # In UTC, as all that is stored.
        today = datetime.now(UTC).date().isoformat()
        return [*listed.tokens, ClientToken(name, digest_of(token.encode()), admin, today)]

    first = not _change(path, change).tokens
    if as_json:
        output.print_json({"name": name, "admin": admin, "token": token, "file": path})
        return
    if first:
        output.note("From now on the gateway needs a token for each request, also on this machine.")
    output.note(f"The token of {name}, which is shown only now:")
    print(token)


@app.command(cls=_ClientsCommand)
def revoke(name: ClientArgument, as_json: output.JsonOption = False) -> None:
    """Revoke a client's tokens. Running gateways refuse them within two seconds."""
    _check_name(name)
    path = _path()

    def change(listed: ClientList) -> Sequence[ClientToken]:
        if name not in listed.names:
            output.fail(f"there is no client {name}", "See: hfs-providers clients", code=2)
        return [token for token in listed.tokens if token.name != name]

    count = sum(token.name == name for token in _change(path, change).tokens)
    if as_json:
        output.print_json({"name": name, "tokens": count, "file": path})
    else:
        print(f"{name} may no longer use the gateway.")


def read_clients(place: ClientsPlace) -> tuple[ClientList, list[Problem]]:
    """The listed clients, and the problems of the file. Without a file, both are empty."""
    from hfs_providers.gateway.client_file import ClientList, clients_of
    from hfs_providers.keys.key_files import read_private_file

    if place.path is None or not (place.named or os.path.lexists(place.path)):
        return ClientList(()), []
    file = read_private_file(place.path)
    listed = clients_of(file)
    return listed, listed.problems(place.path, file.exposed)


def _check_name(name: str) -> None:
    from hfs_providers.gateway.client_file import CLIENT_NAME

    if not CLIENT_NAME.fullmatch(name):
        output.fail(
            "that is not a client's name (it is not shown here: it may be a token)",
            "Use at most 64 letters, digits, '.', '_' and '-', first a letter or a digit",
            code=2,
        )


def _path() -> str:
    """The file to change."""
    from hfs_providers.core.settings import Settings
    from hfs_providers.gateway.client_file import ClientsPlace

    place = ClientsPlace.of(Settings.load().env)
    if place.path is None:
        why = f"{CLIENTS} is off" if place.named else "there is no home directory for the file of clients"
        output.fail(why, f"Set {CLIENTS} to the path of a file")
    return os.path.realpath(place.path)


def _change(path: str, change: Callable[[ClientList], Sequence[ClientToken]]) -> ClientList:
    """Replace the file. Returns what was in it before."""
    from hfs_providers.gateway.client_file import written
    from hfs_providers.keys.key_files import replace_private_file

    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with _locked(f"{path}.lock"):
            before = _before(path)
            replace_private_file(path, written(change(before)))
    except (OSError, sqlite3.Error) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        output.fail(f"{path} cannot be written: {why}", f"Set {CLIENTS} to the path of another file")
    return before


def _before(path: str) -> ClientList:
    from hfs_providers.gateway.client_file import ClientList, clients_of
    from hfs_providers.keys.key_files import read_private_file

    file = read_private_file(path)
    listed = clients_of(file)
    if file.data is not None and not file.data.strip():
        return ClientList(())
    if listed.fault == "does not exist":
        return ClientList(())
    if listed.fault or listed.dropped:
        # What it cannot read would be lost.
        problem = listed.problems(path, False)[0]
        output.fail(problem.message, problem.remedy)
    return listed


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Wait until nobody else changes the file."""
    from hfs_providers.usage.forwarding.process_lock import try_lock

    end = time.monotonic() + _PATIENCE
    while True:
        with try_lock(path) as mine:
            if mine:
                yield
                return
        if time.monotonic() > end:
            output.fail("another process is changing the clients", "Try it again")
        time.sleep(_RETRIED)


_SHOWN = ("name", "admin", "added", "models", "limits", "budget")


def _record(token: ClientToken, file: FileConfig) -> dict[str, Any]:
    from hfs_providers.contract.records import LIMIT_NAMES
    from hfs_providers.money.prices import NANO

    rules = file.clients.get(token.name)
    limits = {} if rules is None else {name: getattr(rules.limits, name, None) for name in LIMIT_NAMES}
    budget = next((each for each in file.budgets if each.client == token.name), None)
    return {
        "name": token.name,
        "admin": token.admin,
        "added": token.added or None,
        "models": None if rules is None or rules.models is None else list(rules.models),
        "limits": {name: most for name, most in limits.items() if most is not None},
        "budget": None if budget is None else {"usd": budget.nanousd / NANO, "per": budget.per},
    }


def _in_words(value: Any) -> object:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, dict):
        budget = "usd" in value
        return (
            f"${value['usd']:g} a {value['per']}" if budget else ", ".join(f"{n} {most}" for n, most in value.items())
        )
    return value
