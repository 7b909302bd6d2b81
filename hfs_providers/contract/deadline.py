"""Runs calls of plugins' code in parallel. A call that hangs is abandoned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

HOOK_TIMEOUT = 5.0
"""Seconds after which a plugin's hook is abandoned while the manager is built."""

_T = TypeVar("_T")


class AbandonedError(TimeoutError):
    """A call that was abandoned, but may still be running."""


def within_deadline(
    calls: Mapping[str, Callable[[], _T]], seconds: float = HOOK_TIMEOUT, *, head_start: float = 0.0
) -> dict[str, _T | Exception]:
    """Run each call in its own daemon thread, and return its result or its error.

    A call that takes longer than `seconds` is abandoned, and its result is an `AbandonedError`: a plugin that hangs
    must not delay the others.

    Args:
        seconds: the time that all calls may take, from the start of the last.
        head_start: seconds to wait for each call to end before the next one starts, so that quick calls run one at a
            time.
    """
    results: dict[str, _T | BaseException] = {}

    def run(name: str, call: Callable[[], _T]) -> None:
        outcome: _T | BaseException
        try:
            outcome = call()
        except SystemExit as error:
            outcome = RuntimeError(f"it tried to end the program (SystemExit: {error})")
        except BaseException as error:
            outcome = error
        results.setdefault(name, outcome)

    threads = {
        name: threading.Thread(target=run, args=(name, call), name=f"hfs-{name}", daemon=True)
        for name, call in calls.items()
    }
    for thread in threads.values():
        thread.start()
        if head_start:
            thread.join(head_start)
    deadline = time.monotonic() + seconds
    for name, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            results.setdefault(name, AbandonedError(f"it took longer than {seconds:g} s and was abandoned"))
    given: dict[str, _T | Exception] = {}
    for name in calls:
        result = results[name]
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            # A KeyboardInterrupt comes from the user.
            raise result
        given[name] = result
    return given


def bounded(call: Callable[[], _T], seconds: float = HOOK_TIMEOUT) -> _T:
    """The result of one call. Raises its error, or AbandonedError after `seconds`."""
    result = within_deadline({"call": call}, seconds)["call"]
    if isinstance(result, Exception):
        raise result
    return result
