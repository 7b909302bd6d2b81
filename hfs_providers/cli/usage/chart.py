"""Usage over time in characters: columns of Unicode eighths, as wide as there is room, the same in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from hfs_providers.money.prices import NANO

_UPWARD = " ▁▂▃▄▅▆▇█"
_SIDEWAYS = " ▏▎▍▌▋▊▉█"


class Measure(NamedTuple):
    """The quantity that is drawn: its name, and how a value is written."""

    name: str
    written: Callable[[float], str]


REQUESTS = Measure("Requests", "{:,.0f}".format)
COST = Measure("Cost", lambda nanousd: f"${nanousd / NANO:,.4f}")

_WIDEST = 6
"""Characters of one column, its gap included."""


def bar(value: float, most: float, width: int) -> str:
    """A horizontal bar of at most `width` characters; any value above zero is visible."""
    eighths = round(value / most * width * 8) if most > 0 else 0
    whole, rest = divmod(max(eighths, 1) if value > 0 else 0, 8)
    return "█" * whole + (_SIDEWAYS[rest] if rest else "")


def columns(
    values: Sequence[int],
    starts: Sequence[str],
    period: str,
    width: int,
    height: int = 8,
    measure: Measure = REQUESTS,
) -> list[str]:
    """The lines of a chart."""
    written = measure.written
    scale = max(5, len(written(max(values))))
    room = max(10, width - scale - 2)
    # If there are too many, neighbours share a column.
    together = -(-len(values) // room)
    heights = [sum(values[at : at + together]) for at in range(0, len(values), together)]
    most = max(heights)
    scale = max(scale, len(written(most)))
    wide = max(1, min(_WIDEST, room // len(heights)))
    gap = 1 if wide >= 3 else 0
    lines = []
    for level in reversed(range(height)):
        said = written(most) if level == height - 1 else ""
        if level == height // 2 - 1 and most > 1:
            said = written(most / 2)
        cells = [_cell(value, most, level, height) * (wide - gap) + " " * gap for value in heights]
        lines.append(
            f"{said:>{scale}} ┤{''.join(cells)}".rstrip() if said else f"{'':>{scale}} │{''.join(cells)}".rstrip()
        )
    axis = wide * len(heights)
    lines.append(f"{0:>{scale}} └{'─' * axis}")
    lines.append(" " * (scale + 2) + _ticks(starts, period, together, wide, axis))
    each = f"{together} {period}s" if together > 1 else f"one {period}"
    return [f"{measure.name}; a column is {each}", *lines]


def _cell(value: int, most: int, level: int, height: int) -> str:
    eighths = round(value / most * height * 8) if most else 0
    return _UPWARD[min(8, max(0, max(eighths, 1 if value else 0) - level * 8))]


def _ticks(starts: Sequence[str], period: str, together: int, wide: int, axis: int) -> str:
    """The names of some columns below their left ends, as many as fit."""
    line, named = "", ""
    for place in range(0, len(starts), together):
        at = place // together * wide
        name = tick(starts[place], period, named)
        if at >= len(line) + (4 if line else 0) and at + len(name) <= max(axis, len(name)):
            line, named = line.ljust(at) + name, starts[place]
    return line


def tick(start: str, period: str, before: str) -> str:
    """An hour or day, in the shortest clear form.

    Args:
        start: in ISO.
        period: which of them it is.
        before: the last that was named on its axis; if that was another day, the name has the day.
    """
    at = datetime.fromisoformat(start)
    if period == "day":
        return f"{at:%b} {at.day}"
    return f"{at:%H:%M}" if before[:10] == start[:10] else f"{at:%b} {at.day} {at:%H:%M}"
