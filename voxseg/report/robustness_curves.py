"""`robustness.png`: what poses, disturbances and deformations cost, one colour and marker a model."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxseg.evaluation.robustness import ConditionScore, Robustness, mean_over_structures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_robustness"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of Okabe and Ito, which people who see no red or no green tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")

PANELS = {
    "noise": ("noise / intensity range", 0.0),
    "bias": ("bias field, largest gain − 1", 0.0),
    "blur": ("blur, FWHM / mm", 0.0),
    "slices": ("slice thickness / mm\nhollow: segmented as scanned", None),
    "resolution": ("voxel size / mm\nhollow: segmented as scanned", None),
    "gamma": ("exponent", 1.0),
    "inversion": ("", None),
    "cropping": ("part cut off on one side", 0.0),
    "deformation": ("RMS displacement / mm", 0.0),
}
"""The curves: the label of the axis, and the level of the scan as it is."""

WITHOUT_LEVELS = {
    "rotations": "24 grid\nrotations",
    "mirror": "mirrored",
    "orientations": "48 file\norientations",
    "headers": "wrong\nheaders",
    "handedness": "headers of\nwrong hand",
}
COLUMNS = 5
PANEL = (2.8, 2.7)  # inches
LEAST_WIDTH = 6.5
LEAST_SPAN = 0.2
"""Of the axis of Dice: differences that nobody would see in a segmentation are not to look large."""

Means = dict[str, list[tuple[ConditionScore, float, float]]]


def draw_robustness(path: Path, result: Robustness) -> None:
    """Draw the picture of a test of robustness.

    Lines are means over scans, axes and sides, bands go from the worst to the best of them.

    Args:
        path: of the PNG.
        result: what was found, complete or not.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = [model for model in result.models if model in result.structures]
    means = {model: _means(result, model) for model in models}
    panels = _panels(result)
    widths = [width for width, _ in panels]
    columns = max(1, min(COLUMNS, sum(widths)))
    places, rows = _places(widths, columns)
    size = (max(columns * PANEL[0], LEAST_WIDTH), rows * PANEL[1] + 1.1)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, columns)
    low, high = _range(means)
    for (row, column), (width, draw) in zip(places, panels, strict=True):
        axes = figure.add_subplot(grid[row, column : column + width])
        draw(axes, models, means, result)
        if axes.get_label() == "dice":
            axes.set_ylim(low, high)
            axes.set_ylabel("Dice" if column == 0 else "")
        axes.grid(alpha=0.3, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    _title(figure, result, models, means)
    canvas.print_png(path)


def _panels(result: Robustness) -> list[tuple[int, Callable[..., None]]]:
    """What is drawn, and how many columns wide."""
    there = {score.test for score in result.scores}
    panels: list[tuple[int, Callable[..., None]]] = []
    if "angles" in set(result.settings.tests) & there:
        panels.append((3, _draw_angles))
    if there & set(WITHOUT_LEVELS):
        panels.append((2, _draw_without_levels))
    panels += [(1, _draw_inversion if test == "inversion" else _curve(test)) for test in PANELS if test in there]
    if result.stability:
        panels.append((1, _draw_stability))
    return panels


def _places(widths: Sequence[int], columns: int) -> tuple[list[tuple[int, int]], int]:
    """Row and column of each panel, and the number of rows."""
    places, row, column = [], 0, 0
    for width in widths:
        if column + width > columns:
            row, column = row + 1, 0
        places.append((row, column))
        column += width
    return places, row + 1


def _means(result: Robustness, model: str) -> Means:
    """Each condition of a model with its mean Dice and that of its baseline, by test."""
    found: Means = {}
    for score in result.scores:
        if score.model == model:
            dice, base = (mean_over_structures(d, result.structures[model]) for d in (score.dice, score.baseline))
            if not math.isnan(dice):
                found.setdefault(score.test, []).append((score, dice, base))
    return found


def _range(means: dict[str, Means]) -> tuple[float, float]:
    """Of the axis of Dice, common to all curves."""
    curves = ("upright", "angles", *(test for test in PANELS if test != "inversion"))
    values = [dice for found in means.values() for test in curves for _, dice, _ in found.get(test, [])]
    if not values:
        return 0.0, 1.0
    margin = max(0.01, 0.06 * (max(values) - min(values)))
    high = min(max(values) + margin, 1.01)
    return max(min(min(values) - margin, high - LEAST_SPAN), -0.01), high


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
        "markersize": 4.5,
        "linewidth": 1.6,
    }


