"""One entry of a fallback chain: a model, and what is known about whether it can answer now."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hfs_providers.core.circuit import Circuit

if TYPE_CHECKING:
    from agno.models.base import Model

    from hfs_providers.core.models import Rotation


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A model in a chain.

    Args:
        model: any Agno model.
        provider: the provider's name, or what the model calls it.
        circuit: shared by all chains that have the provider's model as an entry.
        rotation: where its keys come from, or None where it is not one of ours.
        window: its context window in tokens, or None where that is not known.
    """

    model: Model
    provider: str
    circuit: Circuit
    rotation: Rotation | None
    window: int | None

    @property
    def model_id(self) -> str:
        """The model that serves: its successor where the provider no longer has a defaulted one."""
        if self.rotation is None or self.rotation.options.named:
            return self.model.id
        return self.rotation.wrapper.serving(self.model.id)

    @property
    def label(self) -> str:
        """`provider/model`."""
        return f"{self.provider}/{self.model_id}"

    @property
    def aggregator(self) -> bool:
        """Whether the provider retries transport errors itself."""
        return self.rotation is not None and self.rotation.wrapper.config.aggregator

    def obstacle(self) -> str | None:
        """Why it cannot answer now, or None where nothing is known to be in the way. Asks nobody."""
        rest = self.circuit.rest()
        if rest > 0:
            return f"left alone for {rest:.0f} s more after repeated failures"
        if self.rotation is None:
            return None
        options = self.rotation.options
        free_in = self.rotation.wrapper.pool.next_free(self.model_id, options.estimated_tokens)
        if free_in is None:
            return "no key will be free by itself"
        bound = options.timeout if options.wait else 0.0
        return f"no key free for {free_in:.0f} s" if free_in > bound else None


def entry_of(model: Model, clock: Callable[[], float] = time.monotonic) -> Entry:
    """The entry for a model.

    Args:
        model: a rotating model, whose transport errors are left to the chain from then on, or any other Agno model.
        clock: monotonic seconds, for the circuit of a model that is not one of ours.
    """
    rotation: Any = model.__dict__.get("_hfs")
    if rotation is None:
        return Entry(model, model.provider or model.name or type(model).__name__, Circuit(clock), None, None)
    rotation = replace(rotation, options=replace(rotation.options, leaves_transport=True))
    # A copy: the caller may use the model outside the chain, too.
    own = copy.copy(model)
    own.__dict__["_hfs"] = rotation
    wrapper = rotation.wrapper
    return Entry(own, wrapper.provider, wrapper.circuit(model.id), rotation, wrapper.context_window(model.id))
