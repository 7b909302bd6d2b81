"""A program that uses every public module, for type checkers: `mypy --strict` and pyright accept it as it stands.

It is never run. What it marks as wrong (`type: ignore` and `pyright: ignore`) must be found wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from agno.agent import Agent
from agno.models.base import Model

import hfs_providers
from hfs_providers import (
    PROVIDER_CONFIGS,
    ChainExhaustedError,
    Event,
    FallbackChain,
    HfsProvidersError,
    KeyedProvider,
    KeysExhaustedError,
    Limits,
    ModelDefault,
    ProviderManager,
    ServedBy,
    get_any_model,
    get_chain,
    get_groq_model,
    get_model,
    get_provider_manager,
    hookimpl,
    list_available_providers,
)
from hfs_providers.agents import AgentConfig, Supervisor
from hfs_providers.authoring import (
    Credential,
    KeyProbe,
    Problem,
    ProviderConfig,
    ProviderHealth,
    Requirement,
    Secret,
    Services,
    Wrapper,
)
from hfs_providers.errors import PluginLoadError, PoolExhaustedError, StoreError
from hfs_providers.keys import KeyPool, KeyStatus, Lease, fingerprint
from hfs_providers.testing import LoopbackServer, RateLimited
from hfs_providers.usage import Store, UsageReport, UsageRow, usage_path


def application() -> list[str]:
    model: Model = get_model("groq", "llama", estimated_tokens=500, wait=True, timeout=None, temperature=0.5)
    named: Model = get_groq_model(timeout=5.0)
    name, either = get_any_model(500, wait=False)
    chain: FallbackChain = get_chain("groq", {"provider": "gemini"}, model, restore="never", timeout=2.0)
    served: ServedBy | None = chain.served_by
    try:
        Agent(model=chain).run("Hello")
    except KeysExhaustedError as error:
        retry: float | None = error.free_in
        print(retry, error.reasons)
    except ChainExhaustedError as error:
        print(error.causes)
    except HfsProvidersError as error:
        print(error)
    with ProviderManager({"NUM_GROQ": "1"}, env_file=Path(".env")) as manager:
        stop = manager.observe(lambda event: print(event.kind, event.seconds))
        stop()
        health: ProviderHealth = manager.health("groq", live=True)
        states: Sequence[KeyStatus] = health.keys
        print([state.free_in for state in states], manager.wrappers["groq"].pool.statuses("m"))
    pairs: Sequence[tuple[str, str]] = PROVIDER_CONFIGS
    print(named.id, name, either.id, served, pairs, hfs_providers.__version__)
    return list_available_providers() + get_provider_manager().available_providers


async def closes() -> None:
    async with ProviderManager() as manager:
        print(manager.get_status_summary())


def mistakes() -> None:
    get_model(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    get_any_model(wait="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    get_chain(restore="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    hfs_providers.get_modle("groq")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


plugin = KeyedProvider(
    name="acme",
    model_class="agno.models.openai:OpenAIChat",
    sdk="openai",
    models=(ModelDefault("acme-1", retires=date(2030, 1, 1)), ModelDefault("acme-2")),
    limits={"*": Limits(rpm=30, tpm=6000)},
)


class OwnProvider:
    """A plugin that does not use `KeyedProvider`."""

    hfs_contract = 1

    @hookimpl
    def configure_env(self, env: Mapping[str, str]) -> ProviderConfig:
        key = Credential("own#1", Secret(env["OWN_API_KEY"]), {"account": "a"})
        problem = Problem("OWN_API_KEY is old", "Renew it", "warning", "own")
        needed = Requirement("own-sdk", "own_sdk")
        return ProviderConfig("own", (key,), requirement=needed, problems=(problem,), configured=True)

    @hookimpl
    def build_wrapper(self, config: ProviderConfig, services: Services) -> Wrapper:
        services.emit(Event("provider_built", config.name))
        return OwnWrapper(config)

    @hookimpl
    def default_model(self, config: ProviderConfig) -> Sequence[ModelDefault]:
        return [ModelDefault("own-1")]

    @hookimpl
    def health(self, config: ProviderConfig, wrapper: Wrapper | None, live: bool) -> ProviderHealth:
        return ProviderHealth(config.name, wrapper is not None)


class OwnWrapper:
    """What `build_wrapper` gives, by its methods alone."""

    def __init__(self, config: ProviderConfig) -> None:
        self.pool = KeyPool(config.name, config.credentials)

    def get_model(
        self,
        model_id: str | None = None,
        *,
        explicit: bool | None = None,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float = 10.0,
        max_retries: int = 5,
        request_timeout: float | None = None,
        **agno_kwargs: Any,
    ) -> Any:
        return None

    def list_models(self) -> Sequence[str]:
        return ["own-1"]

    def probe(self, credential: Credential, *, timeout: float = 10.0, ask: bool = False) -> KeyProbe:
        return KeyProbe(credential.id, credential.fingerprint, "works")

    def close(self) -> None:
        pass


def pool_alone() -> None:
    pool = KeyPool("own", [Credential("own#1", Secret("sk-0123456789"))])
    try:
        with pool.acquire("own-1", 500, timeout=1.0) as lease:
            held: Lease = lease
            lease.commit(420)
            print(held.credential.fingerprint == fingerprint("sk-0123456789"))
    except PoolExhaustedError as error:
        print(error.free_in, error.dead)


def report() -> None:
    path = usage_path({"HFS_USAGE_DB": "usage.db"})
    if path is None:
        return
    try:
        store = Store(path)
    except StoreError as error:
        raise PluginLoadError("report", None, error.reason) from error
    for total in UsageReport(store).totals(["provider"]).rows:
        print(total)
    print(UsageRow(0.0, "own", "own-1", "own#1", "ab", 1, 2, 3, 0.5, "ok", 3))


def agents(supervisor: Supervisor) -> AgentConfig:
    return AgentConfig(models=["groq"])


def simulated() -> None:
    with LoopbackServer() as server:
        server.script("groq", "*", [RateLimited(retry_after=1.0)])
