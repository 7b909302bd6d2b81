"""A pool that is watched: no lease on a key that cools or is dead, and every lease ends."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hfs_providers.keys.leases import Lease
from hfs_providers.keys.pool import KeyPool
from hfs_providers.keys.state import DEFAULT_COOLDOWN


@dataclass(frozen=True)
class Barred:
    """A key that must not be leased: from some instant in (`after`, `since`) on, at least until `until`."""

    after: float
    since: float
    until: float
    model_id: str | None
    why: str

    def covers(self, model_id: str, began: float, ended: float) -> bool:
        """Whether the key was barred at every instant at which a lease can have been granted."""
        return self.model_id in (None, model_id) and self.since <= began and ended < self.until


class WatchedPool:
    """Stands before a `KeyPool` and compares what it grants with what it was told before.

    Nothing is taken from inside the pool, and no instant is guessed: a lease is wrong where the call that barred its
    key had returned before the lease was asked for, and the bar was still down when it was given.
    """

    def __init__(self, pool: KeyPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._barred: dict[str, list[Barred]] = defaultdict(list)
        self._lifted: dict[str, float] = defaultdict(lambda: -math.inf)
        self.wrong: list[str] = []
        self.leases: list[Lease] = []
        self.told: int = 0
        """Grants made while some other key of the pool was barred."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def acquire_nowait(self, model_id: str, *args: Any, **kwargs: Any) -> WatchedLease | None:
        began = time.monotonic()
        lease = self._pool.acquire_nowait(model_id, *args, **kwargs)
        return self.hand_out(lease, model_id, began) if lease is not None else None

    def acquire(self, model_id: str, *args: Any, **kwargs: Any) -> WatchedLease:
        began = time.monotonic()
        return self.hand_out(self._pool.acquire(model_id, *args, **kwargs), model_id, began)

    async def aacquire(self, model_id: str, *args: Any, **kwargs: Any) -> WatchedLease:
        began = time.monotonic()
        return self.hand_out(await self._pool.aacquire(model_id, *args, **kwargs), model_id, began)

    def revive(self, key_id: str) -> None:
        with self._lock:
            self._lifted[key_id] = math.inf
        self._pool.revive(key_id)
        with self._lock:
            self._lifted[key_id] = time.monotonic()

    def bar(self, key_id: str, end: Callable[[], None], seconds: float, model_id: str | None, why: str) -> None:
        """End a lease in a way that bars its key."""
        after = time.monotonic()
        end()
        with self._lock:
            self._barred[key_id].append(Barred(after, time.monotonic(), after + seconds, model_id, why))

    def hand_out(self, lease: Lease, model_id: str, began: float) -> WatchedLease:
        """Check a lease that was asked for at `began`."""
        ended = time.monotonic()
        with self._lock:
            self.leases.append(lease)
            known = self._barred[lease.key_id]
            known[:] = [bar for bar in known if bar.until > ended - 1]
            lifted = self._lifted[lease.key_id]
            for bar in known:
                if bar.after > lifted and bar.covers(model_id, began, ended) and not lease.probe:
                    self.wrong.append(f"{lease.key_id} was leased while {bar.why} for {bar.until - ended:.3f} s more")
            self.told += any(bar.until > ended for bars in self._barred.values() for bar in bars)
        return WatchedLease(self, lease)


class WatchedLease:
    """A lease that tells the watch how it ended."""

    def __init__(self, watch: WatchedPool, lease: Lease) -> None:
        self._watch = watch
        self._lease = lease

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)

    def rate_limited(self, retry_after: float | None = None, scope: str = "model", *args: Any, **kwargs: Any) -> None:
        lease = self._lease
        seconds = DEFAULT_COOLDOWN if retry_after is None else retry_after
        self._watch.bar(
            lease.key_id,
            lambda: lease.rate_limited(retry_after, scope, *args, **kwargs),  # type: ignore[arg-type]
            seconds,
            lease.model_id if scope == "model" else None,
            "cooling",
        )

    def dead(self, *args: Any, **kwargs: Any) -> None:
        lease = self._lease
        self._watch.bar(lease.key_id, lambda: lease.dead(*args, **kwargs), math.inf, None, "dead")

    def __enter__(self) -> WatchedLease:
        return self

    def __exit__(self, *_: object) -> None:
        self._lease.release()
