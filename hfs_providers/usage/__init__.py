"""The durable log of requests: one row each, its reports, and the databases it is forwarded to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfs_providers.contract.lazy import lazy_exports

if TYPE_CHECKING:
    from hfs_providers.contract.usage_row import UsageRow as UsageRow
    from hfs_providers.contract.usage_row import asking as asking
    from hfs_providers.usage.database import Store as Store
    from hfs_providers.usage.location import usage_path as usage_path
    from hfs_providers.usage.report import UsageReport as UsageReport
    from hfs_providers.usage.report import UsageTimeline as UsageTimeline
    from hfs_providers.usage.report import UsageTotal as UsageTotal
    from hfs_providers.usage.report import UsageTotals as UsageTotals
    from hfs_providers.usage.retention import Prunable as Prunable
    from hfs_providers.usage.retention import prunable as prunable
    from hfs_providers.usage.retention import prune as prune
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "hfs_providers.contract.usage_row": "UsageRow asking",
            "hfs_providers.usage.database": "Store",
            "hfs_providers.usage.location": "usage_path",
            "hfs_providers.usage.retention": "Prunable prunable prune",
            "hfs_providers.usage.report": "UsageReport UsageTimeline UsageTotal UsageTotals",
        },
    )
