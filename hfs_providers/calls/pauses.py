"""How long a call waits before it asks again: the provider, or a key that told it to wait."""

from __future__ import annotations

import random

_FIRST_REST = 0.1
_FIRST_PAUSE = 0.5
_LONGEST = 8.0


def retry_pause(retry: int, told: float | None) -> float:
    """Seconds before a retry of what failed for a while.

    Args:
        retry: which one it is, from 1.
        told: seconds that the provider said.
    """
    pause = min(_LONGEST, _FIRST_PAUSE * 2.0 ** (retry - 1)) * random.uniform(0.5, 1.0)  # noqa: S311  jitter
    return pause if told is None else min(max(pause, told), _LONGEST)


def key_rest(refusals: int, told: float | None) -> float | None:
    """Seconds for which a limited key rests: as the provider says, but longer each time where it says too little.

    Args:
        refusals: how often the key has refused this call before.
        told: seconds that the provider said; `Retry-After: 0` would have the call ask without a pause.
    """
    return None if told is None else max(told, min(_LONGEST, _FIRST_REST * 2.0**refusals))