def _draw_levels(axes: Axes, number: int, levels: dict[float, list[float]]) -> None:
    """A line through the means and a band from the least to the largest."""
    x = sorted(levels)
    style = _style(number)
    axes.plot(x, [statistics.fmean(levels[level]) for level in x], **style)
    lowest, highest = [min(levels[level]) for level in x], [max(levels[level]) for level in x]
    axes.fill_between(x, lowest, highest, color=style["color"], alpha=0.16, linewidth=0)


def _draw_angles(axes: Axes, models: Sequence[str], means: dict[str, Means], result: Robustness) -> None:
    axes.set_label("dice")
    for number, model in enumerate(models):
        levels: dict[float, list[float]] = {}
        for score, dice, _ in means[model].get("angles", []):
            levels.setdefault(score.level, []).append(dice)
        if levels:
            _draw_levels(axes, number, levels)
    axes.set_xticks(range(0, 181, 30))
    axes.set_title("turned, interpolated once (from 2° on)", fontsize=10)
    axes.set_xlabel("angle / degrees; band over axes and scans")


def _curve(test: str) -> Callable[..., None]:
    """The panel of one disturbance."""
    label, neutral = PANELS[test]

    def draw(axes: Axes, models: Sequence[str], means: dict[str, Means], result: Robustness) -> None:
        axes.set_label("dice")
        for number, model in enumerate(models):
            levels: dict[float, list[float]] = {}
            bases: dict[float, list[float]] = {}
            for score, dice, base in means[model].get(test, []):
                levels.setdefault(score.level, []).append(dice)
                if neutral is None:
                    bases.setdefault(score.level, []).append(base)
                elif not math.isnan(base) and test != "cropping":
                    levels.setdefault(neutral, []).append(base)
            upright = [dice for _, dice, _ in means[model].get("upright", [])]
            if levels and test == "cropping" and upright:
                levels[0.0] = upright
            if levels:
                _draw_levels(axes, number, levels)
            if upright and test != "deformation":
                axes.axhline(statistics.fmean(upright), color=_style(number)["color"], linewidth=0.7, alpha=0.6)
            if bases:
                # What the segmentation of the scan as it is scores on the coarser grid.
                x = sorted(bases)
                colour = _style(number)["color"]
                y = [statistics.fmean(bases[level]) for level in x]
                axes.plot(x, y, ":", color=colour, linewidth=1, marker=_style(number)["marker"], mfc="white", ms=4)
                axes.set_xlim(0, 1.1 * max(x))
        if test == "gamma":
            from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator([0.5, 0.7, 1.0, 1.4, 2.0]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(ScalarFormatter())
        else:
            axes.locator_params(axis="x", nbins=4)  # five of 0.025 run into each other
        axes.set_title(test, fontsize=10)
        axes.set_xlabel(label)

    return draw


def _draw_inversion(axes: Axes, models: Sequence[str], means: dict[str, Means], result: Robustness) -> None:
    """Dice before and after, on an axis of its own, as this is the hardest of all."""
    for number, model in enumerate(models):
        runs = means[model].get("inversion", [])
        if runs:
            _draw_levels(axes, number, {0.0: [base for _, _, base in runs], 1.0: [dice for _, dice, _ in runs]})
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(-0.3, 1.3)
    axes.set_xticks([0, 1], ["as scanned", "inverted"])
    axes.set_title("contrast inversion (axis from 0 to 1)", fontsize=10)


def _draw_without_levels(axes: Axes, models: Sequence[str], means: dict[str, Means], result: Robustness) -> None:
    """The change of Dice in each run of the tests that have no more and less."""
    tests = [test for test in WITHOUT_LEVELS if any(test in found for found in means.values())]
    width = 0.7 / max(len(models), 1)
    for number, model in enumerate(models):
        style = _style(number)
        for place, test in enumerate(tests):
            changes = [dice - base for _, dice, base in means[model].get(test, []) if not math.isnan(base)]
            if not changes:
                continue
            x = place + (number - (len(models) - 1) / 2) * width
            axes.plot([x, x], [min(changes), max(changes)], color=style["color"], linewidth=2.2, alpha=0.35)
            axes.plot(
                [x] * len(changes), changes, style["marker"], color=style["color"], markersize=4, alpha=0.6, mew=0
            )
            mean = statistics.fmean(changes)
            axes.plot([x - width / 3, x + width / 3], [mean, mean], color=style["color"], linewidth=2)
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xticks(range(len(tests)), [WITHOUT_LEVELS[test] for test in tests], fontsize=8)
    axes.set_xlim(-0.6, len(tests) - 0.4)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.05), max(high, 0.02))
    axes.set_ylabel("change of Dice")
    axes.set_title("no interpolation: each run, and the mean", fontsize=10)


