"""The rotating Agno model: the provider's own class, whose every request leases a key.

A call binds a copy of the model to the key that it leased and runs the class's own `invoke` on that copy, so one model
object serves any number of threads and tasks and is never written to. Retrying is owned here.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from agno.exceptions import ModelProviderError
from agno.exceptions import RetryableModelProviderError as GuidedRetry
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse

from hfs_providers.calls.answers import OBSERVERS
from hfs_providers.calls.call import Call
from hfs_providers.calls.errors import ModelCallError
from hfs_providers.calls.model_copies import KEY_FIELDS, Copies, fields_of
from hfs_providers.calls.options import CallOptions
from hfs_providers.clients.attempt import running
from hfs_providers.clients.owned import first_of

if TYPE_CHECKING:
    from hfs_providers.wrapper.wrapper import ProviderWrapper

Seen = list[GuidedRetry] | None
"""What the first try of a call raised, for Agno's own loop to begin with."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What every copy of a rotating model shares: where keys come from, and how calls are made."""

    wrapper: ProviderWrapper
    options: CallOptions
    arguments: Mapping[str, Any]

    def __deepcopy__(self, memo: dict[int, object]) -> Rotation:
        return self


def build_model(wrapper: ProviderWrapper, model_id: str, options: CallOptions, arguments: Mapping[str, Any]) -> Model:
    """A rotating model of the wrapper's Agno class.

    Args:
        wrapper: where its keys come from.
        model_id: the provider's model id.
        options: how its calls are made.
        arguments: of the Agno class.

    Raises:
        TypeError: an argument that would go around the keys, or that the class does not know.
    """
    clients = wrapper.clients
    key_fields = KEY_FIELDS | {clients.client_field, clients.async_client_field}
    refused = sorted(key_fields & arguments.keys())
    if refused:
        raise TypeError(f"get_model takes no {', '.join(refused)}: the keys are those of the environment")
    model: Model = rotating_class(wrapper.model_class, clients.answers)(id=model_id, **arguments)
    for name in key_fields & model.__dict__.keys():
        # Some of Agno's classes read a key from the process environment as a default.
        model.__dict__[name] = None
    model.__dict__["_hfs"] = Rotation(wrapper, options, dict(arguments))
    return model


def load_class(path: str) -> type[Model]:
    """The Agno class at a dotted path like `agno.models.openai:OpenAIChat`. Raises what importing it raises."""
    module, _, name = path.partition(":")
    loaded: type[Model] = getattr(importlib.import_module(module), name)
    return loaded


class _Bound:
    """Mixed into the class of every bound copy."""

    def __repr__(self) -> str:
        # The dataclass's own shows the key.
        return f"{type(self).__name__}(id={self.__dict__.get('id')!r})"


