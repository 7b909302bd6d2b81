"""The errors of this library that need no other imports.

    HfsProvidersError
    |- PluginError: PluginLoadError, PluginConflictError, PluginContractError
    |- ProviderError: UnknownProviderError, ProviderUnavailableError (both also ValueError), PoolExhaustedError,
    |                 MissingSdkError (also ImportError and ValueError)
    |- StoreError
    |- ForwardingError: MissingDriverError (also ImportError)
    `- SettingsError: MissingKeyError (also ValueError)

`calls/model_errors.py` holds those that are also Agno's `ModelProviderError`.

Each says what failed, for whom, and the command or variable that fixes it. Each carries fields, can be pickled and
holds no key.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from hfs_providers.contract.environment import env_name

_LONGEST_NAME = 30


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The one of `known` that `name` was probably meant to be, or None."""
    return next(iter(difflib.get_close_matches(name.lower(), known, n=1)), None)


class HfsProvidersError(Exception):
    """Base of every error that this library defines."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls `cls(*args)`, which fails for every constructor that takes fields.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], fields: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class PluginError(HfsProvidersError):
    """A plugin that cannot be used.

    Args:
        plugin: its entry-point name.
        distribution: the installed package that it comes from, if known.
        message: what is wrong.
        remedy: the command that fixes it, if that is not an upgrade of the plugin.
    """

    def __init__(self, plugin: str, distribution: str | None, message: str, remedy: str | None = None) -> None:
        self.plugin = plugin
        self.distribution = distribution
        self.remedy = remedy
        origin = f" (from {distribution})" if distribution else ""
        super().__init__(f"plugin {plugin!r}{origin}: {message}")


class PluginLoadError(PluginError):
    """A plugin whose module could not be imported, or whose hook raised or took too long."""


class PluginConflictError(PluginError):
    """Two distributions that claim one provider name."""


class PluginContractError(PluginError):
    """A plugin that breaks the contract in `hookspecs`."""


class ProviderError(HfsProvidersError):
    """A provider that cannot do what was asked."""

    provider: str


class UnknownProviderError(ProviderError, ValueError):
    """A name that no installed plugin has."""

    def __init__(self, provider: str, installed: Sequence[str]) -> None:
        # A text that is too long for a name may be a key in the wrong place.
        self.provider = provider if len(provider) <= _LONGEST_NAME else "?"
        self.installed = tuple(installed)
        self.suggestion = nearest(provider, self.installed)
        hint = f" Did you mean {self.suggestion!r}?" if self.suggestion else ""
        known = ", ".join(self.installed) or "none; run `hfs-providers doctor`"
        said = f" {provider!r}" if provider == self.provider else ""
        super().__init__(f"unknown provider{said}.{hint} Installed: {known}")


class ProviderUnavailableError(ProviderError, ValueError):
    """A provider that is installed but cannot be used: not configured, or its wrapper failed to build."""

    def __init__(self, provider: str, reasons: Sequence[str], remedy: str | None = None) -> None:
        self.provider = provider
        self.reasons = tuple(reasons)
        self.remedy = remedy
        tail = f" Remedy: {remedy}" if remedy else " Run `hfs-providers doctor`."
        super().__init__(f"{provider} is not available: {'; '.join(self.reasons) or 'no reason known'}.{tail}")


class PoolExhaustedError(ProviderError):
    """No key of a provider can be leased for a model within the time given.

    Args:
        total, limited, cooling, dead, tried: how many keys there are, and why none can be used (`tried`: ready, but
            this call has used it already).
        free_in: seconds until the next key can be free, or None if none can.
        timeout: seconds that the caller was willing to wait.
    """

    def __init__(
        self,
        provider: str,
        model_id: str,
        *,
        total: int,
        limited: int = 0,
        cooling: int = 0,
        dead: int = 0,
        tried: int = 0,
        free_in: float | None = None,
        timeout: float = 0.0,
    ) -> None:
        self.provider = provider
        self.model_id = model_id
        self.total = total
        self.limited = limited
        self.cooling = cooling
        self.dead = dead
        self.tried = tried
        self.free_in = free_in
        self.timeout = timeout
        super().__init__(provider, model_id)

    def __str__(self) -> str:
        # Built when it is read: most of these errors are caught, and building it takes as long as finding no key.
        if self.total == 0:
            upper = env_name(self.provider)
            return f"{self.provider} has no keys. Set NUM_{upper} and {upper}_API_KEY_1 and so on"
        states = [
            f"{count} {word}"
            for word, count in (
                ("limited", self.limited),
                ("cooling", self.cooling),
                ("dead", self.dead),
                ("already tried by this call", self.tried),
            )
            if count
        ]
        when = (
            f"the next is free in {self.free_in:.1f} s"
            if self.free_in is not None
            else "none will become free by itself"
        )
        return f"{self.provider}/{self.model_id}: no key free of {self.total} ({', '.join(states) or 'busy'}); {when}"


class MissingSdkError(ProviderError, ImportError, ValueError):
    """A provider whose SDK is not installed; `install` is the command that installs it."""

    def __init__(self, provider: str, distribution: str, install: str) -> None:
        self.provider = provider
        self.distribution = distribution
        self.install = install
        super().__init__(f"{provider} needs the package {distribution!r}, which is not installed. Run: {install}")


class StoreError(HfsProvidersError):
    """A file for usage and key state that cannot be used. The library continues without it."""

    def __init__(self, path: object, reason: str, remedy: str = "") -> None:
        self.path = str(path)
        self.reason = reason
        self.remedy = remedy or f"Move {path} away, make it writable, or set HFS_USAGE_DB to another path or to off"
        super().__init__(f"usage cannot be kept in {path}: {reason}. {self.remedy}")


class ForwardingError(HfsProvidersError):
    """A database that usage cannot be forwarded to. The rows wait in the local file.

    Args:
        target: its name without the password, or the variable if its URL cannot be read.
    """

    def __init__(self, target: str, reason: str, remedy: str) -> None:
        self.target = target
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"usage cannot be forwarded to {target}: {reason}. {remedy}")


class MissingDriverError(ForwardingError, ImportError):
    """A database whose driver is not installed."""


class SettingsError(HfsProvidersError):
    """Settings that cannot be used as they are."""


class MissingKeyError(SettingsError, ValueError):
    """A provider was asked for, but the environment has no key for it; `variables` would configure it."""

    def __init__(self, provider: str, variables: Sequence[str]) -> None:
        self.provider = provider
        self.variables = tuple(variables)
        super().__init__(f"{provider} has no API key. Set {' and '.join(self.variables)}")
