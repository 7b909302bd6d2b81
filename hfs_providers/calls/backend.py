"""What calls need of a provider: its keys, clients and circuits, the model that serves, and learned limits."""

from __future__ import annotations

import asyncio
import copy
import fnmatch
import importlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hfs_providers.calls.circuit import Circuit
from hfs_providers.calls.options import CallOptions
from hfs_providers.calls.shown_limits import ShownLimits
from hfs_providers.clients import attempt
from hfs_providers.clients.cache import Clients
from hfs_providers.clients.families import family_of
from hfs_providers.clients.model_fields import known_misfits, misfits
from hfs_providers.contract.errors import MissingSdkError, PluginContractError, ProviderUnavailableError
from hfs_providers.contract.protocols import ProviderTraits
from hfs_providers.contract.records import (
    Credential,
    Event,
    EventKind,
    ProviderConfig,
    Services,
    call_finished,
)
from hfs_providers.contract.redaction import Redactor
from hfs_providers.contract.sdk import sdk_version
from hfs_providers.contract.succession import default_model, successor_of
from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.keys.leases import KeyChange
from hfs_providers.keys.pool import KeyPool

if TYPE_CHECKING:
    from agno.models.base import Model

    from hfs_providers.money.budgets import Budgets

_log = logging.getLogger("hfs_providers")


