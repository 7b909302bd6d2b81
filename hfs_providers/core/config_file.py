"""The TOML file for settings that are awkward as variables: order, tiers, limits, money. No key is read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hfs_providers.contract.environment import CONFIG
from hfs_providers.contract.records import Limits, Problem
from hfs_providers.contract.secret import KEY_ID
from hfs_providers.core.settings import Settings
from hfs_providers.money.budgets import Budget, budgets_of
from hfs_providers.money.prices import Rates

FILE_NAME = "hfs-providers.toml"


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
        clients: by name, what clients of the gateway may do.
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

    A file that cannot be used is a problem, and counts as empty.
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
        why = (
            error.strerror if isinstance(error, OSError) else None
        ) or "it is not UTF-8 text, or its name is not valid"
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

    try:
        parsed = FileTable.model_validate(data)
    except ValidationError as error:
        problems = [
            Problem(
                f"{path}: {_where(item['loc'])}: {item['msg']}",
                "Correct it; until then the file is not used",
                "error",
            )
            for item in error.errors(include_url=False, include_input=False)
        ]
        return FileConfig(), problems
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
    ), []


def _client(table: Mapping[str, Any]) -> ClientRules:
    limits = {name: value for name, value in table.items() if name not in ("models", "budget")}
    return ClientRules(table.get("models"), Limits(**limits) if limits else None)


def _where(location: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in location]
    if "keys" in parts:
        # A key's number or id belongs there; whatever else stands there may be the key.
        place = parts.index("keys") + 1
        known = (part.isdigit() or part == "free" or KEY_ID.fullmatch(part) for part in parts[place:])
        parts[place:] = [part if shown else "?" for part, shown in zip(parts[place:], known, strict=True)]
    return ".".join(parts)


def _limits(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Limits]:
    return {model: Limits(**values) for model, values in models.items()}
