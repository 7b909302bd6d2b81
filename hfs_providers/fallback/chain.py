"""The fallback chain: an Agno model that serves with its first entry and falls back along the others.

The switch happens beneath Agno's tool loop, at the single request, so the history stays whole and no tool runs twice.
The state of a turn is in `turn`, its requests in `request`, what a caller sees and controls in `controls`; this module
connects them with Agno's interface.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from agno.exceptions import ModelProviderError
from agno.models.base import MessageData, Model
from agno.models.message import Message
from agno.models.response import ModelResponse, ModelResponseEvent
from agno.run.agent import CustomEvent

from hfs_providers.calls.model_errors import StreamInterruptedError
from hfs_providers.fallback.config import ChainConfig
from hfs_providers.fallback.controls import ChainControls
from hfs_providers.fallback.request import ChainRequest, Steps
from hfs_providers.fallback.turn import Turn, current_turn, original_error, running_turn

_SHARED = frozenset({"_config", "client", "async_client", "http_client", "response_format", "_tools", "_functions"})


class FallbackChain(ChainControls, Model):
    """Made by `get_chain`: a real Agno model, for an `Agent`, a `Team` or a direct call.

    Its `id`, `name`, `provider` and other attributes are the primary's. It always claims native structured outputs, so
    that Agno passes the schema on unchanged, and each entry gets it in the best form that it supports.
    """

    def __init__(self, config: ChainConfig) -> None:
        models = [entry.model for entry in config.entries]
        super().__init__(
            id=models[0].id,
            name=models[0].name,
            provider=models[0].provider,
            supports_native_structured_outputs=True,
            cache_response=models[0].cache_response,
            cache_ttl=models[0].cache_ttl,
            cache_dir=models[0].cache_dir,
            system_prompt=models[0].system_prompt,
            instructions=models[0].instructions,
        )
        self._config = config

    # Turns

    def response(self, messages: list[Message], *args: Any, **kwargs: Any) -> ModelResponse:
        """See Agno's `Model.response`."""
        turn, arguments = self._turn_of(Model.response, messages, args, kwargs)
        with turn, turn.runs():
            return super().response(**arguments)

    async def aresponse(self, messages: list[Message], *args: Any, **kwargs: Any) -> ModelResponse:
        """See Agno's `Model.aresponse`."""
        turn, arguments = self._turn_of(Model.aresponse, messages, args, kwargs)
        with turn, turn.runs():
            return await super().aresponse(**arguments)

    def response_stream(self, messages: list[Message], *args: Any, **kwargs: Any) -> Iterator[Any]:
        """See Agno's `Model.response_stream`."""
        turn, arguments = self._turn_of(Model.response_stream, messages, args, kwargs)
        with turn, Steps(super().response_stream(**arguments), turn) as steps:
            yield from steps

    async def aresponse_stream(self, messages: list[Message], *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """See Agno's `Model.aresponse_stream`."""
        turn, arguments = self._turn_of(Model.aresponse_stream, messages, args, kwargs)
        with turn:
            async with Steps(super().aresponse_stream(**arguments), turn) as steps:
                async for step in steps:
                    yield step

    def _turn_of(
        self, method: Callable[..., Any], messages: list[Message], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Turn, dict[str, Any]]:
        arguments = dict(_signature(method).bind(self, messages, *args, **kwargs).arguments)
        del arguments["self"]
        run, compression = arguments.get("run_response"), arguments.get("compression_manager")
        turn = current_turn(self)
        if turn is None or not turn.continues(messages, run):
            turn = Turn(self, self._config, messages, run, compression)
        if compression is not None:
            arguments["compression_manager"] = turn.compression
        return turn, arguments

    # Requests

    def invoke(self, messages: list[Message], assistant_message: Message, *args: Any, **kwargs: Any) -> ModelResponse:
        """One request to the entry that serves the running turn. Without a running turn it is a turn of its own."""
        turn = self._running_turn()
        for request in ChainRequest(self, turn):
            with request, turn.runs(), request.attempt:
                sent, options = request.converted(messages, kwargs)
                answer: ModelResponse = request.model.invoke(sent, assistant_message, *args, **options)
        self._clean(messages, kwargs)
        return answer

    async def ainvoke(
        self, messages: list[Message], assistant_message: Message, *args: Any, **kwargs: Any
    ) -> ModelResponse:
        """As `invoke`."""
        turn = self._running_turn()
        async for request in ChainRequest(self, turn):
            with request, turn.runs(), request.attempt:
                sent, options = request.converted(messages, kwargs)
                answer: ModelResponse = await request.model.ainvoke(sent, assistant_message, *args, **options)
        self._clean(messages, kwargs)
        return answer

    def invoke_stream(
        self, messages: list[Message], assistant_message: Message, *args: Any, **kwargs: Any
    ) -> Iterator[ModelResponse]:
        """As `invoke`, streamed. A failure before the first content falls back; after it, the error is raised."""
        turn = self._running_turn()
        for request in ChainRequest(self, turn):
            with request:
                sent, options = request.converted(messages, kwargs)
                stream = request.model.invoke_stream(sent, assistant_message, *args, **options)
                with Steps(stream, turn, request.attempt) as steps:
                    for delta in steps:
                        request.shown = request.shown or _shows(delta)
                        yield delta
        self._clean(messages, kwargs)

    async def ainvoke_stream(
        self, messages: list[Message], assistant_message: Message, *args: Any, **kwargs: Any
    ) -> AsyncIterator[ModelResponse]:
        """As `invoke_stream`."""
        turn = self._running_turn()
        async for request in ChainRequest(self, turn):
            with request:
                sent, options = request.converted(messages, kwargs)
                stream = request.model.ainvoke_stream(sent, assistant_message, *args, **options)
                async with Steps(stream, turn, request.attempt) as steps:
                    async for delta in steps:
                        request.shown = request.shown or _shows(delta)
                        yield delta
        self._clean(messages, kwargs)

    def _running_turn(self) -> Turn:
        return running_turn(self) or Turn(self, self._config)

    def _clean(self, messages: list[Message], options: Mapping[str, Any]) -> None:
        # The entry removed Agno's guidance from its own copy of the history.
        if options.get("retry_with_guidance"):
            self._remove_temporary_messages(messages)

    # Streams that begin again

    def process_response_stream(
        self, messages: list[Message], assistant_message: Message, stream_data: MessageData, *args: Any, **kwargs: Any
    ) -> Iterator[Any]:
        """See Agno's. With `on_interrupt="restart"` a broken stream begins again, after an event that says so."""
        turn = running_turn(self)
        while True:
            try:
                yield from super().process_response_stream(messages, assistant_message, stream_data, *args, **kwargs)
                return
            except ModelProviderError as error:
                events = self._restart(turn, original_error(turn, error), stream_data)
            yield from events

    async def aprocess_response_stream(
        self, messages: list[Message], assistant_message: Message, stream_data: MessageData, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """As `process_response_stream`."""
        turn = running_turn(self)
        while True:
            try:
                async for delta in super().aprocess_response_stream(
                    messages, assistant_message, stream_data, *args, **kwargs
                ):
                    yield delta
                return
            except ModelProviderError as error:
                events = self._restart(turn, original_error(turn, error), stream_data)
            for event in events:
                yield event

    def _restart(self, turn: Turn | None, error: BaseException, stream_data: MessageData) -> tuple[Any, ...]:
        """Forget what was streamed, and return the events that say so. Raises an error that is final."""
        if turn is None or not isinstance(error, StreamInterruptedError):
            raise error
        left = turn.active
        if not turn.restarts_after(error):
            raise error
        # The tokens so far stay counted. Everything else begins again.
        metrics = stream_data.response_metrics
        stream_data.__dict__.update(MessageData(response_metrics=metrics).__dict__)
        self._config.tell("stream_restarted", turn.active, f"{left.label} broke off: {error}")
        return (
            ModelResponse(event=ModelResponseEvent.fallback_model_activated.value),
            CustomEvent(  # type: ignore[no-untyped-call]  # Agno's takes any fields
                name="stream_restarted",
                discarded=error.received,
                failed_model=left.label,
                model=turn.active.label,
                reason=str(error),
            ),
        )

    def _save_streaming_responses_to_cache(self, cache_key: str, responses: list[ModelResponse]) -> None:
        # A stream that began again contains a part to be forgotten, so it must not be repeated from a cache.
        if all(response.event != ModelResponseEvent.fallback_model_activated.value for response in responses):
            super()._save_streaming_responses_to_cache(cache_key, responses)

    # What Agno asks of a model's class

    def parse_tool_calls(self, tool_calls_data: list[Any]) -> list[dict[str, Any]]:
        """Put the tool calls of a stream together, as the class of the model that streamed them does."""
        return self._running_turn().active.model.parse_tool_calls(tool_calls_data)

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> ModelResponse:
        return self._running_turn().active.model._parse_provider_response(response, **kwargs)  # noqa: SLF001  Agno's

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        return self._running_turn().active.model._parse_provider_response_delta(response)  # noqa: SLF001

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Attributes of every Agno model are found before this. The others belong to the primary's class: Agno
            # reads the address, the client and the thinking settings of a reasoning model.
            config = self.__dict__.get("_config")
            if config is None or name.startswith("_"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(config.entries[0].model, name)

    def __repr__(self) -> str:
        return f"FallbackChain({' -> '.join(entry.label for entry in self._config.entries)})"

    def __copy__(self) -> FallbackChain:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> FallbackChain:
        new = object.__new__(type(self))
        memo[id(self)] = new
        for name, value in self.__dict__.items():
            new.__dict__[name] = value if name in _SHARED else copy.deepcopy(value, memo)
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        config = self._config
        if config.rebuild is None:
            raise TypeError(
                f"{self!r} cannot be pickled: its manager was built from an explicit environment, which another "
                "process does not have. Build it with ProviderManager() from the process environment"
            )
        # Each entry is pickled by itself. The functions that wait are left out: they may not be picklable.
        return partial(config.rebuild, restore=config.restore, on_interrupt=config.on_interrupt), self.entries


def build_chain(config: ChainConfig) -> FallbackChain:
    """A chain whose class has the name of the primary's: Agno recognises reasoning models by that name."""
    return _chain_class(type(config.entries[0].model))(config)


@cache
def _chain_class(primary: type[Model]) -> type[FallbackChain]:
    name = primary.__name__
    explicit = type(name, (FallbackChain,), {"__module__": FallbackChain.__module__, "__doc__": FallbackChain.__doc__})
    for base in primary.__mro__:
        if base.__name__ == "OpenAILike":
            # The one class for which Agno uses isinstance.
            base.register(explicit)  # type: ignore[attr-defined]  # Agno's models are ABCs
    return explicit


def _shows(delta: ModelResponse) -> bool:
    """Whether a step of a stream has a part of the answer."""
    return bool(delta.content or delta.tool_calls or delta.reasoning_content or delta.images or delta.audio)


@cache
def _signature(method: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(method)
