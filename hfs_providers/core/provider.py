"""`KeyedProvider`: the declarative base class, with which a provider plugin is ten lines of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hfs_providers.contract.protocols import ProviderTraits
from hfs_providers.contract.records import (
    ModelDefault,
    ProviderConfig,
    ProviderHealth,
    Services,
    Wrapper,
)
from hfs_providers.contract.sdk import sdk_version
from hfs_providers.core.hookspecs import hookimpl
from hfs_providers.keys.provider_variables import read_provider

if TYPE_CHECKING:
    from hfs_providers.clients.cache import Clients


@dataclass(frozen=True, eq=False)
class KeyedProvider(ProviderTraits):
    """A provider described by data; an instance of it is a plugin.

    Args:
        name: the provider's name; also that of its entry point and its extra.
        model_class: the path of the Agno model class, such as `agno.models.openai:OpenAIChat`.
        sdk: the distribution that the class needs, or None.
        sdk_module: its module, if that has another name than the distribution.
        install: the command that installs the SDK; if empty, the extra named like the provider, of the distribution
            that the plugin comes from.
        base_url: the provider's address, which the SDK's own variables cannot replace; None for the SDK's default.
        openai_path: the path that is added to the base URL for the provider's OpenAI-compatible endpoint, or None.
        models: model ids to use if the caller names none, in order of preference.
        limits: by model id or glob; the first that matches counts.
        limit_headers: by lower-case name, the limit (`rpm` to `tpd`) that a rate-limit header of the provider shows, if
            the name does not say it. If `limits` has the same limit, that of `limits` is used.
        windows: context windows in tokens, by model id or glob.
        aggregator: whether it routes to other providers and retries transport errors itself.
        keyless: whether it has endpoints instead of keys.
        env_aliases: other variables that may hold a single key.
        client: how the SDK takes a shared HTTP client: `stainless` (the OpenAI family: `http_client`, `api_key`,
            `max_retries`) or another of `hfs_providers.families`, `own` (the model builds its client itself), or a
            subclass of `hfs_providers.authoring.Clients`, given as the class or as its `module:name`.
        client_params: further arguments of the SDK's client.
        proof: the cheapest request that shows whether a key works: `models` if only valid keys may list the models, the
            path of a GET below the base URL (`/key`), or `completion`, which costs one token.
        model_params: arguments of the model class that differ from its defaults.
        stream_params: arguments of the model class for streams only, such as a request for the usage.
        usage_fields: the fields of its usage that count cached tokens, if they are not the usual ones.
        errors: the meaning of the provider's errors, as far as the library's general rules do not cover them.
        messages: how messages and schemas for other providers' models are changed for its models.
        price_id: the provider's id in `genai-prices`, if it is not its name.
        http: what it offers over plain HTTP, to the gateway.
    """

    client: str | type[Clients] = "stainless"

    def __post_init__(self) -> None:
        if self.requirement is not None:
            # Errors of its own SDK count as the provider's.
            errors = self.errors.with_modules([self.requirement.module.partition(".")[0]])
            object.__setattr__(self, "errors", errors)

    @property
    def hfs_env_prefixes(self) -> Sequence[str]:
        """The prefixes of further variables that the plugin gets."""
        return self.env_aliases

    @hookimpl
    def configure_env(self, env: Mapping[str, str]) -> ProviderConfig:
        found = read_provider(self.name, env, aliases=self.env_aliases, keyless=self.keyless)
        return replace(
            found,
            base_url=found.base_url or self.base_url,
            limits=found.limits or self.limits,
            windows=self.windows,
            aggregator=self.aggregator,
            requirement=self.requirement,
        )

    @hookimpl
    def build_wrapper(self, config: ProviderConfig, services: Services) -> Wrapper:
        # Not at the top: keycycle and Agno take 0.3 s each to import, and reading the environment does not need them.
        from hfs_providers.wrapper.wrapper import ProviderWrapper

        return ProviderWrapper(self, config, services)

    @hookimpl
    def default_model(self, config: ProviderConfig) -> Sequence[ModelDefault]:
        return self.models

    @hookimpl
    def health(self, config: ProviderConfig, wrapper: Wrapper | None, live: bool) -> ProviderHealth:
        return provider_health(config, wrapper, live)


def provider_health(config: ProviderConfig, wrapper: Wrapper | None, live: bool) -> ProviderHealth:
    """The provider's health by the usual rules; `live` asks the provider with each key in turn."""
    if not config.configured:
        return ProviderHealth(config.name, False, ("no usable key in the environment",))
    requirement = config.requirement
    if requirement is not None and sdk_version(requirement) is None:
        return ProviderHealth(config.name, False, (f"missing SDK; run: {requirement.install}",))
    if wrapper is None:
        return ProviderHealth(config.name, False, ("not built",))
    reasons: list[str] = []
    if live:
        probes = [wrapper.probe(credential) for credential in config.credentials]
        reasons = [f"{probe.id}: {probe.outcome}: {probe.reason}" for probe in probes if probe.outcome != "works"]
    keys = wrapper.pool.statuses()
    alive = [key for key in keys if key.state != "dead"]
    if not alive:
        reasons.append(f"all {len(keys)} keys are dead")
    return ProviderHealth(config.name, bool(alive), tuple(reasons), tuple(keys))
