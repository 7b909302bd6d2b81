"""The rotating Agno model: the provider's own class, each of whose requests leases a key.

A call binds a copy of the model to the key that it leased and runs the class's own `invoke` on that copy, so one model
object serves any number of threads and tasks and is never written to. Retrying is decided by `Call`.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import cache
from typing import Any

from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse

from hfs_providers.calls.affinity import affinity_of_call
from hfs_providers.calls.agno_retries import AgnoRetries, Seen
from hfs_providers.calls.answers import OBSERVERS
from hfs_providers.calls.backend import Backend, Rotation
from hfs_providers.calls.budgeted_call import new_call
from hfs_providers.calls.call import Call, KeyedAttempt
from hfs_providers.calls.model_copies import KEY_FIELDS, Copies, fields_of
from hfs_providers.calls.options import CallOptions
from hfs_providers.clients.async_generators import first_of
from hfs_providers.clients.attempt import running
from hfs_providers.contract.usage_fields import Counted
from hfs_providers.keys.leases import Lease


def build_model(backend: Backend, model_id: str, options: CallOptions, arguments: Mapping[str, Any]) -> Model:
    """A rotating model of the provider's Agno class.

    Raises TypeError for an argument that would bypass the pool's keys, or that the class does not have.
    """
    clients = backend.clients
    key_fields = {clients.key_field, clients.client_field, clients.async_client_field}.union(
        KEY_FIELDS, clients.secret_fields
    )
    refused = sorted(key_fields & arguments.keys())
    if refused:
        raise TypeError(f"get_model does not accept {', '.join(refused)}: keys come from the environment")
    model_class = backend.model_class
    # Without a key, some of Agno's classes look for one in the process environment and warn if there is none.
    no_key: dict[str, Any] = {"api_key": "none"} if "api_key" in model_class.__dataclass_fields__ else {}
    model: Model = rotating_class(model_class, clients.answers)(id=model_id, **no_key, **arguments)
    for name in key_fields & model.__dict__.keys():
        model.__dict__[name] = None
    model.__dict__["_hfs"] = Rotation(backend, options, dict(arguments))
    return model


class _Bound:
    """Mixed into the class of every bound copy."""

    def __repr__(self) -> str:
        # The dataclass's own `__repr__` shows the key.
        return f"{type(self).__name__}(id={self.__dict__.get('id')!r})"


class _Rotating(Copies, AgnoRetries):
    """Mixed in before the provider's class; `_bound_class` is that class with the checks of its answers."""

    _bound_class: type[Model]
    _hfs: Rotation

    def invoke(
        self, messages: list[Message], assistant_message: Message, *args: Any, seen: Seen = None, **kwargs: Any
    ) -> ModelResponse:
        call = self._begin(seen, messages, kwargs)
        while True:
            with KeyedAttempt(call) as lease:
                bound = self._bind(call, lease)
                token = running.set(call)
                try:
                    response = self._bound_class.invoke(bound, _fresh(messages), assistant_message, *args, **kwargs)
                finally:
                    running.reset(token)
                self._answered(call, lease, response.response_usage, messages, assistant_message, kwargs)
                return response

    async def ainvoke(
        self, messages: list[Message], assistant_message: Message, *args: Any, seen: Seen = None, **kwargs: Any
    ) -> ModelResponse:
        call = self._begin(seen, messages, kwargs)
        while True:
            async with KeyedAttempt(call) as lease:
                bound = await self._abind(call, lease)
                token = running.set(call)
                try:
                    response = await self._bound_class.ainvoke(
                        bound, _fresh(messages), assistant_message, *args, **kwargs
                    )
                finally:
                    running.reset(token)
                self._answered(call, lease, response.response_usage, messages, assistant_message, kwargs)
                return response

    def invoke_stream(
        self, messages: list[Message], assistant_message: Message, *args: Any, seen: Seen = None, **kwargs: Any
    ) -> Iterator[ModelResponse]:
        call = self._begin(seen, messages, kwargs)
        while True:
            with KeyedAttempt(call) as lease:
                bound = self._bind(call, lease, stream=True)
                steps = self._bound_class.invoke_stream(bound, _fresh(messages), assistant_message, *args, **kwargs)
                try:
                    while True:
                        token = running.set(call)
                        try:
                            delta = next(steps, None)
                        finally:
                            running.reset(token)
                        if delta is None:
                            break
                        call.received(delta, assistant_message)
                        yield delta
                finally:
                    # If the garbage collector closes an unfinished stream, it can hang in httpcore's lock.
                    for response in call.responses:
                        response.close()
                    steps.close()  # type: ignore[attr-defined]  # the classes' streams are generators
                call.check_finished(bound)
                self._answered(call, lease, call.usage, messages, assistant_message, kwargs)
                if call.usage is not None:
                    yield ModelResponse(response_usage=call.usage)
                return

    async def ainvoke_stream(
        self, messages: list[Message], assistant_message: Message, *args: Any, seen: Seen = None, **kwargs: Any
    ) -> AsyncIterator[ModelResponse]:
        call = self._begin(seen, messages, kwargs)
        while True:
            async with KeyedAttempt(call) as lease:
                bound = await self._abind(call, lease, stream=True)
                steps = self._bound_class.ainvoke_stream(bound, _fresh(messages), assistant_message, *args, **kwargs)
                step = first_of(steps, None)
                try:
                    while True:
                        token = running.set(call)
                        try:
                            delta = await step
                        finally:
                            running.reset(token)
                        if delta is None:
                            break
                        call.received(delta, assistant_message)
                        yield delta
                        step = anext(steps, None)
                finally:
                    try:
                        for response in call.responses:
                            await response.aclose()
                    finally:
                        await steps.aclose()  # type: ignore[attr-defined]
                call.check_finished(bound)
                self._answered(call, lease, call.usage, messages, assistant_message, kwargs)
                if call.usage is not None:
                    yield ModelResponse(response_usage=call.usage)
                return

    def _begin(self, seen: Seen, messages: list[Message], kwargs: dict[str, Any]) -> Call:
        if seen:
            raise seen.pop()
        rotation = self._hfs
        # A chain converts the messages for each of its models.
        said = kwargs.pop("unconverted", messages)
        session = getattr(kwargs.get("run_response"), "session_id", None)
        affinity = affinity_of_call(rotation.options.affinity, said, kwargs.get("tools"), session)
        return new_call(rotation.backend, rotation.options, self.id, affinity, messages, self.__dict__)

    def _bind(self, call: Call, lease: Lease, stream: bool = False) -> Any:
        """A copy for one attempt, with the key of its lease. Its request goes out next."""
        bound = self._copy_for(call, stream)
        call.backend.clients.bind(bound, lease.credential)
        call.sending(lease)
        return bound

    async def _abind(self, call: Call, lease: Lease, stream: bool = False) -> Any:
        """As `_bind`, for the running event loop."""
        bound = self._copy_for(call, stream)
        if not call.backend.clients.bind_known(bound, lease.credential):
            await call.backend.clients.abind(bound, lease.credential)
        call.sending(lease)
        return bound

    def _answered(
        self,
        call: Call,
        lease: Lease,
        usage: Counted | None,
        messages: list[Message],
        assistant_message: Message,
        kwargs: Mapping[str, Any],
    ) -> None:
        """End the call, and copy to the caller's objects what Agno changed in the last attempt's copies."""
        call.answered(lease, usage)
        if call.repeated or "retry_with_guidance" in kwargs:
            if kwargs.get("retry_with_guidance"):
                self._remove_temporary_messages(messages)
            call.restore_timer(assistant_message)

    def get_client(self) -> Any:
        """The SDK's client of a key that is free now, for Agno's requests other than completions (counting tokens)."""
        backend, options = self._hfs.backend, self._hfs.options
        # Released at once, because the client is not used for a completion.
        with backend.pool.acquire(self.id, 0, options.timeout if options.wait else 0.0, key_id=options.key_id) as lease:
            bound = self.bare_copy()
            backend.clients.bind(bound, lease.credential)
            return bound.__dict__[backend.clients.client_field]

    def bare_copy(self) -> Any:
        """A copy of the class without rotation, bound to no key yet. It may be written to."""
        bound = object.__new__(self._bound_class)
        bound.__dict__.update(self.__dict__)
        return bound

    def _copy_for(self, call: Call, stream: bool) -> Any:
        bound = object.__new__(self._bound_class)
        state = bound.__dict__ = self.__dict__.copy()
        state["id"] = call.model_id
        if stream:
            for name, extra in call.backend.traits.stream_params.items():
                state[name] = _merged(extra, state.get(name))
        return bound

    def __repr__(self) -> str:
        rotation = self.__dict__.get("_hfs")
        keys = len(rotation.backend.pool.credentials) if rotation is not None else 0
        return f"{type(self).__name__}(id={self.id!r}, provider={self.provider!r}, keys={keys})"


