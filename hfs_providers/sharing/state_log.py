"""What happens to keys: written to the table `state` of the file, and read from it by other processes.

Each row has a body of JSON. Instants are seconds since the epoch. The kinds of rows:

    key      by `Credential.name`: {"reason", "retry_at", "probation"}, or {"revived": true}
    rest     by `Credential.account`: {model or "" for all: {"until", "reason"}}; {} after a revival
    limits   by `Credential.name`: {model: {the limits that answers have shown, by the names of `Limits`}}
    circuit  by model: what the circuit's `dump` returns
    gone     by model: {"successor"}

Bodies of the first two also say in "by" which process wrote them. A file that cannot be read raises `sqlite3.Error`.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, cast

from hfs_providers.contract.protocols import KeepsCircuits
from hfs_providers.contract.records import LIMIT_NAMES, Credential, Event, Wrapper
from hfs_providers.keys import snapshot
from hfs_providers.keys.pool import KeyPool
from hfs_providers.keys.snapshot import AccountSnapshot, CooldownSnapshot, Death, KeySnapshot
from hfs_providers.usage.key_events import KeyEvent
from hfs_providers.usage.log import Work

_log = logging.getLogger("hfs_providers")

# Seconds between two stamps if the clock does not tell them apart.
_TICK = 1e-5

# Whether this thread applies what another process wrote.
_thread = threading.local()


class StateChange(NamedTuple):
    """A row of `state` that was written recently."""

    provider: str
    kind: str
    name: str
    body: str
    at: float


def changes(connection: sqlite3.Connection, since: float) -> list[StateChange]:
    """What was written about keys after the stamp `since`. Stamps are seconds since the epoch, but never go back."""
    query = "SELECT provider, kind, name, body, at FROM state WHERE kind IN ('key', 'rest') AND at > ?"
    return [StateChange(*row) for row in connection.execute(query, (since,))]


def apply(pool: KeyPool, found: Sequence[StateChange], wall: float, own: str = "") -> None:
    """Apply to a pool what other processes have changed about its keys. Changes with the mark `own` are known
    already."""
    accounts: list[AccountSnapshot] = []
    current = {status.id: status.state for status in pool.statuses()}
    named = _by_kind_and_name(pool)
    for change in found:
        if change.provider != pool.provider:
            continue
        body = _body(change.body)
        if own and body.get("by") == own:
            continue
        for credential in named.get((change.kind, change.name), ()):
            about: KeySnapshot = {"id": credential.id, "fingerprint": credential.fingerprint}
            if change.kind == "rest" and (cooldowns := cooldowns_of(body)):
                accounts.append({"keys": [about], "cooling": cooldowns, "windows": []})
            elif change.kind == "key" and not body.get("revived"):
                about["dead"] = cast("Death", body)
                accounts.append({"keys": [about], "cooling": [], "windows": []})
            elif current.get(credential.id) == ("dead" if change.kind == "key" else "cooling"):
                _revive(pool, credential.id)
    if accounts:
        pool.load({"version": snapshot.VERSION, "at": wall, "accounts": accounts})


def _by_kind_and_name(pool: KeyPool) -> dict[tuple[str, str], list[Credential]]:
    """The keys that a row of `state` is about."""
    found: dict[tuple[str, str], list[Credential]] = {}
    for credential in pool.credentials:
        for of in (("key", credential.name), ("rest", credential.account)):
            found.setdefault(of, []).append(credential)
    return found


def _revive(pool: KeyPool, key_id: str) -> None:
    _thread.applies = True
    try:
        # It may have left meanwhile.
        with suppress(KeyError):
            pool.revive(key_id)
    finally:
        _thread.applies = False


def cooldowns_of(body: Mapping[str, Any]) -> list[CooldownSnapshot]:
    """The cooldowns that a body of kind `rest` holds. `KeyPool.load` leaves out what does not fit."""
    found = [{"model": model or None, **cooldown} for model, cooldown in body.items() if isinstance(cooldown, dict)]
    return cast("list[CooldownSnapshot]", found)


def states(connection: sqlite3.Connection, provider: str, kind: str, since: float = 0.0) -> dict[str, dict[str, Any]]:
    """The bodies of the rows of one kind by their names. Those that cannot be read are left out."""
    found = {}
    query = "SELECT name, body FROM state WHERE provider = ? AND kind = ? AND at >= ?"
    for name, body in connection.execute(query, (provider, kind, since)):
        read = _body(body)
        if read:
            found[name] = read
    return found


def _body(text: object) -> dict[str, Any]:
    try:
        body = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


class StateKeeper:
    """Stores what happens to keys, circuits and models when it happens.

    Args:
        defer: has work done by the writer, in order.
        mark: identifies this process; called each time, because after a fork the child is another one.
    """

    def __init__(
        self,
        defer: Callable[[Work], object],
        wrappers: Mapping[str, Wrapper],
        wall: Callable[[], float] = time.time,
        mark: Callable[[], str] = str,
    ) -> None:
        self._defer = defer
        self._wrappers = wrappers
        self._wall = wall
        self._mark = mark

    def note(self, event: Event) -> None:
        """Store what outlives the process. Never raises."""
        if event.kind == "key_revived" and getattr(_thread, "applies", False):
            # It is in the file already. Written again, it could hide what was written since.
            return
        wrapper = self._wrappers.get(event.provider)
        if event.kind not in _WORKS or wrapper is None:
            return
        try:
            wall = self._wall()
            work = _WORKS[event.kind](event, wrapper, wall, self._mark())
        except Exception:
            _log.warning("%s of %s could not be written down", event.kind, event.provider, exc_info=True)
            return
        if work is not None:
            self._defer(work)
            self._defer(_key_event(event, wrapper, wall).write)


def _key_event(event: Event, wrapper: Wrapper, wall: float) -> KeyEvent:
    credential = _credential(event, wrapper)
    key = credential.name if credential is not None else event.key_id
    until = None if event.seconds is None else wall + event.seconds
    return KeyEvent(wall, event.provider, key, event.model, event.kind, event.reason, until)


def _credential(event: Event, wrapper: Wrapper) -> Credential | None:
    return cast("KeyPool", wrapper.pool).credential(event.key_id or "")


def _cooling(event: Event, wrapper: Wrapper, wall: float, mark: str) -> Work | None:
    credential = _credential(event, wrapper)
    if credential is None or event.seconds is None:
        return None
    cooldown = {"until": wall + event.seconds, "reason": event.reason}
    return partial(_add_cooldown, event.provider, credential.account, event.model or "", cooldown, wall, mark)


def _add_cooldown(
    provider: str,
    account: str,
    model: str,
    cooldown: Mapping[str, object],
    wall: float,
    mark: str,
    connection: sqlite3.Connection,
) -> None:
    cooldowns = _body(_get(connection, provider, "rest", account))
    current = cooldowns.get(model)
    if isinstance(current, dict) and _until(current) >= _until(cooldown):
        return
    cooldowns = {name: each for name, each in cooldowns.items() if isinstance(each, dict) and _until(each) > wall}
    _put(connection, provider, "rest", account, {**cooldowns, model: cooldown} | _by(mark), wall)


def _by(mark: str) -> dict[str, object]:
    return {"by": mark} if mark else {}


def _until(cooldown: Mapping[str, object]) -> float:
    until = cooldown.get("until")
    return until if isinstance(until, (int, float)) else 0.0


def _dead(event: Event, wrapper: Wrapper, wall: float, mark: str) -> Work | None:
    credential = _credential(event, wrapper)
    if credential is None or event.seconds is None:
        return None
    body = {"reason": event.reason, "retry_at": wall + event.seconds, "probation": event.seconds} | _by(mark)
    return lambda connection: _put(connection, event.provider, "key", credential.name, body, wall)


def _revived(event: Event, wrapper: Wrapper, wall: float, mark: str) -> Work | None:
    credential = _credential(event, wrapper)
    if credential is None:
        return None

    def forget(connection: sqlite3.Connection) -> None:
        # Not deleted: running processes must learn of it.
        for kind, name, body in (
            ("key", credential.name, {"revived": True} | _by(mark)),
            ("rest", credential.account, _by(mark)),
        ):
            if _get(connection, event.provider, kind, name) is not None:
                _put(connection, event.provider, kind, name, body, wall)

    return forget


def _limits(event: Event, wrapper: Wrapper, wall: float, mark: str) -> Work | None:
    credential, model = _credential(event, wrapper), event.model
    if credential is None or model is None:
        return None
    learned = cast("KeyPool", wrapper.pool).learned(model, credential.id)
    shown = {name: value for name in LIMIT_NAMES if (value := getattr(learned, name, None)) is not None}

    def add(connection: sqlite3.Connection) -> None:
        body = _body(_get(connection, event.provider, "limits", credential.name))
        _put(connection, event.provider, "limits", credential.name, {**body, model: shown}, wall)

    return add


def _circuit(event: Event, wrapper: Wrapper, wall: float, mark: str) -> Work | None:
    model = event.model
    if model is None or not isinstance(wrapper, KeepsCircuits):
        return None
    body = wrapper.circuit(model).dump(wall)
    if body is None:
        return lambda connection: _drop(connection, event.provider, "circuit", model)
    return lambda connection: _put(connection, event.provider, "circuit", model, body, wall)


def _nothing(event: Event, wrapper: Wrapper, wall: float, mark: str) -> Work:
    return lambda connection: None


def _gone(event: Event, wrapper: Wrapper, wall: float, mark: str) -> Work | None:
    model = event.model
    if model is None or not isinstance(wrapper, KeepsCircuits) or model not in wrapper.retired_models:
        return None
    body = {"successor": wrapper.retired_models[model]}
    return lambda connection: _put(connection, event.provider, "gone", model, body, wall)


_WORKS: dict[str, Callable[[Event, Wrapper, float, str], Work | None]] = {
    "key_cooling": _cooling,
    "key_dead": _dead,
    "key_revived": _revived,
    "limits_learned": _limits,
    "circuit_opened": _circuit,
    "circuit_closed": _circuit,
    "model_replaced": _gone,
    # The file only records that these happened.
    "key_joined": _nothing,
    "key_left": _nothing,
}


def _get(connection: sqlite3.Connection, provider: str, kind: str, name: str) -> str | None:
    query = "SELECT body FROM state WHERE provider = ? AND kind = ? AND name = ?"
    row = connection.execute(query, (provider, kind, name)).fetchone()
    return row[0] if row is not None else None


def _put(
    connection: sqlite3.Connection, provider: str, kind: str, name: str, body: Mapping[str, object], wall: float
) -> None:
    (last,) = connection.execute("SELECT (SELECT CAST(value AS REAL) FROM meta WHERE name = 'said')").fetchone()
    # Readers remember the last stamp that they have read: stamps grow, whatever the wall clock does.
    at = wall if last is None or wall > last else last + _TICK
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('said', ?)", (repr(at),))
    connection.execute(
        "INSERT OR REPLACE INTO state (provider, kind, name, body, at) VALUES (?, ?, ?, ?, ?)",
        (provider, kind, name, json.dumps(body), at),
    )


def _drop(connection: sqlite3.Connection, provider: str, kind: str, name: str) -> None:
    connection.execute("DELETE FROM state WHERE provider = ? AND kind = ? AND name = ?", (provider, kind, name))
