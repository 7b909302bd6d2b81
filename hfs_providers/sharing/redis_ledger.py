"""Several hosts share key state through Redis: `RedisLedger`.

One thread of the process speaks with the server. It sends what the pools reserve and release in the order in which it
comes, as much as there is in one round trip. When the server does not answer within `REDIS_TIMEOUT`, the ledger is
away: its pools leave it and continue alone with what they know, and the thread tries to reach the server, at growing
intervals, until they can join again. A caller waits no longer than that for its reservation.

What is said to the server is in `redis_messages` and `redis_counts`, what the server does in `scripts/*.lua`, the
connection in `redis_connection`, and what the host has used in `history`.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Literal

from hfs_providers.contract.environment import REDIS
from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.contract.records import Event, Problem
from hfs_providers.keys.ledger import Refusal, Reservation
from hfs_providers.keys.pool import KeyPool
from hfs_providers.money.budgets import BudgetLedger
from hfs_providers.sharing.redis_budgets import RedisBudgets
from hfs_providers.sharing.redis_connection import REDIS_TIMEOUT, RedisConnection
from hfs_providers.sharing.redis_counts import BEAT_INTERVAL, SOON, Counts
from hfs_providers.sharing.redis_messages import Message, Paid, Release, Reserve, Spend
from hfs_providers.usage.database import Store

STARTING = 1.0
"""The longest time that `start` waits for the server, in seconds."""

_PATIENCE = REDIS_TIMEOUT + 0.1
"""Seconds that a call waits: a little longer than the thread does, so that it learns that the server is away."""

_POLL = 0.005
"""Seconds after which a task checks again whether the server has answered for the first time."""

_BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
_Mode = Literal["away", "joining", "here", "closed"]

_log = logging.getLogger("hfs_providers")


class RedisLedger:
    """The `Ledger` of processes that use the same Redis server.

    Args:
        url: `redis://`, `rediss://` or `unix://`; a password in it is never shown.
        store: the local file, where all processes of the host write their usage; None if there is none.
        budgets: the ledger of the budgets that the same server shares; None if there are none.
        flush: writes what was recorded to the file, within the seconds that it is given.
    """

    def __init__(
        self,
        url: str,
        store: Store | None = None,
        *,
        wall: Callable[[], float] = time.time,
        budgets: BudgetLedger | None = None,
        flush: Callable[[float], object] | None = None,
    ) -> None:
        self.problem: Problem | None = None
        """Why keys are not shared at the moment, for `status`."""
        self.name = "?"
        """Host, port and database."""
        self._server: RedisConnection | None = None
        self._store = store
        self._wall = wall
        self._flush = flush
        self._budgets = budgets if isinstance(budgets, RedisBudgets) else None
        if self._budgets is not None:
            self._budgets.ask, self._budgets.tell = self._ask, self._count
        self._pools: Mapping[str, KeyPool] = {}
        self._begin()
        try:
            self._server = RedisConnection(url)
            self.name = self._server.name
        except ImportError:
            self._say(Problem(f"{REDIS} needs redis-py", "Run: pip install 'hfs-providers[redis]'", "error"))
        except ValueError as error:
            self._say(Problem(f"{REDIS}: {error}", f"Set {REDIS} to redis://host:port/0", "error"))
        at_fork(ForkPhase.LEDGERS, child=self._after_fork_in_child)

    def __repr__(self) -> str:
        return f"RedisLedger({self.name}, {self._mode})"

    def _begin(self) -> None:
        """Start as a process that the server does not know yet."""
        self._mode: _Mode = "away"
        self._work: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._launching = threading.Lock()
        self._looked = threading.Event()
        self._look_until = 0.0
        self._left = True
        self._failures = 0
        # When the thread began with what it is doing, by the monotonic clock; infinite while it has nothing to do.
        self._serving_since = math.inf
        self._counts = Counts(self._pools, self._store, self._wall, self._flush, self._work.put, self._budgets)

    # What pools and the manager call.

    def start(self, pools: Mapping[str, KeyPool]) -> None:
        """Share the keys of these pools from now on.

        Returns when they are joined, or the server is known to be away: after a second at most.
        """
        self._pools = dict(pools)
        self._begin()
        self._launch(STARTING)
        self._looked.wait(self._unlooked())

    def reserve(self, reservation: Reservation) -> Refusal | None:
        """See `Ledger.reserve`."""
        if not self._looked.is_set():
            self._launch(REDIS_TIMEOUT)  # in a child after `fork`
            self._looked.wait(self._unlooked())
        if self._mode not in ("here", "joining"):
            return None
        if self._counts.settled_at > self._wall():
            return self._settling()
        reserve = Reserve(reservation)
        self._work.put(reserve)
        try:
            reserve.done.wait(_PATIENCE)
        except BaseException:
            self._withdraw(reserve)
            raise
        return self._outcome(reserve)

    async def reserve_async(self, reservation: Reservation) -> Refusal | None:
        """See `Ledger.reserve_async`."""
        import asyncio

        if not self._looked.is_set():
            self._launch(REDIS_TIMEOUT)
            while self._unlooked():
                await asyncio.sleep(_POLL)
        if self._mode not in ("here", "joining"):
            return None
        if self._counts.settled_at > self._wall():
            return self._settling()
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        reserve = Reserve(reservation, loop, woken.set)
        timer = loop.call_later(_PATIENCE, woken.set)
        self._work.put(reserve)
        try:
            await woken.wait()
        except BaseException:
            self._withdraw(reserve)
            raise
        finally:
            timer.cancel()
        return self._outcome(reserve)

    def _settling(self) -> Refusal:
        return Refusal("limited", self._counts.settled_at, "the shared use is being counted again", "key")

    def _outcome(self, reserve: Reserve) -> Refusal | None:
        """The answer, or the default if none came in time."""
        if reserve.done.is_set():
            return reserve.answer
        if not reserve.ticket.acquire(blocking=False):
            reserve.done.wait()
            return reserve.answer
        if self._mode == "joining" or not self._is_stuck():
            return Refusal("limited", self._wall() + SOON, "the shared use is being counted", "key")
        self._away(TimeoutError())
        return None

    def _is_stuck(self) -> bool:
        """Whether the thread has ended, or waits for the server longer than its own timeouts allow.

        A call that got no answer in time proves nothing: the process or the machine may have been stopped, or counts
        are being published. The thread finds out whether the server answers.
        """
        return self._mode == "closed" or time.monotonic() - self._serving_since > 4 * REDIS_TIMEOUT

    def _withdraw(self, reserve: Reserve) -> None:
        """The caller was interrupted: end what was granted, now or when it is granted."""
        if not reserve.ticket.acquire(blocking=False):
            reserve.done.wait()
            if reserve.answer is None:
                self.end(reserve.reservation, None)

    def end(self, reservation: Reservation, charged: int | None) -> None:
        """See `Ledger.end`."""
        # The queue is safe to use in a finaliser, which may run at any moment.
        if self._mode in ("here", "joining"):
            self._work.put(Release(reservation, charged))

    def _ask(self, spend: Spend) -> None:
        """See `RedisBudgets.ask`."""
        if not self._looked.is_set():
            self._launch(REDIS_TIMEOUT)
            self._looked.wait(self._unlooked())
        if self._mode == "here":
            self._work.put(spend)
            while not spend.done.wait(_PATIENCE) and not self._is_stuck():
                pass
            if not spend.done.is_set() and spend.ticket.acquire(blocking=False):
                self._away(TimeoutError())
            else:
                spend.done.wait()

    def _count(self, paid: Paid) -> None:
        """See `RedisBudgets.tell`."""
        if self._mode in ("here", "joining"):
            self._work.put(paid)
        else:
            paid.dismiss()

    def observe(self, event: Event) -> None:
        """Announce to the others that a key is cooling or dead, or was revived."""
        if self._mode in ("here", "joining"):
            announcement = self._counts.announcement(event)
            if announcement is not None:
                self._work.put(announcement)

    def close(self) -> None:
        """Report what has ended, and leave. Safe to call twice."""
        self._mode = "closed"
        self._work.put(None)
        if self._thread is not None:
            self._thread.join(4 * REDIS_TIMEOUT)

    # The thread.

    def _launch(self, seconds: float) -> None:
        with self._launching:
            if self._thread is None and self._mode != "closed" and self._server is not None:
                self._look_until = time.monotonic() + seconds
                self._thread = threading.Thread(target=self._run, args=(self._server,), name="hfs-redis", daemon=True)
                self._thread.start()

    def _unlooked(self) -> float:
        """Seconds for which it is still worth waiting for the first try to reach the server."""
        return 0.0 if self._looked.is_set() else max(0.0, self._look_until - time.monotonic())

    def _run(self, server: RedisConnection) -> None:
        try:
            while True:
                if self._mode == "away":
                    if self._failures and not self._idle(_BACKOFF[min(self._failures, len(_BACKOFF)) - 1]):
                        return
                    self._try(server, self._join)
                    continue
                work = self._take()
                self._serving_since = time.monotonic()
                if self._try(server, partial(self._counts.serve, work=work)):
                    self._failures = 0
                else:
                    self._dismiss(work)
                self._serving_since = math.inf
                if None in work:
                    return
        finally:
            self._mode = "closed"
            self._leave()
            server.close()

    def _try(self, server: RedisConnection, do: Callable[[RedisConnection], object]) -> bool:
        try:
            do(server)
        except Exception as error:
            # This thread must survive any error: nothing else can bring the ledger back.
            self._away(error)
        if self._mode == "away":
            self._failures += 1
            self._leave()
            server.close()
            self._drain()
        self._looked.set()
        return self._mode != "away"

    def _take(self) -> list[Message]:
        """The pending messages in order of arrival; empty after `BEAT_INTERVAL` without any."""
        work: list[Message] = []
        try:
            work.append(self._work.get(timeout=BEAT_INTERVAL))
            while len(work) < 1000:
                work.append(self._work.get_nowait())
        except queue.Empty:
            pass
        return work

    def _idle(self, seconds: float) -> bool:
        """Wait while there is no server; False if the ledger was closed."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                work = self._work.get(timeout=left)
            except queue.Empty:
                break
            if work is None:
                return False
            self._dismiss([work])
        return True

    def _drain(self) -> None:
        """Drop the pending messages to the server: when it is back, everything is published again."""
        work = []
        with suppress(queue.Empty):
            while True:
                work.append(self._work.get_nowait())
        self._dismiss(work)
        if None in work:
            self._work.put(None)

    def _dismiss(self, work: Iterable[Message]) -> None:
        """Let waiting callers continue alone."""
        for each in work:
            if isinstance(each, Reserve | Spend | Paid):
                each.dismiss()

    def _away(self, error: BaseException) -> None:
        """Continue without the server. Called in any thread."""
        if self._mode != "closed":
            self._mode = "away"
            assert self._server is not None
            self._say(self._server.problem(error), error)

    def _say(self, problem: Problem | None, error: BaseException | None = None) -> None:
        known, self.problem = self.problem, problem
        if problem is None and known is not None:
            _log.warning("Redis at %s is back: keys are shared again", self.name)
        elif problem is not None and (known is None or known.message != problem.message):
            ours = error if error is not None and self._server and not isinstance(error, self._server.errors) else None
            _log.warning("%s. %s", problem.message, problem.remedy, exc_info=ours)

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            for pool in self._pools.values():
                pool.leave()

    def _join(self, server: RedisConnection) -> None:
        server.open()
        self._left = False
        self._become("joining")
        self._counts.join(server, self)
        self._become("here")
        self._say(None)

    def _become(self, mode: _Mode) -> None:
        if self._mode != "closed":
            self._mode = mode

    def _after_fork_in_child(self) -> None:
        if self._server is not None:
            self._server.forget()
        if self._mode != "closed":
            self._begin()
            for pool in self._pools.values():
                pool.join(self)
