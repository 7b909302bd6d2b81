"""`keys`, `keys revive` and `keys retire`: what state each key is in, and a word of the owner's about it.

JSON of `keys`: `providers` (`name`, `error` (why its keys cannot be shown, or null), `default_model`, `keys` (`id`,
`fingerprint`, `account` (null where it has its own), `state`, `reason`, `free_in` (seconds, or null), `until` (ISO, or
null), `models` (`model`, `state`, `reason`, `free_in`, `until`, `windows` (`per` (minute, hour, day), `unit` (requests,
tokens), `used`, `limit`))).

JSON of `keys revive` and `keys retire`: `id`, `fingerprint`, `state`, `reason`, `free_in`, `until`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output, spans
from hfs_providers.cli.models import known
from hfs_providers.cli.status import first_step
from hfs_providers.cli.table import Column

if TYPE_CHECKING:
    from hfs_providers import ProviderManager
    from hfs_providers.authoring import Credential
    from hfs_providers.keys import KeyStatus

_STATES = {"ready": "green", "limited": "yellow", "cooling": "yellow", "dead": "red"}
_KEY_ID = re.compile(r"([a-z0-9][a-z0-9_-]{0,40})#\d{1,6}")
_FINGERPRINT = re.compile(r"[0-9a-f]{8}")
_DAY = 86_400.0
_LONGEST_REASON = 200

ProvidersOption = Annotated[list[str] | None, typer.Option(help="Only this provider.", show_default=False)]
ModelOption = Annotated[
    str | None,
    typer.Option(help="For this model only, not for the default model and those in use.", show_default=False),
]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its id, such as groq#3, or its fingerprint.")]


def keys(
    context: typer.Context,
    provider: ProvidersOption = None,
    model: ModelOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Show each key: its state, what of its limits is used, and when it is free again."""
    if context.invoked_subcommand is not None:
        return
    _show(provider or [], model, as_json)


