"""What is installed and configured, without building anything.

`ProviderManager` starts from it, and `hfs-providers status` needs no more: no SDK, Agno or keycycle is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from importlib.util import find_spec
from typing import Any

from hfs_providers.contract.deadline import within_deadline
from hfs_providers.contract.environment import DISABLED, ORDER, TIER, env_name
from hfs_providers.contract.errors import PluginConflictError, PluginError, PluginLoadError, nearest
from hfs_providers.contract.protocols import ProviderTraits
from hfs_providers.contract.records import Limits, ModelDefault, Problem, ProviderConfig
from hfs_providers.contract.sdk import sdk_version
from hfs_providers.contract.succession import default_model, successor_of
from hfs_providers.core.config_file import FileConfig, load_file_config
from hfs_providers.core.registry import Plugin, Registry
from hfs_providers.core.settings import Settings
from hfs_providers.money.prices import PriceList


@dataclass(frozen=True, slots=True)
class InstalledProvider:
    """One provider as found.

    Args:
        config: its configuration, which its plugin read from the environment.
        models: its default models, in order of preference.
        sdk: the SDK's version, or None if it is missing.
    """

    config: ProviderConfig
    models: tuple[ModelDefault, ...]
    sdk: str | None

    @property
    def usable(self) -> bool:
        """Whether a wrapper can be built from it. Its keys may come later, if a file lists them."""
        return (self.config.configured or self.config.key_file is not None) and self.sdk is not None

    def default_model(self, today: date, gone: Container[str] = ()) -> str:
        """The model to use if the caller names none: the first that is neither past its date nor known gone."""
        if self.config.default_model is not None:
            return self.config.default_model
        return default_model(self.models, today, gone)

    def successor(self, model_id: str) -> str | None:
        """The model that follows `model_id` in the plugin's list, if it is in it and not the last."""
        return successor_of(self.models, model_id)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The plugins, the environment and the problems of one assembly."""

    registry: Registry
    settings: Settings
    file: FileConfig
    providers: Mapping[str, InstalledProvider]
    problems: tuple[Problem, ...] = field(default=())

    def problems_of(self, provider: str) -> list[Problem]:
        """The problems that concern one provider."""
        return [problem for problem in self.problems if problem.provider == provider]

    def price_list(self) -> PriceList:
        """What models cost: as the file says, else as published under the name that the provider's plugin gives."""
        plugins = ((name, self.registry.plugins[name].target) for name in self.providers)
        ids = {name: plugin.price_id for name, plugin in plugins if isinstance(plugin, ProviderTraits)}
        return PriceList(self.file.prices, self.file.free, {name: known for name, known in ids.items() if known})

    @property
    def tiers(self) -> dict[str, list[str]]:
        """By lower-case name, `provider/model` in order of preference. The environment's come before the file's."""
        found = {name.lower(): list(names) for name, names in self.file.tiers.items()}
        for variable, value in self.settings.env.items():
            names = [name for name in re.split(r"[,\s]+", value) if name]
            if variable.startswith(TIER) and names:
                found[variable.removeprefix(TIER).lower()] = names
        return found

    @property
    def status(self) -> dict[str, dict[str, Any]]:
        """By provider: `configured`, `keys` (usable ones), `declared`, `expected`, `sdk`, `problems`."""
        return {
            name: {
                "configured": found.config.configured,
                "keys": len(found.config.credentials),
                "declared": found.config.declared,
                "expected": found.config.expected,
                "sdk": found.sdk,
                "problems": [problem.message for problem in self.problems_of(name)],
            }
            for name, found in self.providers.items()
        }


