"""What a manager says about its providers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hfs_providers.contract.records import Problem, ProviderConfig, ProviderHealth, Wrapper
from hfs_providers.core.availability import find_provider
from hfs_providers.core.inventory import InstalledProvider, Inventory
from hfs_providers.core.persistence import Persistence

if TYPE_CHECKING:
    from hfs_providers.wrapper.wrapper import ProviderWrapper

_log = logging.getLogger("hfs_providers")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def log_problems(problems: Iterable[Problem]) -> None:
    """Log each at its own level."""
    for problem in problems:
        _log.log(_LEVELS[problem.level], "%s", problem.message)


def has_keys(wrapper: Wrapper) -> bool:
    """Whether a provider has a key now. The pool of a plugin's own wrapper may not say; then it has."""
    return bool(getattr(wrapper.pool, "credentials", True))


class ManagerView:
    """The part of `ProviderManager` that builds nothing."""

    inventory: Inventory
    persistence: Persistence
    wrappers: dict[str, ProviderWrapper]
    """The wrapper that `KeyedProvider` builds. A plugin's own wrapper may have only what `Wrapper` has."""
    _problems: list[Problem]

    @property
    def problems(self) -> list[Problem]:
        """The problems of environment and installation, and those of storing usage at the moment."""
        return [*self._problems, *self.persistence.problems]

    @property
    def available_providers(self) -> list[str]:
        """The providers that were built and have a key, in fallback order."""
        return [name for name in self.wrappers if has_keys(self.wrappers[name])]

    @property
    def installed_providers(self) -> list[str]:
        """The providers whose plugins work, in fallback order."""
        return list(self.inventory.providers)

    @property
    def environment_status(self) -> dict[str, dict[str, Any]]:
        """By installed provider: `configured`, `keys` (usable ones), `expected` (None if not set) and more."""
        status = self.inventory.status
        for name, entry in status.items():
            entry["initialized"] = name in self.wrappers
            entry["problems"] = [problem.message for problem in self.problems if problem.provider == name]
        return status

    def is_provider_healthy(self, name: str) -> bool:
        """Whether the provider is configured and built, and has its SDK and at least one key that is not dead."""
        return name in self.inventory.providers and self.health(name).usable

    def health(self, name: str, *, live: bool = False) -> ProviderHealth:
        """The provider's own account of its health.

        Args:
            live: ask the provider itself, with each of its keys.

        Raises:
            UnknownProviderError: no plugin has that name.
        """
        config = self._known(name).config
        try:
            return self.inventory.registry.health(name, config, self.wrappers.get(name), live)
        except Exception as error:
            return ProviderHealth(name, False, (f"health failed: {error}",))

    def list_available_providers(self, /) -> list[str]:
        """The providers that were built and have a key, in fallback order."""
        return self.available_providers

    def get_status_summary(self) -> str:
        """One line for each installed provider, and whether usage goes to a database besides the local file."""
        lines = ["Provider Status:"]
        for name, entry in self.environment_status.items():
            configured = "Yes" if entry["configured"] else "No"
            initialized = "Yes" if entry["initialized"] else "No"
            lines.append(f"  {name}: configured={configured}, initialized={initialized}, keys={entry['keys']}")
        lines.append(f"  {self.persistence.summary}")
        return "\n".join(lines)

    def _adopt(self, name: str, config: ProviderConfig) -> None:
        """Take over a provider's configuration and its problems after its keys were read again."""
        found = self.inventory.providers[name]
        old = found.config.problems
        new = replace(
            found.config, **{each: getattr(config, each) for each in ("credentials", "problems", "configured")}
        )
        providers = {**self.inventory.providers, name: replace(found, config=new)}
        self.inventory = replace(self.inventory, providers=providers)
        self._problems = [*(each for each in self._problems if each not in old), *new.problems]
        log_problems(each for each in new.problems if each not in old)

    def _known(self, name: str) -> InstalledProvider:
        return find_provider(self.inventory, self.problems, name)
