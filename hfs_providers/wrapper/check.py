"""`check_keys`: try every key with a real request, many at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping

from hfs_providers.contract.records import Credential, KeyProbe, Wrapper
from hfs_providers.contract.redaction import Redactor
from hfs_providers.wrapper.probe import PROBE_TIMEOUT

MOST = 64
MOST_OF_ONE = 32
"""Requests at a time, in all and to one provider."""

_PATIENCE = 10.0
"""Seconds beyond twice the timeout after which a probe is given up. An SDK restarts its own timeout with each byte."""

Numbered = tuple[int, KeyProbe]


def check_keys(
    wrappers: Mapping[str, Wrapper],
    *,
    timeout: float = PROBE_TIMEOUT,
    ask: bool = False,
    most: int = MOST,
    most_of_one: int = MOST_OF_ONE,
    only: Container[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[str, KeyProbe]]:
    """Try every key with a real request. Yields provider and result of each when it is done; the pools take over the
    results.

    If the caller stops iterating, the remaining keys are not tried.

    Args:
        timeout: seconds for one request; a probe that has no result in twice the time and 10 s more is given up.
        ask: ask for one token, even if a cheaper request shows whether the key works.
        most, most_of_one: requests at a time, in all and to one provider.
        only: ids of the keys that are tried; None is all.
    """
    waiting = {
        name: deque(each for each in wrapper.pool.credentials if only is None or each.id in only)
        for name, wrapper in wrappers.items()
    }
    done: queue.SimpleQueue[Numbered] = queue.SimpleQueue()
    running: dict[int, tuple[str, Credential, float]] = {}
    started = 0
    while running or any(waiting.values()):
        # One of each provider in turn, so that none waits for another's keys.
        started_one = True
        while started_one and len(running) < most:
            started_one = False
            for name, keys in waiting.items():
                busy = sum(1 for other, _, _ in running.values() if other == name)
                if keys and busy < most_of_one and len(running) < most:
                    credential = keys.popleft()
                    started += 1
                    running[started] = (name, credential, clock() + 2 * timeout + _PATIENCE)
                    _start(started, wrappers[name], credential, timeout, ask, done)
                    started_one = True
        earliest = min(until for _, _, until in running.values())
        try:
            number, result = done.get(timeout=max(0.0, earliest - clock()))
        except queue.Empty:
            for number in [number for number, (_, _, until) in running.items() if until <= clock()]:
                name, credential, _ = running.pop(number)
                yield name, _unknown(credential, "given up: no result in time")
            continue
        # A probe that was given up may still finish.
        if number in running:
            yield running.pop(number)[0], result


def _start(
    number: int,
    wrapper: Wrapper,
    credential: Credential,
    timeout: float,
    ask: bool,
    done: queue.SimpleQueue[Numbered],
) -> None:
    def run() -> None:
        try:
            result = wrapper.probe(credential, timeout=timeout, ask=ask)
        except Exception as error:
            # An SDK that cannot be imported, or a bug of the plugin. It says nothing about the key, and may quote it.
            words = Redactor.of(wrapper.pool.credentials).scrub(str(error))
            result = _unknown(credential, f"{type(error).__name__}: {words}")
        done.put((number, result))

    # A daemon: a request that never ends must not keep the process.
    threading.Thread(target=run, name=f"hfs-check-{credential.id}", daemon=True).start()


def _unknown(credential: Credential, reason: str) -> KeyProbe:
    return KeyProbe(credential.id, credential.fingerprint, "unknown", reason)
