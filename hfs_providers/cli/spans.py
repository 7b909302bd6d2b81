"""Times and spans of time, as they are written on the command line."""

from __future__ import annotations

import re
import time
from datetime import datetime

from hfs_providers.cli import output
from hfs_providers.contract.instants import MINUTE, NEVER

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def seconds(said: str, option: str) -> float:
    """`90m`, `24h`, `7d`, `2w` in seconds, maybe infinite. Ends the command if it is none of these."""
    found = _SPAN.fullmatch(said.strip().lower())
    if found is None:
        output.fail(f"{option}: {said!r} is not a span of time", "Write it as 90m, 24h, 7d or 2w", code=2)
    return float(found[1]) * _SECONDS[found[2]]


def ago(said: str, option: str) -> float:
    """The moment that long ago, in seconds since the epoch. Ends the command if that is before all calendars."""
    at = time.time() - seconds(said, option)
    try:
        datetime.fromtimestamp(at).astimezone()
    except (ValueError, OverflowError, OSError):
        output.fail(f"{option}: {said!r} goes back too far", "Write a shorter span", code=2)
    return at


def moment(said: str | None, option: str) -> float | None:
    """So long ago (`24h`), or an ISO date or time, in seconds since the epoch. Ends the command if it is neither."""
    if said is None:
        return None
    if _SPAN.fullmatch(said.strip().lower()):
        return ago(said, option)
    try:
        return datetime.fromisoformat(said.strip()).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        remedy = "Write it as 24h, 7d, 2026-01-31 or 2026-01-31T14:00"
        output.fail(f"{option}: {said!r} is not a date, time or span", remedy, code=2)


def per_minute(said: str, option: str) -> float:
    """`200/min`, `5/s`, `10000/h` or `1e6/day` as a number a minute. Ends the command if it is none of these."""
    number, _, unit = said.replace(" ", "").lower().partition("/")
    try:
        rate = float(number) * MINUTE / _SECONDS[(unit or "m")[0]]
    except (ValueError, KeyError):
        rate = 0.0
    if not 0 < rate < NEVER:
        output.fail(f"{option}: {said!r} is not a rate", "Write it as 200/min, 5/s, 10000/h or 100000/day", code=2)
    return rate


def iso(at: float | None) -> str | None:
    """A moment with the offset of this machine's zone."""
    return None if at is None else datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


def iso_in(seconds: float | None) -> str | None:
    """The moment in that many seconds, as `iso` writes it."""
    return None if seconds is None else iso(time.time() + seconds)
