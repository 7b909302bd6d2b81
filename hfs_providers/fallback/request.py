"""A request to a chain, and how its streams are read. Sync and async callers drive the same steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from agno.exceptions import RetryableModelProviderError as GuidedRetry

from hfs_providers.calls.model_errors import StreamInterruptedError
from hfs_providers.clients.async_generators import first_of
from hfs_providers.clients.attempt import Attempt
from hfs_providers.contract.redaction import Redactor
from hfs_providers.fallback.controls import ChainControls
from hfs_providers.fallback.messages import converted
from hfs_providers.fallback.turn import Turn

if TYPE_CHECKING:
    from agno.models.base import Model
    from agno.models.message import Message

_END: Any = object()
_NOTHING = nullcontext()


class ChainRequest:
    """One request to a chain, sent to one entry after another until one answers or the turn ends.

    Iterate over it with `for` or `async for`: each step is one attempt, and yields the request itself. Enter it
    (`with request:`) around the attempt: a failure after which another attempt follows is not raised.

    Args:
        chain: recovers the transport of its models after a failure; None if the transport recovers by itself.
        turn: that the request belongs to.
    """

    model: Model
    """The model to ask in this attempt."""

    def __init__(self, chain: ChainControls | None, turn: Turn) -> None:
        self.attempt = Attempt()
        self.shown = False
        """Whether a part of the answer has reached the caller: after that, a failure is raised."""
        self._chain = chain
        self._turn = turn
        self._answered = False
        self._recovered = False
        self._broken: Exception | None = None

    def __iter__(self) -> Iterator[ChainRequest]:
        return self

    def __next__(self) -> ChainRequest:
        if self._answered:
            raise StopIteration
        with self._turn.runs():
            error, chain = self._broken, self._chain
            if error is None or chain is None:
                return self._next(False)
            return self._next(chain.recover_transport(error, *_attempts(error)))

    def __aiter__(self) -> AsyncIterator[ChainRequest]:
        return self

    async def __anext__(self) -> ChainRequest:
        if self._answered:
            raise StopAsyncIteration
        with self._turn.runs():
            error, chain = self._broken, self._chain
            if error is None or chain is None:
                return self._next(False)
            return self._next(await chain.arecover_transport(error, *_attempts(error)))

    def _next(self, renewed: bool) -> ChainRequest:
        error, self._broken = self._broken, None
        if error is not None and not renewed:
            self._move_on(error)
        entry = self._turn.admit()
        self.model = entry.once() if renewed and self._turn.index == 0 else entry.model
        self.attempt = Attempt(self.attempt.trace)
        return self

    def converted(self, messages: list[Message], options: Mapping[str, Any]) -> tuple[list[Message], dict[str, Any]]:
        """What is sent to the model: messages and keyword arguments of `invoke`."""
        entry = self._turn.active
        sent, accepted = converted(self.model, messages, options, entry.messages)
        if entry.rotation is not None:
            accepted["unconverted"] = messages
        return sent, accepted

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            self._answered = True
            self._turn.answered()
            return False
        if isinstance(error, GuidedRetry) or not isinstance(error, Exception):
            self._turn.left()
            return False
        recovers = self._chain is not None and self._turn.index == 0 and not (self._recovered or self.shown)
        if recovers and not isinstance(error, StreamInterruptedError):
            # Whether it is an error to recover from is decided before the next attempt, which may have to wait.
            self._recovered, self._broken = True, error
        else:
            with self._turn.runs():
                self._move_on(error)
        return True

    def _move_on(self, error: Exception) -> None:
        rotation = self._turn.active.rotation
        redactor = rotation.backend.redactor if rotation is not None else Redactor()
        try:
            self._turn.failed(error, shown=self.shown)
        except BaseException:
            self.attempt.let_through(redactor)
            raise


class Steps:
    """Reads a stream in a turn, and closes it at the end. Enter it and iterate over it, sync or async as the stream is.

    The turn and the attempt are entered for each step: between steps the caller's context is its own. The stream is a
    generator that is not begun yet.
    """

    def __init__(self, stream: Any, turn: Turn, attempt: AbstractContextManager[object] = _NOTHING) -> None:
        self._stream = stream
        self._turn = turn
        self._attempt = attempt
        self._begun = False

    def __enter__(self) -> Iterator[Any]:
        return self

    def __exit__(self, *_: object) -> None:
        with self._turn.runs():
            self._stream.close()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._turn.runs(), self._attempt:
            return next(self._stream)

    async def __aenter__(self) -> AsyncIterator[Any]:
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._turn.runs():
            await self._stream.aclose()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        following = anext(self._stream, _END) if self._begun else first_of(self._stream, _END)
        self._begun = True
        with self._turn.runs(), self._attempt:
            step = await following
        if step is _END:
            raise StopAsyncIteration
        return step


def _attempts(error: BaseException) -> tuple[int, int]:
    """The failed attempts before the last, and all of them."""
    made = max(1, int(getattr(error, "attempts", 1)))
    return made - 1, made
