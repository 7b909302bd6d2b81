"""`keys`, `keys revive` and `keys retire`: what state each key is in, and a word of the owner's about it.

JSON of `keys`: `providers` (`name`, `error` (why its keys cannot be shown, or null), `default_model`, `keys` (`id`,
`fingerprint`, `account` (null where it has its own), `state`, `reason`, `free_in` (seconds, or null), `until` (ISO, or
null), `models` (`model`, `state`, `reason`, `free_in`, `until`, `windows` (`per` (minute, hour, day), `unit` (requests,
tokens), `used`, `limit`))). What all models share has the model `*`.

JSON of `keys revive` and `keys retire`: `id`, `fingerprint`, `state`, `reason`, `free_in`, `until`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output
from hfs_providers.cli.models import known
from hfs_providers.cli.status import first_step

if TYPE_CHECKING:
    from hfs_providers import Credential, KeyStatus, Limits, ProviderManager, Wrapper

_STATES = {"ready": "green", "limited": "yellow", "cooling": "yellow", "dead": "red"}
_KEY_ID = re.compile(r"([a-z0-9][a-z0-9_-]{0,40})#\d{1,6}")
_FINGERPRINT = re.compile(r"[0-9a-f]{8}")
_PERIODS = {"minute": "m", "hour": "h", "day": "d"}
_ALL = "*"

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its id, as groq#3, or its fingerprint.")]


def keys(
    context: typer.Context,
    provider: Annotated[list[str] | None, typer.Option(help="Only this provider.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(help="For this model, not the default and those in use.", show_default=False)
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Show each key: its state, what of its limits is used, and when it is free again."""
    if context.invoked_subcommand is not None:
        return
    from hfs_providers import HfsProvidersError, ProviderManager

    with ProviderManager() as manager:
        names = [known(manager.survey, name) for name in provider or []]
        names = names or [name for name, found in manager.survey.providers.items() if found.config.configured]
        if not names:
            output.fail("no provider has a key", first_step(manager.survey))
        records = []
        for name in dict.fromkeys(names):
            try:
                records.append(_record(manager, name, model))
            except HfsProvidersError as error:
                records.append({"name": name, "error": str(error), "default_model": None, "keys": []})
    if as_json:
        output.print_json({"providers": records})
    else:
        _print_keys(records)


def revive(key: KeyArgument, as_json: output.JsonOption = False) -> None:
    """Put a cooling or dead key back into rotation, in all processes that share the usage file."""
    _rule(key, None, as_json)


def retire(
    key: KeyArgument,
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "retired by hand",
    as_json: output.JsonOption = False,
) -> None:
    """Take a key out of rotation, in all processes that share the usage file."""
    _rule(key, " ".join(reason.split())[:200] or "retired by hand", as_json)


def _rule(key: str, reason: str | None, as_json: bool) -> None:
    """Revive a key, or with a reason retire it."""
    from hfs_providers import ProviderManager, usage_path

    with ProviderManager() as manager:
        name, credential = _find(manager, key)
        wrapper = manager.wrapper(name)
        kept = usage_path(manager.survey.settings.env) is not None
        if kept and reason is None:
            wrapper.pool.revive(credential.id)
        elif kept and reason is not None:
            redactor = getattr(wrapper, "redactor", None)
            wrapper.pool.retire(credential.id, redactor.scrub(reason) if redactor is not None else reason)
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
        again = output.local_time(_until(status.free_in))
        print(f"{status.id} is out of rotation: {status.reason}. From {again} on, one call may try it.")
        print("To keep it out for good, take it out of the environment.")


def _find(manager: ProviderManager, said: str) -> tuple[str, Credential]:
    """A key by its id or fingerprint. What is neither is not shown again: it may be a key."""
    wanted = said.strip().lower()
    found = _KEY_ID.fullmatch(wanted)
    if found is None and not _FINGERPRINT.fullmatch(wanted):
        output.fail(
            "that is no key's id (it is not shown here: it may be a key)",
            "Use an id, as groq#3, or a fingerprint: hfs-providers keys",
            code=2,
        )
    matching = [
        (name, credential)
        for name, provider in manager.survey.providers.items()
        for credential in provider.config.credentials
        if wanted in (credential.id, credential.fingerprint)
    ]
    if not matching:
        shown = wanted if found is not None and found[1] in manager.survey.providers else "with that name"
        output.fail(f"there is no key {shown}", "See: hfs-providers keys", code=2)
    if len(matching) > 1:
        ids = ", ".join(credential.id for _, credential in matching)
        output.fail(f"several keys have that fingerprint: {ids}", "Name one of them", code=2)
    return matching[0]


