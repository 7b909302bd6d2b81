"""Pools and `fork`: a child gets whole data, fresh locks, no waiters and none of its parent's leases."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from hfs_providers.keys.reservations import forget_threads

if TYPE_CHECKING:
    from hfs_providers.keys.pool import KeyPool

# Every pool is quiet while the process forks, so that the child finds whole data. Forks are serialised, because two
# threads that forked at once could take the pools' locks in different orders.
_fork_lock = threading.Lock()
_pools: weakref.WeakSet[KeyPool] = weakref.WeakSet()
_held: list[KeyPool] = []


def enlist(pool: KeyPool) -> None:
    """Have a pool made fit for the child at each fork."""
    with _fork_lock:
        _pools.add(pool)


def _before_fork() -> None:
    _fork_lock.acquire()
    _held[:] = list(_pools)
    for pool in _held:
        pool._lock.acquire()


def _after_fork_in_parent() -> None:
    for pool in _held:
        pool._lock.release()
        pool._leave()
    _held.clear()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _fork_lock
    forget_threads()
    for pool in _held:
        pool._after_fork()
    _held.clear()
    _fork_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
