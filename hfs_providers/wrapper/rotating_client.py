"""A client of any SDK over a provider's keys: each call, such as `client.chat.completions.create(...)`, leases a key.

It replaces keycycle's rotating clients, which sleep between keys, declare a key dead because of a word in a message,
and log parts of keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from hfs_providers.calls.call import KeyedAttempt
from hfs_providers.contract.records import Credential
from hfs_providers.wrapper.client_plan import ClientPlan, ClientRequest, client_of
from hfs_providers.wrapper.rotating_streams import (
    AsyncOpening,
    AsyncRawStream,
    AsyncStream,
    Opening,
    RawStream,
    Stream,
    usage_of,
    usage_of_async,
)


class _Rotating:
    """An attribute path below a client; calling it makes the call."""

    __slots__ = ("_clients", "_path", "_plan")

    def __init__(self, plan: ClientPlan, path: tuple[str, ...] = (), clients: dict[str, Any] | None = None) -> None:
        self._plan = plan
        self._path = path
        self._clients: dict[str, Any] = {} if clients is None else clients

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._plan.backend.provider}{''.join(f'.{name}' for name in self._path)})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if not self._path and hasattr(self._plan.client_class, name):
            # Methods that send no request.
            if name in ("with_options", "copy"):
                return self._derived
            if name == "close":
                return self._close
        return type(self)(self._plan, (*self._path, name), self._clients)

    def _completing(self) -> Self:
        """This client, with completed calls: see `ClientPlan.completes`."""
        return type(self)(replace(self._plan, completes=True))

    def _derived(self, **changes: Any) -> Any:
        """A rotating client over SDK clients with other options; their retries are still this library's."""
        if "api_key" in changes:
            raise TypeError(
                f"a rotating client does not accept api_key: it uses the keys of {self._plan.backend.provider}"
            )
        options = self._plan.options
        if "max_retries" in changes:
            options = replace(options, max_retries=changes.pop("max_retries"))

        def make(credential: Credential) -> Any:
            return client_of(self._plan, self._clients, credential).with_options(**changes)

        return type(self)(replace(self._plan, make=make, options=options))

    def _close(self) -> Any:
        for client in self._clients.values():
            client.close()

    def _opens(self) -> bool:
        """Whether the method sends its request when a `with` block is entered, as in SDKs made by Stainless."""
        late = self._path[-1:] == ("stream",) or "with_streaming_response" in self._path
        return late and hasattr(self._plan.client_class, "with_options")

    def _request(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ClientRequest:
        return ClientRequest(self._plan, self._path, self._clients, args, kwargs)


class RotatingClient(_Rotating):
    """A client whose calls each lease a key. A stream holds its lease to its end."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request, plan = self._request(args, kwargs), self._plan
        if self._opens():
            return Opening(request)
        call = request.begin()
        while True:
            with KeyedAttempt(call) as lease:
                send = request.target(call, lease)
                call.sending(lease)
                with call:
                    answer = send()
                if _sends_later(answer, "__enter__"):
                    lease.release()
                    return Opening(request)
                if _streams(answer):
                    return Stream(answer, plan, call, lease)
                if request.raw_stream:
                    return RawStream(answer, plan, call, lease)
                call.answered(lease, usage_of(plan, answer) if request.raw else plan.usage(answer))
                return answer


class AsyncRotatingClient(_Rotating):
    """As `RotatingClient`, for a client whose methods are coroutines."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self._request(args, kwargs)
        return AsyncOpening(request, _ask) if self._opens() else _ask(request)

    async def _close(self) -> None:
        for client in self._clients.values():
            await client.close()


async def _ask(request: ClientRequest) -> Any:
    call, plan = request.begin(), request.plan
    while True:
        async with KeyedAttempt(call) as lease:
            send = request.target(call, lease)
            call.sending(lease)
            with call:
                answer = send()
                if inspect.isawaitable(answer):
                    answer = await answer
            if _sends_later(answer, "__aenter__"):
                lease.release()
                return AsyncOpening(request, _ask)
            if _streams(answer):
                return AsyncStream(answer, plan, call, lease)
            if request.raw_stream:
                return AsyncRawStream(answer, plan, call, lease)
            call.answered(lease, await usage_of_async(plan, answer) if request.raw else plan.usage(answer))
            return answer


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
    # A generator is closed by `close`, an async one by `aclose`.
    if hasattr(answer, "__anext__"):
        return hasattr(answer, "close") or hasattr(answer, "aclose")
    return hasattr(answer, "__next__") and hasattr(answer, "close")


def _sends_later(answer: Any, enter: str) -> bool:
    """Whether it is not an answer yet: the request is sent when its `with` block is entered."""
    kind = type(answer)
    return hasattr(kind, enter) and not any(hasattr(kind, name) for name in ("__iter__", "__aiter__", "http_response"))