def _draw_stability(axes: Axes, models: Sequence[str], means: dict[str, Means], result: Robustness) -> None:
    """R_f as bars from 1, with the quotients of the single draws."""
    kinds = list(dict.fromkeys(score.kind for score in result.stability))
    width = 0.8 / max(len(models), 1)
    values = [1.0]
    for number, model in enumerate(models):
        style = _style(number)
        for place, kind in enumerate(kinds):
            draws = [s for s in result.stability if s.model == model and s.kind == kind and s.noise > 0]
            if not draws:
                continue
            x = place + (number - (len(models) - 1) / 2) * width
            ratio = statistics.median(s.deformation for s in draws) / statistics.median(s.noise for s in draws)
            # A bar that begins at 1 says at a glance which of the two is minded more.
            axes.bar(x, max(ratio, 1e-6) - 1, width * 0.85, bottom=1, color=style["color"])
            quotients = [max(s.deformation / s.noise, 1e-6) for s in draws]
            axes.plot([x] * len(draws), quotients, style["marker"], color="black", markersize=3, mfc="white", mew=0.8)
            values += [*quotients, max(ratio, 1e-6)]
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 2, max(values) * 2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.axhline(1, color="0.4", linewidth=0.8)
    sizes = {s.kind: f"{s.size:g} mm" if s.kind == "deformation" else f"{s.size:g}°" for s in result.stability}
    axes.set_xticks(range(len(kinds)), [f"{kind}\n{sizes[kind]}" for kind in kinds], fontsize=8)
    axes.set_title("relative stability R = D / G", fontsize=10)


def _title(figure: Any, result: Robustness, models: Sequence[str], means: dict[str, Means]) -> None:
    from matplotlib.lines import Line2D

    against = " or ".join(sorted({score.against for score in result.scores})) or "nothing"
    scans = len({score.scan for score in result.scores})
    what = f"Dice against {against}, mean over structures, {scans} scan{'s' * (scans != 1)}"
    if not result.complete:
        what += "  (not all of it was done)"
    figure.suptitle(what, fontsize=11, parse_math=False)
    handles, labels = [], []
    for number, model in enumerate(models):
        upright = [dice for _, dice, _ in means[model].get("upright", [])]
        handles.append(Line2D([], [], **_style(number)))
        labels.append(f"{model} (as scanned {statistics.fmean(upright):.3f})" if upright else model)
    if handles:
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=min(len(models), 4), frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
