"""The list of keys: filtered, sorted and in pages; and the details of one key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any

from hfs_providers.contract.instants import DAY, HOUR
from hfs_providers.contract.records import WindowUse
from hfs_providers.dashboard.request_log import newest_of_series, readable_row
from hfs_providers.dashboard.source import DashboardSource, Fresh, Watched, WatchedKey
from hfs_providers.dashboard.sums import UsageSums
from hfs_providers.money.prices import NANO
from hfs_providers.usage.database import opened
from hfs_providers.usage.key_events import KeyEvent
from hfs_providers.usage.report import UsageTotal

STATES = ("ready", "limited", "cooling", "dead")
MOST_KEYS = 200
"""The most keys on one page."""

HOURS = 24
"""The hours in a key's strip."""

_MOST_EVENTS = 5_000
_SHOWN_EVENTS = 50
_SHOWN_ROWS = 50

_Used = Mapping[tuple[str, str], UsageTotal]
_NOTHING = UsageTotal((), 0, 0, 0, 0, 0, 0, 0, 0, 0.0)

_SORTS: Mapping[str, Callable[[WatchedKey, UsageTotal], tuple[float, ...]]] = {
    "order": lambda key, used: (),
    "state": lambda key, used: (-STATES.index(key.status.state),),
    "used": lambda key, used: (-key.share,),
    "requests": lambda key, used: (-used.requests,),
    "failed": lambda key, used: (used.ok - used.requests,),
}
SORTS = tuple(_SORTS)
"""The orders in which keys can be sorted."""


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys, in which order.

    Args:
        text: a text in the id, the fingerprint, the account, the source or the reason.
        provider, state: the provider and state of the keys; empty means all.
        sort: one of `SORTS`.
    """

    text: str = ""
    provider: str = ""
    state: str = ""
    sort: str = "order"

    def admits(self, key: WatchedKey) -> bool:
        """Whether a key passes the filter."""
        if self.provider not in ("", key.provider) or self.state not in ("", key.status.state):
            return False
        about = key.credential
        texts = (about.id, about.fingerprint, about.params.get("account", ""), about.source, key.status.reason or "")
        return any(self.text.lower() in text.lower() for text in texts)


class KeyList:
    """The keys of a source."""

    def __init__(self, source: DashboardSource, sums: UsageSums) -> None:
        self._source = source
        self._sums = sums
        self._used = Fresh(sums.by_key, 2.0)

    def page(self, wanted: KeyFilter, after: str = "", limit: int = 100) -> dict[str, Any]:
        """One page of keys, with the last day of each.

        Args:
            after: the id of the last key of the previous page.
            limit: how many keys, at most `MOST_KEYS`.

        Raises:
            ValueError: the filter has an unknown state or order.
            StoreError: the file cannot be read.
        """
        watched, used = self._source.watched(), self._used.get()
        chosen = _chosen(watched, wanted, used)
        first = next((place for place, key in enumerate(chosen, 1) if key.status.id == after), 0)
        shown = chosen[first : first + max(1, min(limit, MOST_KEYS))]
        strips = self._strips(shown)
        return {
            "at": watched.at,
            "total": len(chosen),
            "first": first + 1,
            "next": shown[-1].status.id if shown and first + len(shown) < len(chosen) else None,
            "hours": _first_hour(self._source.wall()),
            "keys": [{**_record(key), **_day(used.get(key.name)), "strip": strips[key.status.id]} for key in shown],
        }

    def map(self, wanted: KeyFilter) -> dict[str, Any]:
        """The id and the state of each key, in few bytes.

        Raises:
            ValueError: the filter has an unknown state or order.
            StoreError: the file cannot be read.
        """
        watched = self._source.watched()
        chosen = _chosen(watched, wanted, self._used.get())
        return {
            "at": watched.at,
            "ids": [key.status.id for key in chosen],
            "states": "".join(key.status.state[0] for key in chosen),
            "used": [round(min(1.0, key.share), 2) for key in chosen],
        }

    def one(self, key_id: str) -> dict[str, Any] | None:
        """A key with its models, its events of the last day and its last requests; None if the key does not exist.

        Raises:
            StoreError: the file cannot be read.
        """
        watched = self._source.watched()
        key = next((each for each in watched.keys if each.status.id == key_id), None)
        if key is None:
            return None
        found = self._events(watched, [key])
        store = self._source.store()
        rows: Sequence[dict[str, Any]] = ()
        if store is not None:
            with opened(store) as connection:
                rows = newest_of_series(connection, *key.name, _SHOWN_ROWS)
        used = self._used.get().get(key.name)
        return {
            "at": watched.at,
            **_record(key),
            **_day(used),
            "strip": self._strips([key])[key_id],
            "hours": _first_hour(self._source.wall()),
            "models": _models(watched, key),
            "events": [
                {name: getattr(event, name) for name in ("at", "kind", "model", "reason", "until")}
                for event in found[:_SHOWN_EVENTS]
            ],
            "rows": [readable_row(row) for row in rows],
        }

    def counts(self) -> dict[str, dict[str, int]]:
        """By provider, the number of keys in each state."""
        found: dict[str, Counter[str]] = {}
        for key in self._source.watched().keys:
            found.setdefault(key.provider, Counter())[key.status.state] += 1
        return {name: {state: states[state] for state in STATES} for name, states in found.items()}

    def _events(self, watched: Watched, keys: Sequence[WatchedKey]) -> list[KeyEvent]:
        """The events of some keys within the last day, the latest first."""
        store = self._source.store()
        if store is None or not keys:
            return []
        names = {key.name for key in keys}
        query = (
            f"SELECT {', '.join(KeyEvent._fields)} FROM key_event WHERE at >= ?"  # noqa: S608  our own words
            f" AND key IN ({', '.join('?' * len(names))}) ORDER BY at DESC LIMIT ?"
        )
        with opened(store) as connection:
            rows = connection.execute(query, (watched.at - DAY, *(name for _, name in names), _MOST_EVENTS)).fetchall()
        return [event for event in starmap(KeyEvent, rows) if (event.provider, event.key) in names]

    def _strips(self, keys: Sequence[WatchedKey]) -> dict[str, list[dict[str, Any]]]:
        """By key id, one cell for each of the last hours: requests, failed requests, and the worst state."""
        now = self._source.wall()
        first = _first_hour(now)
        cells: dict[tuple[str, str], list[dict[str, Any]]] = {
            key.name: [{"requests": 0, "failed": 0, "state": ""} for _ in range(HOURS)] for key in keys
        }
        for key_name, start, row in self._sums.by_hour((name for _, name in cells), first):
            place = int((start - first) // HOUR)
            if key_name in cells and 0 <= place < HOURS:
                cell = cells[key_name][place]
                cell["requests"] += row.requests
                cell["failed"] += row.requests - row.ok
        spans = _spans(self._events(self._source.watched(), keys), now)
        for (provider, name, state), begun, ended in spans:
            strip = cells.get((provider, name), [])
            for place in range(max(0, int((begun - first) // HOUR)), min(HOURS, int((ended - first) // HOUR) + 1)):
                if strip and strip[place]["state"] != "dead":
                    strip[place]["state"] = state
        for key in keys:
            if key.status.state != "ready":
                cells[key.name][-1]["state"] = key.status.state
        return {key.status.id: cells[key.name] for key in keys}


def _spans(events: Sequence[KeyEvent], now: float) -> list[tuple[tuple[str, str, str], float, float]]:
    """When keys were cooling or dead: provider, name and state; from and until."""
    found = []
    revived: dict[tuple[str, str], float] = {}
    for event in events:
        name = (event.provider, event.key or "")
        if event.kind == "key_revived":
            revived[name] = event.at
        state = {"key_cooling": "cooling", "key_dead": "dead"}.get(event.kind)
        if state is not None:
            # A dead key stays dead until it is revived.
            end = now if state == "dead" or event.until is None else event.until
            found.append(((*name, state), event.at, min(now, end, revived.get(name, now))))
    return found


def _chosen(watched: Watched, wanted: KeyFilter, used: _Used) -> list[WatchedKey]:
    if wanted.sort not in _SORTS or wanted.state not in ("", *STATES):
        raise ValueError(f"sort: choose from {', '.join(SORTS)}; state: from {', '.join(STATES)}")
    chosen = [key for key in watched.keys if wanted.admits(key)]
    place = _SORTS[wanted.sort]
    # Sorting is stable: equal keys stay in the order of the environment.
    return sorted(chosen, key=lambda key: place(key, used.get(key.name, _NOTHING)))


def _first_hour(now: float) -> float:
    return now // HOUR * HOUR - (HOURS - 1) * HOUR


def _record(key: WatchedKey) -> dict[str, Any]:
    status, credential = key.status, key.credential
    return {
        "id": status.id,
        "provider": key.provider,
        "fingerprint": status.fingerprint,
        "source": credential.source,
        "account": credential.params.get("account"),
        "state": status.state,
        "reason": status.reason,
        "until": key.until,
        "model": key.model,
        "windows": _windows(key.windows),
    }


def _day(used: UsageTotal | None) -> dict[str, Any]:
    used = used or _NOTHING
    cached = used.tokens_cached / used.tokens_in if used.tokens_in else None
    return {
        "requests": used.requests,
        "failed": used.requests - used.ok,
        "tokens": used.tokens,
        "cached": cached,
        "cost_usd": used.cost_nanousd / NANO,
        "latency": round(used.latency, 4),
    }


def _models(watched: Watched, key: WatchedKey) -> list[dict[str, Any]]:
    """The state of a key for each model."""
    pool = watched.pools[key.provider].pool
    found = []
    for model in watched.models[key.provider]:
        status = next((each for each in pool.statuses(model) if each.id == key.status.id), None)
        if status is not None:
            until = watched.at + status.free_in if status.free_in else None
            said = {"model": model, "state": status.state, "reason": status.reason, "until": until}
            found.append({**said, "windows": _windows(pool.used(model).get(status.id, ()))})
    return found


def _windows(windows: Sequence[WindowUse]) -> list[dict[str, Any]]:
    return [{"per": each.period, "unit": each.unit, "used": each.used, "limit": each.limit} for each in windows]
