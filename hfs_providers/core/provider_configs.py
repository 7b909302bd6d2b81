"""`PROVIDER_CONFIGS`, which is made anew each time that it is read: what is installed can change."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hfs_providers.contract.deadline import within_deadline
from hfs_providers.contract.environment import DISABLED
from hfs_providers.core.registry import Registry
from hfs_providers.core.settings import Settings

if TYPE_CHECKING:
    PROVIDER_CONFIGS: list[tuple[str, str]]
    """`(name, first default model id)` of each installed provider."""


def __getattr__(name: str) -> Any:
    if name != "PROVIDER_CONFIGS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    registry = Registry(Settings.load().names(DISABLED))
    first = {found: partial(_first_default, registry, found) for found in registry.providers}
    return [(found, model) for found, model in within_deadline(first).items() if isinstance(model, str)]


def _first_default(registry: Registry, name: str) -> str:
    return registry.default_model(name, registry.configure_env(name, {}))[0].id
