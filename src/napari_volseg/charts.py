"""Line charts as SVG that take their colours from the page around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

__all__ = ["N_COLOURS", "line_chart", "round_step"]

_WIDTH, _HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 10, 32

N_COLOURS = 8
"""Lines have the classes s0 to s7 in turn, which the page gives colours."""

Point = tuple[float, float]


def line_chart(title: str, series: Mapping[str, Sequence[Point]], x_label: str) -> str:
    """Return a card with one line a series; both axes begin at zero.

    The x axis ends with the data, the y axis at a round number.

    Parameters
    ----------
    series
        Points (x, y) under the name that the legend shows.
    x_label
        What x is, with its unit.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        empty = '<p class="quiet">nothing was recorded</p>'
        return f'<div class="card"><b>{escape(title)}</b>{empty}</div>'
    x_end = max(x for x, _ in points) or 1.0
    x_ticks = [tick for tick in _ticks(x_end) if tick <= x_end * 1.001]
    y_ticks = _ticks(max(y for _, y in points))
    x_scale = (_WIDTH - _LEFT - _RIGHT) / x_end
    y_scale = (_HEIGHT - _TOP - _BOTTOM) / y_ticks[-1]
    bottom = _HEIGHT - _BOTTOM

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">']
    for tick in y_ticks:
        y = bottom - tick * y_scale
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" '
            f'text-anchor="end">{tick:g}</text>'
        )
    parts += [
        f'<text x="{_LEFT + tick * x_scale:.1f}" y="{bottom + 15}" '
        f'text-anchor="middle">{tick:g}</text>'
        for tick in x_ticks
    ]
    parts.append(
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">'
        f"{escape(x_label)}</text>"
    )
    for index, line in enumerate(series.values()):
        path = " ".join(
            f"{_LEFT + x * x_scale:.1f},{bottom - y * y_scale:.1f}" for x, y in line
        )
        parts.append(f'<polyline class="s{index % N_COLOURS}" points="{path}"/>')
    parts.append("</svg>")
    legend = "".join(
        f'<span><i class="s{index % N_COLOURS}"></i>{escape(name)}</span>'
        for index, name in enumerate(series)
    )
    return (
        f'<div class="card"><b>{escape(title)}</b>{"".join(parts)}'
        f'<div class="legend">{legend}</div></div>'
    )


def round_step(least: float) -> float:
    """Return the smallest of 1, 2, 2.5 or 5 times a power of ten from `least` on."""
    power = 10.0 ** np.floor(np.log10(least))
    enough = least * (1 - 1e-12)  # 10 ** -1 * 3 is more than 0.3
    return next(float(power * m) for m in (1, 2, 2.5, 5, 10) if power * m >= enough)


def _ticks(highest: float, wanted: int = 5) -> list[float]:
    """Return round numbers from zero to at least `highest`."""
    if highest <= 0:
        return [0.0, 1.0]
    step = round_step(highest / wanted)
    count = int(np.ceil(highest / step - 1e-9))
    return [round(step * i, 12) for i in range(count + 1)]
