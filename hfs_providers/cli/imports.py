"""Tries imports and builds in separate processes, so that a crash, a hang or output stays there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

TIMEOUT = 30.0
"""Seconds that one try may take; the slowest SDK takes about 3 on a cold cache, plugins that hang at a build 15."""

_MARK = "hfs-providers-import:"
# Agno answers any ImportError of an SDK with "not installed"; the error that it replaced says what is wrong. An error
# that is not Agno's own is kept: the one that it replaced may be of an attempt that was meant to fail.
_PROGRAM = f"""
import importlib, json, sys
module, _, name = sys.argv[1].partition(":")
words = None
try:
    loaded = importlib.import_module(module)
    if name:
        getattr(loaded, name)
except BaseException as error:
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    of_agno = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == "agno"
    if of_agno and isinstance(error, ImportError) and isinstance(error.__context__, ImportError):
        error = error.__context__
    words = f"{{type(error).__name__}}: {{error}}"
sys.__stdout__.write("\\n{_MARK}" + json.dumps(words) + "\\n")
"""


def try_imports(paths: Mapping[str, str]) -> dict[str, str | None]:
    """Import each `module` or `module:name`, as many at a time as there are processors. Returns by label the error's
    message, or None."""
    with ThreadPoolExecutor(max_workers=max(1, min(len(paths), os.cpu_count() or 1))) as threads:
        return dict(zip(paths, threads.map(_try_import, paths.values()), strict=True))


def too_slow() -> str:
    """The message of `try_imports` for an import that did not end in time. It does not show that anything is broken."""
    return f"it takes longer than {TIMEOUT:g} s"


def try_build() -> dict[str, list[dict[str, Any]]]:
    """Build every provider that can be used; by provider, its problems as `status --build --json` has them."""
    _, printed = _child("-m", "hfs_providers", "status", "--build", "--json")
    try:
        return {provider["name"]: provider["problems"] for provider in json.loads(printed)["providers"]}
    except ValueError:
        return {}


def _try_import(path: str) -> str | None:
    code, printed = _child("-c", _PROGRAM, path)
    if code is None:
        return too_slow()
    _, mark, result = printed.rpartition(_MARK)
    if mark:
        words: str | None = json.loads(result.splitlines()[0])
        return words
    return f"importing it ended the process with {_ending(code)}"


def _child(*arguments: str) -> tuple[int | None, str]:
    """Run Python. Returns its exit code, or None if it took too long, and its output."""
    # Files rather than pipes: a grandchild that keeps a pipe open would outlive the timeout. `-P` because the script
    # `hfs-providers` does not have the working directory on its path either.
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(  # noqa: S603  this interpreter, with a program of our own
            [sys.executable, "-P", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
        try:
            code = child.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        out.seek(0)
        return code, out.read().decode("utf-8", "replace")


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
