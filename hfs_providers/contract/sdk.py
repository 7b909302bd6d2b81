"""Whether an SDK is installed."""

from __future__ import annotations

import importlib.util
from importlib import metadata

from hfs_providers.contract.records import Requirement


def sdk_version(requirement: Requirement | None) -> str | None:
    """The version of the installed SDK, or None if it is missing. Imports nothing of it.

    A module without metadata (vendored, or on the path) counts as present, version unknown.
    """
    if requirement is None:
        return "none needed"
    try:
        return metadata.version(requirement.distribution)
    except metadata.PackageNotFoundError:
        top = requirement.module.partition(".")[0]
        return "unknown" if top == requirement.module and importlib.util.find_spec(top) is not None else None
