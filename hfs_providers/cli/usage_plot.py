"""Usage over time as a picture: SVG written here, so that no library is needed, and PNG by matplotlib (extra `plot`).

The SVG follows its reader's colour scheme; its colours were chosen to be told apart on white and on black, also by
who does not see red and green.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from hfs_providers.cli.usage_chart import tick

if TYPE_CHECKING:
    from hfs_providers.usage import UsageTimeline

_COLOURS = ("#3b7ddd", "#e08a1e", "#2a9d8f", "#c8553d", "#8e6bbf", "#6b8e23", "#c77da0")
_OTHERS = "#8a94a6"
_WIDTH, _HEIGHT = 900, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 24, 108, 48

_LONGEST = 30
"""Letters of a name in the legend, so that seven of them have room in two lines."""

_STYLE = """
    .card { fill: #ffffff } .ink { fill: #1f2430 } .dim { fill: #5b6472 }
    .grid { stroke: #e3e7ee } .axis { stroke: #8a94a6 }
    @media (prefers-color-scheme: dark) {
      .card { fill: #12161d } .ink { fill: #e8ebf0 } .dim { fill: #9aa5b8 }
      .grid { stroke: #262d38 } .axis { stroke: #5b6472 }
    }
"""


def lines_of(line: UsageTimeline) -> dict[str, Sequence[int]]:
    """The largest lines by name, those that there are no colours for put together."""
    ranked = sorted(line.lines.items(), key=lambda item: (-sum(item[1]), item[0]))
    if len(ranked) <= len(_COLOURS):
        return dict(ranked)
    kept, others = ranked[: len(_COLOURS) - 1], [values for _, values in ranked[len(_COLOURS) - 1 :]]
    return {**dict(kept), f"{len(others)} others": [sum(each) for each in zip(*others, strict=True)]}


def _coloured(lines: Mapping[str, Sequence[int]]) -> list[tuple[str, Sequence[int], str]]:
    return [
        (name, values, _OTHERS if name.endswith(" others") else _COLOURS[place])
        for place, (name, values) in enumerate(lines.items())
    ]


def _scale(most: int) -> list[int]:
    """About five round numbers from zero to `most`, or a little beyond."""
    step = max(1.0, most / 5)
    unit = 10 ** math.floor(math.log10(step))
    step = next(
        unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= step and unit * factor == int(unit * factor)
    )
    return [int(step * number) for number in range(math.ceil(most / step) + 1)]


def svg(line: UsageTimeline, title: str, subtitle: str) -> str:
    """The picture.

    Args:
        line: what it shows.
        title, subtitle: above it.
    """
    lines = _coloured(lines_of(line))
    count = len(line.starts)
    sums = [sum(values[place] for _, values, _ in lines) for place in range(count)]
    ticks = _scale(max(sums, default=1) or 1)
    bottom, wide = _HEIGHT - _BOTTOM, (_WIDTH - _LEFT - _RIGHT) / max(count, 1)
    gap = min(6.0, wide * 0.25) if wide > 3 else 0.0

    def y(value: float) -> float:
        return bottom - value / ticks[-1] * (bottom - _TOP)

    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(each):.1f}" y2="{y(each):.1f}"/>'
        f'<text class="dim" x="{_LEFT - 8}" y="{y(each) + 4:.1f}" text-anchor="end" font-size="12">{each:,}</text>'
        for each in ticks
    ]
    base = [0] * count
    for name, values, colour in lines:
        shapes = []
        for place, value in enumerate(values):
            if value:
                top, x = y(base[place] + value), _LEFT + place * wide + gap / 2
                shapes.append(f"M{x:.1f},{top:.1f}h{wide - gap:.1f}V{y(base[place]):.1f}H{x:.1f}z")
                base[place] += value
        parts.append(f'<path fill="{colour}" d="{"".join(shapes)}"><title>{escape(name)}</title></path>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    for place, name in _ticks(line, math.ceil(count * 92 / (_WIDTH - _LEFT - _RIGHT))):
        parts.append(
            f'<text class="dim" x="{_LEFT + (place + 0.5) * wide:.1f}" y="{bottom + 20}" text-anchor="middle" '
            f'font-size="12">{name}</text>'
        )
    said = "; ".join(f"{name}: {sum(values):,} requests" for name, values, _ in lines)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" \
font-family="Helvetica, Arial, sans-serif" role="img" aria-labelledby="title desc">
  <title id="title">{escape(title)}</title>
  <desc id="desc">{escape(said)}</desc>
  <style>{_STYLE}  </style>
  <rect class="card" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>
  <text class="ink" x="24" y="34" font-size="18" font-weight="bold">{escape(title)}</text>
  <text class="dim" x="{_WIDTH - _RIGHT}" y="34" text-anchor="end" font-size="13">{escape(subtitle)}</text>
  {_legend(lines)}
  {"".join(parts)}
</svg>
"""


def _ticks(line: UsageTimeline, every: int) -> list[tuple[int, str]]:
    every = max(1, every)
    places = range(0, len(line.starts), every)
    return [(at, tick(line.starts[at], line.period, line.starts[at - every] if at else "")) for at in places]


def _legend(lines: Sequence[tuple[str, Sequence[int], str]]) -> str:
    parts, x, y = [], 24.0, 52
    for name, _, colour in lines:
        shown = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        # Helvetica's letters are half as wide as they are high, on average.
        wide = 34 + 7.2 * len(shown)
        if x + wide > _WIDTH and x > 24:
            x, y = 24.0, y + 21
        parts.append(
            f'<rect x="{x:.0f}" y="{y}" width="12" height="12" rx="2" fill="{colour}"/>'
            f'<text class="ink" x="{x + 18:.0f}" y="{y + 10.5}" font-size="13">{escape(shown)}</text>'
        )
        x += wide
    return "".join(parts)


def write_png(path: Path, line: UsageTimeline, title: str, subtitle: str) -> None:
    """Write the picture as PNG.

    Args:
        path: the file.
        line, title, subtitle: as for `svg`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    import matplotlib  # type: ignore[import-not-found, unused-ignore]  # an extra

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]

    # A PNG has one scheme: light ink on its own light card can be read on any page.
    figure, axes = pyplot.subplots(figsize=(9, 4.2), dpi=160, layout="constrained", facecolor="#ffffff")
    places = range(len(line.starts))
    base = [0] * len(line.starts)
    for name, values, colour in _coloured(lines_of(line)):
        axes.bar(places, values, 0.8 if len(places) < 120 else 1.0, bottom=base, color=colour, label=name)
        base = [low + value for low, value in zip(base, values, strict=True)]
    axes.set_title(title, loc="left", fontweight="bold", color="#1f2430")
    axes.set_title(subtitle, loc="right", fontsize=9, color="#5b6472")
    ticks = _ticks(line, math.ceil(len(line.starts) / 9))
    axes.set_xticks([place for place, _ in ticks], [name for _, name in ticks])
    axes.margins(x=0.01)
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(colors="#5b6472", labelsize=9, length=0)
    axes.grid(axis="y", color="#e3e7ee")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if line.lines:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    try:
        figure.savefig(path, format="png")
    finally:
        pyplot.close(figure)
