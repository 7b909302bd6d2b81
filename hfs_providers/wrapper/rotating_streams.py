"""What a rotating client returns while its request still runs: streams, raw responses, `with` blocks that send.

Each holds the lease of its request. However it ends (at its end, by `close`, by an error, or because it is dropped half
read), the lease ends and a row is written.
"""

from __future__ import annotations

import inspect
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn

from hfs_providers.calls.call import Call, KeyedAttempt
from hfs_providers.calls.verdicts import judge
from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.contract.usage_fields import Tokens
from hfs_providers.keys.leases import Lease
from hfs_providers.wrapper.client_plan import ClientPlan, ClientRequest


class Held:
    """An SDK's object and the lease that it holds."""

    def __init__(self, inner: Any, plan: ClientPlan, call: Call, lease: Lease) -> None:
        self._inner = inner
        self._plan = plan
        self._call = call
        self._lease = lease
        _watch()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __del__(self) -> None:
        lease = self.__dict__.get("_lease")
        if lease is not None and not lease.ended:
            # A finaliser may run at any point, so it must take no lock. The watching thread ends the lease.
            _dropped.put((self._inner, self._call, lease))

    def _seen(self, chunk: Any) -> None:
        _count(self._call, self._plan.usage(chunk))
        self._call.passed_on()

    def _failed(self, error: BaseException) -> NoReturn:
        self._call.settle(self._lease, error)
        # Nothing was passed on, so the call could be repeated, but the caller holds the stream already.
        raise error

    def _ended(self) -> None:
        if not self._lease.ended:
            self._call.answered(self._lease, self._call.usage)


class Stream(Held):
    """A stream that is read by iterating."""

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
        self._seen(chunk)
        return chunk

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream and end its lease."""
        self._inner.close()
        self._ended()


class AsyncStream(Held):
    """As `Stream`, for tasks."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for chunk in self._inner:
                self._seen(chunk)
                yield chunk
        except BaseException as error:
            await _close_async(self._inner)
            self._failed(error)
        self._ended()

    async def __anext__(self) -> Any:
        try:
            chunk = await anext(self._inner)
        except StopAsyncIteration:
            self._ended()
            raise
        except BaseException as error:
            self._failed(error)
        self._seen(chunk)
        return chunk

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the stream and end its lease."""
        await _close_async(self._inner)
        self._ended()


async def _close_async(inner: Any) -> None:
    await (inner.close() if hasattr(inner, "close") else inner.aclose())


class RawStream(Held):
    """A raw response whose `parse()` is a stream."""

    _stream_class: type[Held] = Stream
    _stream: Held | None = None

    def parse(self) -> Any:
        """The stream, as `with_raw_response` gives it."""
        if self._stream is not None:
            return self._stream
        stream = self._inner.parse()
        return self._awaited(stream) if inspect.isawaitable(stream) else self._handed_on(stream)

    async def _awaited(self, stream: Any) -> Held:
        return self._handed_on(await stream)

    def _handed_on(self, stream: Any) -> Held:
        self._stream = self._stream_class(stream, self._plan, self._call, self._lease)
        # The stream outlives this: it is what holds the lease now.
        del self._lease
        return self._stream


class AsyncRawStream(RawStream):
    """As `RawStream`, of an async stream."""

    _stream_class = AsyncStream


class Opening:
    """A request that the SDK sends when its `with` block is entered: `stream(...)`, `with_streaming_response`."""

    def __init__(self, request: ClientRequest) -> None:
        self._request = request

    def __enter__(self) -> Any:
        self._call = call = self._request.begin()
        while True:
            with KeyedAttempt(call) as self._lease:
                self._manager = self._request.target(call, self._lease)()
                call.sending(self._lease)
                with call:
                    self._entered = self._manager.__enter__()
                return self._entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _count(self._call, usage_of(self._request.plan, self._entered))
            self._manager.__exit__(kind, error, trace)
        finally:
            _end(self._call, self._lease, error)


class AsyncOpening:
    """As `Opening`, for tasks. One that is awaited is sent like any other call, by `ask`."""

    def __init__(self, request: ClientRequest, ask: Callable[[ClientRequest], Coroutine[Any, Any, Any]]) -> None:
        self._request = request
        self._ask = ask

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._ask(self._request).__await__()

    async def __aenter__(self) -> Any:
        self._call = call = self._request.begin()
        while True:
            async with KeyedAttempt(call) as self._lease:
                self._manager = self._request.target(call, self._lease)()
                call.sending(self._lease)
                with call:
                    self._entered = await self._manager.__aenter__()
                return self._entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _count(self._call, await usage_of_async(self._request.plan, self._entered))
            await self._manager.__aexit__(kind, error, trace)
        finally:
            _end(self._call, self._lease, error)


def usage_of(plan: ClientPlan, answer: Any) -> Tokens | None:
    """The usage that an SDK's object has received so far, also behind a raw response. Nothing is read for it."""
    try:
        return plan.usage(_content(answer))
    except Exception:
        # The body is the caller's, and may not be an answer that the SDK or a `usage_extractor` can read.
        return None


