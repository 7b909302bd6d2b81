"""The class behind `KeyedProvider.client`, named by a dotted path so that nothing here imports it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from hfs_providers.clients.cache import Clients


def family_of(client: str | type[Clients]) -> type[Clients]:
    """The class that `KeyedProvider.client` means. Raises TypeError if that is no subclass of `Clients`."""
    known: Mapping[str, str] = importlib.import_module("hfs_providers.families").FAMILIES
    found: object = Clients if client == "own" else client
    if isinstance(found, str):
        module, _, name = known.get(found, found).partition(":")
        found = getattr(importlib.import_module(module), name, None) if name else None
    if not (isinstance(found, type) and issubclass(found, Clients)):
        raise TypeError(
            f"client={client!r} is neither one of {', '.join(known)}, own nor a subclass of "
            "hfs_providers.authoring.Clients"
        )
    return found
