"""Makes fallback chains out of names, tiers and models."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from agno.models.base import Model

from hfs_providers.contract.environment import TIER, env_name
from hfs_providers.contract.errors import ProviderError, ProviderUnavailableError, SettingsError
from hfs_providers.fallback.chain import FallbackChain, chain_of
from hfs_providers.fallback.config import ChainConfig, Restore
from hfs_providers.fallback.entry import Entry, entry_of

if TYPE_CHECKING:
    from hfs_providers.core.manager import ProviderManager

ChainEntry: TypeAlias = "str | Model | Mapping[str, Any]"
OnInterrupt = Literal["raise", "restart"]

_log = logging.getLogger("hfs_providers")


def assemble(
    manager: ProviderManager,
    entries: Sequence[ChainEntry],
    *,
    tier: str | None,
    restore: Restore,
    on_interrupt: OnInterrupt,
    sleep: Callable[[float], object] | None,
    async_sleep: Callable[[float], Awaitable[object]] | None,
    rebuild: Callable[..., object] | None,
    options: Mapping[str, Any],
) -> FallbackChain:
    """See `ProviderManager.get_chain`; `options` are those of `get_model`, `rebuild` is that of `Plan`."""
    if restore not in get_args(Restore):
        raise ValueError(f"restore is one of {', '.join(get_args(Restore))}, not {restore!r}")
    if on_interrupt not in get_args(OnInterrupt):
        raise ValueError(f"on_interrupt is one of {', '.join(get_args(OnInterrupt))}, not {on_interrupt!r}")
    if tier is not None and entries:
        raise ValueError("give entries or a tier, not both")
    if tier is not None:
        chosen = _of_tier(manager, tier, options)
    elif entries:
        chosen = [_entry(manager, given, options) for given in entries]
    else:
        chosen = _usable(manager, manager.available_providers, "the chain", options)
        if not chosen:
            raise ProviderUnavailableError("every provider", ("none can be used",))
    config = ChainConfig(
        tuple(chosen),
        restore,
        on_interrupt == "restart",
        manager.emit,
        sleep or time.sleep,
        async_sleep or asyncio.sleep,
        rebuild,
    )
    return chain_of(config)


def _of_tier(manager: ProviderManager, tier: str, options: Mapping[str, Any]) -> list[Entry]:
    tiers = _tiers(manager)
    names = tiers.get(tier.lower())
    if names is None:
        raise SettingsError(
            f"there is no tier {tier!r} (there are: {', '.join(tiers) or 'none'}). Set {TIER}{env_name(tier)} to "
            "`provider/model` in order of preference, comma-separated, or name it under [tiers] in the TOML file"
        )
    chosen = _usable(manager, names, f"the tier {tier!r}", options)
    if not chosen:
        raise SettingsError(
            f"none of the providers of the tier {tier!r} can be used: {', '.join(names) or 'it is empty'}"
        )
    return chosen


def _tiers(manager: ProviderManager) -> dict[str, list[str]]:
    found = {name.lower(): list(names) for name, names in manager.inventory.file.tiers.items()}
    for variable, value in manager.inventory.settings.env.items():
        names = [name for name in re.split(r"[,\s]+", value) if name]
        if variable.startswith(TIER) and names:
            found[variable.removeprefix(TIER).lower()] = names
    return found


def _usable(manager: ProviderManager, names: Sequence[str], where: str, options: Mapping[str, Any]) -> list[Entry]:
    chosen = []
    for name in names:
        try:
            chosen.append(_entry(manager, name, options))
        except (ProviderError, SettingsError, ImportError) as error:
            # One provider that is not here, or whose SDK does not import, must not keep the others from serving.
            _log.warning("%s goes without %s: %s", where, name, error)
    return chosen


def _entry(manager: ProviderManager, given: ChainEntry, options: Mapping[str, Any]) -> Entry:
    if isinstance(given, Model):
        return entry_of(given, manager.clock, partial(_aggregates, manager))
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
    return entry_of(manager.get_model(provider.lower(), model_id or None, **options), manager.clock)


def _aggregates(manager: ProviderManager, model: Model) -> bool:
    """Whether a model that is not one of ours retries transport errors itself: a chain, or an aggregator's class."""
    if isinstance(model, FallbackChain):
        return True
    for name, found in manager.inventory.providers.items():
        path = getattr(manager.inventory.registry.plugins[name].target, "model_class", None)
        if found.config.aggregator and isinstance(path, str):
            module, _, known = path.partition(":")
            if any(base.__name__ == known and base.__module__.startswith(module) for base in type(model).__mro__):
                return True
    return False


def _read(given: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, str | None, Mapping[str, Any]]:
    """Provider, model id and the arguments of `get_model` out of a dict. No value is shown: one may be a key."""
    arguments = {**options, **given}
    provider, model_id = arguments.pop("provider", None), arguments.pop("model", None)
    if not isinstance(provider, str) or not isinstance(model_id, str | None) or {"id", "model_id"} & given.keys():
        raise ValueError(
            "a dict as an entry of a chain has a `provider` and, where it is not the default, a `model`, both "
            "text; its other keys are arguments of get_model for this entry. "
            f"This one has: {', '.join(map(str, given)) or 'nothing'}"
        )
    return provider.strip(), model_id, arguments
