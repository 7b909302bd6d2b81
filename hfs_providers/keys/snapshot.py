"""The state of a pool that outlives its process, as plain data stamped by the wall clock: windows, cooldowns, dead
keys, limits.

A key is named by its id and fingerprint. A state that is read may be old, written by another clock, or not a state at
all: what does not fit is left out, instants too far ahead are clamped, and nothing is raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

from hfs_providers.contract.instants import DAY
from hfs_providers.contract.records import LIMIT_NAMES, Limits
from hfs_providers.keys.limits import Allowance
from hfs_providers.keys.state import CREDIT_PROBATION, Account, Key
from hfs_providers.keys.windows import MOST_TOKENS, Window, WindowEntry

VERSION = 1
"""The version of the format; other versions are not read."""

ANY_ZONE = "day@"
"""The kind of entries for a calendar day of any zone: each lies within the day that it counts for."""


class Death(TypedDict):
    """Why a key is dead, when it may be tried again, for how many seconds it is dead this time, and since when."""

    reason: str
    retry_at: float
    probation: float
    since: NotRequired[float]


class KeySnapshot(TypedDict):
    """A key by its id and fingerprint; and by model, the limits that answers have shown, by the names of `Limits`."""

    id: str
    fingerprint: str
    dead: NotRequired[Death | None]
    limits: NotRequired[Mapping[str, Mapping[str, int]]]


class CooldownSnapshot(TypedDict):
    """Until when a model, or with None all models, of an account cool down."""

    model: str | None
    until: float
    reason: str


class WindowSnapshot(TypedDict):
    """What models that are counted together have used within one kind of window."""

    models: Sequence[str]
    kind: str
    entries: Sequence[WindowEntry]


class AccountSnapshot(TypedDict):
    """What is known of the keys of one account."""

    keys: list[KeySnapshot]
    cooling: list[CooldownSnapshot]
    windows: list[WindowSnapshot]


class PoolSnapshot(TypedDict):
    """What is known of the keys of a pool; all instants are seconds since the epoch."""

    version: int
    at: float
    accounts: Sequence[AccountSnapshot]


AllowanceOf = Callable[[Account, str], Allowance]
Learn = Callable[[str, str, Limits], object]


def dump_state(accounts: Iterable[Account], now: float, wall: float) -> PoolSnapshot:
    """The state, without limits, of a pool's accounts, at an instant by the monotonic and the wall clock."""
    shift = wall - now
    return {
        "version": VERSION,
        "at": wall,
        "accounts": [_dump_account(each, now, shift) for each in accounts if each.keys],
    }


def _dump_account(account: Account, now: float, shift: float) -> AccountSnapshot:
    return {
        "keys": [_dump_key(key, shift) for key in account.keys],
        "cooling": [
            {"model": scope, "until": min(cooldown.until, now + DAY) + shift, "reason": cooldown.reason}
            for scope, cooldown in account.cooling.items()
            if cooldown.until > now and cooldown.state == "cooling"
        ],
        "windows": [
            {
                "models": models,
                "kind": kind,
                "entries": [(at + shift, sent, tokens) for at, sent, tokens in entries],
            }
            for models, kind, entries in _windows(account, now)
            if entries
        ],
    }


def _windows(account: Account, now: float) -> Iterable[tuple[list[str], str, Sequence[WindowEntry]]]:
    for scope, meter in account.meters.items():
        sharing = [model_id for model_id, allowance in account.allowances.items() if allowance.meter is meter]
        models = [scope] if scope is not None else sharing
        for kind, window in meter.windows.items():
            window.prune(now)
            # A zoned day has one entry, which bears no instant of its own: it is stamped with the present.
            entries = window.entries()
            yield models, kind, [(now, *entry[1:]) for entry in entries] if "@" in kind else entries


def _dump_key(key: Key, shift: float) -> KeySnapshot:
    about: KeySnapshot = {"id": key.id, "fingerprint": key.credential.fingerprint}
    if key.dead_reason is not None:
        about["dead"] = {
            "reason": key.dead_reason,
            "retry_at": key.retry_at + shift,
            "probation": key.probation,
            "since": key.since,
        }
    return about


def models_of(state: Mapping[str, object]) -> set[str]:
    """The models that the windows of a state are about."""
    accounts = _records(state.get("accounts")) if isinstance(state, Mapping) else ()
    return {model for about in accounts for window in _records(about.get("windows")) for model in _models(window)}


