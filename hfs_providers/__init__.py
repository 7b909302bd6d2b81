"""Turns all your API keys into one model that keeps working: providers as plugins, with rotating keys.

This module has the names for applications. All errors are in `hfs_providers.errors`, the key pool is in
`hfs_providers.keys`, the usage log in `hfs_providers.usage`, and everything for plugin authors in
`hfs_providers.authoring`.

The names are loaded on first use: importing this package imports no agno, keycycle, pydantic or SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfs_providers.contract.lazy import lazy_exports

if TYPE_CHECKING:
    from hfs_providers.calls.model_errors import ChainExhaustedError as ChainExhaustedError
    from hfs_providers.calls.model_errors import KeyNotFoundError as KeyNotFoundError
    from hfs_providers.calls.model_errors import KeyRejectedError as KeyRejectedError
    from hfs_providers.calls.model_errors import KeysExhaustedError as KeysExhaustedError
    from hfs_providers.calls.model_errors import ModelCallError as ModelCallError
    from hfs_providers.calls.model_errors import ModelNotFoundError as ModelNotFoundError
    from hfs_providers.calls.model_errors import StreamInterruptedError as StreamInterruptedError
    from hfs_providers.contract.errors import HfsProvidersError as HfsProvidersError
    from hfs_providers.contract.errors import MissingKeyError as MissingKeyError
    from hfs_providers.contract.errors import MissingSdkError as MissingSdkError
    from hfs_providers.contract.errors import ProviderError as ProviderError
    from hfs_providers.contract.errors import ProviderUnavailableError as ProviderUnavailableError
    from hfs_providers.contract.errors import SettingsError as SettingsError
    from hfs_providers.contract.errors import UnknownProviderError as UnknownProviderError
    from hfs_providers.contract.records import Event as Event
    from hfs_providers.contract.records import Limits as Limits
    from hfs_providers.contract.records import ModelDefault as ModelDefault
    from hfs_providers.contract.records import Problem as Problem
    from hfs_providers.contract.records import ProviderHealth as ProviderHealth
    from hfs_providers.core.hookspecs import hookimpl as hookimpl
    from hfs_providers.core.hookspecs import hookspec as hookspec
    from hfs_providers.core.manager import ProviderManager as ProviderManager
    from hfs_providers.core.manager import get_any_model as get_any_model
    from hfs_providers.core.manager import get_cerebras_model as get_cerebras_model
    from hfs_providers.core.manager import get_chain as get_chain
    from hfs_providers.core.manager import get_gemini_model as get_gemini_model
    from hfs_providers.core.manager import get_groq_model as get_groq_model
    from hfs_providers.core.manager import get_model as get_model
    from hfs_providers.core.manager import get_openrouter_model as get_openrouter_model
    from hfs_providers.core.manager import get_provider_manager as get_provider_manager
    from hfs_providers.core.manager import list_available_providers as list_available_providers
    from hfs_providers.core.provider import KeyedProvider as KeyedProvider
    from hfs_providers.core.provider_configs import PROVIDER_CONFIGS as PROVIDER_CONFIGS
    from hfs_providers.fallback.chain import FallbackChain as FallbackChain
    from hfs_providers.fallback.config import ServedBy as ServedBy
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "hfs_providers.calls.model_errors": (
                "ChainExhaustedError KeyNotFoundError KeyRejectedError KeysExhaustedError ModelCallError "
                "ModelNotFoundError StreamInterruptedError"
            ),
            "hfs_providers.contract.errors": (
                "HfsProvidersError MissingKeyError MissingSdkError ProviderError ProviderUnavailableError "
                "SettingsError UnknownProviderError"
            ),
            "hfs_providers.contract.records": "Event Limits ModelDefault Problem ProviderHealth",
            "hfs_providers.core.hookspecs": "hookimpl hookspec",
            "hfs_providers.core.manager": (
                "ProviderManager get_any_model get_cerebras_model get_chain get_gemini_model "
                "get_groq_model get_model get_openrouter_model get_provider_manager list_available_providers"
            ),
            "hfs_providers.core.provider": "KeyedProvider",
            "hfs_providers.core.provider_configs": "PROVIDER_CONFIGS",
            "hfs_providers.fallback.chain": "FallbackChain",
            "hfs_providers.fallback.config": "ServedBy",
        },
    )

__version__ = "0.2.0"
