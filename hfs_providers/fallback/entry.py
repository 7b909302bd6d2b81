"""One entry of a fallback chain: a model, and whether it can answer now."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hfs_providers.calls.circuit import Circuit
from hfs_providers.calls.evidence import modules_of
from hfs_providers.calls.verdicts import Verdict, judge
from hfs_providers.contract.error_rules import NO_RULES, ErrorRules
from hfs_providers.contract.message_rules import ANY_MESSAGES, MessageRules

if TYPE_CHECKING:
    from agno.models.base import Model

    from hfs_providers.calls.backend import Rotation
    from hfs_providers.contract.protocols import ProviderTraits


_CLIENTS = ("client", "async_client")
_RETIRED = 8


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A model in a chain.

    Args:
        circuit: shared by all chains that have the provider's model as an entry.
        rotation: where its keys come from; None for a model that does not rotate.
        window: its context window in tokens, or None if that is not known.
        messages: what the model needs of messages that other models have written.
        aggregator: whether the provider retries transport errors itself.
        renewable: the attributes in which a model that is not one of ours keeps clients that Agno made.
    """

    model: Model
    provider: str
    circuit: Circuit
    rotation: Rotation | None
    window: int | None
    errors: ErrorRules = NO_RULES
    messages: MessageRules = ANY_MESSAGES
    aggregator: bool = False
    renewable: tuple[str, ...] = ()
    _retired: deque[Any] = field(default_factory=lambda: deque(maxlen=_RETIRED))

    @property
    def model_id(self) -> str:
        """The model that serves: the successor, if the model is a default that the provider no longer has."""
        if self.rotation is None or self.rotation.options.explicit:
            return self.model.id
        return self.rotation.backend.serving(self.model.id)

    @property
    def label(self) -> str:
        """`provider/model`."""
        return f"{self.provider}/{self.model_id}"

    def judge(self, error: BaseException) -> Verdict:
        """What an error of its model means. The error of a rotating model has its verdict."""
        return judge(error, self.errors)

    def obstacle(self) -> str | None:
        """Why it cannot answer now, or None if no reason is known. Sends no request."""
        cooldown = self.circuit.cooldown()
        if cooldown > 0:
            return f"circuit open for {cooldown:.0f} s more after repeated failures"
        if self.rotation is None:
            return None
        options = self.rotation.options
        free_in = self.rotation.backend.pool.next_free(self.model_id, options.estimated_tokens)
        if free_in is None:
            return "no key will be free by itself"
        bound = options.timeout if options.wait else 0.0
        return f"no key free for {free_in:.0f} s" if free_in > bound else None

    def once(self) -> Model:
        """The model for one more attempt: its calls are not retried."""
        if self.rotation is None:
            return self.model
        once = copy.copy(self.model)
        once.__dict__["_hfs"] = replace(self.rotation, options=replace(self.rotation.options, max_retries=0))
        return once

    def renew(self) -> None:
        """Let the next sync calls use a new client. Calls in flight finish on the old one.

        An error in making the new client is raised unchanged.
        """
        if self.rotation is not None:
            self.rotation.backend.clients.renew()
        else:
            self._drop_clients()

    async def arenew(self) -> None:
        """As `renew`, for the running event loop."""
        if self.rotation is not None:
            await self.rotation.backend.clients.arenew()
        else:
            self._drop_clients()

    def _drop_clients(self) -> None:
        # A client that was there before is kept, because the caller may have set it. Its transport drops a broken
        # connection without help.
        for name in self.renewable:
            client = self.model.__dict__.get(name)
            if client is not None:
                # Kept for a while: some SDKs close a client when it is collected, while calls still use it.
                self._retired.append(client)
                self.model.__dict__[name] = None


def entry_of(
    model: Model, clock: Callable[[], float], plugin: ProviderTraits | None = None, aggregator: bool = False
) -> Entry:
    """The entry for a model. The other arguments are about one that is not ours."""
    rotation: Any = model.__dict__.get("_hfs")
    if rotation is None:
        errors, messages = (plugin.errors, plugin.messages) if plugin is not None else (NO_RULES, ANY_MESSAGES)
        return Entry(
            model,
            model.provider or model.name or type(model).__name__,
            Circuit(clock),
            None,
            None,
            errors.with_modules(modules_of(type(model))),
            messages,
            aggregator,
            tuple(name for name in _CLIENTS if model.__dict__.get(name, model) is None),
        )
    backend = rotation.backend
    circuit, window = backend.circuit(model.id), backend.context_window(model.id)
    rotation = replace(rotation, options=replace(rotation.options, in_chain=True))
    # A copy: the caller may use the model outside the chain too.
    own = copy.copy(model)
    own.__dict__["_hfs"] = rotation
    traits = backend.traits
    return Entry(
        own, backend.provider, circuit, rotation, window, traits.errors, traits.messages, backend.config.aggregator
    )
