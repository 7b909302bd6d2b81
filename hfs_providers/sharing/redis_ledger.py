"""Several hosts share key state through Redis: `RedisLedger`.

One thread of the process speaks with the server: it takes claims and ends in the order in which they come, as many as
there are in one round trip. A caller waits for its claim, and never longer than `PATIENCE`: then the ledger is away,
its pools part and go on alone on what they know, and the thread looks for the server, ever more seldom, until they
can join again.

The rest is in rooms of its own: `redis_counts` (what is said to the server), `redis_scripts` (what the server does),
`redis_link` (how it is reached), `sharing_history` (what the host has used).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Literal

from hfs_providers.contract.forks import Phase, at_fork
from hfs_providers.contract.records import Event, Problem
from hfs_providers.keys.ledger import Refusal, Reservation
from hfs_providers.keys.pool import KeyPool
from hfs_providers.sharing.redis_connection import PATIENCE, Link
from hfs_providers.sharing.redis_counts import HEARTBEAT, SOON, Counts, Release, Reserve, Work
from hfs_providers.usage.database import Store

STARTING = 1.0
"""Seconds that `start` waits for the server at most."""

_LOOK = 0.005
"""Seconds between two looks of a task whether the server has answered for the first time."""

_BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
_Mode = Literal["away", "joining", "here", "closed"]

_log = logging.getLogger("hfs_providers")


class RedisLedger:
    """The `Ledger` of processes that use the same Redis server.

    Args:
        url: `redis://`, `rediss://` or `unix://`; a password in it is shown nowhere.
        store: the local file, where the usage of all processes of the host is written; None where there is none.
        wall: seconds since the epoch.
        flush: has what was recorded written to the file, within the seconds that it is given.
    """

    def __init__(
        self,
        url: str,
        store: Store | None = None,
        *,
        wall: Callable[[], float] = time.time,
        flush: Callable[[float], object] | None = None,
    ) -> None:
        self.problem: Problem | None = None
        """Why keys are not shared at the moment, for `status`."""
        self.name = "?"
        """Host, port and database."""
        self._link: Link | None = None
        self._store = store
        self._wall = wall
        self._flush = flush
        self._pools: Mapping[str, KeyPool] = {}
        self._begin()
        try:
            self._link = Link(url)
            self.name = self._link.name
        except ImportError:
            self._say(Problem("HFS_REDIS_URL needs redis-py", "Run: pip install 'hfs-providers[redis]'", "error"))
        except ValueError as error:
            self._say(Problem(f"HFS_REDIS_URL: {error}", "Set HFS_REDIS_URL to redis://host:port/0", "error"))
        at_fork(Phase.LEDGERS, child=self._after_fork_in_child)

    def __repr__(self) -> str:
        return f"RedisLedger({self.name}, {self._mode})"

    def _begin(self) -> None:
        """As a process that nobody knows yet."""
        self._mode: _Mode = "away"
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._launching = threading.Lock()
        self._looked = threading.Event()
        self._look_until = 0.0
        self._parted = True
        self._failures = 0
        self._counts = Counts(self._pools, self._store, self._wall, self._flush, self._work.put)

    # What pools and the manager call.

    def start(self, pools: Mapping[str, KeyPool]) -> None:
        """Share the keys of these pools from now on.

        Returns when they are joined, or the server is known to be away: after a second at most.

        Args:
            pools: by provider.
        """
        self._pools = dict(pools)
        self._begin()
        self._launch(STARTING)
        self._looked.wait(self._unlooked())

    def reserve(self, reservation: Reservation) -> Refusal | None:
        """See `Ledger.reserve`."""
        if not self._looked.is_set():
            self._launch(PATIENCE)  # in a child after `fork`
            self._looked.wait(self._unlooked())
        if self._mode not in ("here", "joining"):
            return None
        if self._counts.settled_at > self._wall():
            return self._settling()
        ask = Reserve(reservation)
        self._work.put(ask)
        try:
            ask.done.wait(PATIENCE)
        except BaseException:
            self._withdraw(ask)
            raise
        return self._outcome(ask)

    async def reserve_async(self, reservation: Reservation) -> Refusal | None:
        """See `TaskLedger.reserve_async`."""
        import asyncio

        if not self._looked.is_set():
            self._launch(PATIENCE)
            while self._unlooked():
                await asyncio.sleep(_LOOK)
        if self._mode not in ("here", "joining"):
            return None
        if self._counts.settled_at > self._wall():
            return self._settling()
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        ask = Reserve(reservation, loop, woken.set)
        timer = loop.call_later(PATIENCE, woken.set)
        self._work.put(ask)
        try:
            await woken.wait()
        except BaseException:
            self._withdraw(ask)
            raise
        finally:
            timer.cancel()
        return self._outcome(ask)

    def _settling(self) -> Refusal:
        return Refusal("limited", self._counts.settled_at, "what all have used is being counted anew", "key")

    def _outcome(self, ask: Reserve) -> Refusal | None:
        """The answer to one who has waited, or what holds where none came in time."""
        if ask.done.is_set():
            return ask.answer
        if not ask.ticket.acquire(blocking=False):
            ask.done.wait()
            return ask.answer
        if self._mode == "joining":
            return Refusal("limited", self._wall() + SOON, "what all have used is being counted", "key")
        self._away(TimeoutError())
        return None

    def _withdraw(self, ask: Reserve) -> None:
        """Whoever asked is interrupted: a claim that was granted is ended, one that is granted later as well."""
        if not ask.ticket.acquire(blocking=False):
            ask.done.wait()
            if ask.answer is None:
                self.end(ask.reservation, None)

    def end(self, reservation: Reservation, charged: int | None) -> None:
        """See `Ledger.end`."""
        # A queue that may be put to from a finaliser, which may run in the midst of anything.
        if self._mode in ("here", "joining"):
            self._work.put(Release(reservation, charged))

    def observe(self, event: Event) -> None:
        """Tell the others of a key that cools, died or was revived.

        Args:
            event: of any kind.
        """
        if self._mode in ("here", "joining"):
            told = self._counts.telling(event)
            if told is not None:
                self._work.put(told)

    def close(self) -> None:
        """Count what ended, and leave. Safe to call twice."""
        self._mode = "closed"
        self._work.put(None)
        if self._thread is not None:
            self._thread.join(4 * PATIENCE)

    # The thread.

    def _launch(self, seconds: float) -> None:
        with self._launching:
            if self._thread is None and self._mode != "closed" and self._link is not None:
                self._look_until = time.monotonic() + seconds
                self._thread = threading.Thread(target=self._run, args=(self._link,), name="hfs-redis", daemon=True)
                self._thread.start()

    def _unlooked(self) -> float:
        """Seconds for which it is still worth waiting until the server has been looked for once."""
        return 0.0 if self._looked.is_set() else max(0.0, self._look_until - time.monotonic())

    def _run(self, link: Link) -> None:
        try:
            while True:
                if self._mode == "away":
                    if self._failures and not self._idle(_BACKOFF[min(self._failures, len(_BACKOFF)) - 1]):
                        return
                    self._try(link, self._join)
                    continue
                work = self._take()
                if self._try(link, partial(self._counts.serve, work=work)):
                    self._failures = 0
                else:
                    self._dismiss(work)
                if None in work:
                    return
        finally:
            self._mode = "closed"
            self._part()
            link.close()

    def _try(self, link: Link, do: Callable[[Link], object]) -> bool:
        try:
            do(link)
        except Exception as error:
            # Whatever it is, calls go on: this thread is all that can bring the ledger back.
            self._away(error)
        if self._mode == "away":
            self._failures += 1
            self._part()
            link.close()
            self._drain()
        self._looked.set()
        return self._mode != "away"

    def _take(self) -> list[Work]:
        """What there is to do, in the order in which it came; after a heartbeat at most."""
        work: list[Work] = []
        try:
            work.append(self._work.get(timeout=HEARTBEAT))
            while len(work) < 1000:
                work.append(self._work.get_nowait())
        except queue.Empty:
            pass
        return work

    def _idle(self, seconds: float) -> bool:
        """Wait without a server; False if this is the end."""
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            try:
                work = self._work.get(timeout=rest)
            except queue.Empty:
                break
            if work is None:
                return False
            self._dismiss([work])
        return True

    def _drain(self) -> None:
        """Drop what was to be told to the server: it is published anew when it is back."""
        work = []
        with suppress(queue.Empty):
            while True:
                work.append(self._work.get_nowait())
        self._dismiss(work)
        if None in work:
            self._work.put(None)

    def _dismiss(self, work: Iterable[Work]) -> None:
        """Nobody can be asked: who waits goes on alone."""
        for each in work:
            if isinstance(each, Reserve):
                each.settle(None)

    def _away(self, error: BaseException) -> None:
        """The server does not serve. In any thread."""
        if self._mode != "closed":
            self._mode = "away"
            assert self._link is not None
            self._say(self._link.problem(error), error)

    def _say(self, problem: Problem | None, error: BaseException | None = None) -> None:
        known, self.problem = self.problem, problem
        if problem is None and known is not None:
            _log.warning("Redis at %s is back: keys are shared again", self.name)
        elif problem is not None and (known is None or known.message != problem.message):
            ours = error if error is not None and self._link and not isinstance(error, self._link.errors) else None
            _log.warning("%s. %s", problem.message, problem.remedy, exc_info=ours)

    def _part(self) -> None:
        if not self._parted:
            self._parted = True
            for pool in self._pools.values():
                pool.leave()

    def _join(self, link: Link) -> None:
        link.open()
        self._parted = False
        self._become("joining")
        self._counts.join(link, self)
        self._become("here")
        self._say(None)

    def _become(self, mode: _Mode) -> None:
        if self._mode != "closed":
            self._mode = mode

    def _after_fork_in_child(self) -> None:
        if self._link is not None:
            self._link.forget()
        if self._mode != "closed":
            self._begin()
            for pool in self._pools.values():
                pool.join(self)
