"""`ProviderManager`: assembles the installed providers and hands out their models."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import date
from functools import partial, wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast

from hfs_providers.calls.affinity import CONVERSATION
from hfs_providers.contract.deadline import bounded, within_deadline
from hfs_providers.contract.protocols import KeepsCircuits
from hfs_providers.contract.records import Event, Problem, Wrapper, call_finished
from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.core.availability import unbuilt, why_unusable
from hfs_providers.core.inventory import take_inventory
from hfs_providers.core.manager_view import ManagerView, has_keys, log_problems
from hfs_providers.core.persistence import Persistence
from hfs_providers.core.provider import KeyedProvider
from hfs_providers.keys.file_watch import FileWatch
from hfs_providers.keys.key_changes import KeyChanges
from hfs_providers.keys.pool import KeyPool
from hfs_providers.wrapper.arguments import seconds

if TYPE_CHECKING:
    from agno.models.base import Model

    from hfs_providers.fallback.builder import ChainEntry
    from hfs_providers.fallback.chain import FallbackChain
    from hfs_providers.fallback.config import OnInterrupt, Restore
    from hfs_providers.keys.capacity import Capacity
    from hfs_providers.wrapper.wrapper import ProviderWrapper

_P = ParamSpec("_P")
_T = TypeVar("_T")

_log = logging.getLogger("hfs_providers")


class ProviderManager(ManagerView):
    """Every provider that is installed and configured, built once.

    Args:
        env: used instead of the process environment and of a `.env` in the working directory.
        env_file: a `.env` file to read instead of `HFS_ENV_FILE` or the working directory's.
        plugins: plugin objects to use instead of the installed ones.
        shares: whether it registers as one that uses the keys; False for one that rules on them, or tries one.

    Nothing is raised for a bad environment or a broken plugin: see `problems`. Use it as a context manager, sync or
    async, or leave `shutdown` to the end of the process.
    """

    _needs_sdk: ClassVar[bool] = True
    """Whether a provider without its SDK is left out."""

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        env_file: str | os.PathLike[str] | None = None,
        plugins: Iterable[object] | None = None,
        shares: bool = True,
    ) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self.closed = False
        """Whether it was shut down."""
        self._lock = threading.Lock()
        self._own_environment = env is None and env_file is None and plugins is None
        self.inventory = take_inventory(env, env_file, plugins)
        self.wrappers = {}
        self._problems = list(self.inventory.problems)
        self._failures: dict[str, Exception] = {}
        log_problems(self._problems)
        prices = self.inventory.price_list()
        self.persistence = Persistence(self.inventory.settings.env, price=prices.cost)
        self.budgets = self.persistence.budgets(self.inventory.file.budgets, prices)
        self._build()
        self.persistence.start(self.wrappers, shares)
        files = {name: self._known(name).config.key_file for name in self.wrappers}
        self._watches = [self._watch(path, name) for name, path in files.items() if path is not None]
        _announce(self)
        atexit.register(self.shutdown)

    def __repr__(self) -> str:
        return f"ProviderManager({', '.join(self.available_providers) or 'no provider available'})"

    @property
    def rebuild(self) -> Callable[..., Model] | None:
        """Makes a pickled model again in another process: `get_model`, or None if the environment was explicit."""
        return get_model if self._own_environment else None

    def wrapper(self, name: str) -> ProviderWrapper:
        """The wrapper of a provider that can be used.

        Raises:
            UnknownProviderError: no plugin has that name.
            MissingKeyError, MissingSdkError, ProviderUnavailableError: why it cannot be used.
        """
        self._known(name)
        wrapper = self.wrappers.get(name)
        if wrapper is None or not has_keys(wrapper):
            raise why_unusable(self.inventory, self.problems, name) from self._failures.get(name)
        return wrapper

    def default_model(self, name: str) -> str:
        """The model id that `get_model` uses if none is named."""
        wrapper: object = self.wrappers.get(name)
        gone = wrapper.retired_models if isinstance(wrapper, KeepsCircuits) else ()
        return self._known(name).default_model(date.today(), gone)

    def get_model(
        self,
        /,
        provider: str,
        model_id: str | None = None,
        *,
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
        """A real Agno model of the provider, whose calls rotate over its keys.

        Args:
            provider: its name.
            model_id: the provider's model id; by default `X_MODEL`, else the plugin's first that is not retired.
            estimated_tokens: tokens to reserve against the limits for each call.
            wait: whether a call waits if no key is free at once.
            timeout: seconds that a call waits for a key at most. None is as long as it takes: up to a day if a day's
                limit is used up. If no key will ever become free by itself, the call fails at once.
            max_retries: retries of transient failures, per call.
            request_timeout: seconds, passed to the SDK.
            key_id: the one key to use: its id (`acme#3`), its fingerprint, the key itself, or its place (from 0).
            affinity: calls with the same one use the same key while it is free: `conversation`, those whose messages
                begin alike; `session`, those of one Agno session; or any name. None: the keys take turns.
            model_params: arguments of the provider's Agno model class that have the same name as one of the above
                (`{"provider": ...}`). Retries of the SDK stay off.
            agno_kwargs: its other arguments.

        Raises:
            UnknownProviderError: no plugin has that name.
            MissingKeyError, MissingSdkError, ProviderUnavailableError: why the provider cannot be used. These and
                UnknownProviderError are ValueErrors.
            KeyNotFoundError: the provider has no such key.
            TypeError: an argument that is given twice, or that the class does not know.
        """
        wrapper = self.wrapper(provider)
        given = (("key_id", key_id, None), ("affinity", affinity, CONVERSATION), ("model_params", model_params, None))
        agno_kwargs |= {name: value for name, value, default in given if value != default}
        model: Model = wrapper.get_model(
            model_id or self.default_model(provider),
            explicit=model_id is not None or self._known(provider).config.default_model is not None,
            estimated_tokens=estimated_tokens,
            wait=wait,
            timeout=seconds(timeout),
            max_retries=max_retries,
            request_timeout=request_timeout,
            **agno_kwargs,
        )
        return model

    def get_any_model(
        self,
        /,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float | None = 10.0,
        *,
        model_id: str | None = None,
        **kwargs: Any,
    ) -> tuple[str, Model]:
        """A model of the first provider in order that has a key free for it now, and budgets that allow a request.

        Args:
            estimated_tokens: tokens that the key must have free.
            wait: whether to wait for the earliest key if none is free now.
            timeout: seconds to wait at most; None is as long as it takes.
            model_id: the model id for whichever provider is chosen; by default each provider's own default model.
            kwargs: as for `get_model`.

        Returns:
            The provider's name and the model.

        Raises:
            KeysExhaustedError: none has a key free in time and within its budgets; it says why for each.
        """
        from hfs_providers.core.selection import select_provider

        def build(name: str) -> Model:
            return self.get_model(
                name, model_id, estimated_tokens=estimated_tokens, wait=wait, timeout=timeout, **kwargs
            )

        return select_provider(
            self.wrappers,
            lambda name: model_id or self.default_model(name),
            build,
            lambda: unbuilt(self.inventory, self.problems, self.wrappers),
            estimated_tokens=estimated_tokens,
            timeout=seconds(timeout) if wait else 0.0,
            clock=self.clock,
        )

    def get_chain(
        self,
        /,
        *entries: ChainEntry,
        tier: str | None = None,
        restore: Restore = "when_available",
        on_interrupt: OnInterrupt = "raise",
        timeout: float | None = 2.0,
        max_retries: int = 0,
        sleep: Callable[[float], object] | None = None,
        async_sleep: Callable[[float], Awaitable[object]] | None = None,
        **kwargs: Any,
    ) -> FallbackChain:
        """An Agno model that serves with its first entry and falls back along the others, for one turn at a time.

        Args:
            entries: provider names, `provider/model`, Agno models or dicts (`provider`, `model`, arguments of this
                entry's `get_model`); none: every available provider, in order.
            tier: instead of entries, a tier of `HFS_TIER_<NAME>` or of `[tiers]` in the TOML file.
            restore: whether a new turn begins at the primary: `always`, `when_available` (not while its keys are known
                to be exhausted or its circuit is open), or `never` (where the last fallback left off).
            on_interrupt: what happens if a stream breaks after content: `raise` StreamInterruptedError, or `restart` on
                the next entry after an event that says so.
            timeout: seconds for which an entry waits for a key before the next is asked; None is as long as it takes.
            max_retries: an entry's own retries of 5xx and transport errors before the next is asked.
            sleep, async_sleep: wait for some seconds in a transport recovery; by default `time.sleep`, `asyncio.sleep`.
            kwargs: as for `get_model`, for every entry that is not a model already.

        Raises:
            UnknownProviderError: no plugin has a name that was given.
            MissingKeyError, MissingSdkError, ProviderUnavailableError: why an entry that was named cannot be used.
            SettingsError: there is no such tier, or none of its providers can be used.
        """
        from hfs_providers.fallback.builder import ChainSources, entries_of
        from hfs_providers.fallback.chain import build_chain
        from hfs_providers.fallback.config import ChainConfig

        inventory = self.inventory
        plugins = [p.target for p in inventory.registry.plugins.values() if isinstance(p.target, KeyedProvider)]
        sources = ChainSources(self.get_model, self.available_providers, inventory.tiers, plugins, self.clock)
        options = {"timeout": timeout, "max_retries": max_retries, **kwargs}
        chosen = entries_of(sources, entries, tier, options)
        rebuild = get_chain if self._own_environment else None
        waits = (sleep or time.sleep, async_sleep or asyncio.sleep)
        return build_chain(ChainConfig(chosen, restore, on_interrupt, self.emit, *waits, rebuild))

    def capacity(
        self,
        provider: str | None = None,
        model: str | None = None,
        *,
        rate: float | None = None,
        tokens: float | None = None,
    ) -> list[Capacity]:
        """What the keys can still serve, when they run dry, and what a load would need, by provider and model.

        It reads the usage file, and Redis where hosts share their keys: not for an event loop.

        Args:
            provider: only this one; None: all that have keys.
            model: only this one; None: each provider's default model, and those that were used within a day.
            rate: requests a minute of the load; None: as in the last hour.
            tokens: of one of its requests; None: as in the last hour.

        Raises:
            UnknownProviderError: no plugin has that name.
            MissingKeyError, MissingSdkError, ProviderUnavailableError: why the provider cannot be used.
        """
        from hfs_providers.core.capacity import measure_capacity

        names = self.available_providers if provider is None else [provider]
        # A plugin's own wrapper may have a pool of its own.
        pools = {name: pool for name in names if isinstance(pool := self.wrapper(name).pool, KeyPool)}
        return [
            found
            for name, pool in pools.items()
            for found in measure_capacity(pool, self.persistence, self.default_model(name), model, rate, tokens)
        ]

    def observe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call `callback` with every event, as an `on_event` hook would be; returns the function that ends it."""
        return self.inventory.registry.observe(callback)

    def emit(self, event: Event) -> None:
        """Store what outlives the process, and notify the observers. Never raises."""
        self.persistence.note(event)
        self.inventory.registry.emit(event)

    def record(self, row: UsageRow) -> None:
        """Record one request that was sent, and notify the observers."""
        log = self.persistence.log
        if log is not None:
            log.record(row)
        if self.inventory.registry.observed:
            self.emit(call_finished(row))

    def shutdown(self) -> None:
        """Write the remaining usage rows and close every provider's clients.

        Safe to call twice; one provider's failure does not stop the rest.
        """
        with self._lock:
            if self.closed:
                return
            self.closed = True
        atexit.unregister(self.shutdown)
        for watch in self._watches:
            watch.close()
        for name, wrapper in self.wrappers.items():
            try:
                wrapper.close()
                _log.info("%s shut down", name)
            except Exception as error:
                _log.warning("%s did not shut down cleanly: %s", name, type(error).__name__)
        self.persistence.close()

    def __enter__(self) -> ProviderManager:
        return self

    def __exit__(self, *raised: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> ProviderManager:
        return self

    async def __aexit__(self, *raised: object) -> None:
        self.shutdown()

    def _watch(self, path: str, name: str) -> FileWatch:
        registry = self.inventory.registry
        env = self.inventory.settings.slice(registry.env_prefixes(name))
        read = partial(bounded, partial(registry.configure_env, name, env))
        adopt, known_of = partial(self._adopt, name), partial(self.persistence.known_of, name)
        return FileWatch(path, KeyChanges(self.wrappers[name], read, known_of, adopt).apply)

    def _build(self) -> None:
        calls: dict[str, Callable[[], Wrapper]] = {
            name: partial(self.inventory.registry.build_wrapper, name, found.config, self)
            for name, found in self.inventory.providers.items()
            if found.usable or (found.config.configured and not self._needs_sdk)
        }
        for name, result in within_deadline(calls).items():
            if isinstance(result, Exception):
                self._failures[name] = result
                message = f"{name} could not be built: {type(result).__name__}: {result}"
                remedy = getattr(result, "remedy", None) or "Run: hfs-providers doctor"
                self._problems.append(Problem(message, remedy, "error", name))
                _log.error("%s", message)
                self.emit(Event("provider_failed", name, reason=message))
            else:
                self.wrappers[name] = cast("ProviderWrapper", result)
                self.emit(Event("provider_built", name))


def _announce(manager: ProviderManager) -> None:
    """Log, at INFO, which providers were built, whether anything is persisted, and how many are healthy."""
    if not _log.isEnabledFor(logging.INFO):
        # Health is asked of the plugins, which takes time.
        return
    for name in manager.wrappers:
        count = len(manager.inventory.providers[name].config.credentials)
        _log.info("Initialized %s with %d %s", name, count, "key" if count == 1 else "keys")
    if manager.persistence.places.path is None:
        _log.info("Nothing is persisted: HFS_USAGE_DB is off")
    healthy = sum(manager.is_provider_healthy(name) for name in manager.wrappers)
    installed = len(manager.inventory.registry.providers)
    _log.info("Provider initialization complete: %d/%d providers healthy", healthy, installed)
    _log.info("%s", manager.get_status_summary())


_manager: ProviderManager | None = None
_manager_lock = threading.Lock()


def get_provider_manager() -> ProviderManager:
    """The process's own manager, built from its environment at the first call. Thread-safe."""
    global _manager
    with _manager_lock:
        if _manager is None or _manager.closed:
            _manager = ProviderManager()
        return _manager


def _of_the_process(method: Callable[Concatenate[ProviderManager, _P], _T]) -> Callable[_P, _T]:
    """A method of `ProviderManager` as a function: the same method of the process's manager."""

    @wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        result: _T = getattr(get_provider_manager(), method.__name__)(*args, **kwargs)
        return result

    # A pickle finds it by this name.
    call.__qualname__ = method.__name__
    parameters = list(signature(method).parameters.values())
    call.__dict__["__signature__"] = signature(method).replace(parameters=parameters[1:])
    return call


get_model = _of_the_process(ProviderManager.get_model)
get_any_model = _of_the_process(ProviderManager.get_any_model)
get_chain = _of_the_process(ProviderManager.get_chain)
list_available_providers = _of_the_process(ProviderManager.list_available_providers)


def get_cerebras_model(model_id: str | None = None, **kwargs: Any) -> Model:
    """`get_model("cerebras", ...)`."""
    return get_model("cerebras", model_id, **kwargs)


def get_groq_model(model_id: str | None = None, **kwargs: Any) -> Model:
    """`get_model("groq", ...)`."""
    return get_model("groq", model_id, **kwargs)


def get_gemini_model(model_id: str | None = None, **kwargs: Any) -> Model:
    """`get_model("gemini", ...)`."""
    return get_model("gemini", model_id, **kwargs)


def get_openrouter_model(model_id: str | None = None, **kwargs: Any) -> Model:
    """`get_model("openrouter", ...)`."""
    return get_model("openrouter", model_id, **kwargs)
