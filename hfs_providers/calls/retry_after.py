"""How long a provider says to wait, and the limits that its headers show: from structured fields only, never from text.

Every function takes raw data from the network and never raises: the result of unreadable data is None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfs_providers.contract.records import Limits

MAX_WAIT = 86_400.0
"""The longest wait, in seconds. Asking again after a day costs only one request."""

NOT_A_WAIT = 31 * 86_400.0
"""Values from this many seconds on are not durations but mistakes (an epoch in the wrong field), and are ignored."""

_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18}")
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?(?:ns|us|µs|μs|ms|s|m|h|d))+")
_PART = re.compile(r"([0-9.]+)(ns|us|µs|μs|ms|s|m|h|d)")
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
}

_EPOCH_SECONDS = 1e9  # 2001: no wait is that long, every reset instant is later
_EPOCH_MILLISECONDS = 1e11  # 1973 in milliseconds, the year 5138 in seconds

_RESET = "x-ratelimit-reset"
_REMAINING = "x-ratelimit-remaining"
_PASSED_ON = "llm_provider-"
_MAX_HEADERS = 500
_MAX_VALUE = 256

# The headers whose names contain the period of the limit, each with its field of `Limits`.
_LIMIT_HEADERS = {
    f"x-ratelimit-limit-{unit}-{period}": f"{unit[0]}p{period[0]}"
    for unit in ("requests", "tokens")
    for period in ("minute", "hour", "day")
}


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value[:_MAX_VALUE].decode("latin-1")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = repr(value) if isinstance(value, float) else str(value) if -(10**18) < value < 10**18 else ""
    return value.strip()[:_MAX_VALUE] if isinstance(value, str) else None


def lower_headers(headers: object) -> dict[str, list[str]]:
    """Headers by lower-case name, with all values of repeated ones. They may be any client's, or a list of pairs."""
    found: dict[str, list[str]] = {}
    try:
        lister = getattr(headers, "multi_items", None) or getattr(headers, "items", None)
        pairs: Iterable[Any] = lister() if callable(lister) else headers if isinstance(headers, list) else ()
        for index, (name, value) in enumerate(pairs):
            if index >= _MAX_HEADERS:
                break
            key = _text(name)
            values = value if isinstance(value, (list, tuple)) else (value,)
            texts = [text for text in map(_text, values) if text is not None]
            if key and texts:
                found.setdefault(key.lower(), []).extend(texts)
    except Exception:  # a client's own header object may raise anything
        return found
    return found


def _believable(seconds: float) -> float | None:
    if not math.isfinite(seconds) or seconds < 0 or seconds >= NOT_A_WAIT:
        return None
    return min(seconds, MAX_WAIT)


def parse_duration(value: object) -> float | None:
    """Seconds in a plain number (`3`, `0.5`) or a Go or protobuf duration (`1m2.5s`, `120ms`, `34.07s`).

    None for anything else, and for negative or infinite values.
    """
    text = _text(value)
    if not text:
        return None
    if _NUMBER.fullmatch(text):
        return _believable(float(text))
    if _DURATION.fullmatch(text):
        parts = _PART.findall(text)
        return _believable(sum(float(number) * _UNITS[unit] for number, unit in parts))
    return None


def parse_retry_after(value: object, now: float) -> float | None:
    """Seconds in a Retry-After: an integer, a fraction, a duration or an HTTP date (a past one is 0).

    Of several values joined by commas the longest counts.
    """
    text = _text(value)
    if not text:
        return None
    # Only a date has a colon. The comma in it is not a separator.
    if ":" in text:
        return _until_date(text, now)
    waits = [wait for wait in map(parse_duration, text.split(",")) if wait is not None]
    return max(waits, default=None)


