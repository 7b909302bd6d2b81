"""The rivals, each in a process of its own and an empty directory.

keycycle takes over logging and writes a file when it is imported; LiteLLM loads half a gigabyte of modules. Neither
may touch the process in which ours and the bare models are measured.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

NAMES: Mapping[str, str] = {"keycycle": "benchmarks.rival_keycycle", "LiteLLM": "benchmarks.rival_litellm"}
"""By the name in the table, the module whose `Rival` runs there."""

_WITHIN = 60.0


class RivalError(Exception):
    """A rival that is not installed, failed or did not answer. Its text goes into the table."""


class RivalProcess:
    """A rival in its process; its methods are called over a pipe.

    Args:
        name: one of `NAMES`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> RivalProcess:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, NAMES[self.name]), daemon=True)
        self._process.start()
        theirs.close()
        self._failure: str | None = None
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method in that process.

        Raises:
            RivalError: it failed, or did not answer within a minute.
        """
        if self._failure is not None:
            raise RivalError(self._failure)
        try:
            self._pipe.send((method, args, kwargs))
            if not self._pipe.poll(_WITHIN):
                # What it answers later would be taken for the answer to another question.
                self._failure = "no answer within a minute"
                self._process.kill()
                raise RivalError(self._failure)
            worked, result = self._pipe.recv()
        except (EOFError, OSError):
            self._failure = "its process ended"
            raise RivalError(self._failure) from None
        if not worked:
            raise RivalError(result)
        return result


@contextmanager
def rivals(*names: str) -> Iterator[dict[str, RivalProcess]]:
    """The rivals of those names."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(RivalProcess(name)) for name in names}


def _serve(pipe: Connection, module: str) -> None:
    with tempfile.TemporaryDirectory() as directory, open(os.devnull, "w") as nowhere:
        os.chdir(directory)
        # They log each attempt to the console; a slow terminal must not count against them.
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        rival, failure = _make(module)
        while True:
            try:
                method, args, kwargs = pipe.recv()
            except (EOFError, OSError):
                break
            if rival is None:
                pipe.send((False, failure))
                continue
            try:
                pipe.send((True, getattr(rival, method)(*args, **kwargs)))
            except Exception as error:
                pipe.send((False, _line(error)))
        os.chdir("/")


def _make(module: str) -> tuple[Any, str]:
    """The rival, or None and why not. Importing it at once takes the time in which the other side starts as well."""
    try:
        return importlib.import_module(module).Rival(), ""
    except ModuleNotFoundError as error:
        return None, f"{error.name} is not installed"
    except Exception as error:
        return None, _line(error)


def _line(error: Exception) -> str:
    lines = traceback.format_exception_only(error)[-1].strip().splitlines() or [""]
    return f"failed: {lines[0][:160]}"
