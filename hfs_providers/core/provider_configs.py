"""`PROVIDER_CONFIGS`: which providers are installed, without building any."""

from __future__ import annotations

from functools import partial

from hfs_providers.contract.deadline import within_deadline
from hfs_providers.contract.environment import DISABLED
from hfs_providers.core.registry import Registry
from hfs_providers.core.settings import Settings


def provider_configs() -> list[tuple[str, str]]:
    """The name and the first default model of each installed provider. Providers whose plugins fail are left out."""
    registry = Registry(Settings.load().names(DISABLED))
    first = {found: partial(_first_default, registry, found) for found in registry.providers}
    return [(found, model) for found, model in within_deadline(first).items() if isinstance(model, str)]


def _first_default(registry: Registry, name: str) -> str:
    return registry.default_model(name, registry.configure_env(name, {}))[0].id


PROVIDER_CONFIGS = provider_configs()
"""`(name, first default model id)` of each installed provider."""
