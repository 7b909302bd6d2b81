"""The limits of models and keys: those that plugin and user name, and those that the headers of answers show."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping
from dataclasses import replace

from hfs_providers.calls.retry_after import limits_from_headers
from hfs_providers.contract.environment import env_name
from hfs_providers.contract.records import LIMIT_NAMES, Limits, ProviderConfig
from hfs_providers.keys.pool import KeyPool

_log = logging.getLogger("hfs_providers")


class ShownLimits:
    """The limits of a provider's models and keys.

    Limits that the user sets are final. Headers may add to those of a plugin what it leaves open.

    Args:
        config: the provider's configuration.
        published: the plugin's own limits, by model id or glob.
        names: by lower-case header name, the limit that it shows: `KeyedProvider.limit_headers`.
    """

    def __init__(self, config: ProviderConfig, published: Mapping[str, Limits], names: Mapping[str, str]) -> None:
        self._config = config
        self._published = published
        self._names = names
        self._filled: dict[tuple[str, str], Limits] = {}
        self._reported: set[str] = set()

    def of(self, model_id: str, key_id: str) -> Limits | None:
        """The limits of a model on a key, or None if neither plugin nor user names any."""
        return self._filled.get((model_id, key_id)) or limits_of(self._config, model_id, key_id)

    def learn(self, pool: KeyPool, model_id: str, key_id: str, headers: object) -> None:
        """Tell the pool the limits that an answer's headers show of a model and a key."""
        known = limits_of(self._config, model_id, key_id)
        if known is not None and (known.shared or not any(known is each for each in self._published.values())):
            return
        shown = limits_from_headers(headers, self._names)
        if shown is None:
            return
        if known is None:
            pool.learn(model_id, key_id, shown)
            return
        shown_numbers = {name: value for name in LIMIT_NAMES if (value := getattr(shown, name)) is not None}
        missing = {name: value for name, value in shown_numbers.items() if getattr(known, name) is None}
        others = {name: value for name, value in shown_numbers.items() if getattr(known, name) not in (None, value)}
        if others and model_id not in self._reported:
            self._reported.add(model_id)
            _log.info(
                "%s: the answers of %s show other limits (%s) than its plugin; the plugin's count unless %s_LIMITS "
                "says otherwise",
                self._config.name,
                model_id,
                ", ".join(f"{name}={value}" for name, value in others.items()),
                env_name(self._config.name),
            )
        if missing:
            self._filled[model_id, key_id] = replace(known, **missing)
            pool.invalidate_limits(model_id)


def limits_of(config: ProviderConfig, model_id: str, key_id: str) -> Limits | None:
    """The limits that a provider's configuration sets for a model on a key. Those of the key come first."""
    for table in (config.key_limits.get(key_id, {}), config.limits):
        for pattern, limits in table.items():
            if fnmatch.fnmatchcase(model_id, pattern):
                return limits
    return None
