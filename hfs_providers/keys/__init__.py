"""The key pool: which key is next, what is left of its limits, when it is free again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfs_providers.contract.lazy import lazy_exports

if TYPE_CHECKING:
    from hfs_providers.contract.records import KeyStatus as KeyStatus
    from hfs_providers.contract.records import WindowUse as WindowUse
    from hfs_providers.contract.secret import fingerprint as fingerprint
    from hfs_providers.keys.capacity import Capacity as Capacity
    from hfs_providers.keys.capacity import Left as Left
    from hfs_providers.keys.capacity import LimitNeed as LimitNeed
    from hfs_providers.keys.capacity import Needs as Needs
    from hfs_providers.keys.leases import Lease as Lease
    from hfs_providers.keys.pool import KeyPool as KeyPool
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "hfs_providers.contract.records": "KeyStatus WindowUse",
            "hfs_providers.contract.secret": "fingerprint",
            "hfs_providers.keys.capacity": "Capacity Left LimitNeed Needs",
            "hfs_providers.keys.leases": "Lease",
            "hfs_providers.keys.pool": "KeyPool",
        },
    )
