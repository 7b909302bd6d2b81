"""`keys`, `keys revive`, `keys retire`: the state of each key, and changing it by hand.

JSON of `keys`: `providers` (`name`, `error` (why its keys cannot be shown, or null), `default_model`, `keys` (`id`,
`fingerprint`, `source` (a variable or a file), `account` (null if it has its own), `state`, `reason`, `free_in`
(seconds, or null), `until` (ISO, or null), `models` (`model`, `state`, `reason`, `free_in`, `until`, `windows` (`per`
(minute, hour, day), `unit` (requests, tokens), `used`, `limit`))).

JSON of `keys revive` and `keys retire`: `id`, `fingerprint`, `state`, `reason`, `free_in`, `until`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output, spans
from hfs_providers.cli.commands import Command, DefaultGroup, Unquoted
from hfs_providers.cli.key_import import import_keys
from hfs_providers.cli.models import provider_named
from hfs_providers.cli.status import first_step
from hfs_providers.cli.table import Column
from hfs_providers.contract.secret import KEY_ID

if TYPE_CHECKING:
    from hfs_providers import ProviderManager
    from hfs_providers.authoring import Credential
    from hfs_providers.keys import KeyStatus

_STATES = {"ready": "green", "limited": "yellow", "cooling": "yellow", "dead": "red"}
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_DAY = 86_400.0

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its id, such as groq#3, or its fingerprint.")]


class _KeysGroup(Unquoted, DefaultGroup):
    pass


class _KeysCommand(Unquoted, Command):
    pass


app = typer.Typer(cls=_KeysGroup, name="keys", help="Show, import, retire and revive keys.", add_completion=False)


@app.command(cls=_KeysCommand)
def keys(
    providers: Annotated[list[str] | None, typer.Argument(help="Only these providers.", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Only for this model, instead of the default model and those in use.", show_default=False),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Show each key: its state, how much of its limits is used, when it is free. Also: keys import, retire, revive."""
    from hfs_providers import HfsProvidersError, ProviderManager
    from hfs_providers.usage.location import Places

    with ProviderManager() as manager:
        places = Places.of(manager.inventory.settings.env)
        names = [provider_named(manager.inventory, name) for name in providers or ()]
        names = names or [name for name, found in manager.inventory.providers.items() if found.config.configured]
        if not names:
            output.fail("no provider has a key", first_step(manager.inventory))
        names = list(dict.fromkeys(names))
        asked = {name: _asked(manager, name) if model is None else {} for name in names}
        shown = {name: _models(manager, name, model, asked[name]) for name in names}
        problem = manager.persistence.consult(manager.wrappers, shown)
        records = []
        for name in names:
            try:
                records.append(_record(manager, name, model, asked[name]))
            except HfsProvidersError as error:
                records.append({"name": name, "error": str(error), "default_model": None, "keys": []})
    if as_json:
        output.print_json({"providers": records})
    else:
        _print_keys(records)
    if problem is not None:
        output.note(f"Only what this host knows is shown: {problem.message}")
    elif places.unkept is not None and places.redis is None:
        output.note(f"Nothing is known of other processes, because {places.unkept.message}")


app.command("import", cls=_KeysCommand)(import_keys)


@app.command(cls=_KeysCommand)
def revive(key: KeyArgument, as_json: output.JsonOption = False) -> None:
    """Put a cooling or dead key back into rotation, in all processes that share the usage file."""
    _rule(key, None, as_json)


@app.command(cls=_KeysCommand)
def retire(
    key: KeyArgument,
    reason: Annotated[str, typer.Option(help="The reason, shown with the key.")] = "by hand",
    as_json: output.JsonOption = False,
) -> None:
    """Take a key out of rotation, in all processes that share the usage file."""
    _rule(key, reason, as_json)


def _rule(key: str, reason: str | None, as_json: bool) -> None:
    """Revive a key, or with a reason retire it."""
    from hfs_providers import ProviderManager
    from hfs_providers.dashboard.rulings import rule_key
    from hfs_providers.usage import usage_path

    with ProviderManager() as manager:
        name, credential = _find(manager, key)
        if usage_path(manager.inventory.settings.env) is None:
            # It would be forgotten with this process.
            output.fail("key state is not kept: HFS_USAGE_DB is off", "Remove HFS_USAGE_DB, or set it to a path")
        status = rule_key(manager, name, credential.id, reason)
    if as_json:
        about = _state(status)
        output.print_json({"id": status.id, "fingerprint": status.fingerprint, **about})
    elif reason is None:
        print(f"{status.id} is in rotation again.")
    else:
        again = output.local_time(spans.iso_in(status.free_in))
        print(f"{status.id} is out of rotation ({status.reason}). From {again} on, one call may try it.")
        print(f"To keep it out for good, remove it from {credential.source or 'the environment'}.")


