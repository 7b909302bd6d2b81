"""Why an installed provider cannot be used, as an error to raise or as words."""

from __future__ import annotations

from collections.abc import Container, Sequence

from hfs_providers.contract.environment import env_name
from hfs_providers.contract.errors import (
    MissingKeyError,
    MissingSdkError,
    ProviderUnavailableError,
    UnknownProviderError,
)
from hfs_providers.contract.records import Problem
from hfs_providers.core.inventory import InstalledProvider, Inventory


def find_provider(inventory: Inventory, problems: Sequence[Problem], name: str) -> InstalledProvider:
    """The provider of that name. Raises UnknownProviderError, or ProviderUnavailableError if its plugin failed."""
    found = inventory.providers.get(name)
    if found is not None:
        return found
    plugin = inventory.registry.plugins.get(name)
    if plugin is not None and plugin.provider:
        raise _unavailable(problems, name)
    raise UnknownProviderError(name, list(inventory.providers))


def why_unusable(
    inventory: Inventory, problems: Sequence[Problem], name: str
) -> MissingSdkError | MissingKeyError | ProviderUnavailableError:
    """Why an installed provider was not built."""
    found = inventory.providers[name]
    config = found.config
    if config.requirement is not None and found.sdk is None:
        return MissingSdkError(name, config.requirement.distribution, config.requirement.install)
    upper = env_name(name)
    if not config.credentials and config.declared is not None and config.declared > 0:
        return MissingKeyError(name, (f"{upper}_API_KEY_1",))
    if config.configured or _errors(problems, name):
        return _unavailable(problems, name)
    return MissingKeyError(name, (f"NUM_{upper}", f"{upper}_API_KEY_1"))


def unbuilt(inventory: Inventory, problems: Sequence[Problem], built: Container[str]) -> dict[str, str]:
    """By installed provider that is not among those `built`, why not."""
    reasons = {}
    for name, found in inventory.providers.items():
        if name not in built:
            missing = found.config.requirement if found.sdk is None else None
            why = f"missing SDK; run: {missing.install}" if missing else "; ".join(_errors(problems, name))
            reasons[name] = f"{name}: {why or 'not configured'}"
    return reasons


def _errors(problems: Sequence[Problem], name: str) -> list[str]:
    return [each.message for each in problems if each.provider == name and each.level == "error"]


def _unavailable(problems: Sequence[Problem], name: str) -> ProviderUnavailableError:
    own = [problem for problem in problems if problem.provider == name]
    remedy = next((problem.remedy for problem in own if problem.level == "error"), None)
    return ProviderUnavailableError(name, [problem.message for problem in own], remedy)
