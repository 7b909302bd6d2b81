"""What an owner says of a key: that it is to be used again, or not any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfs_providers.contract.redaction import Redactor

if TYPE_CHECKING:
    from hfs_providers.contract.records import KeyStatus
    from hfs_providers.core.manager import ProviderManager

_LONGEST_REASON = 200


def rule_key(manager: ProviderManager, provider: str, key_id: str, reason: str | None) -> KeyStatus:
    """Put a key back into rotation, or with a reason take it out, in all processes that share the usage file.

    Args:
        manager: whose environment has the key.
        reason: why it is not to be used; None revives it.

    Returns:
        Its state afterwards.

    Raises:
        KeyError: there is no such key.
        MissingKeyError, MissingSdkError, ProviderUnavailableError: why the provider cannot be used.
    """
    from hfs_providers.wrapper.probe import RETIRED

    pool = manager.wrapper(provider).pool
    if reason is None:
        pool.revive(key_id)
    else:
        why = Redactor.of(pool.credentials).scrub(" ".join(reason.split()))[:_LONGEST_REASON]
        pool.retire(key_id, f"{RETIRED}: {why}")
    return next(each for each in pool.statuses() if each.id == key_id)
