"""The loopback server in a process of its own, for measurements that it must not take time from."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.connection import Connection
from typing import Any

from hfs_providers.testing.server import LoopbackServer

_START_WITHIN = 30.0


class LoopbackProcess:
    """A `LoopbackServer` elsewhere: its methods and attributes are asked for over a pipe.

    It ends with this process, however this process ends. `hold` is not there, because a gate cannot be shared.

    Args:
        kind: a class of such servers.
        options: its arguments, which can be pickled.
    """

    def __init__(self, kind: type[LoopbackServer] = LoopbackServer, **options: Any) -> None:
        self._kind = kind
        self._options = options
        self._lock = threading.Lock()
        self._pipe: Connection | None = None
        self._process: Any = None

    def __enter__(self) -> LoopbackProcess:
        # Not a fork: a copy of this process's threads and connections would come along.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, self._kind, self._options), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(_START_WITHIN):
            self._process.kill()
            raise TimeoutError("the loopback process did not start")
        self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the server over there, or read an attribute of it."""
        if self._pipe is None:
            raise RuntimeError("the loopback process is not running: use it as a context manager")
        with self._lock:
            self._pipe.send((name, args, kwargs))
            worked, result = self._pipe.recv()
        if not worked:
            raise result
        return result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if callable(getattr(self._kind, name, None)):
            return lambda *args, **kwargs: self.call(name, *args, **kwargs)
        return self.call(name)


def _run(pipe: Connection, kind: type[LoopbackServer], options: dict[str, Any]) -> None:
    with kind(**options) as server:
        pipe.send("ready")
        while True:
            try:
                name, args, kwargs = pipe.recv()
            except (EOFError, OSError):
                return
            try:
                found = getattr(server, name)
                pipe.send((True, found(*args, **kwargs) if callable(found) else found))
            except Exception as error:
                pipe.send((False, error))
