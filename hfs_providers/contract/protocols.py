"""What a lower package needs from objects that a higher one makes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from hfs_providers.contract.error_rules import ErrorRules
from hfs_providers.contract.http_api import Endpoint, HttpApi
from hfs_providers.contract.message_rules import ANY_MESSAGES, MessageRules
from hfs_providers.contract.records import CONTRACT_VERSION, Credential, Limits, ModelDefault, Requirement
from hfs_providers.contract.usage_fields import COMMON_FIELDS, UsageFields


@dataclass(frozen=True, eq=False)
class ProviderTraits:
    """The data of a provider. `KeyedProvider` explains it, and makes a plugin of it."""

    name: str
    model_class: str
    sdk: str | None = None
    sdk_module: str | None = None
    install: str = ""
    base_url: str | None = None
    openai_path: str | None = None
    models: Sequence[ModelDefault] = ()
    limits: Mapping[str, Limits] = field(default_factory=dict)
    limit_headers: Mapping[str, str] = field(default_factory=dict)
    windows: Mapping[str, int] = field(default_factory=dict)
    aggregator: bool = False
    keyless: bool = False
    env_aliases: Sequence[str] = ()
    client: str | type[Any] = "stainless"
    client_params: Mapping[str, Any] = field(default_factory=dict)
    proof: str = "completion"
    model_params: Mapping[str, Any] = field(default_factory=dict)
    stream_params: Mapping[str, Any] = field(default_factory=dict)
    usage_fields: UsageFields = COMMON_FIELDS
    errors: ErrorRules = field(default_factory=ErrorRules)
    messages: MessageRules = ANY_MESSAGES
    price_id: str | None = None
    http: HttpApi = field(default_factory=HttpApi)
    hfs_contract: int = CONTRACT_VERSION

    @property
    def requirement(self) -> Requirement | None:
        """The SDK that the model class needs."""
        if self.sdk is None:
            return None
        return Requirement(self.sdk, self.sdk_module or self.sdk.replace("-", "_"), self.install)

    def http_path(self, endpoint: Endpoint) -> str | None:
        """What is added to the base URL for an endpoint, or None if the provider does not have it."""
        if endpoint == "messages":
            return self.http.messages
        if endpoint == "messages/count_tokens":
            return self.http.count_tokens
        offered = self.openai_path is not None and endpoint in self.http.openai
        return f"{self.openai_path}/{endpoint}" if offered else None


class KeptCircuit(Protocol):
    """A circuit breaker whose state outlives the process."""

    def dump(self, wall: float) -> Mapping[str, object] | None:
        """An open circuit as plain data for JSON, or None for one that is closed. `wall` is the time now."""

    def load(self, state: Mapping[str, object], wall: float) -> None:
        """Open a closed circuit as `dump` said. Data that cannot be read is ignored. `wall` is the time now."""


@runtime_checkable
class KeepsCircuits(Protocol):
    """A wrapper whose circuits and retired models outlive the process, if usage is kept.

    A plugin's own wrapper may have these methods besides those of `Wrapper`. It emits `circuit_opened`,
    `circuit_closed` and `model_replaced` when they change.
    """

    @property
    def retired_models(self) -> Mapping[str, str]:
        """The models that the provider no longer has, each with the model that serves instead."""

    def circuit(self, model_id: str) -> KeptCircuit:
        """The circuit of a model."""

    def retire_model(self, model_id: str, successor: str) -> None:
        """Note that the provider no longer has a model. Ignored if another model follows it by now."""


@runtime_checkable
class ChangesKeys(Protocol):
    """A wrapper, or a pool, whose keys can change while it is used.

    A plugin's own wrapper need not have the method, if its pool is a `KeyPool`.
    """

    def change_keys(
        self, joining: Sequence[Credential], leaving: Collection[str] = (), state: Mapping[str, object] | None = None
    ) -> None:
        """Add keys and remove others. Calls that use a removed key end as usual.

        Args:
            joining: keys; one may have the id of a key that leaves.
            leaving: ids of keys to remove; unknown ids are ignored.
            state: what is known about the keys that join, as `Pool.load` takes it.

        Raises:
            ValueError: a key that joins has the id of one that stays.
        """
