"""Usage over time as a picture, SVG or PNG, drawn by matplotlib (extra `plot`).

Readers who do not tell red from green can tell its colours apart, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfs_providers.cli.usage.chart import REQUESTS, Measure, tick

if TYPE_CHECKING:
    from hfs_providers.usage import UsageTimeline

_COLOURS = ("#3b7ddd", "#e08a1e", "#2a9d8f", "#c8553d", "#8e6bbf", "#6b8e23", "#c77da0")
_OTHERS = "#8a94a6"
_INK, _DIM, _GRID = "#1f2430", "#5b6472", "#e3e7ee"

_LONGEST = 30
"""Characters of a name in the legend."""

_TICKS = 9
"""Hours or days that are named below the chart, at most."""


def lines_of(line: UsageTimeline) -> dict[str, Sequence[int]]:
    """The largest lines by name; those without a colour of their own are added up."""
    ranked = sorted(line.lines.items(), key=lambda item: (-sum(item[1]), item[0]))
    if len(ranked) <= len(_COLOURS):
        return dict(ranked)
    kept, others = ranked[: len(_COLOURS) - 1], [values for _, values in ranked[len(_COLOURS) - 1 :]]
    return {**dict(kept), f"{len(others)} others": [sum(each) for each in zip(*others, strict=True)]}


def draw(path: Path, line: UsageTimeline, subtitle: str, measure: Measure = REQUESTS) -> None:
    """Write the picture in the format that the file's name says. Raises OSError if it cannot be written."""
    import matplotlib  # type: ignore[import-not-found, unused-ignore]  # an extra

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]

    lines = lines_of(line)
    # Text stays text in an SVG, and names are not formulas.
    with pyplot.rc_context({"svg.fonttype": "none", "text.parse_math": False}):
        figure, axes = pyplot.subplots(figsize=(9, 4.2), dpi=160, layout="constrained", facecolor="#ffffff")
        base = [0] * len(line.starts)
        for (name, values), own in zip(lines.items(), _COLOURS, strict=False):
            shown = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
            colour = _OTHERS if name.endswith(" others") else own
            axes.bar(range(len(base)), values, 0.8 if len(base) < 120 else 1.0, base, color=colour, label=shown)
            base = [low + value for low, value in zip(base, values, strict=True)]
        title = f"{measure.name} by {line.period}"
        axes.set_title(title, loc="left", fontweight="bold", color=_INK)
        axes.set_title(subtitle, loc="right", fontsize=9, color=_DIM)
        _draw_axes(axes, line, measure)
        if lines:
            figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        words = "; ".join(
            f"{name}: {measure.written(sum(values))} {measure.name.lower()}" for name, values in lines.items()
        )
        try:
            figure.savefig(path, metadata={"Title": title, "Description": words})
        finally:
            pyplot.close(figure)


def _draw_axes(axes: Any, line: UsageTimeline, measure: Measure) -> None:
    from matplotlib import ticker  # type: ignore[import-not-found, unused-ignore]

    every = math.ceil(len(line.starts) / _TICKS) or 1
    places = range(0, len(line.starts), every)
    named = [tick(line.starts[at], line.period, line.starts[at - every] if at else "") for at in places]
    axes.set_xticks(places, named)
    axes.margins(x=0.01)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=measure is REQUESTS))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: measure.written(value)))
    axes.tick_params(colors=_DIM, labelsize=9, length=0)
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
