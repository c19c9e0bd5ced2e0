"""The picture of a data-efficiency benchmark: the error against the number of training cases, upright and turned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxseg.data.staging import write_complete
from voxseg.evaluation.power_law import LearningCurve

__all__ = ["draw_learning_curves"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart by the colour-blind (Okabe and Ito)."""

MARKERS = "os^Dv<>"
SPREAD = 1.02
"""Factor by which points of the arms are moved apart, so that none hides another."""

DPI = 120
LOWEST = 1e-3


def draw_learning_curves(
    path: Path,
    curves: Sequence[LearningCurve],
    title: str,
    subtitle: str,
    panels: Sequence[tuple[str, str]],
    error: str = "1 − Dice",
) -> None:
    """Draws the curves on logarithmic axes and writes a PNG; complete or not at all.

    For each arm: small points for the runs, a hollow one for their geometric mean, the fitted curve from the smallest
    to the largest number of cases, never beyond, and the interval of the curve as a band.

    Args:
        path: of the PNG.
        curves: at least one.
        title: first line of the picture.
        subtitle: second line: what is scored and how.
        panels: for each panel the name that its curves have and a title, from left to right.
        error: what the errors are.
    """
    # Building its font cache, at the first use on a machine, is nothing to bother a user with.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 4.4 * len(panels), 4.9), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\n{subtitle}", fontsize=10, parse_math=False)
    arms = list(dict.fromkeys(curve.arm for curve in curves))
    places: Any = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, heading) in zip(places, panels, strict=True):
        for curve in curves:
            if curve.panel == name:
                k = arms.index(curve.arm)
                _draw_curve(axes, curve, k, SPREAD ** (k - (len(arms) - 1) / 2))
        axes.set_title(heading, fontsize=10, parse_math=False)
        axes.set_xlabel("training cases")
        axes.grid(alpha=0.3, which="both")
    _scale(places, curves)
    places[0].set_ylabel(error, parse_math=False)
    handles: dict[str, Any] = {}
    for axes in places:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend = figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(4, len(handles)),
        frameon=False,
        fontsize=9,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    write_complete(path, lambda part: figure.savefig(part, dpi=DPI, format="png", metadata={"Software": "voxseg"}))


def _draw_curve(axes: Any, curve: LearningCurve, k: int, shift: float) -> None:
    """Points, means, fit and band of one arm."""
    colour, marker, fit = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)], curve.fit
    if fit.band is not None:
        axes.fill_between(fit.grid, *np.maximum(fit.band, LOWEST), color=colour, alpha=0.15, linewidth=0)
    if fit.law is not None:
        axes.plot(fit.grid, np.maximum(fit.law.error(fit.grid), LOWEST), color=colour, linewidth=1.8)
    means = [size * shift for size in fit.sizes], np.maximum(fit.means, LOWEST)
    axes.plot(
        *means, marker, color=colour, markersize=9, markerfacecolor="white", markeredgewidth=1.6, label=curve.title
    )
    for size, errors in curve.errors.items():  # above the means, which are near them
        shown = np.maximum(errors, LOWEST)
        axes.plot([size * shift] * len(shown), shown, marker, color=colour, markersize=3.5, markeredgewidth=0, zorder=3)


def _scale(places: Any, curves: Sequence[LearningCurve]) -> None:
    """Logarithmic axes with the sizes themselves and round errors as ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    sizes = sorted({size for curve in curves for size in curve.errors})
    errors = [max(error, LOWEST) for curve in curves for group in curve.errors.values() for error in group]
    finite = [error for error in errors if np.isfinite(error)] or [0.1, 1.0]
    low, high = min(finite) / 1.15, min(1.1, max(finite) * 1.15)
    ticks = [m * 10.0**e for e in range(-3, 1) for m in (1, 1.5, 2, 3, 4, 5, 6, 8) if low <= m * 10.0**e <= high]
    for axes in places:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
