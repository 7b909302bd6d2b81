"""keycycle's `MultiProviderWrapper` over a `KeyPool`: its interface, with leases and verdicts inside.

keycycle's own `__init__` starts threads and needs a database, and its rotation loses budgets, sleeps in the event loop
and logs parts of keys; neither runs here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hfs_providers.calls.affinity import CONVERSATION
from hfs_providers.calls.backend import Backend
from hfs_providers.calls.circuit import Circuit
from hfs_providers.calls.options import CallOptions
from hfs_providers.contract.protocols import ProviderTraits
from hfs_providers.contract.records import Credential, KeyProbe, ProviderConfig, Services
from hfs_providers.contract.secret import KEY_ID
from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.keys.leases import Lease
from hfs_providers.wrapper.arguments import bound_model, class_arguments, seconds
from hfs_providers.wrapper.keycycle_face import KeycycleFace
from hfs_providers.wrapper.probe import PROBE_TIMEOUT, Probe
from hfs_providers.wrapper.statistics import PoolManager

if TYPE_CHECKING:
    from agno.models.base import Model
    from rich.console import Console

    from hfs_providers.calls.exchange import Exchange


class ProviderWrapper(KeycycleFace):
    """Makes the models and leases the keys of one provider."""

    def __init__(self, provider: ProviderTraits, config: ProviderConfig, services: Services) -> None:
        # Not super().__init__(): see the module's docstring.
        self.provider = provider.name
        self.logger = logging.getLogger("hfs_providers")
        self.config = config
        self.backend = Backend(provider, config, services)
        self.pool = self.backend.pool
        self.manager: PoolManager = PoolManager(self.pool)
        self.backend.count = self.manager.count

    def __repr__(self) -> str:
        return f"ProviderWrapper({self.provider}, {len(self.pool.credentials)} keys)"

    @property
    def model_class(self) -> type[Model]:  # type: ignore[override]  # an attribute in keycycle
        """The provider's Agno class; see `Backend.model_class`."""
        return self.backend.model_class

    @property
    def default_model_id(self) -> str:  # type: ignore[override]  # an attribute in keycycle; here models retire
        """The model that serves if the caller names none."""
        return self.backend.default_model_id

    def get_model(  # type: ignore[override]  # keycycle takes the model id as `id`
        self,
        model_id: str | None = None,
        *,
        explicit: bool | None = None,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float | None = 10.0,
        max_retries: int = 5,
        request_timeout: float | None = None,
        key_id: int | str | None = None,
        affinity: str | None = CONVERSATION,
        model_params: Mapping[str, Any] | None = None,
        **agno_kwargs: Any,
    ) -> Model:
        """A rotating Agno model. The arguments are those of `ProviderManager.get_model`, and one more.

        Args:
            explicit: whether the caller chose the model; by default, whether `model_id` is given or `X_MODEL` is set.
                A model that was only defaulted is replaced when the provider no longer has it.

        Raises:
            KeyNotFoundError: there is no such key.
            TypeError: an argument that goes around the keys, is given twice, or that the class does not know.
        """
        from hfs_providers.calls.model import build_model

        chosen = model_id or agno_kwargs.pop("id", None)
        options = self._options(chosen, explicit, estimated_tokens, wait, timeout, max_retries, key_id, affinity)
        arguments = class_arguments(self.backend, agno_kwargs, model_params, request_timeout)
        return build_model(self.backend, chosen or self.default_model_id, options, arguments)

    def exchange(
        self,
        model_id: str | None = None,
        *,
        explicit: bool | None = None,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float | None = 10.0,
        max_retries: int = 5,
        key_id: int | str | None = None,
        affinity: str | None = CONVERSATION,
        body: Mapping[str, Any] = MappingProxyType({}),
    ) -> Exchange:
        """A request over the provider's keys that the caller sends itself. The arguments are those of `get_model`.

        Args:
            body: what will be sent, in any protocol; it identifies the conversation, and budgets estimate the cost from
                it.

        Raises:
            KeyNotFoundError: there is no such key.
        """
        from hfs_providers.calls.exchange import Exchange

        options = self._options(model_id, explicit, estimated_tokens, wait, timeout, max_retries, key_id, affinity)
        return Exchange(self.backend, model_id or self.default_model_id, options, body)

    def get_key_usage(  # type: ignore[override]  # keycycle hands out an object that nobody ends
        self,
        model_id: str | None = None,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float | None = 10.0,
        key_id: int | str | None = None,
    ) -> Lease:
        """Lease a key. The caller must end the lease.

        Args:
            model_id: the model that it is for, or None for the default.
            estimated_tokens: tokens to reserve.
            wait, timeout: whether to wait for a key, and for how many seconds; None is without limit.
            key_id: the one key to take: its id, its fingerprint, the key itself, or its place (from 0).

        Raises:
            KeysExhaustedError: no key is free in time.
            KeyNotFoundError: there is no such key.
        """
        from hfs_providers.calls.call import Call

        wanted = None if key_id is None else self._credential(key_id).id
        options = CallOptions(estimated_tokens, wait, seconds(timeout), key_id=wanted)
        return Call(self.backend, options, model_id or self.default_model_id).acquire()

    def get_api_key(
        self,
        model_id: str | None = None,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float | None = 10.0,
        key_id: int | str | None = None,
    ) -> str:
        """A key itself, for use elsewhere. It is counted at once as one request of `estimated_tokens`.

        See `get_key_usage` for the arguments and errors. Use that method if you can say how the request ended.
        """
        key, lease = self.get_api_key_with_context(model_id, estimated_tokens, wait, timeout, key_id)
        lease.commit(estimated_tokens)
        return key

    def get_api_key_with_context(  # type: ignore[override]
        self,
        model_id: str | None = None,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float | None = 10.0,
        key_id: int | str | None = None,
    ) -> tuple[str, Lease]:
        """A key itself and its lease, which the caller ends. See `get_key_usage`."""
        lease = self.get_key_usage(model_id, estimated_tokens, wait, timeout, key_id)
        secret = lease.credential.secret
        return (secret.reveal() if secret is not None else ""), lease

    def record_key_usage(
        self, api_key: str, model_id: str | None = None, actual_tokens: int = 0, estimated_tokens: int = 1000
    ) -> None:
        """Record the cost of a request with a key of `get_api_key`. The limits were charged when the key was given out.

        Raises:
            KeyNotFoundError: the key is not one of this provider's.
        """
        credential = self._credential(api_key)
        tokens = actual_tokens or estimated_tokens
        model = model_id or self.default_model_id
        row = UsageRow.of(self.provider, model, credential, "ok", charged=tokens)._replace(tokens=tokens)
        self.backend.count(row)
        self.backend.services.record(row)

    def _options(
        self,
        model_id: str | None,
        explicit: bool | None,
        estimated_tokens: int,
        wait: bool,
        timeout: float | None,
        max_retries: int,
        key_id: int | str | None,
        affinity: str | None,
    ) -> CallOptions:
        if explicit is None:
            explicit = model_id is not None or self.config.default_model is not None
        pinned = None if key_id is None else self._credential(key_id).id
        return CallOptions(estimated_tokens, wait, seconds(timeout), max_retries, explicit, pinned, affinity)

    def _credential(self, key_id: int | str) -> Credential:
        found = self.manager.find(key_id)
        if found is not None:
            return found[1]
        from hfs_providers.calls.model_errors import KeyNotFoundError

        # An identifier that is not found is not shown, because it may be a mistyped key.
        named = KEY_ID.fullmatch(key_id) if isinstance(key_id, str) else None
        shown = isinstance(key_id, int) or (named is not None and named[1] == self.provider)
        ids = [credential.id for credential in self.pool.credentials]
        raise KeyNotFoundError(self.provider, ids, key_id if shown else None)

    def change_keys(
        self, joining: Sequence[Credential], leaving: Collection[str] = (), state: Mapping[str, object] | None = None
    ) -> None:
        """Add keys and remove others; see `ChangesKeys`."""
        self.backend.change_keys(joining, leaving, state)
        self.manager.forget(leaving)

    # What outlives the process: `KeepsCircuits`.

    @property
    def retired_models(self) -> Mapping[str, str]:
        """The models that the provider no longer has, each with its successor."""
        return self.backend.retired_models

    def circuit(self, model_id: str) -> Circuit:
        """The circuit of a model."""
        return self.backend.circuit(model_id)

    def retire_model(self, model_id: str, successor: str) -> None:
        """Note that the provider no longer has a model."""
        self.backend.retire_model(model_id, successor)

    def list_models(self) -> Sequence[str]:
        """The model ids that the provider lists, asked live with a free key."""
        clients = self.backend.clients
        with self.pool.acquire("models", estimated_tokens=0, timeout=0) as lease:
            bound = bound_model(self.backend, lease.credential)
            return list(clients.model_ids(bound.__dict__[clients.client_field]))

    def probe(self, credential: Credential, *, timeout: float = PROBE_TIMEOUT, ask: bool = False) -> KeyProbe:
        """Try one key for real: see `authoring.Wrapper.probe`. Raises MissingSdkError."""
        return Probe(self.backend, credential, timeout, ask).run()

    @cached_property
    def console(self) -> Console:  # type: ignore[override]  # an attribute in keycycle, made at once
        """Where the statistics tables are printed."""
        from rich.console import Console

        return Console()

    def close(self) -> None:
        """Close the shared connections. Safe to call twice."""
        self.end_dropped()
        self.backend.clients.close()
