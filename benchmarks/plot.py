"""The plot: what one call costs, by provider, on a logarithmic scale. Plain SVG, so that no library is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.sax.saxutils import escape

from benchmarks.figures import PROVIDERS, Measured

_NAMES = {"cerebras": "Cerebras", "groq": "Groq", "gemini": "Gemini", "openrouter": "OpenRouter"}
_SERIES = {
    "bare": ("bare Agno model, one key", "#9aa5b8"),
    "ours": ("hfs-providers", "#2f6fdb"),
    "LiteLLM": ("LiteLLM Router", "#e0a030"),
    "keycycle": ("keycycle get_model()", "#b4443c"),
}
_LEFT, _RIGHT, _TOP, _WIDTH = 120, 70, 92, 860
_BAR, _SPACE, _GROUP_SPACE = 18, 4, 20
_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def svg(measured: Mapping[str, Measured]) -> str:
    """The picture.

    Args:
        measured: with the rows `call.<provider>`.
    """
    ratios = {provider: _ratios(measured[f"call.{provider}"]) for provider in PROVIDERS}
    most = max((value for bars in ratios.values() for value in bars.values()), default=1.0)
    # Room to the right of the longest bar, so that its number stands beside it.
    ticks = [tick for tick in _TICKS if tick <= max(10.0, most * 1.2)]
    low, high = math.log10(_TICKS[0]), math.log10(max(ticks[-1], most * 1.2))

    def x(value: float) -> float:
        return _LEFT + (math.log10(value) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts: list[str] = []
    y = float(_TOP)
    for provider, bars in ratios.items():
        begin = y
        for name, value in bars.items():
            parts.append(
                f'<rect x="{_LEFT}" y="{y:.0f}" width="{max(1.0, x(value) - _LEFT):.1f}" height="{_BAR}" rx="2" '
                f'fill="{_SERIES[name][1]}"/>'
                f'<text x="{x(value) + 6:.1f}" y="{y + _BAR - 5:.0f}" font-size="12">{_label(value)}</text>'
            )
            y += _BAR + _SPACE
        parts.append(
            f'<text x="{_LEFT - 12}" y="{(begin + y - _SPACE) / 2 + 5:.0f}" text-anchor="end" '
            f'font-weight="bold">{_NAMES[provider]}</text>'
        )
        y += _GROUP_SPACE
    bottom = y - _GROUP_SPACE + 8
    grid = "".join(
        f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP - 8}" y2="{bottom:.0f}" '
        f'stroke="{"#3b4252" if tick == 1 else "#dfe4ec"}"{"" if tick != 1 else STROKE}/>'
        f'<text x="{x(tick):.1f}" y="{bottom + 18:.0f}" text-anchor="middle" font-size="12">{tick:g}</text>'
        for tick in ticks
    )
    height = bottom + 48
    said = "; ".join(
        f"{_NAMES[provider]}: " + ", ".join(f"{_SERIES[name][0]} {_label(value)}" for name, value in bars.items())
        for provider, bars in ratios.items()
    )
    title = "Time of one call, relative to a bare Agno model"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" \
font-family="Helvetica, Arial, sans-serif" font-size="14" role="img" aria-labelledby="title desc">
  <title id="title">{title}</title>
  <desc id="desc">{escape(said)}</desc>
  <rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>
  <g fill="#1f2430">
    <text x="20" y="30" font-size="17" font-weight="bold">{title}</text>
    {_legend()}
    {grid}
    {"".join(parts)}
    <text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{height - 12:.0f}" text-anchor="middle" font-size="12">\
median time of a sync call on a loopback server, logarithmic scale; less is better</text>
  </g>
</svg>
"""


STROKE = ' stroke-width="1.5" stroke-dasharray="4 3"'


def _ratios(row: Measured) -> dict[str, float]:
    found = {"bare": 1.0}
    if row.value is not None:
        found["ours"] = row.value
    for name in ("LiteLLM", "keycycle"):
        value = row.alternatives.get(name)
        if isinstance(value, float):
            found[name] = value
    return found


def _label(value: float) -> str:
    return "1" if value == 1 else f"{value:.2f}" if value < 2 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _legend() -> str:
    parts, x = [], 20
    for text, colour in _SERIES.values():
        parts.append(
            f'<rect x="{x}" y="48" width="14" height="14" rx="2" fill="{colour}"/>'
            f'<text x="{x + 20}" y="60" font-size="13">{escape(text)}</text>'
        )
        x += 44 + 7 * len(text)
    return "".join(parts)
