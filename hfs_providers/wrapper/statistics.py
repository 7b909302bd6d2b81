"""keycycle's view of a provider's keys: its statistics, from the requests that were sent.

Where keycycle shows the last characters of a key, this shows its fingerprint.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from hfs_providers.calls._keycycle import GlobalStats, KeyDetailedStats, KeySummary, ModelAggregatedStats, UsageSnapshot
from hfs_providers.contract.records import Credential, KeyStatus
from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.keys.limits import Meter
from hfs_providers.keys.pool import KeyPool

_WINDOWS = ("minute", "hour", "day")
_BATCH = 256


class PoolManager:
    """The part of keycycle's manager that its users read, over a `KeyPool`."""

    def __init__(self, pool: KeyPool, wall: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._wall = wall
        self._lock = threading.Lock()
        self._meters: dict[tuple[str, str], Meter] = {}
        self._totals: dict[tuple[str, str], tuple[int, int]] = {}
        self._pending: deque[UsageRow] = deque()

    @property
    def keys(self) -> list[KeyStatus]:
        """The state of each key."""
        return self._pool.statuses()

    def stop(self) -> None:
        """Does nothing: the pool has no thread."""

    def count(self, row: UsageRow) -> None:
        """Count one request that was sent. Its windows are updated later, because every call comes through here."""
        self._pending.append(row)
        if len(self._pending) >= _BATCH:
            with self._lock:
                self._sort()

    def forget(self, key_ids: Collection[str]) -> None:
        """Drop the counts of keys that have left."""
        with self._lock:
            self._sort()
            for pair in [pair for pair in self._meters if pair[0] in key_ids]:
                del self._meters[pair], self._totals[pair]

    def _sort(self) -> None:
        """Count what is pending. Expects the lock to be held."""
        while self._pending:
            row = self._pending.popleft()
            pair = (row.key_id, row.model)
            meter = self._meters.get(pair)
            if meter is None:
                meter = self._meters[pair] = Meter(self._wall)
                for kind in _WINDOWS:
                    meter.window(kind)
            meter.record(row.at, row.tokens)
            requests, tokens = self._totals.get(pair, (0, 0))
            self._totals[pair] = (requests + 1, tokens + row.tokens)

    @property
    def _counted(self) -> dict[tuple[str, str], tuple[int, int]]:
        with self._lock:
            self._sort()
            return dict(self._totals)

    def get_global_stats(self) -> GlobalStats:
        """All keys, and their sum."""
        keys = [self._summary(place, credential, None) for place, credential in enumerate(self._pool.credentials)]
        return GlobalStats(sum((key.snapshot for key in keys), UsageSnapshot()), keys)

    def get_key_stats(self, identifier: int | str) -> KeyDetailedStats | None:
        """One key by model; the identifier is as for `find`."""
        found = self.find(identifier)
        if found is None:
            return None
        place, credential = found
        models = sorted(model for key_id, model in self._counted if key_id == credential.id)
        breakdown = {model: self._snapshot(credential, model) for model in models}
        total = self._snapshot(credential, None)
        return KeyDetailedStats(place, credential.fingerprint, total, breakdown)

    def get_model_stats(self, model_id: str) -> ModelAggregatedStats:
        """One model by key."""
        used = self._counted
        keys = [
            self._summary(place, credential, model_id)
            for place, credential in enumerate(self._pool.credentials)
            if (credential.id, model_id) in used
        ]
        return ModelAggregatedStats(model_id, sum((key.snapshot for key in keys), UsageSnapshot()), keys)

    def get_granular_stats(self, identifier: int | str, model_id: str) -> KeySummary | None:
        """One key and model. The snapshot is None if they were not used."""
        found = self.find(identifier)
        if found is None:
            return None
        place, credential = found
        used = (credential.id, model_id) in self._counted
        # keycycle's tables take None for "not used", although its annotation does not allow it.
        snapshot: Any = self._snapshot(credential, model_id) if used else None
        return KeySummary(place, credential.fingerprint, snapshot)

    def find(self, identifier: int | str) -> tuple[int, Credential] | None:
        """A key and its place, from 0; None if there is no such key.

        Args:
            identifier: its place, id, fingerprint or the key itself.
        """
        for place, credential in enumerate(self._pool.credentials):
            secret = credential.secret.reveal() if credential.secret is not None else None
            if identifier in (place, credential.id, credential.fingerprint, secret):
                return place, credential
        return None

    def _summary(self, place: int, credential: Credential, model_id: str | None) -> KeySummary:
        return KeySummary(place, credential.fingerprint, self._snapshot(credential, model_id))

    def _snapshot(self, credential: Credential, model_id: str | None) -> UsageSnapshot:
        with self._lock:
            self._sort()
            now = self._wall()
            found = UsageSnapshot()
            for (key_id, model), meter in self._meters.items():
                if key_id != credential.id or model_id not in (None, model):
                    continue
                windows = [meter.window(kind) for kind in _WINDOWS]
                for window in windows:
                    window.prune(now)
                minute, hour, day = windows
                total_requests, total_tokens = self._totals[key_id, model]
                found = found + UsageSnapshot(
                    rpm=minute.requests,
                    rph=hour.requests,
                    rpd=day.requests,
                    tpm=minute.tokens,
                    tph=hour.tokens,
                    tpd=day.tokens,
                    total_requests=total_requests,
                    total_tokens=total_tokens,
                )
            return found