def load_state(
    state: Mapping[str, object], keys: Mapping[str, Key], now: float, wall: float, allowance: AllowanceOf, learn: Learn
) -> None:
    """Apply a state to the keys that are here and unchanged. Windows that no limit needs are not made.

    Args:
        keys: of one pool, by id.
        allowance: finds or makes the allowance of an account for a model.
        learn: takes the limits that answers have shown of a model and a key.
    """
    if not isinstance(state, Mapping) or state.get("version") != VERSION:
        return
    at = _number(state.get("at"))
    if at is None:
        return
    # A wall clock that went back since: no time has passed.
    shift = now - max(wall, at)
    for about in _records(state.get("accounts")):
        found = list(_known(about.get("keys"), keys))
        for key, said in found:
            _load_death(key, said.get("dead"), now, shift)
            _load_limits(key, said.get("limits"), learn)
        for account in dict.fromkeys(key.account for key, _ in found):
            _load_cooling(account, about.get("cooling"), now, shift)
            _load_windows(account, about.get("windows"), now, shift, allowance)


def _known(records: object, keys: Mapping[str, Key]) -> Iterable[tuple[Key, Mapping[str, Any]]]:
    for said in _records(records):
        key = keys.get(str(said.get("id")))
        if key is not None and key.credential.fingerprint == said.get("fingerprint"):
            yield key, said


def _load_death(key: Key, said: object, now: float, shift: float) -> None:
    if not isinstance(said, Mapping):
        return
    retry_at, probation = _number(said.get("retry_at")), _number(said.get("probation"))
    if retry_at is None or probation is None:
        return
    since = _number(said.get("since"))
    key.since = max(key.since, retry_at - probation if since is None else since)
    retry_at = min(retry_at + shift, now + CREDIT_PROBATION)
    if key.dead_reason is None:
        key.dead_reason = str(said.get("reason") or "refused")
        key.try_from(retry_at)
        key.account.sort(key)
    key.try_from(max(key.retry_at, retry_at))
    key.probation = max(key.probation, min(max(0.0, probation), CREDIT_PROBATION))


def _load_limits(key: Key, said: object, learn: Learn) -> None:
    for model_id, limits in said.items() if isinstance(said, Mapping) else ():
        if isinstance(model_id, str) and isinstance(limits, Mapping):
            shown = {name: int(value) for name in LIMIT_NAMES if (value := _number(limits.get(name))) and value >= 1}
            if shown:
                learn(model_id, key.id, Limits(**cast(Any, shown)))


def _load_cooling(account: Account, said: object, now: float, shift: float) -> None:
    for cooldown in _records(said):
        model_id, until = cooldown.get("model"), _number(cooldown.get("until"))
        if until is not None and (model_id is None or isinstance(model_id, str)):
            until = min(until + shift, now + DAY)
            account.cool(now, until, model_id, str(cooldown.get("reason") or "rate limited"))


def _load_windows(account: Account, said: object, now: float, shift: float, allowance: AllowanceOf) -> None:
    # Models that share an allowance are counted together.
    found: dict[int, tuple[Window, list[WindowEntry]]] = {}
    for about in _records(said):
        kind = about.get("kind")
        meters = {id(meter): meter for meter in (allowance(account, each).meter for each in _models(about))}
        windows = [
            window
            for meter in meters.values()
            for name, window in meter.windows.items()
            if name == kind or (kind == ANY_ZONE and name.startswith(ANY_ZONE))
        ]
        # Entries are many, and most windows have no limit.
        entries = _entries(about.get("entries"), shift) if windows else []
        for window in windows if entries else ():
            found.setdefault(id(window), (window, []))[1].extend(entries)
    for window, counted in found.values():
        window.restore(now, sorted(counted))


def _models(about: Mapping[str, Any]) -> list[str]:
    said = about.get("models")
    return [each for each in said if isinstance(each, str)] if isinstance(said, list) else []


def _entries(said: object, shift: float) -> list[WindowEntry]:
    if not isinstance(said, Sequence) or isinstance(said, str):
        return []
    try:
        # All at once and without checks of three types each: a file may hold hundreds of thousands.
        return [
            (stamp + shift, _count(requests), _count(tokens))
            for stamp, requests, tokens in said
            if math.isfinite(stamp + requests + tokens)
        ]
    except (TypeError, ValueError, OverflowError):
        # One of many cannot be read; it is left out.
        return [entry for each in said for entry in _entries([each], shift)] if len(said) > 1 else []


def _records(said: object) -> Iterable[Mapping[str, Any]]:
    if isinstance(said, Sequence) and not isinstance(said, str):
        yield from (each for each in said if isinstance(each, Mapping))


def _count(number: float) -> int:
    if type(number) is int and 0 <= number <= MOST_TOKENS:
        return number
    return min(max(0, int(number)), MOST_TOKENS)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
