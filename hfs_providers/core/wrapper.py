"""keycycle's `MultiProviderWrapper` over a `KeyPool`: its interface, with leases and verdicts inside.

keycycle's own `__init__` starts threads and wants a database, and its rotation loses budgets, sleeps in the event loop
and logs parts of keys; neither runs here.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hfs_providers.core import quiet
from hfs_providers.core._keycycle import MultiProviderWrapper
from hfs_providers.core.clients import FAMILIES
from hfs_providers.core.contract import Credential, Event, KeyStatus, Limits, ProviderConfig, ProviderHealth, Services
from hfs_providers.core.errors import MissingSdkError
from hfs_providers.core.pool import KeyPool
from hfs_providers.core.secret import Redactor

if TYPE_CHECKING:
    from agno.models.base import Model

    from hfs_providers.core.provider import KeyedProvider

_log = logging.getLogger("hfs_providers")


class PoolManager:
    """What keycycle's users read of its manager, over a `KeyPool`."""

    def __init__(self, pool: KeyPool) -> None:
        self._pool = pool

    @property
    def keys(self) -> list[KeyStatus]:
        """The state of each key."""
        return self._pool.statuses()

    def stop(self) -> None:
        """Does nothing: the pool has no thread."""


class ProviderWrapper(MultiProviderWrapper):
    """What hands out the models of one provider.

    Args:
        provider: the plugin's data.
        config: what the environment said.
        services: clock, observers and usage log.
    """

    def __init__(self, provider: KeyedProvider, config: ProviderConfig, services: Services) -> None:
        # Not super().__init__(): see the module's docstring.
        self.provider = provider.name
        self.plugin = provider
        self.logger = _log
        self.config = config
        self.services = services
        self.redactor = Redactor((c.id, c.secret) for c in config.credentials if c.secret is not None)
        self.pool = KeyPool(
            provider.name,
            config.credentials,
            limits=self._limits,
            clock=services.clock,
            on_change=self._on_change,
        )
        self.clients = FAMILIES[provider.client](provider, config)
        self.gone: dict[str, str] = {}
        self.sleep: Callable[[float], None] = time.sleep
        self.asleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self._lock = threading.Lock()
        quiet.install()

    def __repr__(self) -> str:
        return f"ProviderWrapper({self.provider}, {len(self.config.credentials)} keys)"

    @cached_property
    def model_class(self) -> type[Model]:  # type: ignore[override]  # an attribute in keycycle, set once
        """The provider's Agno class, imported when the first model is asked for.

        Raises:
            MissingSdkError: its SDK is not installed. An import error inside the SDK is raised as itself.
        """
        from hfs_providers.core.models import load_class
        from hfs_providers.core.provider import sdk_version

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
        named: bool | None = None,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float = 10.0,
        max_retries: int = 5,
        request_timeout: float | None = None,
        key_id: str | None = None,
        **agno_kwargs: Any,
    ) -> Model:
        """A rotating Agno model; see `ProviderManager.get_model`.

        Args:
            model_id: the provider's model id, or None for the default.
            named: whether the caller named it; by default, whether it is not None.
            estimated_tokens: tokens to reserve for a call.
            wait, timeout: whether a call waits for a key, and for how many seconds.
            max_retries: retries of transient failures per call.
            request_timeout: seconds, for the SDK.
            key_id: the one key to use, as `groq#3`.
            agno_kwargs: arguments of the Agno class.
        """
        from hfs_providers.core.calls import CallOptions
        from hfs_providers.core.models import build_model

        chosen = model_id or agno_kwargs.pop("id", None)
        named = chosen is not None if named is None else named
        options = CallOptions(estimated_tokens, wait, timeout, max_retries, named, key_id)
        arguments = {**self.plugin.model_params, **agno_kwargs}
        if request_timeout is not None:
            arguments.setdefault("timeout", request_timeout)
        if self.config.base_url is not None and self.plugin.client != "google_genai":
            arguments.setdefault("base_url", self.config.base_url)
        return build_model(self, chosen or self.default_model_id, options, arguments)

    @property
    def default_model_id(self) -> str:  # type: ignore[override]  # an attribute in keycycle; here models retire
        """The model that serves where none is named."""
        if self.config.default_model is not None:
            return self.config.default_model
        today = date.today()
        ids = [m.id for m in self.plugin.models if not m.retired(today) and m.id not in self.gone]
        return ids[0] if ids else self.plugin.models[-1].id

    def serving(self, model_id: str) -> str:
        """What serves for a defaulted model id: itself, or its successor where the provider no longer has it."""
        while model_id in self.gone:
            model_id = self.gone[model_id]
        return model_id

    def successor(self, model_id: str) -> str | None:
        """The model that follows `model_id` in the plugin's list."""
        ids = [model.id for model in self.plugin.models]
        return ids[ids.index(model_id) + 1] if model_id in ids[:-1] else None

    def replace_model(self, model_id: str) -> str | None:
        """Remember that the provider no longer has a defaulted model; its successor, or None where there is none."""
        successor = self.successor(model_id)
        if successor is None:
            return None
        with self._lock:
            if model_id in self.gone:
                return self.gone[model_id]
            self.gone[model_id] = successor
        _log.warning("%s no longer serves %s; %s is used instead", self.provider, model_id, successor)
        self.services.emit(Event("model_replaced", self.provider, model_id, reason=f"replaced by {successor}"))
        return successor

    def list_models(self) -> Sequence[str]:
        """The model ids that the provider lists, asked live with a free key."""
        with self.pool.acquire("models", estimated_tokens=0, timeout=0) as lease:
            return self._listed(lease.credential)

    def probe(self, credential: Credential) -> ProviderHealth:
        """Try one key for real, by listing the models with it. What it learns goes into the pool."""
        from hfs_providers.core.verdicts import judge

        name = self.provider
        with self.pool.acquire("models", estimated_tokens=0, timeout=0, key_id=credential.id) as lease:
            try:
                self._listed(credential)
            except Exception as error:
                verdict = judge(error)
                words = self.redactor.scrub(verdict.message)
                if verdict.kind == "dead":
                    lease.dead(verdict.code or "refused", credits=verdict.credits)
                elif verdict.kind == "rate_limited":
                    lease.rate_limited(verdict.retry_after, verdict.scope)
                return ProviderHealth(name, False, (f"{credential.id}: {verdict.kind}: {words}",))
            lease.commit()
        return ProviderHealth(name, True)

    @cached_property
    def manager(self) -> PoolManager:  # type: ignore[override]  # keycycle's class starts threads
        """keycycle's view of the pool."""
        return PoolManager(self.pool)

    def close(self) -> None:
        """Close the shared connections. Safe to call twice."""
        self.clients.close()

    def _listed(self, credential: Credential) -> list[str]:
        model = self.get_model()
        bound = model.bare_copy()  # type: ignore[attr-defined]
        self.clients.bind(bound, credential)
        page = bound.client.models.list()
        # The OpenAI family answers with `data`, google-genai with something to iterate over.
        return [str(getattr(m, "id", None) or m.name).removeprefix("models/") for m in getattr(page, "data", page)]

    def _limits(self, model_id: str, key_id: str) -> Limits | None:
        for table in (self.config.key_limits.get(key_id, {}), self.config.limits):
            for pattern, limits in table.items():
                if fnmatch.fnmatchcase(model_id, pattern):
                    return limits
        return None

    def _on_change(
        self, change: Any, key_id: str, model_id: str | None, reason: str | None, seconds: float | None
    ) -> None:
        self.services.emit(Event(change, self.provider, model_id, key_id, reason, seconds))
