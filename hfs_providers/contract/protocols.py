"""What a lower package needs of an object that a higher one makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from hfs_providers.contract.error_rules import ErrorRules
from hfs_providers.contract.message_rules import MessageRules
from hfs_providers.contract.records import Limits, ModelDefault, Requirement


class ProviderTraits(Protocol):
    """The data of a provider that its clients, calls and wrapper read. `KeyedProvider` has it, and explains it."""

    @property
    def name(self) -> str: ...
    @property
    def model_class(self) -> str: ...
    @property
    def requirement(self) -> Requirement | None: ...
    @property
    def openai_path(self) -> str | None: ...
    @property
    def models(self) -> Sequence[ModelDefault]: ...
    @property
    def limits(self) -> Mapping[str, Limits]: ...
    @property
    def limit_headers(self) -> Mapping[str, str]: ...
    @property
    def aggregator(self) -> bool: ...
    @property
    def keyless(self) -> bool: ...
    @property
    def client(self) -> str | type[Any]: ...
    @property
    def client_params(self) -> Mapping[str, Any]: ...
    @property
    def proof(self) -> str: ...
    @property
    def model_params(self) -> Mapping[str, Any]: ...
    @property
    def stream_params(self) -> Mapping[str, Any]: ...
    @property
    def errors(self) -> ErrorRules: ...
    @property
    def messages(self) -> MessageRules: ...


class KeptCircuit(Protocol):
    """A circuit breaker whose state outlives the process."""

    def dump(self, wall: float) -> Mapping[str, object] | None:
        """An open circuit as plain data for JSON, or None for one that is closed.

        Args:
            wall: seconds since the epoch.
        """

    def load(self, state: Mapping[str, object], wall: float) -> None:
        """Open a closed circuit as `dump` said. Data that cannot be read is ignored.

        Args:
            state: what `dump` returned.
            wall: seconds since the epoch.
        """


@runtime_checkable
class KeepsCircuits(Protocol):
    """A wrapper whose circuits and retired models outlive the process, where usage is kept.

    A plugin's own wrapper may have these methods besides those of `Wrapper`. It emits `circuit_opened`,
    `circuit_closed` and `model_replaced` when they change.
    """

    @property
    def retired_models(self) -> Mapping[str, str]:
        """The models that the provider no longer has, each with the model that serves instead."""

    def circuit(self, model_id: str) -> KeptCircuit:
        """The circuit of a model."""

    def retire_model(self, model_id: str, successor: str) -> None:
        """Take over that the provider no longer has a model. Ignored where another model follows it by now."""