def take_inventory(
    env: Mapping[str, str] | None = None,
    env_file: str | os.PathLike[str] | None = None,
    plugins: Iterable[object] | None = None,
) -> Inventory:
    """Find the plugins and read the environment. The arguments are those of `ProviderManager`."""
    settings = Settings.load(env, env_file)
    registry = Registry(settings.names(DISABLED), plugins)
    file, problems = load_file_config(settings)
    problems = [*settings.problems, *problems]
    names = registry.providers
    found: dict[str, InstalledProvider] = {}
    calls: dict[str, Callable[[], InstalledProvider]] = {
        name: partial(_read, registry, settings, file, name) for name in names
    }
    results = within_deadline(calls)
    read = {name: result for name, result in results.items() if isinstance(result, InstalledProvider)}
    named = _named(settings, {name: registry.env_prefixes(name) for name in read})
    others = any(each.config.configured for each in read.values())
    for name, result in results.items():
        if isinstance(result, Exception):
            problems.append(_broken(registry.plugins[name], result))
            continue
        if name not in named:
            result = _only_installed(result, others)
        found[name] = result
        problems.extend(result.config.problems)
        requirement = result.config.requirement
        if result.config.configured and result.sdk is None and requirement is not None:
            message = f"{name} has keys, but its SDK {requirement.distribution!r} is not installed"
            problems.append(Problem(message, requirement.install, "error", name))
    problems.extend(_as_problem(error) for error in registry.problems)
    wanted = settings.names(ORDER)
    order, unknown = _ordered(list(found), wanted or list(file.order))
    known = [*registry.plugins, *registry.disabled]
    problems.extend(_without_prices(file))
    strangers = [
        *((ORDER if wanted else f"order in {file.path}", name) for name in unknown if name not in known),
        *((DISABLED, name) for name in registry.unknown),
        *((f"[providers] in {file.path}", name) for name in file.providers if name not in known),
    ]
    problems.extend(_unknown(where, name, known) for where, name in strangers)
    return Inventory(registry, settings, file, {name: found[name] for name in order}, tuple(problems))


def _read(registry: Registry, settings: Settings, file: FileConfig, name: str) -> InstalledProvider:
    config = registry.configure_env(name, settings.slice(registry.env_prefixes(name)))
    models = tuple(registry.default_model(name, config))
    requirement = config.requirement
    if requirement is not None and not requirement.install:
        install = f"pip install '{registry.plugins[name].distribution or 'hfs-providers'}[{name}]'"
        config = replace(config, requirement=replace(requirement, install=install))
    override = file.providers.get(name)
    if override is not None:
        limits = dict(config.limits)
        keys: Mapping[str, Mapping[str, Limits]] = {}
        if not settings.env.get(f"{env_name(name)}_LIMITS", "").strip():
            # The first match counts, so the file's come before the plugin's.
            keys = override.key_limits
            limits = {
                **override.limits,
                **{model: own for model, own in limits.items() if model not in override.limits},
            }
        model = config.default_model or override.model
        config = replace(config, limits=limits, key_limits=keys, default_model=model)
    return InstalledProvider(config, models, sdk_version(config.requirement))


def _named(settings: Settings, prefixes: Mapping[str, Sequence[str]]) -> set[str]:
    """The providers that have a variable of their own. Of several prefixes that fit one, the longest counts."""
    named: set[str] = set()
    for variable in settings.env:
        fits = {name: max(map(len, filter(variable.startswith, own)), default=0) for name, own in prefixes.items()}
        longest = max(fits.values(), default=0)
        named.update(name for name, length in fits.items() if length == longest > 0)
    return named


def _only_installed(found: InstalledProvider, others: bool) -> InstalledProvider:
    """A provider that the environment does not name. Having no keys is not a fault if `others` have some."""
    config = found.config
    if config.configured:
        return found
    problems = [problem for problem in config.problems if found.sdk is not None or problem.level != "warning"]
    if others:
        problems = [replace(each, level="info") if each.level == "warning" else each for each in problems]
    return replace(found, config=replace(config, problems=tuple(problems)))


def _ordered(found: list[str], wanted: list[str]) -> tuple[list[str], list[str]]:
    known = [name for name in wanted if name in found]
    return known + [name for name in found if name not in known], [name for name in wanted if name not in found]


def _as_problem(error: PluginError) -> Problem:
    if isinstance(error, PluginConflictError):
        return Problem(str(error), f"Set {DISABLED}={error.plugin}@ and the distribution that is not wanted", "error")
    mend = error.remedy or (f"pip install -U {error.distribution}" if error.distribution else "")
    return Problem(str(error), f"{mend}{', or ' if mend else ''}set {DISABLED}={error.plugin}", "error")


def _broken(plugin: Plugin, error: Exception) -> Problem:
    if not isinstance(error, PluginError):
        error = PluginLoadError(plugin.name, plugin.distribution, f"{error}" or type(error).__name__)
    return replace(_as_problem(error), provider=plugin.name)


def _without_prices(file: FileConfig) -> list[Problem]:
    if not file.budgets or file.prices or find_spec("genai_prices") is not None:
        return []
    remedy = "Run: pip install 'hfs-providers[prices]', or set [prices] in the TOML file"
    return [Problem(f"{file.path} has budgets, but no price is known", remedy)]


def _unknown(where: str, name: str, known: list[str]) -> Problem:
    near = nearest(name, known)
    hint = f" Did you mean {near!r}?" if near else ""
    return Problem(f"{where} names {name!r}, which is not installed.{hint}", f"Use some of: {', '.join(known)}")
