"""The actions on a key: revive it, retire it, or try it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfs_providers.contract.redaction import Redactor

if TYPE_CHECKING:
    from hfs_providers.contract.records import KeyProbe, KeyStatus
    from hfs_providers.core.manager import ProviderManager

TRY_TIMEOUT = 10.0
"""Seconds that one request of a trial waits for its answer. The trial is abandoned after three times as long."""

_LONGEST_REASON = 200


def rule_key(manager: ProviderManager, provider: str, key_id: str, reason: str | None) -> KeyStatus:
    """Revive a key, or with a reason retire it, in all processes that share the usage file.

    Args:
        manager: a manager whose environment has the key.
        reason: why the key is retired; None revives it.

    Returns:
        Its state afterwards.

    Raises:
        KeyError: the key does not exist.
        MissingKeyError, MissingSdkError, ProviderUnavailableError: the provider cannot be used.
    """
    from hfs_providers.wrapper.probe import RETIRED

    pool = manager.wrapper(provider).pool
    if reason is None:
        pool.revive(key_id)
    else:
        why = Redactor.of(pool.credentials).scrub(" ".join(reason.split()))[:_LONGEST_REASON]
        pool.retire(key_id, f"{RETIRED}: {why}")
    # It may have been removed meanwhile: keys also come from files.
    return {each.id: each for each in pool.statuses()}[key_id]


def try_key(manager: ProviderManager, provider: str, key_id: str) -> KeyProbe:
    """Send a request with one key, as `hfs-providers check` does. All processes get to know the result.

    Raises:
        KeyError: the key does not exist.
        MissingKeyError, MissingSdkError, ProviderUnavailableError: the provider cannot be used.
    """
    from hfs_providers.wrapper.check import check_keys

    wrapper = manager.wrapper(provider)
    # Reads what other hosts know: a key that is dead for them is treated as dead here.
    manager.persistence.consult(manager.wrappers, {provider: ()})
    found = next(check_keys({provider: wrapper}, timeout=TRY_TIMEOUT, only=(key_id,)), None)
    if found is None:
        raise KeyError(key_id)
    return found[1]