class Backend:
    """One provider: the state that the calls of all its models share."""

    def __init__(self, traits: ProviderTraits, config: ProviderConfig, services: Services) -> None:
        family = family_of(traits.client)
        traits = family.complete(traits)
        self.provider = traits.name
        self.traits = traits
        self.config = config
        self.services = services
        self.budgets: Budgets | None = services.budgets
        self.redactor = Redactor.of(config.credentials)
        self._limits = ShownLimits(config, traits.limits, traits.limit_headers)
        self.pool = KeyPool(
            traits.name,
            config.credentials,
            limits=self._limits.of,
            merge=self._limits.merge,
            clock=services.clock,
            on_change=self._on_change,
        )
        for misfit in known_misfits(traits, family, config.base_url):
            raise PluginContractError(traits.name, None, misfit.message, misfit.remedy)
        self.clients: Clients = family(traits, config)
        self.count: Callable[[UsageRow], object] = lambda _: None
        """Called with the row of each request that a call sent."""
        self.sleep: Callable[[float], None] = time.sleep
        self.async_sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self.learned: set[tuple[str, str]] = set()
        """Models and keys for which the headers of an answer have been read."""
        self.retired_models: dict[str, str] = {}
        """The models that the provider no longer has, each with its successor."""
        self._circuits: dict[str, Circuit] = {}
        self._lock = threading.Lock()
        attempt.install()

    @cached_property
    def model_class(self) -> type[Model]:
        """The provider's Agno class, imported when first needed. Raises MissingSdkError, the SDK's ImportError, or
        ProviderUnavailableError if the plugin sets fields that it does not have."""
        requirement = self.config.requirement
        if requirement is not None and sdk_version(requirement) is None:
            raise MissingSdkError(self.provider, requirement.distribution, requirement.install)
        module, _, name = self.traits.model_class.partition(":")
        try:
            found: type[Model] = getattr(importlib.import_module(module), name)
        except ImportError as error:
            # Agno replaces every error of an SDK's import by "not installed"; the SDK's own error says more.
            raise (error.__context__ if isinstance(error.__context__, ImportError) else error) from None
        self._check_fields(found)
        return found

    def _check_fields(self, model_class: type[Model]) -> None:
        """Raise ProviderUnavailableError if the plugin sets fields that the class does not have."""
        # `__init__` has checked what can be checked without importing the class.
        has = model_class.__dataclass_fields__.__contains__
        for misfit in misfits(self.traits, self.clients.url_field, self.config.base_url, has):
            raise ProviderUnavailableError(self.provider, [misfit.message], misfit.remedy)

    # The model that serves.

    @property
    def default_model_id(self) -> str:
        """The model that serves if the caller names none."""
        if self.config.default_model is not None:
            return self.config.default_model
        return default_model(self.traits.models, date.today(), self.retired_models)

    def serving(self, model_id: str) -> str:
        """The model that serves if `model_id` is a default: itself, or its successor if the provider has retired it."""
        while model_id in self.retired_models:
            model_id = self.retired_models[model_id]
        return model_id

    def successor(self, model_id: str) -> str | None:
        """The model that follows `model_id` in the plugin's list."""
        return successor_of(self.traits.models, model_id)

    def replace_model(self, model_id: str) -> str | None:
        """Note that the provider no longer has a default model. Returns its successor, or None."""
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

    def retire_model(self, model_id: str, successor: str) -> None:
        """Load the stored fact that the provider no longer has a model. Ignored if the plugin now names another
        successor."""
        if successor == self.successor(model_id):
            self.retired_models.setdefault(model_id, successor)

    def context_window(self, model_id: str) -> int | None:
        """The context window of a model in tokens, as the plugin declares it, or None."""
        return next((size for glob, size in self.config.windows.items() if fnmatch.fnmatchcase(model_id, glob)), None)

    # Shared by all calls.

    def circuit(self, model_id: str) -> Circuit:
        """The circuit of a model, shared by all chains that have the model as an entry."""

        def changed(change: str, seconds: float) -> None:
            kind: EventKind = "circuit_opened" if change == "opened" else "circuit_closed"
            self.services.emit(Event(kind, self.provider, model_id, seconds=seconds))

        with self._lock:
            return self._circuits.setdefault(model_id, Circuit(self.services.clock, changed))

    def forget(self, model_id: str) -> None:
        """Drop the state of a model that is no longer used."""
        self.pool.forget(model_id)
        with self._lock:
            self._circuits.pop(model_id, None)

    def learn(self, model_id: str, key_id: str, responses: Sequence[Any]) -> None:
        """Learn the limits that an answer's headers show, as far as neither plugin nor user sets them."""
        self.learned.add((model_id, key_id))
        self._limits.learn(self.pool, model_id, key_id, getattr(responses[-1], "headers", None))

    def change_keys(
        self, joining: Sequence[Credential], leaving: Collection[str], state: Mapping[str, object] | None
    ) -> None:
        """See `ChangesKeys`."""
        self.redactor.add((each.id, each.secret) for each in joining if each.secret is not None)
        self.pool.change_keys(joining, leaving, state)
        self.learned.difference_update([pair for pair in self.learned if pair[1] in leaving])

    # Whether usage is recorded.

    @property
    def tracks_usage(self) -> bool:
        """Whether requests get rows in the usage log."""
        return not isinstance(self.services, _Untracked)

    @tracks_usage.setter
    def tracks_usage(self, enabled: bool) -> None:
        services = self.services.tracked if isinstance(self.services, _Untracked) else self.services
        self.services = services if enabled else _Untracked(services)

    def tracking(self, enabled: bool) -> Backend:
        """This backend, or one with the same keys, whose requests get rows in the usage log if `enabled`."""
        if enabled == self.tracks_usage:
            return self
        other = copy.copy(self)
        other.tracks_usage = enabled
        return other

    def _on_change(
        self, change: KeyChange, key_id: str, model_id: str | None, reason: str | None, seconds: float | None
    ) -> None:
        # It may be a provider's error code, which can be any text.
        reason = self.redactor.scrub(reason) if reason else reason
        if change == "key_dead":
            _log.warning("%s is dead: %s; one call may try it in %.0f s", key_id, reason, seconds or 0.0)
        elif change == "key_cooling":
            _log.info("%s is cooling for %.1f s: %s (%s)", key_id, seconds or 0.0, reason, model_id or "all models")
        elif change == "key_revived":
            _log.info("%s is in rotation again", key_id)
        self._emit(change, key_id, model_id, reason, seconds)

    def _emit(
        self, kind: EventKind, key_id: str | None, model_id: str | None, reason: str | None, seconds: float | None
    ) -> None:
        call_id = attempt.settled.get()
        self.services.emit(Event(kind, self.provider, model_id, key_id, reason, seconds, call_id=call_id))


@dataclass(frozen=True, slots=True)
class Rotation:
    """What all copies of a rotating model share: the backend that has the keys, and how calls are made."""

    backend: Backend
    options: CallOptions
    arguments: Mapping[str, Any]

    def __deepcopy__(self, memo: dict[int, object]) -> Rotation:
        return self


class _Untracked:
    """`Services` that notify the observers of a request but do not record it."""

    def __init__(self, services: Services) -> None:
        self.tracked = services
        self.clock = services.clock
        self.rebuild = services.rebuild
        self.budgets = services.budgets
        self.emit = services.emit

    def record(self, row: UsageRow) -> None:
        """Notify the observers of one request that was sent."""
        self.emit(call_finished(row))
