"""Finds the installed plugins, one guarded load at a time, and calls their hooks.

The only user of `pluggy.PluginManager`. pluggy's own walk over entry points stops at the first that fails to import,
and one raising hook loses the results of the others; here each failure is a named problem, and the others keep working.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import pluggy

from hfs_providers.contract.deadline import AbandonedError, bounded
from hfs_providers.contract.environment import DISABLED, env_prefixes
from hfs_providers.contract.errors import PluginConflictError, PluginContractError, PluginError, PluginLoadError
from hfs_providers.contract.records import (
    Event,
    ModelDefault,
    ProviderConfig,
    ProviderHealth,
    Services,
    Wrapper,
)
from hfs_providers.contract.redaction import Redactor
from hfs_providers.contract.secret import Secret
from hfs_providers.core import hookspecs
from hfs_providers.core.discovery import Candidate, check_contract, describe, given, installed, load, normal
from hfs_providers.core.hookspecs import PROJECT

_T = TypeVar("_T")

PROVIDER_HOOKS = ("configure_env", "build_wrapper", "default_model", "health")

_log = logging.getLogger("hfs_providers")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that was found.

    Args:
        name: its entry-point name.
        distribution, version: the installed package that it comes from.
        hooks: the names of the hooks that it implements.
        provider: whether it is a provider, rather than a hook wrapper or an observer.
        target: the plugin object.
    """

    name: str
    distribution: str | None
    version: str | None
    hooks: tuple[str, ...]
    provider: bool
    target: object


_BROKEN = (Exception, SystemExit)
"""Exceptions of a plugin that are caught. KeyboardInterrupt comes from the user and is not."""
_WRAPPED_TIMEOUT = {"configure_env": 2.0, "default_model": 2.0, "build_wrapper": 4.0, "health": 2.0}
"""Seconds after which a provider's hook is called without the wrappers around it, so that it can still answer in time:
the first two share one deadline, and the first build imports Agno."""


