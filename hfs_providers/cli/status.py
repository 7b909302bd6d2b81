"""`status` and `plugins`: what is installed and configured.

JSON of `status`: `version`, `usable` (whether any provider is), `providers` (in fallback order: `name`, `configured`,
`usable`, `initialized` (null without `--build`), `keys`, `sources` (by variable or file, how many keys it has), `free`
(keys that could be used now for the default model, as far as the usage file knows), `dead`, `declared`, `expected`,
`default_model`, `sdk` (distribution, or null if none is needed), `sdk_version` (null if it is missing),
`install`, `problems`), `problems` (those of no provider), `env_file`, `config_file`, `usage` (`path`, `size` in bytes,
`targets`: `name`, `product` (as TiDB or MariaDB), `behind` (rows), `oldest` of them (seconds since the epoch), `error`;
`sharing`: `file`, `redis` or null; `processes` that are there), `tidb_persistence`. A problem is `message`, `remedy`,
`level`, `provider`.

JSON of `plugins`: `plugins` (`name`, `distribution`, `version`, `kind`, `contract`, `hooks`, `sources` of keys),
`problems` (`plugin`, `distribution`, `message`, `remedy`), `disabled` (names).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output
from hfs_providers.cli.key_sources import in_words, key_sources
from hfs_providers.cli.table import Column
from hfs_providers.contract.environment import env_name

if TYPE_CHECKING:
    from hfs_providers import Problem, ProviderManager
    from hfs_providers.core.inventory import Inventory
    from hfs_providers.core.storage_status import StorageStatus
    from hfs_providers.keys import KeyStatus


def status(
    as_json: output.JsonOption = False,
    build: Annotated[bool, typer.Option("--build", help="Build the providers too; this imports Agno.")] = False,
) -> None:
    """Show which providers can be used. Exit code 1 if none can."""
    from hfs_providers import __version__
    from hfs_providers.core.inventory import take_inventory
    from hfs_providers.core.storage_status import storage_status
    from hfs_providers.dashboard.stored_keys import stored_statuses

    with ExitStack() as stack:
        manager = stack.enter_context(_manager()) if build else None
        found = manager.inventory if manager is not None else take_inventory()
        usage = storage_status(found.settings.env)
        # Both may say the same of the file.
        problems = tuple(dict.fromkeys([*(manager if manager is not None else found).problems, *usage.problems]))
        keys = stored_statuses(found)
        providers = [_provider_record(found, name, manager, problems, keys.get(name, ())) for name in found.providers]
    general = [problem for problem in problems if problem.provider not in found.providers]
    usable = any(provider["usable"] for provider in providers)
    if as_json:
        output.print_json(
            {
                "version": __version__,
                "usable": usable,
                "providers": providers,
                "problems": [asdict(problem) for problem in general],
                "env_file": _path(found.settings.env_file),
                "config_file": _path(found.file.path),
                "usage": _usage_record(usage),
                "tidb_persistence": any(target.product == "TiDB" for target in usage.targets),
            }
        )
    else:
        _print_status(providers, build)
        _print_usage(usage)
        print(usage.summary)
        if problems:
            print("\nProblems")
            output.print_findings((problem.level, problem.message, problem.remedy) for problem in problems)
    if not usable:
        output.fail("no provider is usable", first_step(found))


def _usage_record(usage: StorageStatus) -> dict[str, Any]:
    record = asdict(usage) | {"path": _path(usage.path)}
    # They are among all problems.
    del record["problems"]
    return record


def _print_usage(usage: StorageStatus) -> None:
    if usage.path is None:
        print('Usage: not kept, so "free now" knows nothing of other processes')
    else:
        size = "not there yet" if usage.size is None else f"{usage.size / 1e6:.1f} MB"
        others = f", used by {usage.processes} process{'es' * (usage.processes > 1)}" if usage.processes else ""
        print(f"Usage: {usage.path} ({size}{others})")
    for target in usage.targets:
        since = f" since {datetime.fromtimestamp(target.oldest):%Y-%m-%d %H:%M:%S}" if target.oldest else ""
        state = f"{target.behind} rows behind{since}" if target.behind else "up to date"
        error = f"; last error: {target.error}" if target.error else ""
        print(f"Forwarded to {target.name}: {state if target.behind is not None else 'unknown'}{error}")
    if usage.sharing == "redis":
        print("Keys are shared by Redis")


def first_step(found: Inventory) -> str:
    """The first thing to do if no provider can be used."""
    if not found.providers:
        return "Clear HFS_DISABLED_PLUGINS, or see: hfs-providers plugins"
    for provider in found.providers.values():
        if provider.config.configured:
            requirement = provider.config.requirement
            return "Run: hfs-providers doctor" if provider.sdk or not requirement else f"Run: {requirement.install}"
    name, present = next(
        ((name, True) for name, provider in found.providers.items() if provider.sdk is not None),
        (next(iter(found.providers)), False),
    )
    upper = env_name(name)
    keys = f"Set NUM_{upper}=1 and {upper}_API_KEY_1 in the environment or in a file .env"
    return keys if present else f"Run: pip install 'hfs-providers[all]'. {keys}"


def _manager() -> ProviderManager:
    from hfs_providers import ProviderManager

    return ProviderManager()


def _path(path: object) -> str | None:
    return None if path is None else str(path)


def _provider_record(
    found: Inventory,
    name: str,
    manager: ProviderManager | None,
    problems: Sequence[Problem],
    keys: Sequence[KeyStatus],
) -> dict[str, Any]:
    provider = found.providers[name]
    config = provider.config
    requirement = config.requirement
    dead = sum(key.state == "dead" for key in keys)
    usable = provider.usable and dead < len(keys)
    return {
        "name": name,
        "configured": config.configured,
        "usable": usable if manager is None else manager.is_provider_healthy(name),
        "initialized": None if manager is None else name in manager.wrappers,
        "keys": len(config.credentials),
        "sources": key_sources(config.credentials),
        "free": sum(key.state == "ready" for key in keys),
        "dead": dead,
        "declared": config.declared,
        "expected": config.expected,
        "default_model": provider.default_model(date.today()),
        "sdk": requirement.distribution if requirement is not None else None,
        "sdk_version": provider.sdk if requirement is not None else None,
        "install": requirement.install if requirement is not None else None,
        "problems": [asdict(problem) for problem in problems if problem.provider == name],
    }


def _print_status(providers: Sequence[dict[str, Any]], build: bool) -> None:
    columns: list[Column | str] = [
        "provider",
        Column("configured", give=2),
        "usable",
        ">keys",
        ">free now",
        Column("default model", give=3, how="below"),
        Column("SDK", give=2),
        Column("keys from", give=1),
    ]
    if build:
        columns.insert(2, "initialized")
    rows = []
    for provider in providers:
        sdk: object = "none needed"
        if provider["sdk"] is not None:
            version = provider["sdk_version"]
            sdk = f"{provider['sdk']} {version}" if version else output.styled("missing", "red")
        row = [provider["name"], provider["configured"], provider["usable"], provider["keys"]]
        row += [provider["free"] if provider["configured"] else None, provider["default_model"], sdk]
        row.append(in_words(provider["sources"]))
        if build:
            row.insert(2, provider["initialized"])
        rows.append(row)
    output.print_table(None, columns, rows)


def plugins(as_json: output.JsonOption = False) -> None:
    """List the installed plugins and what is wrong with them. Exit code 1 if anything is."""
    from hfs_providers.authoring import CONTRACT_VERSION
    from hfs_providers.core.inventory import take_inventory

    found = take_inventory()
    registry = found.registry
    listed: list[dict[str, Any]] = [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "kind": _kind(plugin.provider, plugin.hooks),
            "contract": CONTRACT_VERSION,
            "hooks": list(plugin.hooks),
            "sources": key_sources(found.providers[plugin.name].config.credentials)
            if plugin.name in found.providers
            else {},
        }
        for plugin in registry.plugins.values()
    ]
    problems = plugin_problems(found) + _unfit(found)
    if as_json:
        output.print_json({"plugins": listed, "problems": problems, "disabled": list(registry.disabled)})
    else:
        output.print_table(
            None,
            [
                *("plugin", "distribution", "version", "kind"),
                Column("keys from", give=2, how="below"),
                Column("hooks", give=1, how="wrap"),
            ],
            [
                [
                    *(entry[name] for name in ("name", "distribution", "version", "kind")),
                    in_words(entry["sources"]),
                    ", ".join(entry["hooks"]),
                ]
                for entry in listed
            ],
        )
        if registry.disabled:
            print(f"Disabled by HFS_DISABLED_PLUGINS: {', '.join(registry.disabled)}")
        if problems:
            print("Problems")
            output.print_findings(("error", problem["message"], problem["remedy"]) for problem in problems)
    if problems:
        raise typer.Exit(1)


def plugin_problems(found: Inventory) -> list[dict[str, Any]]:
    """The plugins that were not loaded, and those whose hooks failed."""
    remedies = {problem.message: problem.remedy for problem in found.problems}
    unloaded = [(error.plugin, error.distribution, str(error)) for error in found.registry.problems]
    broken = {name: plugin for name, plugin in found.registry.plugins.items() if name not in found.providers}
    failed = [
        (name, plugin.distribution, problem.message)
        for problem in found.problems
        for name, plugin in broken.items()
        if problem.provider == name
    ]
    return [
        {"plugin": plugin, "distribution": distribution, "message": message, "remedy": remedies.get(message)}
        for plugin, distribution, message in [*unloaded, *failed]
    ]


def _unfit(found: Inventory) -> list[dict[str, Any]]:
    """Third-party plugins that set fields that their model class does not have."""
    from hfs_providers.clients.families import family_of
    from hfs_providers.clients.model_fields import Misfit, known_misfits
    from hfs_providers.contract.protocols import ProviderTraits

    problems = []
    for name, provider in found.providers.items():
        plugin = found.registry.plugins[name]
        # Those of this library pass its tests.
        if plugin.distribution == "hfs-providers" or not isinstance(plugin.target, ProviderTraits):
            continue
        try:
            misfits = list(known_misfits(plugin.target, family_of(plugin.target.client), provider.config.base_url))
        except Exception as error:  # what a plugin names as its `client` may raise anything
            misfits = [Misfit(f"its `client` raised {type(error).__name__}: {error}", "Correct it in the plugin")]
        problems += [
            {"plugin": name, "distribution": plugin.distribution, "message": each.message, "remedy": each.remedy}
            for each in misfits
        ]
    return problems


def _kind(provider: bool, hooks: Sequence[str]) -> str:
    if provider:
        return "provider"
    kinds = ["hook wrapper"] if set(hooks) - {"on_event"} else []
    if "on_event" in hooks:
        kinds.append("observer")
    return " and ".join(kinds)
