"""Any SDK's client over a provider's keys: `client.chat.completions.create(...)`, each call with a key of its own.

It stands in for keycycle's rotating clients, which sleep between keys, kill keys on a word in a message and log parts
of them.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from hfs_providers.core.calls import Call, CallOptions
from hfs_providers.core.pool import Lease

if TYPE_CHECKING:
    from hfs_providers.core.contract import Credential
    from hfs_providers.core.wrapper import ProviderWrapper


@dataclass(slots=True)
class Usage:
    """Tokens of one call, under the names that Agno uses."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True)
class ClientPlan:
    """How the clients of a rotating client are made and read.

    Args:
        wrapper: where the keys come from.
        make: builds the SDK's client for a credential; called once for each key.
        options: how calls are made.
        model_param: the argument of a call that names its model.
        tokens: reads the tokens of an answer, or None for the usual places.
    """

    wrapper: ProviderWrapper
    make: Callable[[Credential], Any]
    options: CallOptions
    model_param: str = "model"
    tokens: Callable[[Any], int] | None = None

    def usage(self, answer: Any) -> Usage | None:
        """What the provider counted, where the answer says it."""
        if self.tokens is not None:
            return Usage(total_tokens=int(self.tokens(answer) or 0))
        found = getattr(answer, "usage", None)
        if found is None:
            return None
        given = _first(found, "prompt_tokens", "input_tokens")
        taken = _first(found, "completion_tokens", "output_tokens")
        return Usage(given, taken, _first(found, "total_tokens") or given + taken)


class _Rotating:
    """An attribute path below a client; calling it makes the call."""

    __slots__ = ("_clients", "_path", "_plan")

    def __init__(self, plan: ClientPlan, path: tuple[str, ...] = (), clients: dict[str, Any] | None = None) -> None:
        self._plan = plan
        self._path = path
        self._clients: dict[str, Any] = {} if clients is None else clients

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._plan.wrapper.provider}{''.join(f'.{name}' for name in self._path)})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return type(self)(self._plan, (*self._path, name), self._clients)

    def _begin(self, kwargs: Mapping[str, Any]) -> Call:
        wrapper = self._plan.wrapper
        return Call(wrapper, self._plan.options, kwargs.get(self._plan.model_param) or wrapper.default_model_id)

    def _target(self, lease: Lease) -> Any:
        client = self._clients.get(lease.key_id)
        if client is None:
            client = self._clients[lease.key_id] = self._plan.make(lease.credential)
        return reduce(getattr, self._path, client)


class RotatingClient(_Rotating):
    """A client whose calls each lease a key. A stream holds its lease to its end."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self._begin(kwargs)
        while True:
            lease = call.grab() or call.acquire()
            try:
                target = self._target(lease)
                call.sending(lease)
                with call:
                    answer = target(*args, **kwargs)
            except BaseException as error:
                call.pause(call.settle(lease, error))
                continue
            if _streams(answer):
                return _Stream(answer, self._plan, call, lease)
            call.answered(lease, self._plan.usage(answer))
            return answer


class AsyncRotatingClient(_Rotating):
    """As `RotatingClient`, for a client whose methods are coroutines."""

    __slots__ = ()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self._begin(kwargs)
        while True:
            lease = call.grab() or await call.aacquire()
            try:
                target = self._target(lease)
                call.sending(lease)
                with call:
                    answer = target(*args, **kwargs)
                    if inspect.isawaitable(answer):
                        answer = await answer
            except BaseException as error:
                await call.apause(call.settle(lease, error))
                continue
            if _streams(answer):
                return _AsyncStream(answer, self._plan, call, lease)
            call.answered(lease, self._plan.usage(answer))
            return answer


class _Held:
    """A stream and the lease that it holds."""

    def __init__(self, inner: Any, plan: ClientPlan, call: Call, lease: Lease) -> None:
        self._inner = inner
        self._plan = plan
        self._call = call
        self._lease = lease
        self._usage: Usage | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _seen(self, chunk: Any) -> None:
        self._usage = self._plan.usage(chunk) or self._usage
        self._call.passed_on()

    def _failed(self, error: BaseException) -> None:
        # Part of it has been passed on, so this raises what ends the call.
        self._call.settle(self._lease, error)

    def _ended(self) -> None:
        if not self._lease.ended:
            self._call.answered(self._lease, self._usage)


class _Stream(_Held):
    def __iter__(self) -> Iterator[Any]:
        try:
            for chunk in self._inner:
                self._seen(chunk)
                yield chunk
        except BaseException as error:
            self._inner.close()
            self._failed(error)
        self._ended()

    def __next__(self) -> Any:
        try:
            chunk = next(self._inner)
        except StopIteration:
            self._ended()
            raise
        except BaseException as error:
            self._failed(error)
            raise
        self._seen(chunk)
        return chunk

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream and end its lease."""
        self._inner.close()
        self._ended()


class _AsyncStream(_Held):
    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for chunk in self._inner:
                self._seen(chunk)
                yield chunk
        except BaseException as error:
            await self._inner.close()
            self._failed(error)
        self._ended()

    async def __aenter__(self) -> _AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the stream and end its lease."""
        await self._inner.close()
        self._ended()


def accepted(client_class: Callable[..., Any], arguments: Mapping[str, Any], excluded: Sequence[str]) -> dict[str, Any]:
    """Those of `arguments` that a client's constructor takes."""
    parameters = inspect.signature(client_class).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {
        name: value for name, value in arguments.items() if name not in excluded and (anything or name in parameters)
    }


def is_async(client_class: type[Any]) -> bool:
    """Whether a client's methods are coroutines, by its name or those of its bases (`AsyncOpenAI`, `AsyncClient`)."""
    return any(base.__name__.startswith("Async") for base in client_class.__mro__)


def _streams(answer: Any) -> bool:
    return hasattr(answer, "close") and (hasattr(answer, "__next__") or hasattr(answer, "__anext__"))


def _first(found: Any, *names: str) -> int:
    values = (getattr(found, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), 0)
