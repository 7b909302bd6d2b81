"""The names of the variables that this library reads."""

from __future__ import annotations

from collections.abc import Sequence

ENV_FILE = "HFS_ENV_FILE"
CONFIG = "HFS_CONFIG"
ORDER = "HFS_PROVIDER_ORDER"
DISABLED = "HFS_DISABLED_PLUGINS"
TIER = "HFS_TIER_"
"""What begins the names of variables that hold a tier."""

USAGE = "HFS_USAGE_DB"
USAGE_DAYS = "HFS_USAGE_DAYS"
USAGE_ROWS = "HFS_USAGE_ROWS"
USAGE_MEGABYTES = "HFS_USAGE_MB"
FORWARD = "HFS_FORWARD_DB"
TIDB = "TIDB_DB_URL"
REDIS = "HFS_REDIS_URL"

AGENTS_DATABASE = "HFS_AGENTS_DB"
AGENTS_KEY = "HFS_AGENTS_KEY"
AGENTS_AT_ONCE = "HFS_MAX_CONCURRENT_AGENTS"
DEBUG = "HFS_DEBUG"


def env_name(provider: str) -> str:
    """The provider's name as it stands in variables: capitals, `-` as `_`."""
    return provider.upper().replace("-", "_")


def env_prefixes(provider: str, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """The prefixes of the variables that a provider's plugin is shown."""
    upper = env_name(provider)
    return (f"{upper}_", f"NUM_{upper}", f"EXPECTED_{upper}", *extra)
