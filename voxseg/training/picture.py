"""`progress.png`: the loss and its rate, the scores of the validations, and planes of the latest one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.staging import write_complete
from voxseg.training.planes import Plane
from voxseg.training.scores import CaseView, ValidationResult, output_colours

__all__ = ["draw_case", "draw_loss", "draw_progress"]

TURNED, EQUIVARIANCE = "0.45", "tab:purple"
CASE_BACKGROUND, CASE_TEXT, CASE_LETTERS = "black", "#d0d0d0", "#ffd24a"


def draw_progress(
    path: Path, metrics: dict[str, list[float]], scheme: LabelScheme, result: ValidationResult, title: str
) -> None:
    """Draws the picture of a run; complete or not at all.

    Args:
        path: the PNG.
        metrics: columns of `metrics.csv` as `read_metrics` gives them; `turned` and `equivariance_error` may lack.
        scheme: what the network predicts.
        result: of the latest validation.
        title: one line above everything.
    """
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.2, 1])
    curves, views = halves
    loss_axes, dice_axes = curves.subplots(1, 2, width_ratios=[1, 1.5])
    draw_loss(loss_axes, metrics)
    _draw_scores(dice_axes, metrics, scheme)
    if result.views:
        view = result.views[0]
        views.suptitle(f"latest validation: {view.name}", fontsize="medium", parse_math=False)
        axes = views.subplots(1, 4)
        pairs = [(plane, known) for plane in view.upright[:2] for known in (True, False)]
        for place, (plane, known) in zip(axes, pairs, strict=True):
            _draw_plane(place, plane, known, output_colours(scheme))
            place.set_title(f"{plane.view.name}: {'truth' if known else 'prediction'}", fontsize="medium")
    write_complete(path, lambda temporary: figure.savefig(temporary, dpi=100, format="png"))


def draw_case(path: Path, view: CaseView, scheme: LabelScheme, title: str) -> None:
    """Draws a validated case: truth above prediction in three planes, upright and turned; complete or not at all.

    Args:
        path: the PNG.
        view: the case.
        scheme: what the network predicts.
        title: one line above everything.
    """
    poses = [("upright", view.upright), ("turned", view.turned)] if view.turned else [("", view.upright)]
    panels = [(pose, plane) for pose, planes in poses for plane in planes]
    ratios = [plane.image.shape[0] * plane.spacing[0] for _, plane in panels]
    highest = max(plane.image.shape[1] * plane.spacing[1] for _, plane in panels)
    names = scheme.outputs
    rows_high = max(6.2, 0.5 + 0.2 * len(names))
    inches = (rows_high - 0.9) / 2 / highest
    figure = Figure(figsize=(sum(ratios) * inches + 0.2 * len(panels) + 2.9, rows_high), facecolor=CASE_BACKGROUND)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color="white", parse_math=False)
    sides: Any = figure.subfigures(1, 2, width_ratios=[sum(ratios) * inches + 0.2 * len(panels), 2.9])
    for side in sides:
        side.set_facecolor(CASE_BACKGROUND)
    axes = sides[0].subplots(2, len(panels), squeeze=False, width_ratios=ratios)
    colours = output_colours(scheme)
    for column, (pose, plane) in enumerate(panels):
        for row, known in enumerate((True, False)):
            _draw_plane(axes[row][column], plane, known, colours)
            label = f"{plane.view.name} {pose}".strip() + (": truth" if known else ": prediction")
            axes[row][column].set_title(label, color=CASE_TEXT, fontsize=8)
    _draw_legend(sides[1], view, names, colours)
    write_complete(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def draw_loss(axes: Any, metrics: dict[str, list[float]]) -> None:
    """The loss of each step, its running median, and the learning rate."""
    steps, loss = np.array(metrics["step"]), np.array(metrics["loss"])
    axes.plot(steps, loss, color="0.8", linewidth=0.6, label="each step")
    width = max(1, len(loss) // 50)
    whole = len(loss) // width * width
    if whole:
        middle = steps[:whole].reshape(-1, width).mean(1)
        axes.plot(middle, np.median(loss[:whole].reshape(-1, width), 1), color="tab:blue", label=f"median of {width}")
        # One bad early step must not press the curve flat.
        axes.set_ylim(0, 1.05 * float(np.quantile(loss, 0.99)))
    rate = axes.twinx()
    rate.plot(steps, metrics["learning_rate"], color="tab:orange", linewidth=0.8)
    rate.set_ylim(bottom=0)
    rate.set_ylabel("learning rate", color="tab:orange")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.set_xlabel("step")
    axes.set_title("loss")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def _draw_scores(axes: Any, metrics: dict[str, list[float]], scheme: LabelScheme) -> None:
    steps = np.array(metrics["step"])
    curves = [("mean", "dice", "black", 2.5, "-"), ("mean, turned", "turned", TURNED, 2.0, "--")]
    curves += [
        (name, f"dice {name}", _visible(colour), 1.2, "-")
        for name, colour in zip(scheme.outputs, output_colours(scheme), strict=True)
    ]
    curves.append(("equivariance error", "equivariance_error", EQUIVARIANCE, 1.2, ":"))
    for name, column, colour, width, style in curves:
        scores = np.array(metrics.get(column, [math.nan] * len(steps)))
        there = ~np.isnan(scores)
        if there.any():
            label = f"{name} {scores[there][-1]:.2f}"
            axes.plot(steps[there], scores[there], style, color=colour, linewidth=width, label=label, marker=".")
        elif column.startswith("dice"):
            axes.plot([], [], style, color=colour, linewidth=width, label=f"{name} –")
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.set_xlabel("step")
    axes.set_title("Dice of the averaged weights on what is never trained on")
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.grid(alpha=0.3)


def _draw_plane(axes: Any, plane: Plane, known: bool, colours: list[str]) -> None:
    """A plane in millimetres, with the outlines of the truth or of the prediction, as radiologists see it."""
    columns, rows = plane.image.shape
    across, up = plane.spacing
    low, high = np.percentile(plane.image, [1, 99.7])
    axes.imshow(
        plane.image.T,
        cmap="gray",
        origin="lower",
        vmin=low,
        vmax=max(high, low + 1e-6),
        interpolation="nearest",
        extent=(0, columns * across, 0, rows * up),
        aspect="equal",
    )
    x, y = (np.arange(-1, columns + 1) + 0.5) * across, (np.arange(-1, rows + 1) + 0.5) * up
    for mask, colour in zip(plane.truth if known else plane.prediction, colours, strict=True):
        if mask.any():  # with a voxel around it, so that outlines close at the border
            axes.contour(x, y, np.pad(mask, 1).T, levels=[0.5], colors=[colour], linewidths=1.0)
    axes.set_xlim((columns * across, 0) if plane.view.mirrored else (0, columns * across))
    axes.set_ylim(0, rows * up)
    for letter, u, ha in ((plane.view.letters[0], 0.02, "left"), (plane.view.letters[1], 0.98, "right")):
        axes.text(u, 0.5, letter, transform=axes.transAxes, ha=ha, va="center", color=CASE_LETTERS, size=8)
    axes.set_axis_off()


def _draw_legend(figure: Any, view: CaseView, names: list[str], colours: list[str]) -> None:
    """Colour, name and Dice of each output."""
    dice, turned = view.score.dice, view.score.turned_dice
    columns: list[tuple[str, float, list[float]]] = [("Dice", 0.78, dice)]
    if turned is not None:
        columns.append(("turned", 0.97, turned))
    line = min(0.06, 0.8 / (len(names) + 1))
    top = 0.88
    for heading, place, _ in columns:
        figure.text(place, top, heading, color=CASE_TEXT, size=8, ha="right")
    for row, (name, colour) in enumerate(zip(names, colours, strict=True), start=1):
        y = top - row * line
        figure.text(0.02, y, "■", color=colour, size=8)
        figure.text(0.08, y, name, color=CASE_TEXT, size=8, parse_math=False)
        for _, place, scores in columns:
            score = scores[row - 1]
            figure.text(place, y, "–" if math.isnan(score) else f"{score:.3f}", color=CASE_TEXT, size=8, ha="right")


def _visible(colour: str) -> str:
    """A colour that shows on white: very light ones are darkened."""
    channels = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return colour if sum(channels) < 600 else "#" + "".join(f"{int(channel * 0.75):02x}" for channel in channels)
