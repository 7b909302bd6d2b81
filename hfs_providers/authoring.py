"""Everything for plugin authors: the declarative base class, the hooks, and the records of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfs_providers.contract.lazy import lazy_exports

if TYPE_CHECKING:
    from hfs_providers.calls.exchange import Exchange as Exchange
    from hfs_providers.clients.cache import Clients as Clients
    from hfs_providers.contract.error_rules import ErrorRules as ErrorRules
    from hfs_providers.contract.error_rules import Evidence as Evidence
    from hfs_providers.contract.error_rules import Kind as Kind
    from hfs_providers.contract.error_rules import Meaning as Meaning
    from hfs_providers.contract.http_api import HttpApi as HttpApi
    from hfs_providers.contract.instants import next_midnight as next_midnight
    from hfs_providers.contract.message_rules import MessageRules as MessageRules
    from hfs_providers.contract.records import CONTRACT_VERSION as CONTRACT_VERSION
    from hfs_providers.contract.records import Credential as Credential
    from hfs_providers.contract.records import Event as Event
    from hfs_providers.contract.records import KeyProbe as KeyProbe
    from hfs_providers.contract.records import KeyStatus as KeyStatus
    from hfs_providers.contract.records import Limits as Limits
    from hfs_providers.contract.records import ModelDefault as ModelDefault
    from hfs_providers.contract.records import Problem as Problem
    from hfs_providers.contract.records import ProviderConfig as ProviderConfig
    from hfs_providers.contract.records import ProviderHealth as ProviderHealth
    from hfs_providers.contract.records import Requirement as Requirement
    from hfs_providers.contract.records import Services as Services
    from hfs_providers.contract.records import Wrapper as Wrapper
    from hfs_providers.contract.secret import Secret as Secret
    from hfs_providers.contract.usage_fields import UsageFields as UsageFields
    from hfs_providers.contract.usage_row import UsageRow as UsageRow
    from hfs_providers.core.hookspecs import hookimpl as hookimpl
    from hfs_providers.core.hookspecs import hookspec as hookspec
    from hfs_providers.core.provider import KeyedProvider as KeyedProvider
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "hfs_providers.calls.exchange": "Exchange",
            "hfs_providers.clients.cache": "Clients",
            "hfs_providers.contract.error_rules": "ErrorRules Evidence Kind Meaning",
            "hfs_providers.contract.http_api": "HttpApi",
            "hfs_providers.contract.instants": "next_midnight",
            "hfs_providers.contract.message_rules": "MessageRules",
            "hfs_providers.contract.records": (
                "CONTRACT_VERSION Credential Event KeyProbe KeyStatus Limits ModelDefault Problem ProviderConfig "
                "ProviderHealth Requirement Services Wrapper"
            ),
            "hfs_providers.contract.secret": "Secret",
            "hfs_providers.contract.usage_fields": "UsageFields",
            "hfs_providers.contract.usage_row": "UsageRow",
            "hfs_providers.core.hookspecs": "hookimpl hookspec",
            "hfs_providers.core.provider": "KeyedProvider",
        },
    )
