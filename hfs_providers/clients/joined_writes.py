"""The head and the body of a request leave in one write.

httpcore 1 and httpcore2 write each on its own, and have the system send it at once: two calls of the system, two
packets, two TLS records, and a server that wakes up for half a request.
"""

from __future__ import annotations

from functools import cache
from inspect import iscoroutinefunction
from typing import Any

# What a head begins with that a body follows. No HTTP/2 frame begins so: it would be longer than a frame may be.
_POST = b"POST "


def join_writes(client: Any) -> Any:
    """Let a client or a transport of httpx or httpx2 write a request's head together with the beginning of its body."""
    for transport in (getattr(client, "_transport", client), *getattr(client, "_mounts", {}).values()):
        # httpcore's pool takes a network backend as an argument, but httpx's transport, which makes the pool, does not.
        backend = getattr(getattr(transport, "_pool", None), "_network_backend", None)
        if backend is not None:
            _mixed(_AsyncBackend if iscoroutinefunction(backend.connect_tcp) else _Backend, backend)
    return client


class _Head:
    """A head that waits for what is written next, or until something is read."""

    _waiting = b""

    def _due(self, buffer: bytes) -> bytes | None:
        """What is to be written now."""
        if self._waiting:
            buffer, self._waiting = self._waiting + buffer, b""
        elif buffer.startswith(_POST):
            self._waiting = buffer
            return None
        return buffer


class _Stream(_Head):
    """Mixed in before the class of a network stream of httpcore."""

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        due = self._due(buffer)
        if due is not None:
            super().write(due, timeout)  # type: ignore[misc]

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._waiting:
            self.write(b"", timeout)
        read: bytes = super().read(max_bytes, timeout)  # type: ignore[misc]
        return read

    def start_tls(self, *args: Any, **options: Any) -> Any:
        return _mixed(_Stream, super().start_tls(*args, **options))  # type: ignore[misc]


class _AsyncStream(_Head):
    """As `_Stream`."""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        due = self._due(buffer)
        if due is not None:
            await super().write(due, timeout)  # type: ignore[misc]

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._waiting:
            await self.write(b"", timeout)
        read: bytes = await super().read(max_bytes, timeout)  # type: ignore[misc]
        return read

    async def start_tls(self, *args: Any, **options: Any) -> Any:
        return _mixed(_AsyncStream, await super().start_tls(*args, **options))  # type: ignore[misc]


class _Backend:
    """Mixed in before the class of a network backend of httpcore."""

    def connect_tcp(self, *args: Any, **options: Any) -> Any:
        return _mixed(_Stream, super().connect_tcp(*args, **options))  # type: ignore[misc]


class _AsyncBackend:
    """As `_Backend`."""

    async def connect_tcp(self, *args: Any, **options: Any) -> Any:
        return _mixed(_AsyncStream, await super().connect_tcp(*args, **options))  # type: ignore[misc]


def _mixed(mixin: Any, thing: Any) -> Any:
    base: Any = type(thing)
    thing.__class__ = _class(mixin, base)
    return thing


@cache
def _class(mixin: Any, base: Any) -> type[Any]:
    return type(base.__name__, (mixin, base), {})
