"""The TOML file for settings that are awkward as variables: order, tiers, limits, money. No key is read from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from hfs_providers.contract.environment import CONFIG
from hfs_providers.contract.records import Limits, Problem
from hfs_providers.contract.secret import KEY_ID
from hfs_providers.core.settings import Settings
from hfs_providers.money.budgets import Budget, budgets_of
from hfs_providers.money.prices import Rates

FILE_NAME = "hfs-providers.toml"

Location = tuple[int | str, ...]

_BUDGETS = frozenset({"budget", "budgets"})
# How many names there are of what belongs together: that of a model, or of a key and a model.
_WHOLE: Mapping[int | str, int] = {"prices": 2, "limits": 2, "keys": 3}
# A budget that cannot be read must not be one without end.
_NOTHING = {"usd": 0.0, "per": "day"}


@dataclass(frozen=True, slots=True)
class ProviderOverrides:
    """What the file says of one provider.

    Args:
        model: its default model.
        limits: by model id or glob.
        key_limits: by key id, then by model id or glob.
    """

    model: str | None = None
    limits: Mapping[str, Limits] = field(default_factory=dict)
    key_limits: Mapping[str, Mapping[str, Limits]] = field(default_factory=dict)


class ClientRules(NamedTuple):
    """What the file says of a client of the gateway.

    Args:
        models: patterns for the models that it may use; None: all.
        limits: of all its requests together.
    """

    models: Sequence[str] | None = None
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class FileConfig:
    """The file, typed.

    Args:
        path: where it was read from, or None.
        order: providers in fallback order.
        tiers: by tier, `provider/model` in order of preference.
        providers: by provider name.
        prices: by `provider/model` or a glob for it.
        free: the providers and the ids of keys that cost nothing.
        budgets: what may be spent.
        clients: by name, what each client of the gateway may do.
    """

    path: Path | None = None
    order: Sequence[str] = ()
    tiers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    providers: Mapping[str, ProviderOverrides] = field(default_factory=dict)
    prices: Mapping[str, Rates] = field(default_factory=dict)
    free: frozenset[str] = frozenset()
    budgets: Sequence[Budget] = ()
    clients: Mapping[str, ClientRules] = field(default_factory=dict)


def load_file_config(settings: Settings) -> tuple[FileConfig, list[Problem]]:
    """Read the file that `HFS_CONFIG` names, else `hfs-providers.toml` here or in the user's config directory.

    A file that cannot be read is a problem, and counts as empty. An invalid part is a problem and is left out. If it is
    a budget, nothing may be spent.
    """
    named = settings.env.get(CONFIG, "").strip()
    path = Path(named) if named else _usual_place()
    if path is None:
        return FileConfig(), []
    try:
        path = path.expanduser()
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:
        # ValueError: not UTF-8, or a name that no file can have; RuntimeError: a home directory that is not known.
        why = getattr(error, "strerror", None) or "it is not UTF-8 text, or its name is not valid"
        remedy = f"Create it, or correct {CONFIG}" if named else "Correct or remove it"
        return FileConfig(), [Problem(f"{path} cannot be read: {why}", remedy, "error")]
    import tomllib

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return FileConfig(), [Problem(f"{path} is not valid TOML: {error}", f"Correct {path}", "error")]
    return _validated(path, data)


def _usual_place() -> Path | None:
    here = Path(FILE_NAME)
    if here.is_file():
        return here
    from platformdirs import user_config_path

    try:
        user = user_config_path("hfs-providers", appauthor=False) / FILE_NAME
    except RuntimeError:
        # Neither HOME nor an entry in passwd: there is no such directory.
        return None
    return user if user.is_file() else None


def _validated(path: Path, data: dict[str, Any]) -> tuple[FileConfig, list[Problem]]:
    # pydantic takes 0.15 s to import, which only those who have a file pay.
    from pydantic import ValidationError

    from hfs_providers.core.config_schema import FileTable

    problems = _name_keys(path, data)
    faults: list[Any] = []
    while True:
        try:
            parsed = FileTable.model_validate(data)
            break
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
        # Those of a second round come of what the first has taken out.
        faults = faults or found
        for fault in found:
            _take_out(data, fault["loc"])
    problems += [_problem(path, fault["loc"], fault["msg"]) for fault in faults]
    raw: dict[str, Any] = parsed.model_dump(exclude_none=True)
    tables: dict[str, dict[str, Any]] = {name.lower(): item for name, item in raw.get("providers", {}).items()}
    free = [name for name, item in tables.items() if item.pop("free")]
    free += [key_id for item in tables.values() for key_id, key in item["keys"].items() if key.pop("free")]
    providers = {
        name: ProviderOverrides(
            model=item.get("model"),
            limits=_limits(item["limits"]),
            key_limits={key_id: _limits(models) for key_id, models in item["keys"].items()},
        )
        for name, item in tables.items()
    }
    return FileConfig(
        path.absolute(),
        tuple(name.lower() for name in raw["order"]),
        raw["tiers"],
        providers,
        {name: Rates.of(**price) for name, price in raw["prices"].items()},
        frozenset(free),
        budgets_of(raw, tables),
        {name: _client(table) for name, table in raw["clients"].items()},
    ), problems


def _problem(path: Path, location: Location, message: str) -> Problem:
    until = "the rest of the file is used" if _budget_at(location) is None else "what it limits may cost nothing"
    return Problem(f"{path}: {_where(location)}: {message}", f"Correct it; until then {until}", "error")


def _name_keys(path: Path, data: Mapping[str, Any]) -> list[Problem]:
    """Replace the numbers of keys by their ids, and take out the names that no key has."""
    problems = []
    providers = data.get("providers")
    for name, table in providers.items() if isinstance(providers, dict) else ():
        keys: Any = table.get("keys") if isinstance(table, dict) else None
        for said in list(keys) if isinstance(keys, dict) else ():
            key_id = f"{name.lower()}#{int(said)}" if said.isdecimal() else said
            found = KEY_ID.fullmatch(key_id)
            key = keys.pop(said)
            if found is not None and found[1] == name.lower() and "#" not in said:
                keys[key_id] = key
            else:
                message = f"a key of {name} is named by its number, or as {name}@ and its fingerprint"
                problems.append(_problem(path, ("providers", name, "keys", said), message))
    return problems


def _take_out(data: dict[str, Any], location: Location) -> None:
    """Remove the smallest part of the file around a fault that leaves the rest valid."""
    budget = _budget_at(location)
    if budget is not None:
        table = _table(data, budget[:-1])
        # It may go by the other of the two names.
        table.pop(str(location[len(budget) - 1]), None)
        table[str(budget[-1])] = dict(_NOTHING)
        return
    # A price, the limits of a model and a list have a meaning as a whole only.
    whole = next((place + _WHOLE[part] for place, part in enumerate(location) if part in _WHOLE), None)
    names = [str(part) for part in takewhile(lambda part: isinstance(part, str), location[:whole])]
    _table(data, names[:-1]).pop(names[-1], None)


def _budget_at(location: Location) -> Location | None:
    """The table of the budget that a place is in, or is meant to be in; None if it is in none."""
    place = 2 if location[0] in ("providers", "clients") else 0
    if not _BUDGETS.intersection(location[place : place + 1]):
        return None
    return (*location[:place], "budget" if place else "budgets")


def _table(data: dict[str, Any], location: Iterable[int | str]) -> dict[str, Any]:
    for name in location:
        data = data[str(name)]
    return data


def _client(table: Mapping[str, Any]) -> ClientRules:
    limits = {name: value for name, value in table.items() if name not in ("models", "budget")}
    return ClientRules(table.get("models"), Limits(**limits) if limits else None)


def _where(location: Location) -> str:
    parts = [str(part) for part in location]
    if "keys" in parts:
        # A key's number or id belongs there; whatever else stands there may be the key.
        place = parts.index("keys") + 1
        known = (part.isdigit() or part == "free" or KEY_ID.fullmatch(part) for part in parts[place:])
        # Keys are named by their numbers in the file.
        shown = zip(parts[place:], known, strict=True)
        parts[place:] = [part.rpartition("#")[2] if is_known else "?" for part, is_known in shown]
    return ".".join(parts)


def _limits(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Limits]:
    return {model: Limits(**values) for model, values in models.items()}
