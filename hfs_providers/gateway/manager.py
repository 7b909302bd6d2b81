"""The manager of a gateway, which needs no SDK."""

from __future__ import annotations

from hfs_providers import ProviderManager


class GatewayManager(ProviderManager):
    """Builds providers whose SDK is missing, too: requests are sent without it."""

    _needs_sdk = False
