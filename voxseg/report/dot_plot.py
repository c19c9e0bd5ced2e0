"""The Dice of every case as a dot, a row a structure: SVG that takes the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from voxseg.report.page import Html, escape

__all__ = ["DotRow", "dot_plot"]

NAMES, RIGHT, TOP, WIDTH = 210, 30, 26, 900  # of the drawing
LINE = 15  # height of the dots of one model
COLOURS = ("#3b8fd4", "#e07b00", "#2fa65a", "#c94a9f", "#8a6fd6", "#a5823d")  # seen on light and on dark pages


@dataclass(frozen=True)
class DotRow:
    """One structure.

    Attributes:
        name: its name.
        values: by model, then by case; NaN is not drawn.
        means: mean, and the ends of its interval, by model; NaN is not drawn.
    """

    name: str
    values: Mapping[str, Mapping[str, float]]
    means: Mapping[str, tuple[float, float, float]]


def dot_plot(rows: Sequence[DotRow], models: Sequence[str], title: str) -> Html:
    """Draw it; the name and value of a dot are shown when the pointer rests on it.

    Args:
        rows: from top to bottom.
        models: in their order, each with a colour of its own.
        title: what it shows, for those who cannot see it.
    """
    band = LINE * len(models) + 8
    height = TOP + band * len(rows) + 24
    lowest = min(
        (v for row in rows for by in row.values.values() for v in by.values() if not math.isnan(v)), default=0.0
    )
    start = min(max(math.floor(lowest * 10 - 1e-9) / 10, 0.0), 0.9)

    def x(value: float) -> float:
        return NAMES + (value - start) / (1 - start) * (WIDTH - NAMES - RIGHT)

    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
        f'style="min-width:36rem">'
    ]
    step = 0.1 if start < 0.8 else 0.05
    ticks = [start + step * k for k in range(round((1 - start) / step) + 1)]
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 6}" y2="{height - 22}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:.2f}</text>')
    for place, row in enumerate(rows):
        top = TOP + place * band
        parts.append(
            f'<text x="{NAMES - 12}" y="{top + band / 2:.1f}" text-anchor="end">{escape(_short(row.name))}</text>'
        )
        for number, model in enumerate(models):
            y = top + LINE * (number + 0.5)
            parts += _model(row, model, y, COLOURS[number % len(COLOURS)], x)
    parts.append("</svg>")
    keys = "".join(
        f'<li><span class="swatch" style="background:{COLOURS[k % len(COLOURS)]}"></span>{escape(model)}</li>'
        for k, model in enumerate(models)
    )
    key = f'<ul class="key">{keys}</ul>' if len(models) > 1 else ""
    return Html(f'{key}<div class="wide" tabindex="0">{"".join(parts)}</div>')


def _model(row: DotRow, model: str, y: float, colour: str, x: Callable[[float], float]) -> list[str]:
    """Dots, mean and interval of one model."""
    parts = []
    for k, (case, value) in enumerate(row.values.get(model, {}).items()):
        if math.isnan(value):
            continue
        offset = (k % 5 - 2) * 1.6  # so that equal values do not hide each other
        hint = f"<title>{escape(case)}: {value:.3f}</title>"
        parts.append(
            f'<circle cx="{x(value):.1f}" cy="{y + offset:.1f}" r="3.2" fill="{colour}" opacity="0.75">{hint}</circle>'
        )
    mean, low, high = row.means.get(model, (math.nan,) * 3)
    if not math.isnan(low):
        parts.append(f'<line class="bar" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    if not math.isnan(mean):
        parts.append(f'<line class="bar" x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>')
    return parts


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
