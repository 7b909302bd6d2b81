"""How long a call waits before it sends again, and how long a key that refused it cools down."""

from __future__ import annotations

import random

from hfs_providers.keys.state import DEFAULT_COOLDOWN

_FIRST_COOLDOWN = 0.1
_FIRST_PAUSE = 0.5
_LONGEST = 8.0


def retry_pause(retry: int, retry_after: float | None) -> float:
    """Seconds to wait before retry number `retry` of a transient failure: at least as long as the provider says."""
    pause = min(_LONGEST, _FIRST_PAUSE * 2.0 ** (retry - 1)) * random.uniform(0.5, 1.0)  # noqa: S311  jitter
    return pause if retry_after is None else min(max(pause, retry_after), _LONGEST)


def key_cooldown(refusals: int, retry_after: float | None) -> float:
    """Seconds for which a limited key cools down: as the provider says, but longer each time if that is too short.

    Args:
        refusals: how often the key has refused this call before.
        retry_after: seconds that the provider named. They may be 0, so they alone could mean retries without a pause.
    """
    if retry_after is None:
        return DEFAULT_COOLDOWN
    return max(retry_after, min(_LONGEST, _FIRST_COOLDOWN * 2.0**refusals))