class _Rotating(Copies, Model):
    """Mixed in before the provider's class; `_bound_class` is that class, observed."""

    _bound_class: type[Model]
    _hfs: Rotation

    def invoke(
        self, messages: list[Message], assistant_message: Message, *args: Any, seen: Seen = None, **kwargs: Any
    ) -> ModelResponse:
        if seen:
            raise seen.pop()
        call = Call(self._hfs.wrapper, self._hfs.options, self.id)
        while True:
            lease = call.acquire_nowait() or call.acquire()
            try:
                bound = self._copy_for(call)
                call.clients.bind(bound, lease.credential)
                call.sending(lease)
                token = running.set(call)
                try:
                    response = self._bound_class.invoke(bound, _fresh(messages), assistant_message, *args, **kwargs)
                finally:
                    running.reset(token)
            except BaseException as error:
                call.pause(call.settle(lease, error))
                continue
            call.answered(lease, response.response_usage)
            if call.repeated or "retry_with_guidance" in kwargs:
                self._restore(call, messages, assistant_message, kwargs)
            return response

    async def ainvoke(
        self, messages: list[Message], assistant_message: Message, *args: Any, seen: Seen = None, **kwargs: Any
    ) -> ModelResponse:
        if seen:
            raise seen.pop()
        call = Call(self._hfs.wrapper, self._hfs.options, self.id)
        while True:
            lease = call.acquire_nowait() or await call.aacquire()
            try:
                bound = self._copy_for(call)
                if not call.clients.bind_known(bound, lease.credential):
                    await call.clients.abind(bound, lease.credential)
                call.sending(lease)
                token = running.set(call)
                try:
                    response = await self._bound_class.ainvoke(
                        bound, _fresh(messages), assistant_message, *args, **kwargs
                    )
                finally:
                    running.reset(token)
            except BaseException as error:
                await call.apause(call.settle(lease, error))
                continue
            call.answered(lease, response.response_usage)
            if call.repeated or "retry_with_guidance" in kwargs:
                self._restore(call, messages, assistant_message, kwargs)
            return response

    def invoke_stream(
        self, messages: list[Message], assistant_message: Message, *args: Any, seen: Seen = None, **kwargs: Any
    ) -> Iterator[ModelResponse]:
        if seen:
            raise seen.pop()
        call = Call(self._hfs.wrapper, self._hfs.options, self.id)
        while True:
            lease = call.acquire_nowait() or call.acquire()
            try:
                bound = self._copy_for(call, stream=True)
                call.clients.bind(bound, lease.credential)
                call.sending(lease)
                steps = self._bound_class.invoke_stream(bound, _fresh(messages), assistant_message, *args, **kwargs)
                try:
                    while True:
                        with call:
                            delta = next(steps, None)
                        if delta is None:
                            break
                        call.received(delta, assistant_message)
                        yield delta
                finally:
                    # Left to the collector, a stream closed early can hang the thread inside httpcore's lock.
                    for response in call.responses:
                        response.close()
                    steps.close()  # type: ignore[attr-defined]  # the classes' streams are generators
                call.check_finished(bound)
            except BaseException as error:
                call.pause(call.settle(lease, error))
                continue
            call.answered(lease, call.usage)
            if call.repeated or "retry_with_guidance" in kwargs:
                self._restore(call, messages, assistant_message, kwargs)
            if call.usage is not None:
                yield ModelResponse(response_usage=call.usage)
            return

    async def ainvoke_stream(
        self, messages: list[Message], assistant_message: Message, *args: Any, seen: Seen = None, **kwargs: Any
    ) -> AsyncIterator[ModelResponse]:
        if seen:
            raise seen.pop()
        call = Call(self._hfs.wrapper, self._hfs.options, self.id)
        while True:
            lease = call.acquire_nowait() or await call.aacquire()
            try:
                bound = self._copy_for(call, stream=True)
                if not call.clients.bind_known(bound, lease.credential):
                    await call.clients.abind(bound, lease.credential)
                call.sending(lease)
                steps = self._bound_class.ainvoke_stream(bound, _fresh(messages), assistant_message, *args, **kwargs)
                step = first_of(steps, None)
                try:
                    while True:
                        with call:
                            delta = await step
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
            except BaseException as error:
                await call.apause(call.settle(lease, error))
                continue
            call.answered(lease, call.usage)
            if call.repeated or "retry_with_guidance" in kwargs:
                self._restore(call, messages, assistant_message, kwargs)
            if call.usage is not None:
                yield ModelResponse(response_usage=call.usage)
            return

    # Agno sorts errors once more, by status and by words in their message, and raises another type instead of ours.
    # What needs none of its retries goes around that; what turns out to need them begins with the error that said so.

    def _invoke_with_retry(self, **kwargs: Any) -> ModelResponse:
        if self.retries or "retries_with_guidance_count" in kwargs:
            return self._invoke_as_agno(**kwargs)
        try:
            return self.invoke(**kwargs)
        except GuidedRetry as error:
            return self._invoke_as_agno(**kwargs, seen=[error])

    async def _ainvoke_with_retry(self, **kwargs: Any) -> ModelResponse:
        if self.retries or "retries_with_guidance_count" in kwargs:
            return await self._ainvoke_as_agno(**kwargs)
        try:
            return await self.ainvoke(**kwargs)
        except GuidedRetry as error:
            return await self._ainvoke_as_agno(**kwargs, seen=[error])

    def _invoke_stream_with_retry(self, **kwargs: Any) -> Iterator[ModelResponse]:
        if self.retries or "retries_with_guidance_count" in kwargs:
            yield from self._invoke_stream_as_agno(**kwargs)
            return
        try:
            yield from self.invoke_stream(**kwargs)
        except GuidedRetry as error:
            yield from self._invoke_stream_as_agno(**kwargs, seen=[error])

    def _ainvoke_stream_with_retry(self, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        if self.retries or "retries_with_guidance_count" in kwargs:
            return self._ainvoke_stream_as_agno(**kwargs)
        return self._ainvoke_stream_once(**kwargs)

    async def _ainvoke_stream_once(self, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        steps: Any = self.ainvoke_stream(**kwargs)
        try:
            step = await first_of(steps, None)
            if step is not None:
                yield step
            async for step in steps:
                yield step
            return
        except GuidedRetry as error:
            seen = [error]
        finally:
            await steps.aclose()
        async for step in self._ainvoke_stream_as_agno(**kwargs, seen=seen):
            yield step

    def _invoke_as_agno(self, **kwargs: Any) -> ModelResponse:
        try:
            return super()._invoke_with_retry(**kwargs)
        except ModelProviderError as error:
            own = _own(error)
            raise own from own.__cause__

    async def _ainvoke_as_agno(self, **kwargs: Any) -> ModelResponse:
        try:
            return await super()._ainvoke_with_retry(**kwargs)
        except ModelProviderError as error:
            own = _own(error)
            raise own from own.__cause__

    def _invoke_stream_as_agno(self, **kwargs: Any) -> Iterator[ModelResponse]:
        try:
            yield from super()._invoke_stream_with_retry(**kwargs)
        except ModelProviderError as error:
            own = _own(error)
            raise own from own.__cause__

    async def _ainvoke_stream_as_agno(self, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        try:
            async for step in super()._ainvoke_stream_with_retry(**kwargs):
                yield step
        except ModelProviderError as error:
            own = _own(error)
            raise own from own.__cause__

    def get_client(self) -> Any:
        """The SDK's client of a key that is free now, for what Agno asks of it besides answers (counting tokens)."""
        wrapper, options = self._hfs.wrapper, self._hfs.options
        # Released at once: what is done with the client is no request for a completion.
        with wrapper.pool.acquire(self.id, 0, options.timeout if options.wait else 0.0, key_id=options.key_id) as lease:
            bound = self.bare_copy()
            wrapper.clients.bind(bound, lease.credential)
            return bound.__dict__[wrapper.clients.client_field]

    def bare_copy(self) -> Any:
        """A copy of the class without rotation, bound to no key yet. It may be written to."""
        bound = object.__new__(self._bound_class)
        bound.__dict__.update(self.__dict__)
        return bound

    def _copy_for(self, call: Call, stream: bool = False) -> Any:
        bound = object.__new__(self._bound_class)
        state = bound.__dict__ = self.__dict__.copy()
        state["id"] = call.model_id
        if stream:
            for name, extra in call.wrapper.plugin.stream_params.items():
                state[name] = _merged(extra, state.get(name))
        return bound

    def _restore(
        self, call: Call, messages: list[Message], assistant_message: Message, kwargs: Mapping[str, Any]
    ) -> None:
        """Carry over to the caller's objects what Agno did to the copies of the last attempt."""
        if kwargs.get("retry_with_guidance"):
            self._remove_temporary_messages(messages)
        call.restore_timer(assistant_message)

    def __repr__(self) -> str:
        rotation = self.__dict__.get("_hfs")
        keys = len(rotation.wrapper.pool.credentials) if rotation is not None else 0
        return f"{type(self).__name__}(id={self.id!r}, provider={self.provider!r}, keys={keys})"


@cache
def rotating_class(model_class: type[Model], answers: str) -> type[Model]:
    """The rotating subclass of an Agno model class. It keeps the class's name, which Agno looks at.

    Args:
        model_class: of Agno.
        answers: how its SDK's answers are looked at on their way: `Clients.answers`.
    """
    names = {"__module__": model_class.__module__, "__qualname__": model_class.__qualname__}
    bound_class = type(model_class.__name__, (*OBSERVERS[answers], _Bound, model_class), dict(names))
    own = {"_bound_class": bound_class, "__dataclass_fields__": fields_of(model_class)}
    return type(model_class.__name__, (_Rotating, bound_class), {**names, **own})


def _fresh(messages: list[Message]) -> list[Message]:
    """The messages for one attempt. The JSON mode of some Agno classes appends to the system message each time."""
    for message in messages:
        if message.role == "system":
            return [each.model_copy() if each.role == "system" else each for each in messages]
    return messages[:]


def _own(error: ModelProviderError) -> ModelProviderError:
    """The error of ours that Agno put another in front of, or the error itself; with its cause."""
    own = error.__cause__ if isinstance(error.__cause__, ModelCallError) else error
    if own.__cause__ is own:
        # Agno raises an error that it does not retry from itself; what it was raised in is still there.
        own.__cause__ = own.__context__
    return own


def _merged(extra: Any, own: Any) -> Any:
    """`extra` under what the caller set himself, dictionaries merged all the way down."""
    if own is None:
        return copy.deepcopy(extra)
    if isinstance(extra, Mapping) and isinstance(own, Mapping):
        return {**extra, **{name: _merged(extra.get(name), value) for name, value in own.items()}}
    return own
