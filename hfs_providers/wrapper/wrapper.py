"""keycycle's `MultiProviderWrapper` over a `KeyPool`: its interface, with leases and verdicts inside.

keycycle's own `__init__` starts threads and wants a database, and its rotation loses budgets, sleeps in the event loop
and logs parts of keys; neither runs here.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hfs_providers.calls.circuit import Circuit
from hfs_providers.calls.options import CallOptions
from hfs_providers.clients import attempt
from hfs_providers.clients.families import family_of
from hfs_providers.contract.errors import MissingSdkError
from hfs_providers.contract.protocols import ProviderTraits
from hfs_providers.contract.records import Credential, Event, EventKind, KeyProbe, ProviderConfig, Services
from hfs_providers.contract.redaction import Redactor
from hfs_providers.contract.succession import default_model, successor_of
from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.keys.leases import KeyChange, Lease
from hfs_providers.keys.pool import KeyPool
from hfs_providers.wrapper.arguments import class_arguments, seconds
from hfs_providers.wrapper.keycycle_face import KeycycleFace
from hfs_providers.wrapper.probe import PROBE_TIMEOUT, Probe
from hfs_providers.wrapper.shown_limits import ShownLimits
from hfs_providers.wrapper.statistics import PoolManager

if TYPE_CHECKING:
    from agno.models.base import Model
    from rich.console import Console

_log = logging.getLogger("hfs_providers")


class ProviderWrapper(KeycycleFace):
    """What hands out the models of one provider.

    Args:
        provider: the plugin's data.
        config: what the environment said.
        services: clock, observers and usage log.
    """

    def __init__(self, provider: ProviderTraits, config: ProviderConfig, services: Services) -> None:
        # Not super().__init__(): see the module's docstring.
        self.provider = provider.name
        self.plugin = provider
        self.logger = _log
        self.config = config
        self.services = services
        self.redactor = Redactor((c.id, c.secret) for c in config.credentials if c.secret is not None)
        self._limits = ShownLimits(config, provider.limits, provider.limit_headers)
        self.pool = KeyPool(
            provider.name,
            config.credentials,
            limits=self._limits.of,
            clock=services.clock,
            on_change=self._on_change,
        )
        self.manager: PoolManager = PoolManager(self.pool)
        self.clients = family_of(provider.client)(provider, config)
        self.retired_models: dict[str, str] = {}
        self._circuits: dict[str, Circuit] = {}
        self.sleep: Callable[[float], None] = time.sleep
        self.async_sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self.learned: set[tuple[str, str]] = set()
        """Models and keys whose answers' headers have been read."""
        self._lock = threading.Lock()
        attempt.install()

    def __repr__(self) -> str:
        return f"ProviderWrapper({self.provider}, {len(self.config.credentials)} keys)"

    @cached_property
    def model_class(self) -> type[Model]:  # type: ignore[override]  # an attribute in keycycle, set once
        """The provider's Agno class, imported when the first model is asked for.

        Raises:
            MissingSdkError: its SDK is not installed. An import error inside the SDK is raised as itself.
        """
        from hfs_providers.calls.model import load_class
        from hfs_providers.contract.records import sdk_version

        requirement = self.config.requirement
        if requirement is not None and sdk_version(requirement) is None:
            raise MissingSdkError(self.provider, requirement.distribution, requirement.install)
        try:
            return load_class(self.plugin.model_class)
        except ImportError as error:
            # Agno replaces whatever went wrong in an SDK by "not installed"; the SDK's own error says more.
            raise (error.__context__ if isinstance(error.__context__, ImportError) else error) from None

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
        model_params: Mapping[str, Any] | None = None,
        **agno_kwargs: Any,
    ) -> Model:
        """A rotating Agno model; see `ProviderManager.get_model`.

        Args:
            model_id: the provider's model id, or None for the default.
            named: whether the caller named it; by default, whether it is not None.
            estimated_tokens: tokens to reserve for a call.
            wait, timeout: whether a call waits for a key, and for how many seconds; None is as long as it takes.
            max_retries: retries of transient failures per call.
            request_timeout: seconds, for the SDK.
            key_id: the one key to use: its id, its fingerprint, the key itself, or its place (from 0).
            model_params: arguments of the Agno class that are called like those of this method.
            agno_kwargs: the others.

        Raises:
            KeyNotFoundError: there is no such key.
            TypeError: an argument that goes around the keys, is given twice, or that the class does not know.
        """
        from hfs_providers.calls.model import build_model

        chosen = model_id or agno_kwargs.pop("id", None)
        # A model that X_MODEL names is the user's choice as well.
        explicit = chosen is not None or self.config.default_model is not None if explicit is None else explicit
        pinned = None if key_id is None else self._credential(key_id).id
        options = CallOptions(estimated_tokens, wait, seconds(timeout), max_retries, explicit, pinned)
        arguments = class_arguments(self, agno_kwargs, model_params, request_timeout)
        return build_model(self, chosen or self.default_model_id, options, arguments)

    def get_key_usage(  # type: ignore[override]  # keycycle hands out an object that nobody ends
        self,
        model_id: str | None = None,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float | None = 10.0,
        key_id: int | str | None = None,
    ) -> Lease:
        """Lease a key. Whoever takes the lease ends it.

        Args:
            model_id: the model that it is for, or None for the default.
            estimated_tokens: tokens to reserve.
            wait, timeout: whether to wait for a key, and for how many seconds; None is as long as it takes.
            key_id: the one key to take: its id, its fingerprint, the key itself, or its place (from 0).

        Raises:
            KeysExhaustedError: no key is free in time.
            KeyNotFoundError: there is no such key.
        """
        from hfs_providers.calls.call import Call

        wanted = None if key_id is None else self._credential(key_id).id
        options = CallOptions(estimated_tokens, wait, seconds(timeout), key_id=wanted)
        return Call(self, options, model_id or self.default_model_id).acquire()

    def get_api_key(
        self,
        model_id: str | None = None,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float | None = 10.0,
        key_id: int | str | None = None,
    ) -> str:
        """A key itself, for use elsewhere; it is counted at once as one request of `estimated_tokens`.

        See `get_key_usage` for the arguments and errors, and use that where you can say how the request ended.
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
        """Write down what a request with a key of `get_api_key` cost; its limits were charged when it was handed out.

        Raises:
            KeyNotFoundError: the key is none of this provider's.
        """
        credential = self._credential(api_key)
        who = self.provider, model_id or self.default_model_id, credential.id, credential.fingerprint
        tokens = actual_tokens or estimated_tokens
        row = UsageRow.of(*who, "ok", charged=tokens)._replace(tokens=tokens)
        self.manager.count(row)
        self.services.record(row)

    def _credential(self, key_id: int | str) -> Credential:
        for place, credential in enumerate(self.config.credentials):
            secret = credential.secret.reveal() if credential.secret is not None else None
            if key_id in (place, credential.id, credential.fingerprint, secret):
                return credential
        from hfs_providers.calls.errors import KeyNotFoundError

        # A key that is not found is not shown: it may be one, mistyped.
        shown = isinstance(key_id, int) or re.fullmatch(rf"{re.escape(self.provider)}#\d{{1,9}}", key_id)
        ids = [credential.id for credential in self.config.credentials]
        raise KeyNotFoundError(self.provider, ids, key_id if shown else None)

    @property
    def default_model_id(self) -> str:  # type: ignore[override]  # an attribute in keycycle; here models retire
        """The model that serves where none is named."""
        if self.config.default_model is not None:
            return self.config.default_model
        return default_model(self.plugin.models, date.today(), self.retired_models)

    def serving(self, model_id: str) -> str:
        """What serves for a defaulted model id: itself, or its successor where the provider no longer has it."""
        while model_id in self.retired_models:
            model_id = self.retired_models[model_id]
        return model_id

    def successor(self, model_id: str) -> str | None:
        """The model that follows `model_id` in the plugin's list."""
        return successor_of(self.plugin.models, model_id)

    def retire_model(self, model_id: str, successor: str) -> None:
        """Take over that the provider no longer has a model. Ignored where another model follows it by now."""
        if successor == self.successor(model_id):
            self.retired_models.setdefault(model_id, successor)

    def replace_model(self, model_id: str) -> str | None:
        """Remember that the provider no longer has a defaulted model; its successor, or None where there is none."""
        successor = self.successor(model_id)
        if successor is None:
            return None
        with self._lock:
            if model_id in self.retired_models:
                return self.retired_models[model_id]
            self.retired_models[model_id] = successor
        _log.warning("%s no longer serves %s; %s is used instead", self.provider, model_id, successor)
        self._emit("model_replaced", None, model_id, f"replaced by {successor}", None)
        return successor

    def circuit(self, model_id: str) -> Circuit:
        """The circuit of a model, one for all chains that have it as an entry."""

        def changed(change: str, seconds: float) -> None:
            kind: EventKind = "circuit_opened" if change == "opened" else "circuit_closed"
            self.services.emit(Event(kind, self.provider, model_id, seconds=seconds))

        with self._lock:
            return self._circuits.setdefault(model_id, Circuit(self.services.clock, changed))

    def context_window(self, model_id: str) -> int | None:
        """The context window of a model in tokens, as the plugin declares it, or None."""
        return next((size for glob, size in self.config.windows.items() if fnmatch.fnmatchcase(model_id, glob)), None)

    def learn(self, model_id: str, key_id: str, responses: Sequence[Any]) -> None:
        """Take over the limits that an answer's headers show, where neither plugin nor user names them."""
        self.learned.add((model_id, key_id))
        self._limits.learn(self.pool, model_id, key_id, getattr(responses[-1], "headers", None))

    def list_models(self) -> Sequence[str]:
        """The model ids that the provider lists, asked live with a free key."""
        with self.pool.acquire("models", estimated_tokens=0, timeout=0) as lease:
            return self._listed(lease.credential)

    def probe(self, credential: Credential, *, timeout: float = PROBE_TIMEOUT, ask: bool = False) -> KeyProbe:
        """Try one key for real, with the cheapest request that proves it. What it shows goes into the pool.

        Args:
            credential: the key.
            timeout: seconds, for the SDK.
            ask: ask the default model for one token, even where something cheaper proves the key.

        Raises:
            MissingSdkError: the provider's SDK is not installed.
        """
        return Probe(self, credential, timeout, ask).run()

    @cached_property
    def console(self) -> Console:  # type: ignore[override]  # an attribute in keycycle, made at once
        """Where the statistics tables are printed."""
        from rich.console import Console

        return Console()

    def close(self) -> None:
        """Close the shared connections. Safe to call twice."""
        self.end_dropped()
        self.clients.close()

    def bound(self, credential: Credential, model_id: str | None = None, timeout: float | None = None) -> Any:
        """A model without rotation that uses one key, and no lease.

        Args:
            credential: the key.
            model_id: the provider's model id, or None for the default.
            timeout: seconds, for the SDK.
        """
        model = self.get_model(model_id, request_timeout=timeout)
        bound = model.bare_copy()  # type: ignore[attr-defined]  # of the rotating class
        self.clients.bind(bound, credential)
        return bound

    def _listed(self, credential: Credential) -> list[str]:
        return list(self.clients.model_ids(self.bound(credential).__dict__[self.clients.client_field]))

    def _on_change(
        self, change: KeyChange, key_id: str, model_id: str | None, reason: str | None, seconds: float | None
    ) -> None:
        # A provider's code for what happened may be anything.
        reason = self.redactor.scrub(reason) if reason else reason
        if change == "key_dead":
            _log.warning("%s is dead: %s; one call may try it in %.0f s", key_id, reason, seconds or 0.0)
        elif change == "key_cooling":
            _log.info("%s is cooling for %.1f s: %s (%s)", key_id, seconds or 0.0, reason, model_id or "all models")
        else:
            _log.info("%s is in rotation again", key_id)
        self._emit(change, key_id, model_id, reason, seconds)

    def _emit(
        self, kind: EventKind, key_id: str | None, model_id: str | None, reason: str | None, seconds: float | None
    ) -> None:
        call_id = attempt.settled.get()
        self.services.emit(Event(kind, self.provider, model_id, key_id, reason, seconds, call_id=call_id))
