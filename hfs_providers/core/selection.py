"""Chooses the provider of a model that any may serve: the first in order with a free key, else the earliest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hfs_providers.calls.errors import KeysExhaustedError
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Wrapper

_M = TypeVar("_M")

_STATES = ("total", "limited", "cooling", "dead")
_log = logging.getLogger("hfs_providers")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a caller asks of whichever provider it is.

    Args:
        wrappers: the providers that were built, in order.
        model_of: the model id to ask of a provider.
        estimated_tokens: tokens that the key must have free.
        wait, timeout: whether to wait for the earliest key, and for how many seconds.
        clock: monotonic seconds.
    """

    wrappers: Mapping[str, Wrapper]
    model_of: Callable[[str], str]
    estimated_tokens: int
    wait: bool
    timeout: float
    clock: Callable[[], float]

    def select(self, build: Callable[[str], _M], unbuilt: Callable[[], Mapping[str, str]]) -> tuple[str, _M]:
        """The provider and its model.

        Args:
            build: makes the model of a provider.
            unbuilt: by provider that was not built, why it cannot be used.

        Raises:
            KeysExhaustedError: none has a key free in time.
        """
        deadline = self.clock() + (self.timeout if self.wait else 0.0)
        broken: dict[str, str] = {}
        while True:
            free = {
                name: wrapper.pool.next_free(self.model_of(name), self.estimated_tokens)
                for name, wrapper in self.wrappers.items()
                if name not in broken
            }
            ready = next((name for name, seconds in free.items() if seconds == 0), None)
            if ready is not None:
                try:
                    return ready, build(ready)
                except TypeError:
                    # An argument that no provider's model takes is the caller's mistake.
                    raise
                except Exception as error:
                    # An SDK that is there and does not import must not stand in the way of the next provider.
                    broken[ready] = f"{ready}: {type(error).__name__}: {error}"
                    _log.warning("no model of %s can be made: %s: %s", ready, type(error).__name__, error)
                    continue
            earliest = min((seconds for seconds in free.values() if seconds is not None), default=None)
            if earliest is None or self.clock() + earliest > deadline:
                raise self._exhausted(earliest, {**broken, **unbuilt()})
            time.sleep(earliest)

    def _exhausted(self, earliest: float | None, reasons: Mapping[str, str]) -> KeysExhaustedError:
        pools = [self._pool_error(name, wrapper) for name, wrapper in self.wrappers.items()]
        states: dict[str, Any] = {state: sum(getattr(pool, state) for pool in pools) for state in _STATES}
        together = PoolExhaustedError("all", "any", **states, free_in=earliest, waited=self.wait, timeout=self.timeout)
        return KeysExhaustedError(together, reasons={pool.provider: pool.describe() for pool in pools} | dict(reasons))

    def _pool_error(self, name: str, wrapper: Wrapper) -> PoolExhaustedError:
        model_id = self.model_of(name)
        counts = wrapper.pool.counts(model_id)
        states: dict[str, Any] = {state: getattr(counts, state) for state in _STATES}
        return PoolExhaustedError(
            name, model_id, **states, free_in=counts.free_in, waited=self.wait, timeout=self.timeout
        )