def of(
    context: typer.Context,
    providers: Annotated[list[str], typer.Argument(metavar="PROVIDER...", help="Only these providers.")],
    provider: ProvidersOption = None,
    model: ModelOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Show the keys of these providers: `hfs-providers keys groq`."""
    # What stood before the providers was taken for options of `keys`.
    before: Mapping[str, Any] = context.parent.params if context.parent is not None else {}
    names = [*providers, *(provider or []), *(before.get("provider") or [])]
    _show(names, model or before.get("model"), as_json or bool(before.get("as_json")))


def _show(providers: Sequence[str], model: str | None, as_json: bool) -> None:
    from hfs_providers import HfsProvidersError, ProviderManager

    with ProviderManager() as manager:
        names = [_provider(manager, name) for name in providers]
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


def _provider(manager: ProviderManager, said: str) -> str:
    """A provider's name. What is none is not shown again: it may be a key."""
    from hfs_providers import UnknownProviderError

    try:
        return known(manager.inventory, said)
    except UnknownProviderError:
        installed = ", ".join(manager.inventory.providers)
        output.fail("there is no such provider or command (not shown: it may be a key)", f"Use: {installed}", code=2)


def revive(key: KeyArgument, as_json: output.JsonOption = False) -> None:
    """Put a cooling or dead key back into rotation, in all processes that share the usage file."""
    _rule(key, None, as_json)


def retire(
    key: KeyArgument,
    reason: Annotated[str, typer.Option(help="The reason, shown with the key.")] = "by hand",
    as_json: output.JsonOption = False,
) -> None:
    """Take a key out of rotation, in all processes that share the usage file."""
    _rule(key, " ".join(reason.split())[:_LONGEST_REASON], as_json)


def _rule(key: str, reason: str | None, as_json: bool) -> None:
    """Revive a key, or with a reason retire it."""
    from hfs_providers import ProviderManager
    from hfs_providers.contract.redaction import Redactor
    from hfs_providers.usage import usage_path
    from hfs_providers.wrapper.probe import RETIRED

    with ProviderManager() as manager:
        name, credential = _find(manager, key)
        wrapper = manager.wrapper(name)
        kept = usage_path(manager.inventory.settings.env) is not None
        if kept and reason is None:
            wrapper.pool.revive(credential.id)
        elif kept and reason is not None:
            why = Redactor.of(wrapper.pool.credentials).scrub(reason)
            wrapper.pool.retire(credential.id, f"{RETIRED}: {why}")
        status = next(each for each in wrapper.pool.statuses() if each.id == credential.id)
    if not kept:
        # It would be forgotten with this process.
        output.fail("key state is not kept: HFS_USAGE_DB is off", "Remove HFS_USAGE_DB, or set it to a path")
    if as_json:
        about = _state(status)
        output.print_json({"id": status.id, "fingerprint": status.fingerprint, **about})
    elif reason is None:
        print(f"{status.id} is in rotation again.")
    else:
        again = output.local_time(spans.iso_in(status.free_in))
        print(f"{status.id} is out of rotation ({status.reason}). From {again} on, one call may try it.")
        print("To keep it out for good, remove it from the environment.")


def _find(manager: ProviderManager, said: str) -> tuple[str, Credential]:
    """A key by its id or fingerprint. What is neither is not shown again: it may be a key."""
    wanted = said.strip().lower()
    found = _KEY_ID.fullmatch(wanted)
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
    """The models to show: the one that is wanted or the default, and those that were asked lately."""
    return list(dict.fromkeys([model or manager.default_model(name), *sorted(set().union(*asked.values()))]))


def _record(manager: ProviderManager, name: str, model: str | None, asked: Mapping[str, set[str]]) -> dict[str, Any]:
    pool = manager.wrapper(name).pool
    default = manager.default_model(name)
    shown = _models(manager, name, model, asked)
    by_model = {each: (pool.statuses(each), pool.used(each)) for each in shown}
    records = []
    for place, (credential, status) in enumerate(zip(pool.credentials, pool.statuses(model), strict=True)):
        models = [
            {
                "model": each,
                **_state(statuses[place]),
                "windows": [
                    {"per": use.period, "unit": use.unit, "used": use.used, "limit": use.limit}
                    for use in used[credential.id]
                ],
            }
            for each, (statuses, used) in by_model.items()
            if each == shown[0] or each in asked.get(credential.fingerprint, ())
        ]
        records.append(
            {
                "id": status.id,
                "fingerprint": status.fingerprint,
                "account": credential.params.get("account"),
                **_state(status),
                "models": models,
            }
        )
    return {"name": name, "error": None, "default_model": default, "keys": records}


def _asked(manager: ProviderManager, name: str) -> dict[str, set[str]]:
    """The models that were asked with each key within a day, by fingerprint."""
    from hfs_providers.errors import StoreError
    from hfs_providers.usage import Store, UsageReport, usage_path

    path = usage_path(manager.inventory.settings.env)
    asked: dict[str, set[str]] = {}
    if path is not None and path.exists():
        try:
            since = time.time() - _DAY
            rows = UsageReport(Store(path)).totals(("fingerprint", "model"), since=since, providers=[name]).rows
        except StoreError:
            # What the manager has to say of the file is among its problems.
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
                rows.append([*first, state, again, model["model"], _in_words(model["windows"]), model["reason"]])
    if rows:
        columns: list[Column | str] = [
            "key",
            Column("fingerprint", give=2),
            "state",
            "free at",
            Column("model", give=4, how="below"),
            Column("used of limit", give=3, how="below"),
            Column("reason", give=1, how="below"),
        ]
        output.print_table(None, columns, rows)
    for record in records:
        if record["error"]:
            output.note(f"{record['name']}: {record['error']}")


def _in_words(windows: Sequence[Mapping[str, Any]]) -> str:
    return "  ".join(
        f"{each['unit'][0]}p{each['per'][0]} {_short(each['used'])}/{_short(each['limit'])}" for each in windows
    )


def _short(count: int) -> str:
    """In thousands where it is long, so that four limits stand in one line."""
    return str(count) if count < 10_000 else f"{count / 1000:.4g}k" if count < 10_000_000 else f"{count / 1e6:.4g}M"