async def usage_of_async(plan: ClientPlan, answer: Any) -> Tokens | None:
    """As `usage_of`, of an async SDK, whose raw responses are parsed by a coroutine."""
    try:
        content = _content(answer)
        return plan.usage(await content if inspect.isawaitable(content) else content)
    except Exception:
        return None


def _content(answer: Any) -> Any:
    for name in ("current_completion_snapshot", "current_message_snapshot"):
        if hasattr(type(answer), name):
            return getattr(answer, name)
    response = getattr(answer, "http_response", None)
    return answer.parse() if response is not None and response.is_stream_consumed else answer


def _count(call: Call, usage: Tokens | None) -> None:
    """Keep the last usage that a stream reports: providers repeat it."""
    if usage is not None and (usage.total_tokens or call.usage is None):
        call.usage = usage


def _end(call: Call, lease: Lease, error: BaseException | None) -> None:
    """End the lease of a `with` block; an error of the provider is raised as any call's is."""
    if error is None:
        call.answered(lease, call.usage)
        return
    call.passed_on()
    if isinstance(error, Exception) and judge(error, call.rules).kind != "local":
        call.settle(lease, error)
    else:
        # Raised by the block itself: the request was sent, and the caller did not read its answer.
        _abandon(call, lease)


def _abandon(call: Call, lease: Lease) -> None:
    call.settle(lease, GeneratorExit())


# Streams that were dropped before their end: what is left to be closed, the call, its lease. An event is set when all
# that was dropped before it has ended.
_dropped: queue.SimpleQueue[tuple[Any, Call, Lease] | threading.Event] = queue.SimpleQueue()
_CLOSING = 5.0
"""Seconds that the end of a manager waits for connections of dropped streams to be closed."""

_watching = threading.Lock()
_thread: threading.Thread | None = None


def end_dropped() -> None:
    """End the leases of streams that were dropped half read, and write down their requests."""
    if _thread is not None and _thread.is_alive():
        ended = threading.Event()
        _dropped.put(ended)
        ended.wait(_CLOSING)
    with suppress(queue.Empty):
        while True:
            _end_one(_dropped.get_nowait())


def _end_one(dropped: tuple[Any, Call, Lease] | threading.Event) -> None:
    if isinstance(dropped, threading.Event):
        dropped.set()
        return
    inner, call, lease = dropped
    if not inspect.iscoroutinefunction(getattr(inner, "close", None)):
        with suppress(Exception):
            inner.close()
    _abandon(call, lease)


def _watch() -> None:
    global _thread
    if _thread is None or not _thread.is_alive():
        with _watching:
            if _thread is None or not _thread.is_alive():
                _thread = threading.Thread(target=_run, name="hfs-dropped-streams", daemon=True)
                _thread.start()


def _run() -> None:
    while True:
        try:
            _end_one(_dropped.get())
        except Exception:
            logging.getLogger("hfs_providers").exception("a dropped stream could not be ended")


def _after_fork_in_child() -> None:
    global _dropped, _watching, _thread
    # What the parent dropped is ended there.
    _dropped, _watching, _thread = queue.SimpleQueue(), threading.Lock(), None


at_fork(ForkPhase.STREAMS, child=_after_fork_in_child)
