"""Chooses a provider for `get_any_model`: the first with a free key and budget left, else the first to be free."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hfs_providers.calls.budgeted_call import refused_by_budgets
from hfs_providers.calls.model_errors import KeysExhaustedError
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Wrapper

_M = TypeVar("_M")

_STATES = ("total", "limited", "cooling", "dead")
_log = logging.getLogger("hfs_providers")


def select_provider(
    wrappers: Mapping[str, Wrapper],
    model_of: Callable[[str], str],
    build: Callable[[str], _M],
    unbuilt: Callable[[], Mapping[str, str]],
    *,
    estimated_tokens: int,
    timeout: float,
    clock: Callable[[], float],
) -> tuple[str, _M]:
    """A provider and its model.

    Args:
        model_of: the model id to ask of a provider.
        unbuilt: by provider that was not built, why it cannot be used.
        timeout: seconds to wait for the earliest key.

    Raises:
        KeysExhaustedError: none has a key free in time.
    """
    deadline = clock() + timeout
    broken: dict[str, str] = {}
    while True:
        free = {
            name: wrapper.pool.next_free(model_of(name), estimated_tokens)
            for name, wrapper in wrappers.items()
            if name not in broken
        }
        ready = next((name for name, seconds in free.items() if seconds == 0), None)
        if ready is not None:
            try:
                model = build(ready)
                over = refused_by_budgets(model)
            except TypeError:
                # An argument that no provider's model takes is the caller's mistake.
                raise
            except Exception as error:
                # An SDK that is there and does not import must not stand in the way of the next provider.
                broken[ready] = f"{ready}: {type(error).__name__}: {error}"
                _log.warning("no model of %s can be made: %s: %s", ready, type(error).__name__, error)
                continue
            if over is None:
                return ready, model
            broken[ready] = f"{ready}: {over}"
            continue
        earliest = min((seconds for seconds in free.values() if seconds is not None), default=None)
        if earliest is None or clock() + earliest > deadline:
            pools = [_exhausted(name, model_of(name), wrapper, timeout) for name, wrapper in wrappers.items()]
            states: dict[str, Any] = {state: sum(getattr(pool, state) for pool in pools) for state in _STATES}
            together = PoolExhaustedError("all", "any", **states, free_in=earliest, timeout=timeout)
            reasons = {pool.provider: str(pool) for pool in pools}
            raise KeysExhaustedError(together, reasons={**reasons, **broken, **unbuilt()})
        time.sleep(earliest)


def _exhausted(name: str, model_id: str, wrapper: Wrapper, timeout: float) -> PoolExhaustedError:
    counts = wrapper.pool.counts(model_id)
    states: dict[str, Any] = {state: getattr(counts, state) for state in _STATES}
    return PoolExhaustedError(name, model_id, **states, free_in=counts.free_in, timeout=timeout)
