"""Requests without an SDK that fall back along models of several providers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from hfs_providers.calls.backend import Backend, Rotation
from hfs_providers.calls.exchange import Exchange
from hfs_providers.calls.options import CallOptions
from hfs_providers.contract.records import Event
from hfs_providers.fallback.config import ChainConfig
from hfs_providers.fallback.entry import Entry
from hfs_providers.fallback.request import ChainRequest
from hfs_providers.fallback.turn import Turn

_T = TypeVar("_T")


class ExchangeTarget(NamedTuple):
    """A model to send requests to."""

    backend: Backend
    id: str
    options: CallOptions

    @property
    def provider(self) -> str:
        """The provider's name."""
        return self.backend.provider

    def exchange(self, body: Mapping[str, Any], estimated_tokens: int) -> Exchange:
        """One request to it.

        Args:
            body: as for `Exchange`.
            estimated_tokens: to be reserved, if that is more than the options say.
        """
        options = self.options
        if estimated_tokens > options.estimated_tokens:
            options = replace(options, estimated_tokens=estimated_tokens)
        return Exchange(self.backend, self.id, options, body)


class ExchangeChain:
    """Sends each request to its first target, and falls back along the others. Turns, circuits and events are those of
    a fallback chain of models.
    """

    def __init__(self, targets: Sequence[ExchangeTarget], emit: Callable[[Event], object]) -> None:
        self._targets = {_entry(target): target for target in targets}
        self._config = ChainConfig(tuple(self._targets), "when_available", "raise", emit, time.sleep, asyncio.sleep)

    async def run(
        self,
        send: Callable[[ExchangeTarget, Exchange], Awaitable[_T]],
        body: Mapping[str, Any],
        estimated_tokens: int,
    ) -> _T:
        """Send one request.

        Args:
            send: as for `Exchange.run`, `announced`; its first argument is the target that is asked.
            body, estimated_tokens: as for `ExchangeTarget.exchange`.

        Raises:
            ChainExhaustedError: no target could answer.
            ModelCallError: the request is wrong for every target, or its answer broke after a part was passed on.
        """
        turn = Turn(self, self._config)
        async for request in ChainRequest(None, turn):
            with request, request.attempt:
                target = self._targets[turn.active]
                answer = await target.exchange(body, estimated_tokens).run(partial(send, target), announced=True)
        return answer


def _entry(target: ExchangeTarget) -> Entry:
    backend = target.backend
    # A chain that does not call an entry's model reads only its id and its provider.
    model: Any = target
    return Entry(
        model,
        backend.provider,
        backend.circuit(target.id),
        Rotation(backend, target.options, {}),
        backend.context_window(target.id),
    )
