"""Builds fallback chains from names, tiers and models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from agno.models.base import Model

from hfs_providers.clients.families import family_of
from hfs_providers.contract.environment import TIER, env_name
from hfs_providers.contract.errors import ProviderError, ProviderUnavailableError, SettingsError
from hfs_providers.fallback.chain import FallbackChain
from hfs_providers.fallback.entry import Entry, entry_of

if TYPE_CHECKING:
    from hfs_providers.contract.protocols import ProviderTraits

ChainEntry: TypeAlias = "str | Model | Mapping[str, Any]"

_log = logging.getLogger("hfs_providers")


@dataclass(frozen=True, slots=True)
class ChainSources:
    """The sources of a chain's entries.

    Args:
        providers: the names of the providers that can be used, in fallback order.
        tiers: by lower-case name, `provider/model` in order of preference.
        plugins: the data of the installed providers, for the caller's own Agno models.
    """

    get_model: Callable[..., Model]
    providers: Sequence[str]
    tiers: Mapping[str, Sequence[str]]
    plugins: Sequence[ProviderTraits]
    clock: Callable[[], float]


def entries_of(
    sources: ChainSources, given: Sequence[ChainEntry], tier: str | None, options: Mapping[str, Any]
) -> tuple[Entry, ...]:
    """The entries of a chain; see `ProviderManager.get_chain`. The options are those of `get_model`."""
    if tier is not None and given:
        raise ValueError("give entries or a tier, not both")
    if tier is not None:
        return tuple(_of_tier(sources, tier, options))
    if given:
        return tuple(_entry(sources, each, options) for each in given)
    usable = _usable(sources, sources.providers, "the chain", options)
    if not usable:
        raise ProviderUnavailableError("every provider", ("none can be used",))
    return tuple(usable)


def _of_tier(sources: ChainSources, tier: str, options: Mapping[str, Any]) -> list[Entry]:
    tiers = sources.tiers
    names = tiers.get(tier.lower())
    if names is None:
        raise SettingsError(
            f"there is no tier {tier!r} (there are: {', '.join(tiers) or 'none'}). Set {TIER}{env_name(tier)} to "
            "`provider/model` in order of preference, comma-separated, or name it under [tiers] in the TOML file"
        )
    chosen = _usable(sources, names, f"the tier {tier!r}", options)
    if not chosen:
        raise SettingsError(
            f"none of the providers of the tier {tier!r} can be used: {', '.join(names) or 'it is empty'}"
        )
    return chosen


def _usable(sources: ChainSources, names: Sequence[str], where: str, options: Mapping[str, Any]) -> list[Entry]:
    chosen = []
    for name in names:
        try:
            chosen.append(_entry(sources, name, options))
        except (ProviderError, SettingsError, ImportError) as error:
            # A provider that is missing, or whose SDK cannot be imported, must not keep the others from serving.
            _log.warning("%s is built without %s: %s", where, name, error)
    return chosen


def _entry(sources: ChainSources, given: ChainEntry, options: Mapping[str, Any]) -> Entry:
    if isinstance(given, Model):
        plugin = _plugin_of(given, sources.plugins)
        # A chain retries transport errors itself.
        aggregator = isinstance(given, FallbackChain) or (plugin is not None and plugin.aggregator)
        return entry_of(given, sources.clock, plugin and _completed(plugin), aggregator)
    model_id: str | None
    if isinstance(given, str):
        provider, _, model_id = given.strip().partition("/")
    elif isinstance(given, Mapping):
        provider, model_id, options = _read(given, options)
    else:
        raise TypeError(
            f"an entry of a chain is a provider's name, `provider/model`, an Agno model, or a dict with `provider` and "
            f"`model`, not a {type(given).__name__}"
        )
    return entry_of(sources.get_model(provider.lower(), model_id or None, **options), sources.clock)


def _plugin_of(model: Model, plugins: Sequence[ProviderTraits]) -> ProviderTraits | None:
    """The plugin for a model's class, or for the nearest class that it inherits from."""
    for base in type(model).__mro__:
        for plugin in plugins:
            module, _, name = plugin.model_class.partition(":")
            if base.__name__ == name and f"{base.__module__}.".startswith(f"{module}."):
                return plugin
    return None


def _completed(plugin: ProviderTraits) -> ProviderTraits:
    """The data of a plugin with that of the family of its SDK, as the plugin's own models have it."""
    try:
        return family_of(plugin.client).complete(plugin)
    except Exception:  # what a plugin names as its `client` may raise anything
        return plugin


def _read(given: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, str | None, Mapping[str, Any]]:
    """Provider, model id and the arguments of `get_model` from a dict. Errors show no value: it may be a key."""
    arguments = {**options, **given}
    provider, model_id = arguments.pop("provider", None), arguments.pop("model", None)
    if not isinstance(provider, str) or not isinstance(model_id, str | None) or {"id", "model_id"} & given.keys():
        raise ValueError(
            "a dict as an entry of a chain must have a `provider` and can have a `model`, both strings; its other "
            "keys are arguments of get_model for this entry. "
            f"This one has: {', '.join(map(str, given)) or 'nothing'}"
        )
    return provider.strip(), model_id, arguments
