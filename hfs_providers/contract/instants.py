"""Instants and spans of time, in seconds."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from datetime import datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


NEVER = math.inf
"""The instant of an event that does not happen by waiting."""


MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


_log = logging.getLogger(__name__)


Wall = Callable[[], float]


def next_midnight(zone: tzinfo, wall: float) -> float:
    """The first instant of the day after the one that `wall` lies in, in seconds since the epoch.

    A midnight that a change of the clocks skips is the instant of that change (PEP 495: the offset before it).
    """
    day = datetime.fromtimestamp(wall, zone).date() + timedelta(days=1)
    return datetime.combine(day, time(), tzinfo=zone).timestamp()


@functools.lru_cache(maxsize=64)
def zone_of(name: str) -> ZoneInfo | None:
    from zoneinfo import ZoneInfo  # costs 10 ms to import, and few limits name a zone

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        logging.getLogger(__name__).warning(
            "time zone %r is not known here: a day is counted as the last 24 hours (pip install tzdata)", name
        )
        return None


def seconds_until(instant: float, now: float) -> float | None:
    """From `now` to `instant`, rounded so that their sum is never before it."""
    if instant == NEVER:
        return None
    seconds = max(0.0, instant - now)
    while now + seconds < instant:
        seconds = math.nextafter(seconds, NEVER)
    return seconds
