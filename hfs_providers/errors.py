"""All errors of this library. `HfsProvidersError` is the base of each; see `contract.errors` for the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfs_providers.contract.lazy import lazy_exports

if TYPE_CHECKING:
    from hfs_providers.calls.model_errors import BudgetExceededError as BudgetExceededError
    from hfs_providers.calls.model_errors import ChainExhaustedError as ChainExhaustedError
    from hfs_providers.calls.model_errors import ContextOverflowError as ContextOverflowError
    from hfs_providers.calls.model_errors import KeyNotFoundError as KeyNotFoundError
    from hfs_providers.calls.model_errors import KeyRejectedError as KeyRejectedError
    from hfs_providers.calls.model_errors import KeysExhaustedError as KeysExhaustedError
    from hfs_providers.calls.model_errors import ModelCallError as ModelCallError
    from hfs_providers.calls.model_errors import ModelNotFoundError as ModelNotFoundError
    from hfs_providers.calls.model_errors import StreamInterruptedError as StreamInterruptedError
    from hfs_providers.contract.errors import ForwardingError as ForwardingError
    from hfs_providers.contract.errors import HfsProvidersError as HfsProvidersError
    from hfs_providers.contract.errors import MissingDriverError as MissingDriverError
    from hfs_providers.contract.errors import MissingKeyError as MissingKeyError
    from hfs_providers.contract.errors import MissingSdkError as MissingSdkError
    from hfs_providers.contract.errors import PluginConflictError as PluginConflictError
    from hfs_providers.contract.errors import PluginContractError as PluginContractError
    from hfs_providers.contract.errors import PluginError as PluginError
    from hfs_providers.contract.errors import PluginLoadError as PluginLoadError
    from hfs_providers.contract.errors import PoolExhaustedError as PoolExhaustedError
    from hfs_providers.contract.errors import ProviderError as ProviderError
    from hfs_providers.contract.errors import ProviderUnavailableError as ProviderUnavailableError
    from hfs_providers.contract.errors import SettingsError as SettingsError
    from hfs_providers.contract.errors import StoreError as StoreError
    from hfs_providers.contract.errors import UnknownProviderError as UnknownProviderError
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "hfs_providers.calls.model_errors": (
                "BudgetExceededError ChainExhaustedError ContextOverflowError KeyNotFoundError KeyRejectedError "
                "KeysExhaustedError ModelCallError ModelNotFoundError StreamInterruptedError"
            ),
            "hfs_providers.contract.errors": (
                "ForwardingError HfsProvidersError MissingDriverError MissingKeyError MissingSdkError "
                "PluginConflictError PluginContractError PluginError PluginLoadError PoolExhaustedError "
                "ProviderError ProviderUnavailableError SettingsError StoreError UnknownProviderError"
            ),
        },
    )
