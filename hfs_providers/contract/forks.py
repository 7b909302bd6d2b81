"""What the parts of the library do when the process forks, in a fixed order.

The only module that calls `os.register_at_fork`. Code with locks, threads or connections that a child must not inherit
has a phase here. Forks are serialised: two threads that fork at the same time could take locks in different orders.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable
from enum import IntEnum
from types import MethodType
from typing import NamedTuple

Hook = Callable[[], object]
_Finds = Callable[[], Hook | None]


class ForkPhase(IntEnum):
    """The order: before a fork from the last to the first, after it from the first to the last."""

    POOLS = 1
    """Key pools are locked while the process forks, so that a child finds whole data."""
    CLIENTS = 2
    """A child opens HTTP connections of its own."""
    STREAMS = 3
    """The parent ends the streams that it dropped."""
    CONNECTIONS = 4
    """SQLite connections are closed while the process forks: what they know of file locks is wrong in a child."""
    LOGS = 5
    """The parent writes the rows that it has queued."""
    FORWARDERS = 6
    """A child forwards rows with threads and connections of its own."""
    LEDGERS = 7
    """A child shares keys as a process of its own: its pools are joined again."""
    WATCHES = 8
    """A child reads the files with keys again with a thread of its own."""


class _Hooks(NamedTuple):
    phase: ForkPhase
    before: _Finds
    parent: _Finds
    child: _Finds


_lock = threading.RLock()
_numbers = itertools.count()
_registered: dict[int, _Hooks] = {}
# Of the fork under way, in the order of the phases: what runs in the parent and in the child.
_under_way: list[tuple[Hook | None, Hook | None]] = []

_log = logging.getLogger("hfs_providers")


def at_fork(
    phase: ForkPhase, *, before: Hook | None = None, parent: Hook | None = None, child: Hook | None = None
) -> None:
    """Register functions for each fork. Methods are held by weak references and dropped with their object.

    Args:
        phase: the phase. In it, functions run in the order of their registration; before the fork, in reverse order.
        before: before the fork.
        parent: after it, in the parent.
        child: after it, in the child, which has no thread but the one that forked.
    """
    with _lock:
        number = next(_numbers)
        _registered[number] = _Hooks(phase, *(_finds(each, number) for each in (before, parent, child)))


def _finds(hook: Hook | None, number: int) -> _Finds:
    if isinstance(hook, MethodType):
        # Bound here, because the module may be gone when the last objects are. A `WeakMethod` would print errors then.
        pop, function = _registered.pop, hook.__func__
        owner = weakref.ref(hook.__self__, lambda _: pop(number, None))
        return lambda: MethodType(function, found) if (found := owner()) is not None else None
    return lambda: hook


def _before_fork() -> None:
    _lock.acquire()
    in_order = sorted(_registered.copy().values(), key=lambda hooks: hooks.phase)
    _under_way[:] = [(hooks.parent(), hooks.child()) for hooks in in_order]
    for hooks in reversed(in_order):
        _run(hooks.before())


def _after_fork_in_parent() -> None:
    try:
        for parent, _ in _under_way:
            _run(parent)
    finally:
        _under_way.clear()
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    hooks = [child for _, child in _under_way]
    _under_way.clear()
    for child in hooks:
        _run(child)


def _run(hook: Hook | None) -> None:
    if hook is not None:
        try:
            hook()
        except Exception:
            _log.exception("%r failed while the process forked", hook)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
