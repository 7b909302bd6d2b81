"""A working LLM model out of every API key that its owner has: a plugin registry of providers with rotating keys.

The names below are loaded on first use (PEP 562): importing this package imports no agno, keycycle, pydantic or SDK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfs_providers.calls.errors import (
        ChainExhaustedError,
        KeyNotFoundError,
        KeyRejectedError,
        KeysExhaustedError,
        ModelCallError,
        ModelNotFoundError,
        StreamInterruptedError,
    )
    from hfs_providers.clients.cache import Clients
    from hfs_providers.contract.errors import (
        ForwardingError,
        HfsProvidersError,
        MissingDriverError,
        MissingKeyError,
        MissingSdkError,
        PluginConflictError,
        PluginContractError,
        PluginError,
        PluginLoadError,
        PoolExhaustedError,
        ProviderError,
        ProviderUnavailableError,
        SettingsError,
        StoreError,
        UnknownProviderError,
    )
    from hfs_providers.contract.records import (
        CONTRACT_VERSION,
        Credential,
        Event,
        KeyProbe,
        KeyStatus,
        Limits,
        ModelDefault,
        Problem,
        ProviderConfig,
        ProviderHealth,
        Requirement,
        Services,
        UsageRow,
        WindowUse,
        Wrapper,
    )
    from hfs_providers.contract.secret import Secret, fingerprint
    from hfs_providers.core.hookspecs import hookimpl, hookspec
    from hfs_providers.core.inventory import Inventory, take_inventory
    from hfs_providers.core.manager import (
        PROVIDER_CONFIGS,
        ProviderManager,
        get_any_model,
        get_cerebras_model,
        get_chain,
        get_gemini_model,
        get_groq_model,
        get_model,
        get_openrouter_model,
        get_provider_manager,
        list_available_providers,
    )
    from hfs_providers.core.provider import KeyedProvider
    from hfs_providers.core.storage_status import StorageStatus
    from hfs_providers.fallback.chain import FallbackChain
    from hfs_providers.fallback.config import ServedBy
    from hfs_providers.keys.leases import Lease
    from hfs_providers.keys.pool import KeyPool
    from hfs_providers.usage.database import Store
    from hfs_providers.usage.location import usage_path
    from hfs_providers.usage.report import UsageReport, UsageTimeline, UsageTotal, UsageTotals
    from hfs_providers.usage.retention import Prunable, prunable, prune
    from hfs_providers.wrapper.check import check_keys
    from hfs_providers.wrapper.probe import RETIRED

_HOMES = {
    "calls.errors": (
        "ChainExhaustedError KeyNotFoundError KeyRejectedError KeysExhaustedError ModelCallError "
        "ModelNotFoundError StreamInterruptedError"
    ),
    "clients.cache": "Clients",
    "contract.errors": (
        "ForwardingError HfsProvidersError MissingDriverError MissingKeyError MissingSdkError "
        "PluginConflictError PluginContractError PluginError PluginLoadError PoolExhaustedError ProviderError "
        "ProviderUnavailableError SettingsError StoreError UnknownProviderError"
    ),
    "contract.records": (
        "CONTRACT_VERSION Credential Event KeyProbe KeyStatus Limits ModelDefault Problem ProviderConfig "
        "ProviderHealth Requirement Services UsageRow WindowUse Wrapper"
    ),
    "contract.secret": "Secret fingerprint",
    "core.hookspecs": "hookimpl hookspec",
    "core.inventory": "Inventory take_inventory",
    "core.manager": (
        "PROVIDER_CONFIGS ProviderManager get_any_model get_cerebras_model get_chain get_gemini_model "
        "get_groq_model get_model get_openrouter_model get_provider_manager list_available_providers"
    ),
    "core.provider": "KeyedProvider",
    "core.storage_status": "StorageStatus",
    "fallback.chain": "FallbackChain",
    "fallback.config": "ServedBy",
    "keys.leases": "Lease",
    "keys.pool": "KeyPool",
    "usage.database": "Store",
    "usage.location": "usage_path",
    "usage.retention": "Prunable prunable prune",
    "usage.report": "UsageReport UsageTimeline UsageTotal UsageTotals",
    "wrapper.check": "check_keys",
    "wrapper.probe": "RETIRED",
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__version__ = "0.1.0"

__all__ = [
    "CONTRACT_VERSION",
    "PROVIDER_CONFIGS",
    "RETIRED",
    "ChainExhaustedError",
    "Clients",
    "Credential",
    "Event",
    "FallbackChain",
    "ForwardingError",
    "HfsProvidersError",
    "Inventory",
    "KeyNotFoundError",
    "KeyPool",
    "KeyProbe",
    "KeyRejectedError",
    "KeyStatus",
    "KeyedProvider",
    "KeysExhaustedError",
    "Lease",
    "Limits",
    "MissingDriverError",
    "MissingKeyError",
    "MissingSdkError",
    "ModelCallError",
    "ModelDefault",
    "ModelNotFoundError",
    "PluginConflictError",
    "PluginContractError",
    "PluginError",
    "PluginLoadError",
    "PoolExhaustedError",
    "Problem",
    "ProviderConfig",
    "ProviderError",
    "ProviderHealth",
    "ProviderManager",
    "ProviderUnavailableError",
    "Prunable",
    "Requirement",
    "Secret",
    "ServedBy",
    "Services",
    "SettingsError",
    "StorageStatus",
    "Store",
    "StoreError",
    "StreamInterruptedError",
    "UnknownProviderError",
    "UsageReport",
    "UsageRow",
    "UsageTimeline",
    "UsageTotal",
    "UsageTotals",
    "WindowUse",
    "Wrapper",
    "check_keys",
    "fingerprint",
    "get_any_model",
    "get_cerebras_model",
    "get_chain",
    "get_gemini_model",
    "get_groq_model",
    "get_model",
    "get_openrouter_model",
    "get_provider_manager",
    "hookimpl",
    "hookspec",
    "list_available_providers",
    "prunable",
    "prune",
    "take_inventory",
    "usage_path",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    if name != "PROVIDER_CONFIGS":  # what is installed can change while the program runs
        globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
