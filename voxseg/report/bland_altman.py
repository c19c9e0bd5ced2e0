"""The Bland–Altman picture: differences between repeated scans against their mean, a panel for each structure."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxseg.evaluation.agreement import Agreement, StructureAgreement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bland_altman_figure", "draw_bland_altman"]

MOST = 60
"""Panels of a picture; of more structures the largest are drawn."""

COLUMNS = 4
PANEL = (3.9, 2.55)
"""Inches."""

DPI = 110
POINTS, LINES, BAND = "#22508a", "#b03030", "#d8a0a0"


def draw_bland_altman(path: Path, agreement: Agreement, title: str) -> None:
    """Write the picture of `bland_altman_figure` as a PNG.

    Args:
        path: of the PNG.
        agreement: of at least two subjects.
        title: one line above everything.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(bland_altman_figure(agreement, title)).print_png(path)


def bland_altman_figure(agreement: Agreement, title: str) -> Figure:
    """Draw for each structure the differences of successive scans against their mean, with bias and limits.

    Lines are the bias and the 95 % limits of agreement, with their values beside them; bands are their 95 % confidence
    intervals, as far as they lie within the panel. Panels have scales of their own.

    Args:
        agreement: what to draw.
        title: one line above everything.

    Returns:
        A figure that pyplot does not know of.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    shown = _largest([s for s in agreement.structures if s.pairs])
    columns = max(1, min(COLUMNS, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    size = (columns * PANEL[0] + 0.4, rows * PANEL[1] + 0.9)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    left_out = sum(bool(s.pairs) for s in agreement.structures) - len(shown)
    note = f"; the {len(shown)} largest structures, {left_out} smaller ones are in agreement.csv" if left_out else ""
    legend = "solid: bias; dashed: 95 % limits of agreement; bands: their 95 % confidence intervals"
    figure.suptitle(f"{title}{note}\n{legend}", size=10, parse_math=False)
    figure.supxlabel("mean of the two scans (ml)", size=10)
    figure.supylabel("later minus earlier scan (ml)", size=10)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, structure in zip(axes, shown, strict=False):
        _draw_panel(place, structure)
    for place in axes[len(shown) :]:
        place.set_axis_off()
    return figure


def _largest(structures: Sequence[StructureAgreement]) -> list[StructureAgreement]:
    """At most `MOST`, in the order that they have."""
    kept = sorted(structures, key=lambda s: -s.mean_ml)[:MOST]
    return [s for s in structures if s in kept]


def _draw_panel(axes: Axes, structure: StructureAgreement) -> None:
    means = [pair.mean_ml for pair in structure.pairs]
    differences = [pair.difference_ml for pair in structure.pairs]
    limits = structure.limits
    axes.scatter(means, differences, s=14, color=POINTS, alpha=0.75, linewidths=0, zorder=3)
    axes.axhline(0, color="0.75", linewidth=0.8, zorder=1)
    drawn = [(limits.bias, "-"), (limits.lower, "--"), (limits.upper, "--")]
    drawn = [(estimate, style) for estimate, style in drawn if not math.isnan(estimate.value)]
    reach = max(map(abs, [*differences, *(estimate.value for estimate, _ in drawn)])) * 1.25 or 1e-3
    for estimate, style in drawn:
        axes.axhline(estimate.value, color=LINES, linestyle=style, linewidth=1.1, zorder=2)
        if not math.isnan(estimate.low):
            axes.axhspan(estimate.low, estimate.high, color=BAND, alpha=0.3, linewidth=0, zorder=0)
        # Beside the panel, where no point is.
        text = f"{estimate.value:+.{_digits(reach)}f}"
        place = axes.get_yaxis_transform()
        axes.text(1.015, estimate.value, text, transform=place, va="center", ha="left", size=7.5, color=LINES)
    axes.set_ylim(-reach, reach)
    axes.margins(x=0.08)
    axes.tick_params(labelsize=7.5)
    axes.locator_params(nbins=5)
    axes.spines[["top", "right"]].set_visible(False)
    people = f"{structure.subjects} subject{'s' * (structure.subjects != 1)}"
    if structure.missing:
        people += f", missing in {structure.missing} scan{'s' * (structure.missing != 1)}"
    axes.set_title(f"{structure.structure.name}  ({people})", size=9, loc="left", parse_math=False)


def _digits(reach: float) -> int:
    """Decimals with which differences up to `reach` are told from each other."""
    return max(0, min(4, 2 - math.floor(math.log10(reach))))
