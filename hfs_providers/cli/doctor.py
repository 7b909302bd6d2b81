"""`doctor`: problems of this installation and environment, each with its remedy.

JSON: `ok` (whether there is no error), `findings` (`level` (`ok`, `info`, `warning`, `error`), `topic`, `message`,
`remedy`, `provider`). Topics: `python`, `packages`, `plugins`, `sdk`, `environment`, `keys`, `files`, `models`,
`state`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import typer

from hfs_providers.cli import imports, output
from hfs_providers.cli.key_sources import in_words, key_sources
from hfs_providers.cli.models import default_source
from hfs_providers.cli.status import first_step, plugin_problems
from hfs_providers.contract.environment import USAGE, env_name

if TYPE_CHECKING:
    from hfs_providers.core.inventory import InstalledProvider, Inventory
    from hfs_providers.keys import KeyStatus

Level = Literal["ok", "info", "warning", "error"]
_SOON = timedelta(days=30)
_MOST_CLIENTS = 10
_ORDER = ("error", "warning", "info", "ok")


@dataclass(frozen=True, slots=True)
class Finding:
    """One result. The levels `ok` and `info` need no action."""

    level: Level
    topic: str
    message: str
    remedy: str | None = None
    provider: str | None = None


def doctor(as_json: output.JsonOption = False) -> None:
    """Look for problems of this installation and show how to fix them. Exit code 1 if there is an error."""
    from hfs_providers.core.inventory import take_inventory

    found = take_inventory()
    findings = [
        finding
        for check in (
            _python,
            _imports,
            _problems,
            _built,
            _keys,
            _usable,
            _environment,
            _files,
            _clients,
            _models,
            _state,
        )
        for finding in check(found)
    ]
    findings.sort(key=lambda finding: _ORDER.index(finding.level))
    errors = sum(finding.level == "error" for finding in findings)
    if as_json:
        output.print_json({"ok": not errors, "findings": [asdict(finding) for finding in findings]})
    else:
        output.print_findings((finding.level, finding.message, finding.remedy) for finding in findings)
        warnings = sum(finding.level == "warning" for finding in findings)
        print(f"\n{_count(errors, 'error')}, {_count(warnings, 'warning')}")
    if errors:
        raise typer.Exit(1)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _python(found: Inventory) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    # An older one than the package allows fails at its imports, long before this.
    yield Finding("ok", "python", f"Python {version} at {sys.executable}")
    try:
        keycycle = metadata.version("keycycle")
    except metadata.PackageNotFoundError:
        return
    if not keycycle.startswith(("0.5.0", "0.5.1")):
        yield Finding(
            "warning",
            "packages",
            f"keycycle {keycycle} is installed; from 0.5.2 on its licence forbids commercial use",
            "pip install 'keycycle>=0.5.1,<0.5.2'",
        )


def _imports(found: Inventory) -> Iterator[Finding]:
    """Import Agno and each SDK in processes of their own, so that one that crashes or hangs breaks nothing here."""
    wanted = {"": "hfs_providers:KeysExhaustedError"}
    for name, provider in found.providers.items():
        requirement = provider.config.requirement
        if requirement is None:
            continue
        if provider.sdk is not None:
            # A plugin need not say which class it serves; then the SDK's own module is tried.
            wanted[name] = getattr(found.registry.plugins[name].target, "model_class", requirement.module)
        elif not provider.config.configured:
            message = f"{name}: its SDK {requirement.distribution} is not installed, and it has no key"
            yield Finding("info", "sdk", message, requirement.install, name)
    errors = imports.try_imports(wanted)
    if errors[""] is None:
        yield Finding("ok", "packages", f"agno {_version('agno')} and keycycle {_version('keycycle')} can be imported")
    else:
        message = f"agno or keycycle cannot be imported: {errors.pop('')}"
        yield Finding("error", "packages", message, "pip install --force-reinstall hfs-providers")
    for name, error in errors.items():
        requirement = found.providers[name].config.requirement if name else None
        if requirement is None:
            continue
        yield _sdk(name, found.providers[name], requirement.distribution, error)


def _sdk(name: str, provider: InstalledProvider, distribution: str, error: str | None) -> Finding:
    """The finding for the try to import an SDK."""
    sdk = f"{name}: {distribution} {provider.sdk}"
    if error is None:
        return Finding("ok", "sdk", f"{sdk} can be imported", None, name)
    remedy = f"pip install --force-reinstall {distribution}"
    if error == imports.too_slow():
        message = f"{sdk} is installed; whether it can be imported is not known: {error}"
        return Finding("warning", "sdk", message, f"Try again when the machine is less busy; or: {remedy}", name)
    level: Level = "error" if provider.config.configured else "warning"
    return Finding(level, "sdk", f"{sdk} is installed but cannot be imported: {error}", remedy, name)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(version unknown)"


def _problems(found: Inventory) -> Iterator[Finding]:
    plugins = {problem["message"]: problem["plugin"] for problem in plugin_problems(found)}
    for problem in found.problems:
        topic = "plugins" if problem.message in plugins else "environment"
        provider = problem.provider or plugins.get(problem.message)
        yield Finding(problem.level, topic, problem.message, problem.remedy, provider)
    for name in found.registry.disabled:
        message = f"{name} is disabled by HFS_DISABLED_PLUGINS"
        yield Finding("info", "plugins", message, "Remove it from that variable to use it", name)


def _built(found: Inventory) -> Iterator[Finding]:
    """Build the providers if there are third-party plugins: some hooks fail only then."""
    if all(plugin.distribution == "hfs-providers" for plugin in found.registry.plugins.values()):
        return
    known = {problem.message for problem in found.problems}
    for name, problems in imports.try_build().items():
        for problem in problems:
            if problem["message"] not in known:
                yield Finding(problem["level"], "plugins", problem["message"], problem["remedy"], name)


def _keys(found: Inventory) -> Iterator[Finding]:
    """The keys that are out of rotation according to the usage file."""
    from hfs_providers.dashboard.stored_keys import stored_statuses
    from hfs_providers.wrapper.probe import RETIRED

    for name, statuses in stored_statuses(found).items():
        for key in statuses:
            if key.state != "dead":
                continue
            reason = key.reason or "refused"
            shown = f"{key.id} ({key.fingerprint})"
            if reason.startswith(RETIRED):
                revive = f'To use it again: hfs-providers keys revive "{key.id}"'
                yield Finding("info", "keys", f"{shown} is out of rotation: {reason}", revive, name)
            else:
                remedy = f"Replace it. To try it now: hfs-providers check {name}"
                yield Finding("warning", "keys", f"{shown} is dead: {reason}", remedy, name)
        if _all_dead(statuses):
            count = "its key is" if len(statuses) == 1 else f"all {len(statuses)} keys are"
            yield Finding("error", "keys", f"{name}: {count} dead or retired", "Add a key that works", name)


def _all_dead(statuses: Sequence[KeyStatus]) -> bool:
    return bool(statuses) and all(key.state == "dead" for key in statuses)


def _usable(found: Inventory) -> Iterator[Finding]:
    from hfs_providers.dashboard.stored_keys import stored_statuses

    keys = stored_statuses(found)
    usable = [name for name, each in keys.items() if found.providers[name].usable and not _all_dead(each)]
    if usable:
        yield Finding("ok", "environment", f"Usable, in this order: {', '.join(usable)}")
    else:
        yield Finding("error", "environment", "No provider is usable", first_step(found))


def _environment(found: Inventory) -> Iterator[Finding]:
    for name, provider in found.providers.items():
        sources = key_sources(provider.config.credentials)
        if sources:
            yield Finding("ok", "environment", f"{name}: keys from {in_words(sources)}", None, name)
        variable = f"{env_name(name)}_BASE_URL"
        if provider.config.base_url is None or not found.settings.env.get(variable, "").strip():
            continue
        # Without the part before the host, which can hold a password.
        host = urlsplit(provider.config.base_url).netloc.rpartition("@")[2]
        yield Finding("info", "environment", f"{name}: calls go to {host} ({variable} is set)", None, name)


def _files(found: Inventory) -> Iterator[Finding]:
    # Those that could not be read are among the inventory's problems.
    if found.settings.env_file is not None:
        yield Finding("ok", "files", f"Environment file: {found.settings.env_file}")
    if found.file.path is not None:
        yield Finding("ok", "files", f"Configuration file: {found.file.path}")


def _clients(found: Inventory) -> Iterator[Finding]:
    """Who may use the gateway, if clients are listed."""
    from hfs_providers.cli.clients import read_clients
    from hfs_providers.gateway.client_file import ClientsPlace, unlisted

    place = ClientsPlace.of(found.settings.env)
    listed, problems = read_clients(place)
    if listed.tokens:
        problems += unlisted(found.file.clients, listed.names, found.file.path)
        names = f"{', '.join(listed.names[:_MOST_CLIENTS])}{', ...' * (len(listed.names) > _MOST_CLIENTS)}"
        yield Finding("ok", "files", f"Clients of the gateway: {names} ({place.path})")
    for problem in problems:
        yield Finding(problem.level, "files", problem.message, problem.remedy)


def _models(found: Inventory) -> Iterator[Finding]:
    today = date.today()
    for name, provider in found.providers.items():
        default = provider.default_model(today)
        source = default_source(found, name)
        model = next((model for model in provider.models if model.id == default), None)
        if model is None or model.retires is None or (source == "plugin" and not provider.config.configured):
            continue
        successor = provider.successor(default)
        next_one = f" Its successor is {successor}." if successor else ""
        change = f"Set {env_name(name)}_MODEL to another model, or clear it"
        if source != "plugin" and not source.endswith("_MODEL"):
            change = f"Change the model of {name} in {source}"
        if model.retired(today):
            message = f"{name}: the model {default}, set by {source}, was retired on {model.retires}.{next_one}"
            yield Finding(
                "error" if source != "plugin" else "warning",
                "models",
                message if source != "plugin" else f"{name}: all its known default models are retired",
                change if source != "plugin" else f"Set {env_name(name)}_MODEL, or update the plugin",
                name,
            )
        elif model.retires - today <= _SOON:
            message = f"{name}: the model {default} retires on {model.retires}.{next_one}"
            automatic = "None needed: the successor is used from that day on" if successor else change
            yield Finding("warning", "models", message, automatic if source == "plugin" else change, name)


def _state(found: Inventory) -> Iterator[Finding]:
    if found.settings.env.get(USAGE, "").strip().lower() == "off":
        return
    from hfs_providers.core.storage_status import storage_status

    usage = storage_status(found.settings.env)
    for problem in usage.problems:
        yield Finding(problem.level, "state", problem.message, problem.remedy)
    if usage.path is None:
        return
    wanted = usage.path.parent
    existing = next(path for path in (wanted, *wanted.parents) if path.exists())
    remedy = "Make it writable, or set HFS_USAGE_DB to a path elsewhere, or to off"
    if not existing.is_dir():
        yield Finding(
            "warning", "state", f"The state directory {wanted} cannot be created: {existing} is a file", remedy
        )
    elif not os.access(existing, os.W_OK | os.X_OK):
        message = f"The state directory {wanted} is not writable" + _because(existing, wanted)
        yield Finding("warning", "state", message, remedy)
    else:
        yield Finding("ok", "state", f"State directory: {wanted}")


def _because(existing: Path, wanted: Path) -> str:
    return "" if existing == wanted else f": {existing} is not"