def _find(manager: ProviderManager, said: str) -> tuple[str, Credential]:
    """A key by its id or fingerprint. Any other text is not repeated, because it may be a key."""
    wanted = said.strip().lower()
    found = KEY_ID.fullmatch(wanted)
    if found is None and not _FINGERPRINT.fullmatch(wanted):
        output.fail(
            "that is not a key's id (it is not shown here: it may be a key)",
            "Use an id, such as groq#3, or a fingerprint: hfs-providers keys",
            code=2,
        )
    matching = [
        (name, credential)
        for name, provider in manager.inventory.providers.items()
        for credential in provider.config.credentials
        if wanted in (credential.id, credential.fingerprint)
    ]
    if not matching:
        shown = wanted if found is not None and found[1] in manager.inventory.providers else "with that name"
        output.fail(f"there is no key {shown}", "See: hfs-providers keys", code=2)
    if len(matching) > 1:
        ids = ", ".join(credential.id for _, credential in matching)
        output.fail(f"several keys have that fingerprint: {ids}", "Name one of them", code=2)
    return matching[0]


def _models(manager: ProviderManager, name: str, model: str | None, asked: Mapping[str, set[str]]) -> list[str]:
    """The models to show: the given one, or the default and those that were used lately."""
    return list(dict.fromkeys([model or manager.default_model(name), *sorted(set().union(*asked.values()))]))


def _record(manager: ProviderManager, name: str, model: str | None, asked: Mapping[str, set[str]]) -> dict[str, Any]:
    pool = manager.wrapper(name).pool
    default = manager.default_model(name)
    shown = _models(manager, name, model, asked)
    by_model = {each: ({status.id: status for status in pool.statuses(each)}, pool.used(each)) for each in shown}
    credentials = {credential.id: credential for credential in pool.credentials}
    records = []
    for status in pool.statuses(model):
        credential = credentials.get(status.id)
        if credential is None:
            # It has just left.
            continue
        models = [
            {
                "model": each,
                **_state(statuses.get(status.id, status)),
                "windows": [
                    {"per": use.period, "unit": use.unit, "used": use.used, "limit": use.limit}
                    for use in used.get(status.id, ())
                ],
            }
            for each, (statuses, used) in by_model.items()
            if each == shown[0] or each in asked.get(credential.fingerprint, ())
        ]
        records.append(
            {
                "id": status.id,
                "fingerprint": status.fingerprint,
                "source": credential.source,
                "account": credential.params.get("account"),
                **_state(status),
                "models": models,
            }
        )
    return {"name": name, "error": None, "default_model": default, "keys": records}


def _asked(manager: ProviderManager, name: str) -> dict[str, set[str]]:
    """The models that were used with each key within a day, by fingerprint."""
    from hfs_providers.errors import StoreError
    from hfs_providers.usage import Store, UsageReport, usage_path

    path = usage_path(manager.inventory.settings.env)
    asked: dict[str, set[str]] = {}
    if path is not None and path.exists():
        try:
            since = time.time() - _DAY
            rows = UsageReport(Store(path)).totals(("fingerprint", "model"), since=since, providers=[name]).rows
        except StoreError:
            # What is wrong with the file is among the manager's problems.
            return asked
        for row in rows:
            asked.setdefault(row.group[0], set()).add(row.group[1])
    return asked


def _state(status: KeyStatus) -> dict[str, Any]:
    free_in = None if status.free_in is None else round(status.free_in, 3)
    return {
        "state": status.state,
        "reason": status.reason,
        "free_in": free_in,
        "until": spans.iso_in(status.free_in or None),
    }


def _print_keys(records: Sequence[Mapping[str, Any]]) -> None:
    rows: list[list[object]] = []
    for record in records:
        for key in record["keys"]:
            for place, model in enumerate(key["models"]):
                first = [key["id"], key["fingerprint"]] if place == 0 else [" ", " "]
                state = output.styled(model["state"], _STATES[model["state"]])
                again = output.local_time(model["until"])
                source = key["source"] if place == 0 else " "
                used = _in_words(model["windows"])
                rows.append([*first, state, again, model["model"], used, model["reason"], source])
    if rows:
        columns: list[Column | str] = [
            "key",
            Column("fingerprint", give=3),
            "state",
            "free at",
            Column("model", give=5, how="below"),
            Column("used of limit", give=4, how="below"),
            Column("reason", give=2, how="below"),
            Column("from", give=1),
        ]
        output.print_table(None, columns, rows)
    for record in records:
        if record["error"]:
            output.note(f"{record['name']}: {record['error']}")


def _in_words(windows: Sequence[Mapping[str, Any]]) -> str:
    return "  ".join(
        f"{each['unit'][0]}p{each['per'][0]} {output.short(each['used'])}/{output.short(each['limit'])}"
        for each in windows
    )
