"""Finds the installed plugins, one guarded load at a time, and calls their hooks.

The only user of `pluggy.PluginManager`. pluggy's own walk over entry points stops at the first that fails to import,
and one raising hook loses the results of the others; here each failure is a named problem and the rest work on.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar, cast

import pluggy

from hfs_providers.core import hookspecs
from hfs_providers.core.contract import (
    CONTRACT_VERSION,
    Event,
    ModelDefault,
    ProviderConfig,
    ProviderHealth,
    Services,
    Wrapper,
)
from hfs_providers.core.errors import PluginConflictError, PluginContractError, PluginError, PluginLoadError
from hfs_providers.core.hookspecs import HOOK_TIMEOUT, PROJECT
from hfs_providers.core.secret import Redactor, Secret
from hfs_providers.core.settings import env_prefixes

T = TypeVar("T")

PROVIDER_HOOKS = ("configure_env", "build_wrapper", "default_model", "health")
BUILT_IN = ("cerebras", "groq", "gemini", "openrouter")
"""The order in which providers are tried unless `HFS_PROVIDER_ORDER` says otherwise; the others follow by name."""

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


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    distribution: str | None
    version: str | None
    load: Callable[[], object]


_BROKEN = (Exception, SystemExit)
"""What a plugin may raise without taking the program with it. KeyboardInterrupt is the user's."""


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
        self._reported: set[int] = set()
        self._redactors: dict[str, Redactor] = {}
        self.problems: list[PluginError] = []
        self.disabled: list[str] = []
        candidates = _installed() if plugins is None else [_given(plugin) for plugin in plugins]
        off = {name + at + _normal(distribution) for name, at, distribution in (d.partition("@") for d in disabled)}
        self.unknown = [name for name in disabled if name.partition("@")[0] not in {c.name for c in candidates}]
        for candidate in self._uncontested(candidates, off):
            try:
                self._admit(candidate)
            except PluginError as problem:
                self.problems.append(problem)
            except _BROKEN as error:
                # An object that fails when it is looked at.
                self.problems.append(
                    PluginLoadError(candidate.name, candidate.distribution, f"looking at it raised {_describe(error)}")
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
        return sorted(names, key=lambda name: (BUILT_IN.index(name) if name in BUILT_IN else len(BUILT_IN), name))

    def env_prefixes(self, name: str) -> tuple[str, ...]:
        """The prefixes of the variables that a provider's plugin is shown."""
        return env_prefixes(name, tuple(getattr(self._plugins[name].target, "hfs_env_prefixes", ())))

    def configure_env(self, name: str, env: Mapping[str, str]) -> ProviderConfig:
        """The provider's own `configure_env`. Raises `PluginError`."""
        secrets = ((variable, Secret(value)) for variable, value in env.items())
        self._redactors[name] = Redactor(secrets)
        config = self._call(name, "configure_env", ProviderConfig, env=env)
        if config.name != name:
            raise self._contract(name, f"configure_env gave the name {config.name!r}")
        return config

    def build_wrapper(self, name: str, config: ProviderConfig, services: Services) -> Wrapper:
        """The provider's own `build_wrapper`. Raises `PluginError`, or the SDK's own error."""
        wrapper = self._call(name, "build_wrapper", object, config=config, services=services)
        missing = [attr for attr in ("pool", "get_model", "close") if not hasattr(wrapper, attr)]
        if missing:
            raise self._contract(name, f"build_wrapper gave an object without {', '.join(missing)}")
        return cast(Wrapper, wrapper)

    def default_model(self, name: str, config: ProviderConfig) -> list[ModelDefault]:
        """The provider's own `default_model`. Raises `PluginError`."""
        models = self._call(name, "default_model", object, config=config)
        if (
            not isinstance(models, Sequence)
            or not models
            or not all(isinstance(model, ModelDefault) for model in models)
        ):
            raise self._contract(name, "default_model gave no sequence of ModelDefault")
        return list(models)

    def health(self, name: str, config: ProviderConfig, wrapper: Wrapper | None, live: bool) -> ProviderHealth:
        """The provider's own `health`. Raises `PluginError`."""
        return self._call(name, "health", ProviderHealth, config=config, wrapper=wrapper, live=live)

    @property
    def observed(self) -> bool:
        """Whether anybody observes events, so that making one is worth its while."""
        return bool(self._manager.hook.on_event.get_hookimpls())

    def emit(self, event: Event) -> None:
        """Tell every observer. One that raises is logged once; nothing is ever raised."""
        for implementation in self._manager.hook.on_event.get_hookimpls():
            try:
                implementation.function(*((event,) if implementation.argnames else ()))
            except _BROKEN as error:
                if id(implementation) not in self._reported:
                    self._reported.add(id(implementation))
                    _log.warning(
                        "observer %s raised %s; it goes on being called, and is not reported again",
                        implementation.plugin_name,
                        type(error).__name__,
                    )

    def observe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Register a function as an observer; returns the function that removes it again."""
        observer = _Observer(callback)
        self._manager.register(observer)

        def remove() -> None:
            if self._manager.is_registered(observer):
                self._manager.unregister(observer)

        return remove

    def _uncontested(self, candidates: list[_Candidate], disabled: set[str]) -> Iterable[_Candidate]:
        wanted = []
        for candidate in candidates:
            if {candidate.name, f"{candidate.name}@{_normal(candidate.distribution)}"} & disabled:
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
                    f"HFS_DISABLED_PLUGINS={candidate.name}@{others[0]} to use this one",
                )
            )

    def _admit(self, candidate: _Candidate) -> None:
        try:
            target = candidate.load()
        except _BROKEN as error:
            raise PluginLoadError(
                candidate.name, candidate.distribution, f"importing it raised {_describe(error)}"
            ) from error
        hooks = self._inspect(candidate, target)
        provider = any(
            not implementation.wrapper and not implementation.hookwrapper
            for name in PROVIDER_HOOKS
            for implementation in hooks.get(name, ())
        )
        if provider and (missing := [name for name in PROVIDER_HOOKS if name not in hooks]):
            raise PluginContractError(
                candidate.name, candidate.distribution, f"it does not implement {', '.join(missing)}"
            )
        called = getattr(target, "name", candidate.name)
        if provider and isinstance(called, str) and called != candidate.name:
            raise PluginContractError(
                candidate.name, candidate.distribution, f"it calls itself {called!r}, unlike its entry point"
            )
        self._manager.register(target, name=candidate.name)
        self._plugins[candidate.name] = Plugin(
            candidate.name, candidate.distribution, candidate.version, tuple(sorted(hooks)), provider, target
        )

    def _inspect(self, candidate: _Candidate, target: object) -> dict[str, list[Any]]:
        """The hooks that `target` implements, tried out in a manager of its own so that a bad one leaves no trace."""
        version = getattr(target, "hfs_contract", None)
        if version != CONTRACT_VERSION:
            raise PluginContractError(candidate.name, candidate.distribution, _contract_words(version))
        trial = pluggy.PluginManager(PROJECT)
        trial.add_hookspecs(hookspecs)
        try:
            trial.register(target)
            trial.check_pending()
        except Exception as error:
            words = str(error).replace("\n", " ")
            raise PluginContractError(candidate.name, candidate.distribution, words) from error
        hooks = {caller.name: caller.get_hookimpls() for caller in trial.get_hookcallers(target) or ()}
        if not hooks:
            raise PluginContractError(
                candidate.name,
                candidate.distribution,
                "it implements no hook. Mark its functions with hfs_providers.hookimpl",
            )
        return hooks

    def _call(self, name: str, hook: str, kind: type[T], **arguments: Any) -> T:
        """Call one provider's own hook, inside the hook wrappers of plugins that are not providers."""
        others = [p.target for p in self._plugins.values() if p.provider and p.name != name]
        wrappers = [p for p in self._plugins.values() if not p.provider and hook in p.hooks]
        try:
            result = self._manager.subset_hook_caller(hook, remove_plugins=others)(**arguments)
        except _BROKEN as error:
            if not wrappers:
                failure = self._failure(name, hook, error)
                raise failure from (None if failure is error else error)
            result = self._without(wrappers, others, name, hook, arguments)
        if result is None or not isinstance(result, kind):
            given = "nothing" if result is None else type(result).__name__
            raise self._contract(name, f"{hook} gave {given} instead of {kind.__name__}")
        return result

    def _without(
        self, wrappers: Sequence[Plugin], others: Sequence[object], name: str, hook: str, arguments: Mapping[str, Any]
    ) -> Any:
        """Call a hook once more without the wrappers of other plugins, so that a bad one breaks no provider."""
        alone = [*others, *(wrapper.target for wrapper in wrappers)]
        try:
            result = self._manager.subset_hook_caller(hook, remove_plugins=alone)(**arguments)
        except _BROKEN as error:
            failure = self._failure(name, hook, error)
            raise failure from (None if failure is error else error)
        for wrapper in wrappers:
            message = f"its wrapper of {hook} failed for {name} and was left out"
            self.problems.append(PluginLoadError(wrapper.name, wrapper.distribution, message))
        return result

    def _failure(self, name: str, hook: str, error: BaseException) -> BaseException:
        """What a failing hook becomes; without the keys that it may have put into words."""
        redactor = self._redactors.get(name, Redactor())
        redactor.scrub_exception(error)
        if isinstance(error, (PluginError, ImportError)):
            # The SDK's or the plugin's own import error is reported as itself.
            return error
        words = redactor.scrub(_describe(error))
        return PluginLoadError(name, self._plugins[name].distribution, f"{hook} raised {words}")

    def _contract(self, name: str, message: str) -> PluginContractError:
        return PluginContractError(name, self._plugins[name].distribution, message)


class _Observer:
    def __init__(self, callback: Callable[[Event], object]) -> None:
        self._callback = callback

    @hookspecs.hookimpl
    def on_event(self, event: Event) -> None:
        self._callback(event)


def within_deadline(calls: Mapping[str, Callable[[], T]], seconds: float = HOOK_TIMEOUT) -> dict[str, T | Exception]:
    """Run the calls side by side and give each its result or its error.

    A call that takes longer than `seconds` is abandoned to its daemon thread and becomes a `TimeoutError`: a plugin
    that hangs must not hold up the others.
    """
    results: dict[str, T | Exception] = {}

    def run(name: str, call: Callable[[], T]) -> None:
        outcome: T | Exception
        try:
            outcome = call()
        except Exception as error:
            outcome = error
        except SystemExit as error:
            outcome = RuntimeError(f"it tried to end the program (SystemExit: {error})")
        results.setdefault(name, outcome)

    threads = {
        name: threading.Thread(target=run, args=(name, call), name=f"hfs-{name}", daemon=True)
        for name, call in calls.items()
    }
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + seconds
    for name, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            results.setdefault(name, TimeoutError(f"it took longer than {seconds:g} s and was abandoned"))
    return {name: results[name] for name in calls}


def _installed() -> list[_Candidate]:
    points = metadata.entry_points(group=PROJECT)
    found = [
        _Candidate(
            point.name, point.dist.name if point.dist else None, point.dist.version if point.dist else None, point.load
        )
        for point in points
    ]
    # A distribution seen twice on the path (an editable install beside its build) is one claim, not a conflict.
    unique = {(candidate.name, candidate.distribution): candidate for candidate in reversed(found)}
    return sorted(unique.values(), key=lambda candidate: (candidate.name, str(candidate.distribution)))


def _normal(distribution: str | None) -> str:
    # https://packaging.python.org/en/latest/specifications/name-normalization/
    return re.sub(r"[-_.]+", "-", distribution or "").lower()


def _given(plugin: object) -> _Candidate:
    name = getattr(plugin, "name", None)
    if not isinstance(name, str):
        name = getattr(plugin, "__name__", type(plugin).__name__).rpartition(".")[2]
    return _Candidate(name, None, None, lambda: plugin)


def _contract_words(version: object) -> str:
    if version is None:
        return f"it has no hfs_contract. Set hfs_contract = {CONTRACT_VERSION} in it"
    if isinstance(version, int) and version > CONTRACT_VERSION:
        return (
            f"it was written for contract {version}, newer than the {CONTRACT_VERSION} of this hfs-providers. "
            "Run: pip install -U hfs-providers"
        )
    return (
        f"it was written for contract {version!r}, and this hfs-providers speaks {CONTRACT_VERSION}. Update the plugin"
    )


def _describe(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
