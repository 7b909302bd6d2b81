"""The variables that this library reads. Their docstrings are the reference in docs/configuration.md."""

from __future__ import annotations

from collections.abc import Sequence

ENV_FILE = "HFS_ENV_FILE"
"""The `.env` file to read instead of the one in the working directory. The process environment overrides it."""
CONFIG = "HFS_CONFIG"
"""The TOML file to read instead of `hfs-providers.toml` in the working directory or in your configuration directory."""
ORDER = "HFS_PROVIDER_ORDER"
"""The order in which providers are tried, with commas between their names."""
DISABLED = "HFS_DISABLED_PLUGINS"
"""Plugins that are not loaded, with commas between them; `name@distribution` for one of two with the same name."""
TIER = "HFS_TIER_"
"""With a name after it (`HFS_TIER_CAREFUL`): the entries of `get_chain(tier="careful")`, as `provider` or
`provider/model`, with commas between them."""

USAGE = "HFS_USAGE_DB"
"""Where usage is stored: a path, the URL of a database that it is forwarded to, or `off`. By default a file in your
state directory."""
USAGE_DAYS = "HFS_USAGE_DAYS"
"""Days after which a row is deleted (35)."""
USAGE_ROWS = "HFS_USAGE_ROWS"
"""The number of rows above which the oldest are deleted (20 000 000)."""
USAGE_MEGABYTES = "HFS_USAGE_MB"
"""Megabytes that the file may grow to (8 000)."""
FORWARD = "HFS_FORWARD_DB"
"""The URL of a database that usage is forwarded to."""
TIDB = "TIDB_DB_URL"
"""Another name of `HFS_FORWARD_DB`, used if that is not set."""
REDIS = "HFS_REDIS_URL"
"""The Redis server through which several hosts share their keys: `redis://`, `rediss://` or `unix://`."""

KEYS = "_API_KEYS"
"""The ending of the variable that lists a provider's keys."""
KEYS_FILE = "_API_KEYS_FILE"
"""The ending of the variable that names the file with them."""

CLIENTS = "HFS_CLIENTS_FILE"
"""The file that lists who may use the gateway, or `off`. By default `clients` in your configuration directory."""

AGENTS_DATABASE = "HFS_AGENTS_DB"
"""The PostgreSQL database of `hfs-providers agents serve`."""
AGENTS_KEY = "HFS_AGENTS_KEY"
"""The token that callers of `hfs-providers agents serve` have to send."""
AGENTS_AT_ONCE = "HFS_MAX_CONCURRENT_AGENTS"
"""How many agents of `hfs-providers agents serve` may work at a time."""
DEBUG = "HFS_DEBUG"
"""`1`: commands show the traceback of an unexpected error."""


def env_name(provider: str) -> str:
    """The provider's name as variables have it: in capitals, with `_` for `-`."""
    return provider.upper().replace("-", "_")


def env_prefixes(provider: str, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """The prefixes of the variables that a provider's plugin is shown."""
    upper = env_name(provider)
    return (f"{upper}_", f"NUM_{upper}", f"EXPECTED_{upper}", *extra)