class Registry:
    """The plugins of one assembly.

    Args:
        disabled: names that are not even imported, or `name@distribution` for one of two that share a name.
        plugins: plugin objects to use instead of the installed ones.
    """

    def __init__(self, disabled: Sequence[str] = (), plugins: Iterable[object] | None = None) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._plugins: dict[str, Plugin] = {}
        self._lock = threading.Lock()
        self._observers: tuple[_Observing, ...] = ()
        self._reported: set[object] = set()
        self._benched: set[str] = set()
        self._redactors: dict[str, Redactor] = {}
        self.problems: list[PluginError] = []
        self.disabled: list[str] = []
        candidates = installed() if plugins is None else [given(plugin) for plugin in plugins]
        off = {name + at + normal(distribution) for name, at, distribution in (d.partition("@") for d in disabled)}
        self.unknown = [name for name in disabled if name.partition("@")[0] not in {c.name for c in candidates}]
        for candidate, target in load(self._uncontested(candidates, off)):
            try:
                self._admit(candidate, target)
            except PluginError as problem:
                self.problems.append(problem)
            except _BROKEN as error:
                # An object that fails when it is looked at.
                self.problems.append(
                    PluginLoadError(candidate.name, candidate.distribution, f"inspecting it raised {describe(error)}")
                )

    def __repr__(self) -> str:
        return f"Registry({', '.join(self._plugins)})"

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        """The plugins that work, by name."""
        return self._plugins

    @property
    def providers(self) -> list[str]:
        """The names of the provider plugins, in the default order."""
        names = [name for name, plugin in self._plugins.items() if plugin.provider]
        # By its path: the core knows no provider.
        first = list(importlib.import_module("hfs_providers.plugins").ORDER)
        return sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name))

    def env_prefixes(self, name: str) -> tuple[str, ...]:
        """The prefixes of the variables that a provider's plugin is shown."""
        return env_prefixes(name, tuple(getattr(self._plugins[name].target, "hfs_env_prefixes", ())))

    def configure_env(self, name: str, env: Mapping[str, str]) -> ProviderConfig:
        """The provider's own `configure_env`. Raises `PluginError`."""
        redactor = self._redactors.setdefault(name, Redactor())
        # A variable may list keys.
        parts = ((variable, part) for variable, value in env.items() for part in {value, *value.split(",")})
        redactor.add((variable, Secret(part.strip())) for variable, part in parts)
        config = self._call(name, "configure_env", ProviderConfig, env=env)
        redactor.add((each.id, each.secret) for each in config.credentials if each.secret is not None)
        if config.name != name:
            raise self._contract(name, f"configure_env returned the name {config.name!r}")
        return config

    def build_wrapper(self, name: str, config: ProviderConfig, services: Services) -> Wrapper:
        """The provider's own `build_wrapper`. Raises `PluginError`, or the SDK's own error."""
        wrapper = self._call(name, "build_wrapper", object, config=config, services=services)
        missing = [attr for attr in ("pool", "get_model", "close") if not hasattr(wrapper, attr)]
        if missing:
            raise self._contract(name, f"build_wrapper returned an object without {', '.join(missing)}")
        return cast(Wrapper, wrapper)

    def default_model(self, name: str, config: ProviderConfig) -> list[ModelDefault]:
        """The provider's own `default_model`. Raises `PluginError`."""
        models = self._call(name, "default_model", object, config=config)
        if (
            not isinstance(models, Sequence)
            or not models
            or not all(isinstance(model, ModelDefault) for model in models)
        ):
            raise self._contract(name, "default_model did not return a sequence of ModelDefault")
        return list(models)

    def health(self, name: str, config: ProviderConfig, wrapper: Wrapper | None, live: bool) -> ProviderHealth:
        """The provider's own `health`. Raises `PluginError`."""
        call = partial(self._call, name, "health", ProviderHealth, config=config, wrapper=wrapper, live=live)
        if live:
            return call()
        try:
            return bounded(call)
        except AbandonedError as error:
            raise PluginLoadError(name, self._plugins[name].distribution, f"health: {error}") from None

    @property
    def observed(self) -> bool:
        """Whether anybody observes events now. Otherwise none need be made."""
        # Asked before each usage row, so it costs a fraction of a microsecond.
        try:
            for observer in self._observers:
                if observer.listening():
                    return True
        except _BROKEN:
            # Reported by `emit`, like whatever else an observer raises.
            return True
        return False

    def emit(self, event: Event) -> None:
        """Notify every observer. One that raises is logged once; nothing is ever raised."""
        for observer in self._observers:
            try:
                if observer.listening():
                    observer.call(event)
            except _BROKEN as error:
                if observer not in self._reported:
                    self._reported.add(observer)
                    _log.warning(
                        "observer %s raised %s; it is still called, but not reported again",
                        observer.name,
                        type(error).__name__,
                    )

    def observe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Register a function as an observer; returns the function that removes it again."""
        observer = _Observing(getattr(callback, "__qualname__", type(callback).__name__), callback)
        with self._lock:
            self._observers += (observer,)

        def remove() -> None:
            with self._lock:
                self._observers = tuple(other for other in self._observers if other is not observer)

        return remove

    def _uncontested(self, candidates: list[Candidate], disabled: set[str]) -> Iterable[Candidate]:
        wanted = []
        for candidate in candidates:
            if candidate.aliases & disabled:
                self.disabled.append(candidate.name)
            else:
                wanted.append(candidate)
        claims = Counter(candidate.name for candidate in wanted)
        for candidate in wanted:
            if claims[candidate.name] == 1:
                yield candidate
                continue
            others = sorted(
                str(other.distribution) for other in wanted if other.name == candidate.name and other is not candidate
            )
            self.problems.append(
                PluginConflictError(
                    candidate.name,
                    candidate.distribution,
                    f"{' and '.join(others)} claims the same name, so neither is loaded. Uninstall one, or set "
                    f"{DISABLED}={candidate.name}@{others[0]} to use this one",
                )
            )

    def _admit(self, candidate: Candidate, target: object) -> None:
        if isinstance(target, PluginError):
            raise target
        check_contract(candidate, target)
        try:
            self._register(candidate, target)
        except BaseException:
            # One that is refused leaves no trace.
            if self._manager.has_plugin(candidate.name):
                self._manager.unregister(name=candidate.name)
            raise

    def _register(self, candidate: Candidate, target: object) -> None:
        try:
            self._manager.register(target, name=candidate.name)
            self._manager.check_pending()
        except Exception as error:
            words = str(error).replace("\n", " ")
            raise candidate.breach(words) from error
        callers = [caller for caller in self._manager.get_hookcallers(target) or () if caller.has_spec()]
        hooks = {caller.name: [each for each in caller.get_hookimpls() if each.plugin is target] for caller in callers}
        if not hooks:
            words = "it implements no hook. Mark its functions with hfs_providers.hookimpl"
            raise candidate.breach(words)
        provider = any(not _wraps(implementation) for name in PROVIDER_HOOKS for implementation in hooks.get(name, ()))
        if provider and (missing := [name for name in PROVIDER_HOOKS if name not in hooks]):
            raise candidate.breach(f"it does not implement {', '.join(missing)}")
        called = getattr(target, "name", candidate.name)
        if provider and isinstance(called, str) and called != candidate.name:
            raise candidate.breach(f"it calls itself {called!r}, unlike its entry point")
        observers = _observers(candidate, target, hooks.get("on_event", ()))
        self._observers += observers
        self._plugins[candidate.name] = Plugin(
            candidate.name, candidate.distribution, candidate.version, tuple(sorted(hooks)), provider, target
        )

    def _call(self, name: str, hook: str, kind: type[_T], **arguments: Any) -> _T:
        """Call one provider's own hook, inside the hook wrappers of plugins that are not providers."""
        others = [p.target for p in self._plugins.values() if p.provider and p.name != name]
        wrappers = [
            p for p in self._plugins.values() if not p.provider and hook in p.hooks and p.name not in self._benched
        ]
        around = [p.target for p in self._plugins.values() if not p.provider]
        alone = partial(self._manager.subset_hook_caller(hook, [*others, *around]), **arguments)
        try:
            if not wrappers:
                result = alone()
            else:
                benched = [self._plugins[plugin].target for plugin in self._benched]
                wrapped = partial(self._manager.subset_hook_caller(hook, [*others, *benched]), **arguments)
                try:
                    # One that hangs must leave the provider time for an answer of its own.
                    result = wrapped() if arguments.get("live") else bounded(wrapped, _WRAPPED_TIMEOUT[hook])
                except _BROKEN as error:
                    result = alone()
                    self._leave_out(wrappers, hook, name, error)
        except _BROKEN as error:
            failure = self._failure(name, hook, error)
            raise failure from (None if failure is error else error)
        if result is None or not isinstance(result, kind):
            got = "nothing" if result is None else type(result).__name__
            raise self._contract(name, f"{hook} returned {got} instead of {kind.__name__}")
        return result

    def _leave_out(self, wrappers: Sequence[Plugin], hook: str, name: str, error: BaseException) -> None:
        """Report the hook wrappers without which a provider's hook works; the ones that hang are not called again."""
        hang = isinstance(error, AbandonedError)
        for wrapper in wrappers:
            if hang:
                self._benched.add(wrapper.name)
            seen = (wrapper.name, hook, None if hang else name)
            if seen not in self._reported:
                self._reported.add(seen)
                how = f"of {hook} hangs" if hang else f"of {hook} failed for {name} ({type(error).__name__})"
                problem = PluginLoadError(wrapper.name, wrapper.distribution, f"its wrapper {how} and was left out")
                self.problems.append(problem)
                _log.warning("%s", problem)

    def _failure(self, name: str, hook: str, error: BaseException) -> BaseException:
        """The error for a failing hook, without keys that its message may contain."""
        redactor = self._redactors.get(name, Redactor())
        redactor.scrub_exception(error)
        if isinstance(error, (PluginError, ImportError)):
            # The SDK's or the plugin's own import error is reported as itself.
            return error
        words = f"{hook} raised {redactor.scrub(describe(error))}"
        return PluginLoadError(name, self._plugins[name].distribution, words)

    def _contract(self, name: str, message: str) -> PluginContractError:
        return PluginContractError(name, self._plugins[name].distribution, message)


@dataclass(frozen=True, slots=True, eq=False)
class _Observing:
    """An observer: its name, the function to call, and whether to call it now."""

    name: str
    call: Callable[[Event], object]
    listening: Callable[[], object] = lambda: True


def _observers(candidate: Candidate, target: object, implementations: Iterable[Any]) -> tuple[_Observing, ...]:
    listening = getattr(target, "hfs_listening", None)
    found = []
    for implementation in implementations:
        function = implementation.function
        if _wraps(implementation) or inspect.iscoroutinefunction(function):
            # Called as it is, either would silently do nothing.
            words = "its on_event is a wrapper or a coroutine function, but an observer must be a plain function"
            raise candidate.breach(words)
        call = function if implementation.argnames else partial(_without_event, function)
        found.append(_Observing(candidate.name, call, listening) if listening else _Observing(candidate.name, call))
    return tuple(found)


def _without_event(function: Callable[[], object], event: Event) -> None:
    function()


def _wraps(implementation: Any) -> bool:
    return bool(implementation.wrapper or implementation.hookwrapper)
