"""What a manager logs once it has started."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfs_providers.core.manager import ProviderManager

_log = logging.getLogger("hfs_providers")


def announce(manager: ProviderManager) -> None:
    """Log, at INFO, which providers were built, whether anything is persisted, and how many are healthy."""
    if not _log.isEnabledFor(logging.INFO):
        # Health is asked of the plugins, which takes time.
        return
    for name in manager.wrappers:
        count = len(manager.inventory.providers[name].config.credentials)
        _log.info("Initialized %s with %d %s", name, count, "key" if count == 1 else "keys")
    if manager.persistence.places.path is None:
        _log.info("Nothing is persisted: HFS_USAGE_DB is off")
    healthy = sum(manager.is_provider_healthy(name) for name in manager.wrappers)
    installed = len(manager.inventory.registry.providers)
    _log.info("Provider initialization complete: %d/%d providers healthy", healthy, installed)
    _log.info("%s", manager.get_status_summary())
