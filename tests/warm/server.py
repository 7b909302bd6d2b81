"""The process that has imported what takes long, and is forked for each program."""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import io
import marshal
import os
import runpy
import selectors
import signal
import socket
import sys
import types
from contextlib import suppress
from pathlib import Path

SLOW = (
    "agno.agent",
    "agno.models.cerebras",
    "agno.models.google",
    "agno.models.groq",
    "agno.models.openai",
    "agno.models.openrouter",
    "agno.offload.types",
    "agno.team.team",
    "anyio._backends._asyncio",
    "cerebras.cloud.sdk.resources.chat",
    "encodings.idna",
    "genai_prices.data",
    "google.genai",
    "groq.resources.chat",
    "httpcore",
    "httpcore2",
    "openai.resources.chat.chat",
    "platformdirs",
    "pydantic_settings",
    "pytest",
    "sqlalchemy",
    "typer",
)
LATE = ("hfs_providers/__main__", "hfs_providers/testing/conformance")
"""What runs when it is imported, and what pytest has to import itself."""

LIBC = ctypes.CDLL(None)
IMPORTED: list[str] = []
Asked = tuple[list[str], dict[str, str], str]
"""Arguments, environment and working directory."""


def import_all() -> None:
    for name in SLOW:
        importlib.import_module(name)
    import hfs_providers

    root = Path(hfs_providers.__file__).parent
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root.parent).as_posix()
        if not place.startswith(LATE):
            importlib.import_module(place.removesuffix(".py").removesuffix("/__init__").replace("/", "."))


def keep() -> None:
    """Let the modules of others outlive the program: to take them apart at its end costs more than most programs."""
    kept = [sys.modules.pop(name, None) for name in IMPORTED], sys.path_importer_cache
    sys.path_importer_cache = {}
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    # Nor need their libraries clean up. Not every C library has it.
    with suppress(AttributeError):
        LIBC.on_exit(LIBC._exit, None)


class Server:
    """Forks for whoever connects, and tells them how it ended."""

    def __init__(self, address: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address)
        self.listener.listen(64)
        # Needs no file of its own, which a fork would have to close.
        self.events = selectors.PollSelector()
        self.events.register(self.listener, selectors.EVENT_READ, self.accept)
        self.events.register(0, selectors.EVENT_READ, self.end)
        self.running: dict[int, int] = {}
        """By process, the connection to who asked for it."""
        self.asked: Asked | None = None

    def serve(self) -> Asked:
        """Returns in each fork, with what was asked for."""
        while self.asked is None:
            # One at a time: it may be the end of what the next is about.
            key, _ = self.events.select()[0]
            key.data()
        return self.asked

    def end(self) -> None:
        for process in self.running:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os._exit(0)

    def accept(self) -> None:
        connection, _ = self.listener.accept()
        size, streams, _, _ = socket.recv_fds(connection, 4, 3)
        asked = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
        client = connection.detach()
        pid = os.fork()
        if pid == 0:
            self.listener.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.closerange(3, max(client, *streams, *self.running, *self.running.values()) + 1)
            self.asked = marshal.loads(asked)
            return
        for stream in streams:
            os.close(stream)
        self.tell(client, pid)
        self.watch(client, pid)

    def watch(self, client: int, pid: int) -> None:
        process = os.pidfd_open(pid)
        self.running[process] = client

        def ended() -> None:
            self.tell(client, os.waitpid(pid, 0)[1])
            del self.running[process]
            for watched in (client, process):
                with suppress(KeyError):
                    self.events.unregister(watched)
                os.close(watched)

        def left() -> None:
            self.events.unregister(client)
            signal.pidfd_send_signal(process, signal.SIGKILL)

        self.events.register(process, selectors.EVENT_READ, ended)
        self.events.register(client, selectors.EVENT_READ, left)

    def tell(self, client: int, number: int) -> None:
        with suppress(BrokenPipeError):
            os.write(client, number.to_bytes(4, "big"))


def become(asked: Asked, path: list[str], executable: str) -> None:
    """Be the program."""
    arguments, env, cwd = asked
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if "pytest" not in arguments:  # whose checks look at what a Python imports
        sys.executable = executable
    sys.dont_write_bytecode = bool(env.get("PYTHONDONTWRITEBYTECODE"))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        opened = stream(number, getattr(sys, name), bool(env.get("PYTHONUNBUFFERED")))
        setattr(sys, name, opened)
        setattr(sys, f"__{name}__", opened)
    safe = arguments[0] == "-P"
    kind, program, *rest = arguments[safe:]
    first = [] if safe else [cwd if kind == "-m" else ""]
    sys.path[:] = [*first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *path]
    importlib.invalidate_caches()
    sys.argv = [kind if kind == "-c" else program, *rest]
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), main.__dict__)


def stream(number: int, like: io.TextIOWrapper, unbuffered: bool) -> io.TextIOWrapper:
    """A standard stream as Python opens it."""
    raw = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
    buffered = io.BufferedReader if number == 0 else io.BufferedWriter
    buffer = raw if unbuffered and number else buffered(raw)
    by_line = not unbuffered and (number == 2 or raw.isatty())
    return io.TextIOWrapper(buffer, like.encoding, like.errors, line_buffering=by_line, write_through=unbuffered)


if __name__ == "__main__":
    # `nohup` has it ignored, which the programs would inherit.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own = [entry for entry in sys.path if entry not in given]
    import_all()
    unkept = ("__main__", "builtins", "hfs_providers", "sys", "threading")
    IMPORTED += [name for name in sys.modules if name.partition(".")[0] not in unkept]
    atexit.register(keep)  # before any other: it is called last
    gc.collect()
    gc.freeze()
    server = Server(sys.argv[1])
    print("ready", flush=True)
    become(server.serve(), own, sys.argv[2])
