"""Which processes are alive: a process by its number, the time of its start, and the place where its number counts."""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

STALE = 20.0
"""Seconds after which a process of another place (a container that shares the file) that says nothing is dead."""


class Process(NamedTuple):
    """A process, as it is told from every other one.

    Args:
        pid: its number.
        born: when it started, in ticks since the machine did; 0 where the system does not say.
        place: the machine, its run, and the namespace of numbers.
    """

    pid: int
    born: float
    place: str


def this() -> Process:
    """The process that asks."""
    pid = os.getpid()
    return Process(pid, _born(pid) or 0.0, _place())


def alive(process: Process, seen: float, wall: float) -> bool:
    """Whether it lives. A number that was given to another process since does not count.

    Args:
        process: to be looked for.
        seen: when it last said so, in seconds since the epoch.
        wall: the time now.
    """
    if process.place != _place():
        return abs(wall - seen) < STALE
    if process.born:
        return _born(process.pid) == process.born
    return _there(process.pid) and abs(wall - seen) < STALE


def _born(pid: int) -> float | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the program's name in parentheses, with whatever in it; a zombie has ended.
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else float(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _there(pid: int) -> bool:
    if os.name == "nt":
        # There, signal 0 would end the process.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@functools.cache
def _place() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        import platform

        return platform.node()
