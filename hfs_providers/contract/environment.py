"""The names of the variables that this library reads."""

from __future__ import annotations

from collections.abc import Sequence

ENV_FILE = "HFS_ENV_FILE"


def env_name(provider: str) -> str:
    """The provider's name as it stands in variables: capitals, `-` as `_`."""
    return provider.upper().replace("-", "_")


def env_prefixes(provider: str, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """The prefixes of the variables that a provider's plugin is shown."""
    upper = env_name(provider)
    return (f"{upper}_", f"NUM_{upper}", f"EXPECTED_{upper}", *extra)


CONFIG = "HFS_CONFIG"


USAGE = "HFS_USAGE_DB"


FORWARD = "HFS_FORWARD_DB"


TIDB = "TIDB_DB_URL"


REDIS = "HFS_REDIS_URL"


ORDER = "HFS_PROVIDER_ORDER"


DISABLED = "HFS_DISABLED_PLUGINS"


TIER = "HFS_TIER_"
