"""A pool's side of sharing: which lease claims what of the ledger, and what a refusal means for the keys.

A room without a lock: the pool holds its own around every call but `reserve_async`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from hfs_providers.contract.forks import Phase, at_fork
from hfs_providers.keys.keyring import KeyRing
from hfs_providers.keys.leases import Lease
from hfs_providers.keys.ledger import Held, Ledger, Refusal, Reservation, Spent, account_name

if TYPE_CHECKING:
    # Importing it costs 10 ms, and a pool that shares nothing with tasks needs none of it.
    from concurrent.futures import Future, ThreadPoolExecutor

_LEAST_COOLDOWN = 0.005
"""Seconds for which a refusal is heeded at least: a ledger that says "now" is not asked in a circle."""

_THREADS = 4
_executor: ThreadPoolExecutor | None = None
_executor_lock = threading.Lock()


class Reservations:
    """The claims of a pool while it is joined to a ledger.

    Args:
        provider: the pool's name.
        roster: its keys.
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    def __init__(self, provider: str, keyring: KeyRing, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._provider = provider
        self._keyring = keyring
        self._clock = clock
        self._wall = wall
        # Leases that were opened while the pool was joined, and not granted yet: the ledger does not count them.
        self.asking: set[Lease] = set()

    def of(self, lease: Lease) -> Reservation:
        """What a lease claims."""
        account = lease._key.account
        allowance = account.allowances.get(lease.model_id)
        return Reservation(
            self._provider,
            account_name(account.keys[0].credential),
            tuple(sorted(key.credential.fingerprint for key in account.keys)),
            lease.credential.fingerprint,
            lease.model_id,
            allowance.limits if allowance is not None else None,
            lease.reserved,
        )

    def held(self) -> list[Held]:
        """What is in flight, and is not being asked for at this moment."""
        asking: Counter[tuple[int, str | None]] = Counter()
        tokens: Counter[tuple[int, str | None]] = Counter()
        found = []
        for lease in self.asking:
            account = lease._key.account
            scope = next((scope for scope, meter in account.meters.items() if meter is lease._meter), lease.model_id)
            asking[account.index, scope] += 1
            tokens[account.index, scope] += lease.reserved
        for account in self._keyring.accounts:
            for scope, meter in account.meters.items():
                requests = meter.in_flight - asking[account.index, scope]
                if requests > 0:
                    reserved = meter.reserved - tokens[account.index, scope]
                    found.append(Held(account_name(account.keys[0].credential), scope or "", requests, reserved))
        return found

    def spent(self) -> list[Spent]:
        """What lies in the windows."""
        now, wall = self._clock(), self._wall()
        found = []
        for account in self._keyring.accounts:
            for scope, meter in account.meters.items():
                for kind, window in meter.windows.items():
                    window.prune(now)
                    # The one entry of a calendar day bears no instant of its own.
                    entries = [
                        (wall if "@" in kind else stamp - now + wall, requests, tokens)
                        for stamp, requests, tokens in window.entries()
                    ]
                    found.append(Spent(account_name(account.keys[0].credential), scope or "", kind, entries))
        return found

    def apply_refusal(self, lease: Lease, refusal: Refusal) -> None:
        """Let the key of a lease that was refused and taken back rest, as the others know it must."""
        now = self._clock()
        self._keyring.follow_clocks(now)
        seconds = max(_LEAST_COOLDOWN, refusal.until - self._wall())
        key = lease._key
        if refusal.state == "dead":
            # Known and tried a little early, it is not buried anew. Others have said when it is due.
            if key.dead_reason is None:
                key.mark_dead(now, refusal.reason, seconds, probed=False)
            key.try_from(now + seconds)
        else:
            scope = lease.model_id if refusal.scope == "model" else None
            key.account.cool(now, now + seconds, scope, refusal.reason, refusal.state)
        self._keyring.wake(key.account)


async def reserve_async(ledger: Ledger, reservation: Reservation) -> Refusal | None:
    """Ask without blocking the event loop. If cancelled, a claim that is granted after all is ended at once."""
    ask = getattr(ledger, "reserve_async", None)
    if ask is not None:
        refusal: Refusal | None = await ask(reservation)
        return refusal
    import asyncio

    future = _threads().submit(ledger.reserve, reservation)
    try:
        return await asyncio.wrap_future(future)
    except BaseException:

        def give_back(done: Future[Refusal | None]) -> None:
            if not done.cancelled() and done.exception() is None and done.result() is None:
                ledger.end(reservation, None)

        future.add_done_callback(give_back)
        raise


def _threads() -> ThreadPoolExecutor:
    global _executor
    with _executor_lock:
        if _executor is None:
            from concurrent.futures import ThreadPoolExecutor

            _executor = ThreadPoolExecutor(_THREADS, "hfs-providers-ledger")
        return _executor


def _after_fork_in_child() -> None:
    global _executor, _executor_lock
    # The parent's threads are not here.
    _executor, _executor_lock = None, threading.Lock()


at_fork(Phase.POOLS, child=_after_fork_in_child)
