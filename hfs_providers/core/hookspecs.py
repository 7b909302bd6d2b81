"""The plugin author's reference: what a provider plugin implements, when each hook is called, and what it returns.

A plugin is any object or module with implementations of these hooks, marked with `hookimpl`, and these attributes:

`hfs_contract = 1`
    the version of this contract that it was written for. A plugin with another version than the library's is a problem
    and is not used.
`hfs_env_prefixes = ("ACME_TOKEN",)`
    optional; prefixes of further variables that it reads besides `X_`, `NUM_X` and `EXPECTED_X`.
`hfs_listening()`
    optional, for observers; asked before each event. While it returns False, no event is made for the observer. It
    must cost next to nothing.

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
    """Read the provider's own variables. Called at assembly, and again when the file with the keys has changed.

    Args:
        env: the process environment over the `.env` file, read-only, cut down to the provider's prefixes.

    Returns:
        The configuration. Bad input is a `Problem` in it and raises nothing.
    """


@hookspec(firstresult=True)
def build_wrapper(config: ProviderConfig, services: Services) -> Wrapper | None:
    """Build the wrapper, which makes models. Called once for each provider that is configured and has its SDK.

    Args:
        config: what `configure_env` gave, with the overrides of the configuration file.
        services: the clock, the observers and the usage log.

    Returns:
        The wrapper. Building it imports no SDK and opens no connection.
    """


@hookspec(firstresult=True)
def default_model(config: ProviderConfig) -> Sequence[ModelDefault] | None:
    """Name the models to use if the caller names none, in order of preference.

    Args:
        config: what `configure_env` gave.

    Returns:
        At least one model. A retired one is skipped, and the next is used.
    """


@hookspec(firstresult=True)
def health(config: ProviderConfig, wrapper: Wrapper | None, live: bool) -> ProviderHealth | None:
    """Say whether the provider can serve, and why not. Called on request.

    Args:
        config: what `configure_env` gave.
        wrapper: what `build_wrapper` gave, or None if it was not built.
        live: False must stay offline and cheap; True may ask the provider.
    """


@hookspec
def on_event(event: Event) -> None:
    """Observe what happens. An observer that raises is reported once and cannot break a call.

    Args:
        event: what happened; it never holds a key.
    """
