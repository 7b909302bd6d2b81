"""What a call wants from the pool."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class KeyRequest(NamedTuple):
    """A request for a key.

    Args:
        exclude: ids of keys that must not be used.
        key_id: the only key that may be used, or None for any.
        affinity: the hash of the conversation that the call belongs to; None if it belongs to none.
    """

    model_id: str
    tokens: int
    exclude: Collection[str] = ()
    key_id: str | None = None
    affinity: int | None = None

    def admits(self, key_id: str) -> bool:
        """Whether a key may be used."""
        return key_id not in self.exclude and (self.key_id is None or key_id == self.key_id)
