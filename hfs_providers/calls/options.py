"""How a call is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How the calls of a model are made; the fields are the arguments of `ProviderManager.get_model`."""

    estimated_tokens: int = 1000
    wait: bool = True
    timeout: float = 10.0
    max_retries: int = 5
    explicit: bool = True
    key_id: str | None = None
    in_chain: bool = False
    """The chain that the model is in asks who answered."""

    def arguments(self) -> dict[str, Any]:
        """What `get_model` takes to make them again."""
        return {
            "estimated_tokens": self.estimated_tokens,
            "wait": self.wait,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
            **({} if self.key_id is None else {"key_id": self.key_id}),
        }