def _record(manager: ProviderManager, name: str, model: str | None) -> dict[str, Any]:
    wrapper = manager.wrapper(name)
    default = manager.default_model(name)
    shown = [model or default]
    for_shown = wrapper.pool.statuses(shown[0])
    used = _used(wrapper)
    if model is None:
        # Models that something is known of: used within a window, or told to wait.
        shown += sorted({scope for about in used.values() for scope, _ in about if scope not in (default, _ALL)})
    by_model = {shown[0]: for_shown, **{each: wrapper.pool.statuses(each) for each in shown[1:]}}
    overall = wrapper.pool.statuses(model)
    records = []
    for place, (credential, status) in enumerate(zip(wrapper.pool.credentials, overall, strict=True)):
        about = used[credential.id]
        models = []
        for each in shown:
            limits = _limits(manager, name, each, credential.id)
            scope = _ALL if limits is not None and limits.shared else each
            if each == shown[0] or any(known_scope == each for known_scope, _ in about):
                windows = _windows(limits, about, scope)
                models.append({"model": each, **_state(by_model[each][place]), "windows": windows})
        own = credential.account == credential.id
        records.append(
            {
                "id": status.id,
                "fingerprint": status.fingerprint,
                "account": None if own else credential.account,
                **_state(status),
                "models": models,
            }
        )
    return {"name": name, "error": None, "default_model": default, "keys": records}


def _state(status: KeyStatus) -> dict[str, Any]:
    free_in = None if status.free_in is None else round(status.free_in, 3)
    return {
        "state": status.state,
        "reason": status.reason,
        "free_in": free_in,
        "until": _until(status.free_in) if status.free_in else None,
    }


def _until(free_in: float | None) -> str | None:
    if free_in is None:
        return None
    return (datetime.now().astimezone() + timedelta(seconds=free_in)).isoformat(timespec="seconds")


def _used(wrapper: Wrapper) -> dict[str, dict[tuple[str, str], tuple[int, int]]]:
    """By key id, then by model (`*`: all together) and period: requests and tokens in its windows."""
    used: dict[str, dict[tuple[str, str], tuple[int, int]]] = {each.id: {} for each in wrapper.pool.credentials}
    state: Any = wrapper.pool.dump()
    for account in state["accounts"]:
        about: dict[tuple[str, str], tuple[int, int]] = {}
        for window in account["windows"]:
            period = window["kind"].partition("@")[0]
            entries: Iterable[Sequence[int]] = window["entries"]
            counted = [(requests, tokens) for _, requests, tokens in entries]
            about[window["model"] or _ALL, period] = (
                sum(each[0] for each in counted),
                sum(each[1] for each in counted),
            )
        for rest in account["cooling"]:
            about.setdefault((rest["model"] or _ALL, ""), (0, 0))
        for key in account["keys"]:
            used[key["id"]] = about
    return used


def _limits(manager: ProviderManager, name: str, model: str, key_id: str) -> Limits | None:
    limits_of = getattr(manager.wrappers[name], "limits_of", None)
    found: Limits | None = limits_of(model, key_id) if limits_of is not None else None
    return found


def _windows(
    limits: Limits | None, used: Mapping[tuple[str, str], tuple[int, int]], scope: str
) -> list[dict[str, Any]]:
    found = []
    for unit, place in (("requests", 0), ("tokens", 1)):
        for period, letter in _PERIODS.items():
            limit = getattr(limits, f"{unit[0]}p{letter}", None)
            if limit is not None:
                counted = used.get((scope, period), (0, 0))[place]
                found.append({"per": period, "unit": unit, "used": counted, "limit": limit})
    return found


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
        columns = ["key", "fingerprint", "state", "again", "model", "used of limit", "reason"]
        output.print_table(None, columns, rows)
    for record in records:
        if record["error"]:
            output.note(f"{record['name']}: {record['error']}")


def _in_words(windows: Sequence[Mapping[str, Any]]) -> str:
    return "  ".join(
        f"{each['unit'][0]}p{_PERIODS[each['per']]} {each['used']:,}/{each['limit']:,}" for each in windows
    )
