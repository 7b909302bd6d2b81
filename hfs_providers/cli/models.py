"""`models`: the default models, their successors and when they retire.

JSON: `providers` (`name`, `default_model`, `default_from` (`plugin`, a variable or a file), `models` (`id`, `retires`,
`retired`, `default`, `listed` (null without `--live`)), `live` (ids, or null), `live_error`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output
from hfs_providers.cli.status import plugin_problems
from hfs_providers.cli.table import Column
from hfs_providers.contract.environment import env_name

if TYPE_CHECKING:
    from hfs_providers import ProviderManager
    from hfs_providers.core.inventory import Inventory


def models(
    provider: Annotated[str | None, typer.Argument(help="Only this provider.", show_default=False)] = None,
    as_json: output.JsonOption = False,
    live: Annotated[bool, typer.Option("--live", help="Ask the providers which models they list.")] = False,
) -> None:
    """Show the default models, their successors and when they retire."""
    from hfs_providers import ProviderManager
    from hfs_providers.core.inventory import take_inventory

    with ExitStack() as stack:
        manager = stack.enter_context(ProviderManager()) if live else None
        found = manager.inventory if manager is not None else take_inventory()
        names = list(found.providers) if provider is None else [known(found, provider)]
        records = [_models_record(found, name, manager) for name in names]
    if as_json:
        output.print_json({"providers": records})
    else:
        _print_models(records, live)
    asked = [record for record in records if provider is not None or found.providers[record["name"]].usable]
    if live and (not asked or any(record["live_error"] for record in asked)):
        output.fail("not every provider could be asked", None if as_json else "see above")


def known(found: Inventory, provider: str) -> str:
    """The name of an installed provider, whatever its case. Raises UnknownProviderError."""
    from hfs_providers import UnknownProviderError

    name = provider.strip().lower()
    if name in found.providers:
        return name
    if name in found.registry.disabled:
        output.fail(f"{name} is disabled", "Remove it from HFS_DISABLED_PLUGINS", code=2)
    for problem in plugin_problems(found):
        if problem["plugin"] == name:
            output.fail(problem["message"], problem["remedy"], code=2)
    raise UnknownProviderError(provider, list(found.providers))


def provider_named(inventory: Inventory, said: str) -> str:
    """A provider's name. Any other text is not repeated, because it may be a key."""
    from hfs_providers import UnknownProviderError

    try:
        return known(inventory, said)
    except UnknownProviderError:
        installed = ", ".join(inventory.providers)
        output.fail("there is no such provider or command (not shown: it may be a key)", f"Use: {installed}", code=2)


def _models_record(found: Inventory, name: str, manager: ProviderManager | None) -> dict[str, Any]:
    provider = found.providers[name]
    today = date.today()
    default = provider.default_model(today)
    live, error = (None, None) if manager is None else _ask_live(manager, name)
    entries = [(model.id, model.retires, model.retired(today)) for model in provider.models]
    if default not in {entry[0] for entry in entries}:
        entries.insert(0, (default, None, False))
    return {
        "name": name,
        "default_model": default,
        "default_from": default_source(found, name),
        "models": [
            {
                "id": model_id,
                "retires": retires.isoformat() if retires else None,
                "retired": retired,
                "default": model_id == default,
                "listed": None if live is None else model_id in live,
            }
            for model_id, retires, retired in entries
        ],
        "live": live,
        "live_error": error,
    }


def default_source(found: Inventory, name: str) -> str:
    """Where a provider's default model comes from: a variable, the configuration file, or the plugin."""
    if found.providers[name].config.default_model is None:
        return "plugin"
    variable = f"{env_name(name)}_MODEL"
    return variable if found.settings.env.get(variable, "").strip() else str(found.file.path)


def _ask_live(manager: ProviderManager, name: str) -> tuple[list[str] | None, str | None]:
    from hfs_providers import HfsProvidersError
    from hfs_providers.contract.redaction import Redactor

    try:
        return sorted(manager.wrapper(name).list_models()), None
    except HfsProvidersError as error:
        return None, str(error)
    except Exception as error:
        # An SDK's message can echo the key.
        words = Redactor.of(manager.wrapper(name).pool.credentials).scrub(str(error))
        return None, f"{type(error).__name__}: {words}"


def _print_models(records: Sequence[dict[str, Any]], live: bool) -> None:
    columns: list[Column | str] = [
        "provider",
        "model",
        Column("used by default", give=2, how="wrap"),
        Column("retires", give=1, how="wrap"),
    ]
    rows = []
    for record in records:
        for index, model in enumerate(record["models"]):
            default: object = (
                output.styled(f"yes, from {record['default_from']}", "green") if model["default"] else None
            )
            retires: object = model["retires"]
            if model["retired"]:
                retires = output.styled(f"{retires} (retired)", "red")
            row = [record["name"] if index == 0 else " ", model["id"], default, retires]
            if live:
                row.append(output.styled("no", "red") if model["listed"] is False else model["listed"])
            rows.append(row)
    output.print_table(None, [*columns, "listed"] if live else columns, rows)
    for record in records:
        if record["live_error"]:
            output.note(f"{record['name']} could not be asked: {record['live_error']}")
        elif record["live"] is not None:
            print(f"{record['name']} lists {len(record['live'])} models:")
            print("\n".join(f"  {model_id}" for model_id in record["live"]))
