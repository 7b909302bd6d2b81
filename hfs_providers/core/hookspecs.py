"""The reference for plugin authors: the hooks of a provider plugin, when each is called, and what it returns.

A plugin is any object or module with implementations of these hooks, marked with `hookimpl`, and these attributes:

`hfs_contract = 1`
    the version of this contract that it was written for. A plugin with another version than the library's is reported
    as a problem and not used.
`hfs_env_prefixes = ("ACME_TOKEN",)`
    optional; prefixes of further variables that it reads besides `X_`, `NUM_X` and `EXPECTED_X`.
`hfs_listening()`
    optional, for observers; called before each event. While it returns False, the observer gets no events. It must be
    very fast.

The plugin is found through an entry point in the group `hfs_providers`; the entry point's name is the provider's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pluggy

from hfs_providers.contract.records import Event, ModelDefault, ProviderConfig, ProviderHealth, Services, Wrapper

PROJECT = "hfs_providers"
"""The pluggy project name, and the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def configure_env(env: Mapping[str, str]) -> ProviderConfig | None:
    """Read the provider's own variables. Called when the manager is built, and again when the file with the keys has
    changed.

    Args:
        env: the variables with the provider's prefixes, from the process environment and the `.env` file; read-only.

    Returns:
        The configuration. Bad input is reported as a `Problem` in it, never raised.
    """


@hookspec(firstresult=True)
def build_wrapper(config: ProviderConfig, services: Services) -> Wrapper | None:
    """Build the wrapper, which creates models. Called once for each provider that is configured and has its SDK.

    Args:
        config: the result of `configure_env`, with the overrides of the configuration file.
        services: the clock, the observers and the usage log.

    Returns:
        The wrapper. Building it imports no SDK and opens no connection.
    """


@hookspec(firstresult=True)
def default_model(config: ProviderConfig) -> Sequence[ModelDefault] | None:
    """Name the models to use if the caller names none, in order of preference.

    Args:
        config: the result of `configure_env`.

    Returns:
        At least one model. A retired one is skipped, and the next is used.
    """


@hookspec(firstresult=True)
def health(config: ProviderConfig, wrapper: Wrapper | None, live: bool) -> ProviderHealth | None:
    """Say whether the provider can serve, and why not. Called on request.

    Args:
        config: the result of `configure_env`.
        wrapper: the result of `build_wrapper`, or None if it was not built.
        live: if False, it must stay offline and cheap; if True, it may ask the provider.
    """


@hookspec
def on_event(event: Event) -> None:
    """Observe events. An error of an observer is reported once and cannot break a call.

    Args:
        event: what happened; it never contains a key.
    """
