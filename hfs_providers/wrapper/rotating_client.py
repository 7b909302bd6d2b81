"""Any SDK's client over a provider's keys: `client.chat.completions.create(...)`, each call with a key of its own.

It stands in for keycycle's rotating clients, which sleep between keys, kill keys on a word in a message and log parts
of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Self

from hfs_providers.calls.call import Call
from hfs_providers.calls.options import CallOptions
from hfs_providers.keys.leases import Lease
from hfs_providers.wrapper.rotating_streams import (
    AsyncOpening,
    AsyncRawStream,
    AsyncStream,
    Opening,
    RawStream,
    Stream,
    told,
    told_async,
)

if TYPE_CHECKING:
    from hfs_providers.contract.records import Credential
    from hfs_providers.wrapper.wrapper import ProviderWrapper


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
        client_class: what `make` builds.
        completes: whether a call is completed as keycycle's OpenAI client does it: with the default model where it
            names none, and with the usage of a stream where it does not say.
    """

    wrapper: ProviderWrapper
    make: Callable[[Credential], Any]
    options: CallOptions
    model_param: str = "model"
    tokens: Callable[[Any], int] | None = None
    client_class: Any = object
    completes: bool = False
    taken: dict[tuple[str, ...], frozenset[str]] = field(default_factory=dict)
    """By path, the keywords of its method that were looked up already."""

    def usage(self, answer: Any) -> Usage | None:
        """What the provider counted, where the answer says it."""
        if self.tokens is not None:
            return Usage(total_tokens=int(self.tokens(answer) or 0))
        found = _field(answer, "usage")
        if found is None:
            # The events of OpenAI's Responses streams have it one step further in, Cohere's answers call it so.
            found = _field(_field(answer, "response"), "usage") or _field(_field(answer, "meta"), "billed_units")
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
        if not self._path and hasattr(self._plan.client_class, name):
            # What a client does without a request.
            if name in ("with_options", "copy"):
                return self._derived
            if name == "close":
                return self._close
        return type(self)(self._plan, (*self._path, name), self._clients)

    def _completing(self) -> Self:
        """This client, whose calls are completed as keycycle's OpenAI client does it: see `ClientPlan`."""
        return type(self)(replace(self._plan, completes=True))

    def _derived(self, **changes: Any) -> Any:
        """A rotating client over SDK clients with other options; their retries are still this library's."""
        if "api_key" in changes:
            raise TypeError(f"the keys are those of {self._plan.wrapper.provider}: a rotating client takes no api_key")
        options = self._plan.options
        if "max_retries" in changes:
            options = replace(options, max_retries=changes.pop("max_retries"))

        def make(credential: Credential) -> Any:
            return self._client(credential).with_options(**changes)

        return type(self)(replace(self._plan, make=make, options=options))

    def _close(self) -> Any:
        for client in self._clients.values():
            client.close()

    def _opens(self) -> bool:
        """Whether the method sends its request when a `with` block is entered: so it is in the SDKs of one maker."""
        late = self._path[-1:] == ("stream",) or "with_streaming_response" in self._path
        return late and hasattr(self._plan.client_class, "with_options")

    def _begin(self, kwargs: dict[str, Any]) -> Call:
        """A call; what only keycycle understands is taken out of its arguments."""
        plan, tracked = self._plan, kwargs.pop("track_usage", None)
        wrapper = plan.wrapper if tracked is None else plan.wrapper.tracking(tracked)
        model = kwargs.get(plan.model_param)
        options = plan.options
        if model is None and plan.completes and wrapper.config.default_model is None:
            options = replace(options, explicit=False)
        return Call(wrapper, options, model or wrapper.default_model_id)

    def _client(self, credential: Credential) -> Any:
        client = self._clients.get(credential.id)
        if client is None:
            client = self._clients[credential.id] = self._plan.make(credential)
        return client

    def _target(self, lease: Lease, call: Call, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What to call with the key of a lease, and with what."""
        target = reduce(getattr, self._path, self._client(lease.credential))
        if not self._plan.completes:
            return target, kwargs
        plan, path, given = self._plan, self._path, dict(kwargs)
        taken = plan.taken.get(path)
        if taken is None:
            taken = plan.taken[path] = _keywords(target)
        if plan.model_param in taken and given.get(plan.model_param) is None:
            given[plan.model_param] = call.model_id
        streams = given.get("stream") or path[-1] == "stream"
        if streams and "completions" in path and "stream_options" in taken:
            given.setdefault("stream_options", {"include_usage": True})
        return target, given


class RotatingClient(_Rotating):
    """A client whose calls each lease a key. A stream holds its lease to its end."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._opens():
            return Opening(self, args, kwargs)
        call = self._begin(kwargs)
        while True:
            lease = call.acquire_nowait() or call.acquire()
            try:
                target, given = self._target(lease, call, kwargs)
                call.sending(lease)
                with call:
                    answer = target(*args, **given)
            except BaseException as error:
                call.pause(call.settle(lease, error))
                continue
            if _sends_later(answer, "__enter__"):
                lease.release()
                return Opening(self, args, kwargs)
            if _streams(answer):
                return Stream(answer, self._plan, call, lease)
            if given.get("stream") and "with_raw_response" in self._path:
                return RawStream(answer, self._plan, call, lease)
            call.answered(lease, self._usage(answer))
            return answer

    def _usage(self, answer: Any) -> Usage | None:
        return told(self._plan, answer) if "with_raw_response" in self._path else self._plan.usage(answer)


class AsyncRotatingClient(_Rotating):
    """As `RotatingClient`, for a client whose methods are coroutines."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._opens():
            return AsyncOpening(self, args, kwargs)
        return self._ask(args, kwargs)

    async def _close(self) -> None:
        for client in self._clients.values():
            await client.close()

    async def _ask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = self._begin(kwargs)
        while True:
            lease = call.acquire_nowait() or await call.aacquire()
            try:
                target, given = self._target(lease, call, kwargs)
                call.sending(lease)
                with call:
                    answer = target(*args, **given)
                    if inspect.isawaitable(answer):
                        answer = await answer
            except BaseException as error:
                await call.apause(call.settle(lease, error))
                continue
            if _sends_later(answer, "__aenter__"):
                lease.release()
                return AsyncOpening(self, args, kwargs)
            if _streams(answer):
                return AsyncStream(answer, self._plan, call, lease)
            if given.get("stream") and "with_raw_response" in self._path:
                return AsyncRawStream(answer, self._plan, call, lease)
            raw = "with_raw_response" in self._path
            call.answered(lease, await told_async(self._plan, answer) if raw else self._plan.usage(answer))
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
    """Whether an answer is none, but sends its request when its `with` block is entered."""
    kind = type(answer)
    return hasattr(kind, enter) and not any(hasattr(kind, name) for name in ("__iter__", "__aiter__", "http_response"))


def _keywords(target: Any) -> frozenset[str]:
    """The keywords that a method takes, but for those that can be given by place."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    return frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


def _field(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)


def _first(found: Any, *names: str) -> int:
    values = (_field(found, name) for name in names)
    return next((value for value in values if isinstance(value, int)), 0)
