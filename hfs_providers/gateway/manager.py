"""The manager of a gateway, which needs no SDK."""

from __future__ import annotations

from hfs_providers import ProviderManager


class GatewayManager(ProviderManager):
    """Also builds providers whose SDK is missing, because requests are sent without the SDK."""

    _needs_sdk = False