@cache
def rotating_class(model_class: type[Model], answers: str) -> type[Model]:
    """The rotating subclass of an Agno model class, with the same name, because Agno reads it.

    `answers` says how its SDK's answers are checked: `Clients.answers`.
    """
    names = {"__module__": model_class.__module__, "__qualname__": model_class.__qualname__}
    bound_class = type(model_class.__name__, (*OBSERVERS[answers], _Bound, model_class), dict(names))
    own = {"_bound_class": bound_class, "__dataclass_fields__": fields_of(model_class)}
    return type(model_class.__name__, (_Rotating, bound_class), {**names, **own})


def _fresh(messages: list[Message]) -> list[Message]:
    """The messages for one attempt. The JSON mode of some Agno classes appends to the system message each time."""
    return [each.model_copy() if each.role == "system" else each for each in messages]


def _merged(extra: Any, own: Any) -> Any:
    """A copy of `extra`, merged recursively with the values that the caller has set, which win."""
    if own is None:
        if type(extra) is dict:
            # `deepcopy` of nested dictionaries takes ten times as long.
            return {name: _merged(value, None) for name, value in extra.items()}
        return copy.deepcopy(extra)
    if isinstance(extra, Mapping) and isinstance(own, Mapping):
        return {**extra, **{name: _merged(extra.get(name), value) for name, value in own.items()}}
    return own
