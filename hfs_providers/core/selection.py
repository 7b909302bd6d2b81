"""Whichever provider has a key free: the first in order, else the earliest, else why none has."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hfs_providers.calls.errors import KeysExhaustedError
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Wrapper

if TYPE_CHECKING:
    from agno.models.base import Model

    from hfs_providers.core.manager import ProviderManager

_log = logging.getLogger("hfs_providers")


def select_provider(
    manager: ProviderManager, model_id: str | None, *, estimated_tokens: int, wait: bool, timeout: float, **kwargs: Any
) -> tuple[str, Model]:
    """What `ProviderManager.get_any_model` does.

    Args:
        manager: whose providers are asked, in their order.
        model_id: the model, or None for each provider's default.
        estimated_tokens: tokens that the key must have free.
        wait, timeout: whether to wait for the earliest key, and for how many seconds.
        kwargs: as for `get_model`.

    Raises:
        KeysExhaustedError: none has a key free in time.
    """
    deadline = manager.clock() + (timeout if wait else 0.0)
    broken: dict[str, str] = {}
    while True:
        free = {
            name: wrapper.pool.next_free(model_id or manager.default_model(name), estimated_tokens)
            for name, wrapper in manager.wrappers.items()
            if name not in broken
        }
        ready = next((name for name, seconds in free.items() if seconds == 0), None)
        if ready is not None:
            try:
                return ready, manager.get_model(
                    ready, model_id, estimated_tokens=estimated_tokens, wait=wait, timeout=timeout, **kwargs
                )
            except TypeError:
                # An argument that no provider's model takes is the caller's mistake.
                raise
            except Exception as error:
                # An SDK that is there and does not import must not stand in the way of the next provider.
                broken[ready] = f"{ready}: {type(error).__name__}: {error}"
                _log.warning("%s gives no model: %s: %s", ready, type(error).__name__, error)
                continue
        earliest = min((seconds for seconds in free.values() if seconds is not None), default=None)
        if earliest is None or manager.clock() + earliest > deadline:
            raise _nobody(manager, model_id, broken, earliest, wait, timeout)
        time.sleep(earliest)


def _nobody(
    manager: ProviderManager,
    model_id: str | None,
    broken: Mapping[str, str],
    earliest: float | None,
    wait: bool,
    timeout: float,
) -> KeysExhaustedError:
    pools = [
        _exhausted(name, model_id or manager.default_model(name), wrapper, wait, timeout)
        for name, wrapper in manager.wrappers.items()
    ]
    together = PoolExhaustedError(
        "all",
        "any",
        total=sum(pool.total for pool in pools),
        limited=sum(pool.limited for pool in pools),
        cooling=sum(pool.cooling for pool in pools),
        dead=sum(pool.dead for pool in pools),
        free_in=earliest,
        waited=wait,
        timeout=timeout,
    )
    reasons = {pool.provider: pool.describe() for pool in pools} | dict(broken)
    for name, found in manager.inventory.providers.items():
        if name not in manager.wrappers:
            missing = found.config.requirement if found.sdk is None else None
            why = "; ".join(p.message for p in manager.problems if p.provider == name and p.level == "error")
            reasons[name] = f"{name}: " + (
                f"missing SDK; run: {missing.install}" if missing else why or "not configured"
            )
    return KeysExhaustedError(together, reasons=reasons)


def _exhausted(name: str, model_id: str, wrapper: Wrapper, wait: bool, timeout: float) -> PoolExhaustedError:
    counts = wrapper.pool.counts(model_id)
    return PoolExhaustedError(
        name,
        model_id,
        total=counts.total,
        limited=counts.limited,
        cooling=counts.cooling,
        dead=counts.dead,
        free_in=counts.free_in,
        waited=wait,
        timeout=timeout,
    )
