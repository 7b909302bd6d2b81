"""The limits of models and keys: set by the plugin or the user, or shown by the headers of answers."""

from __future__ import annotations

import fnmatch
import functools
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hfs_providers.calls.retry_after import limits_from_headers
from hfs_providers.contract.environment import env_name
from hfs_providers.contract.records import LIMIT_NAMES, Limits, ProviderConfig
from hfs_providers.keys.pool import KeyPool

_log = logging.getLogger("hfs_providers")


class ShownLimits:
    """The limits of a provider's models and keys.

    Limits that the user sets are final. To a plugin's limits, headers may add those that it does not set.

    Args:
        published: the plugin's own limits, by model id or glob.
        names: by lower-case header name, the limit that it shows: `KeyedProvider.limit_headers`.
    """

    def __init__(self, config: ProviderConfig, published: Mapping[str, Limits], names: Mapping[str, str]) -> None:
        self._config = config
        self._published = published
        self._names = names
        # Cached because it is called for each of possibly thousands of keys.
        self._of_all = functools.lru_cache(256)(functools.partial(_match, config.limits))
        self._reported: set[str] = set()

    def of(self, model_id: str, key_id: str) -> Limits | None:
        """The limits of a model on a key, or None if neither plugin nor user sets any. The key's own come first."""
        own = self._config.key_limits.get(key_id)
        found = _match(own, model_id) if own else None
        return found if found is not None else self._of_all(model_id)

    def merge(self, known: Limits | None, shown: Limits) -> Limits:
        """The limits that apply, given the known ones and those that answers have shown."""
        if known is None:
            return shown
        if not self._open(known):
            return known
        missing: dict[str, Any] = {name: value for name, value in _numbers(shown) if getattr(known, name) is None}
        return replace(known, **missing)

    def learn(self, pool: KeyPool, model_id: str, key_id: str, headers: object) -> None:
        """Pass the limits of a model and a key that an answer's headers show to the pool."""
        known = self.of(model_id, key_id)
        shown = limits_from_headers(headers, self._names) if known is None or self._open(known) else None
        if shown is None:
            return
        others = [
            f"{name}={value}" for name, value in _numbers(shown) if getattr(known, name, None) not in (None, value)
        ]
        if others and model_id not in self._reported:
            self._reported.add(model_id)
            _log.info(
                "%s: the answers of %s show other limits (%s) than its plugin; the plugin's apply unless %s_LIMITS "
                "overrides them",
                self._config.name,
                model_id,
                ", ".join(others),
                env_name(self._config.name),
            )
        pool.learn(model_id, key_id, shown)

    def _open(self, known: Limits) -> bool:
        """Whether answers may add to these limits."""
        return not known.shared and any(known is each for each in self._published.values())


def _numbers(limits: Limits) -> list[tuple[str, int]]:
    return [(name, value) for name in LIMIT_NAMES if (value := getattr(limits, name)) is not None]


def _match(table: Mapping[str, Limits], model_id: str) -> Limits | None:
    return next((limits for pattern, limits in table.items() if fnmatch.fnmatchcase(model_id, pattern)), None)
