"""Families of SDKs: how each takes an HTTP client that all keys share. Nothing below imports them."""

FAMILIES = {
    "stainless": "hfs_providers.families.stainless:StainlessClients",
    "google_genai": "hfs_providers.families.google_genai:GenaiClients",
}
"""By the name that `KeyedProvider.client` may give, the subclass of `Clients`."""
