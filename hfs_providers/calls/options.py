"""How a call is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hfs_providers.calls.affinity import CONVERSATION


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How the calls of a model are made; the fields are the arguments of `ProviderManager.get_model`."""

    estimated_tokens: int = 1000
    wait: bool = True
    timeout: float = 10.0
    max_retries: int = 5
    explicit: bool = True
    key_id: str | None = None
    affinity: str | None = CONVERSATION
    in_chain: bool = False
    """Whether the model is in a chain, which needs to know the key that answered."""

    def __post_init__(self) -> None:
        if not isinstance(self.affinity, str | None):
            raise TypeError(f"affinity must be a str or None, not {type(self.affinity).__name__}")

    def arguments(self) -> dict[str, Any]:
        """The arguments of `get_model` that give the same options."""
        return {
            "estimated_tokens": self.estimated_tokens,
            "wait": self.wait,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
            "affinity": self.affinity,
            **({} if self.key_id is None else {"key_id": self.key_id}),
        }