def _until_date(text: str, now: float) -> float | None:
    from email.utils import parsedate_to_datetime  # costs more to import than the rest of this module

    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return _believable(max(moment.timestamp() - now, 0.0))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def parse_reset(value: object, now: float) -> float | None:
    """Seconds until a reset given as a duration, as seconds, or as an epoch in seconds or milliseconds."""
    text = _text(value)
    if not text:
        return None
    if _NUMBER.fullmatch(text) and (number := float(text)) >= _EPOCH_SECONDS:
        moment = number / 1000 if number >= _EPOCH_MILLISECONDS else number
        return _believable(max(moment - now, 0.0))
    return parse_duration(text)


def wait_from_headers(headers: object, now: float, own: Collection[str] = ()) -> float | None:
    """Seconds to wait, from the headers of an answer or of an error body.

    The first of these that is present decides: the provider's own header, `retry-after-ms`, `Retry-After`, and the last
    two as a proxy passes them on (`llm_provider-retry-after`). Without them, the longest `x-ratelimit-reset*` counts
    whose `x-ratelimit-remaining*` is 0 or absent: the others belong to limits that are not used up.

    Args:
        own: names of this provider's own headers for the wait, in seconds, as a duration, an epoch or a date.
    """
    fields = lower_headers(headers)
    told = [
        [_own_wait(value, now) for name in own for value in fields.get(name.lower(), ())],
        *(
            waits
            for before in ("", _PASSED_ON)
            for waits in (
                [_milliseconds(value) for value in fields.get(before + "retry-after-ms", ())],
                [parse_retry_after(value, now) for value in fields.get(before + "retry-after", ())],
            )
        ),
    ]
    for waits in told:
        if found := [wait for wait in waits if wait is not None]:
            return max(found)
    resets = [
        wait
        for name, values in fields.items()
        if name.startswith(_RESET) and _used_up(fields.get(_REMAINING + name[len(_RESET) :]))
        for wait in (parse_reset(value, now) for value in values)
        if wait is not None
    ]
    return max(resets, default=None)


def _own_wait(text: str, now: float) -> float | None:
    wait = parse_reset(text, now)
    return parse_retry_after(text, now) if wait is None else wait


def _milliseconds(text: str) -> float | None:
    return _believable(float(text) / 1000) if _NUMBER.fullmatch(text) else None


def _used_up(remaining: Sequence[str] | None) -> bool:
    if not remaining:
        return True
    return any(_NUMBER.fullmatch(value) is not None and float(value) == 0 for value in remaining)


def wait_in(value: object) -> float | None:
    """The seconds of a wait that a body contains.

    Args:
        value: `"34.074824224s"`, a number, or a protobuf duration as an object: `{"seconds": 34, "nanos": 74824224}`.
    """
    if isinstance(value, Mapping):
        seconds, nanos = _text(value.get("seconds", 0)), _text(value.get("nanos", 0))
        if seconds is None or nanos is None or not _NUMBER.fullmatch(seconds) or not _NUMBER.fullmatch(nanos):
            return None
        return _believable(float(seconds) + float(nanos) * 1e-9)
    return parse_duration(value)


def limits_from_headers(headers: object, names: Mapping[str, str] | None = None) -> Limits | None:
    """The limits that an answer's headers show, or None if they show none.

    Reads headers whose names contain the period. A name without a period means a day at one provider and a minute at
    another, so the provider's plugin must define it.

    Args:
        names: by lower-case header name, the limit that it shows (`rpm` to `tpd`).
    """
    from hfs_providers.contract.records import Limits  # not at the top: reading errors does not need it

    fields = lower_headers(headers)
    shown: dict[str, int] = {}
    for name, limit in (*_LIMIT_HEADERS.items(), *(names or {}).items()):
        values = [int(float(value)) for value in fields.get(name, ()) if _NUMBER.fullmatch(value)]
        if values and limit not in shown and max(values) > 0:
            shown[limit] = max(values)
    return Limits(**shown) if shown else None  # type: ignore[arg-type]  # the keys are those of `_LIMIT_HEADERS`
