"""`progress.png`: the loss, the Dice of every structure, and a validation window with truth and prediction."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from voxseg.data.labels import LabelTable
from voxseg.data.staging import write_complete
from voxseg.training.validation import ValidationResult


def draw_progress(
    path: Path, metrics: dict[str, list[float]], table: LabelTable, result: ValidationResult, title: str
) -> None:
    """Draws the picture; complete or not at all.

    Args:
        path: the PNG.
        metrics: columns of `metrics.csv` as `read_metrics` gives them.
        table: names and colours of the structures.
        result: of the latest validation.
        title: one line above everything.
    """
    figure = Figure(figsize=(13, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.2, 1])
    curves, views = halves
    loss_axes, dice_axes = curves.subplots(1, 2, width_ratios=[1, 1.5])
    _draw_loss(loss_axes, metrics)
    _draw_dice(dice_axes, metrics, table)
    axes = views.subplots(1, 4)
    _draw_views(axes, table, result)
    write_complete(path, lambda temporary: figure.savefig(temporary, dpi=100, format="png"))


def _draw_loss(axes: Any, metrics: dict[str, list[float]]) -> None:
    steps, loss = np.array(metrics["step"]), np.array(metrics["loss"])
    axes.plot(steps, loss, color="0.8", linewidth=0.6, label="each step")
    width = max(1, len(loss) // 50)
    whole = len(loss) // width * width
    if whole:
        middle = steps[:whole].reshape(-1, width).mean(1)
        axes.plot(middle, np.median(loss[:whole].reshape(-1, width), 1), color="tab:blue", label=f"median of {width}")
        # One bad early step must not press the curve flat.
        axes.set_ylim(0, 1.05 * float(np.quantile(loss, 0.99)))
    axes.set_xlabel("step")
    axes.set_title("loss")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def _draw_dice(axes: Any, metrics: dict[str, list[float]], table: LabelTable) -> None:
    steps = np.array(metrics["step"])
    for name, colour in [("mean", "black"), *zip(table.names, table.colours, strict=True)]:
        scores = np.array(metrics["dice" if name == "mean" else f"dice {name}"])
        there = ~np.isnan(scores)
        latest = scores[there][-1] if there.any() else math.nan
        width = 2.5 if name == "mean" else 1.2
        axes.plot(
            steps[there],
            scores[there],
            color=_visible(colour),
            linewidth=width,
            label=f"{name} {latest:.2f}",
            marker=".",
        )
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.set_xlabel("step")
    axes.set_title("Dice of the averaged weights on generated windows")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
    axes.grid(alpha=0.3)


def _draw_views(axes: Any, table: LabelTable, result: ValidationResult) -> None:
    """Truth beside prediction in two planes through the fullest slices."""
    column = 0
    for axis, plane in ((2, "axial"), (1, "coronal")):
        filled = (result.target > 0).sum(tuple(k for k in range(3) if k != axis))
        index = int(filled.argmax())
        scan = np.take(result.scan, index, axis)
        for name, labels in (("truth", result.target), ("prediction", result.prediction)):
            view = axes[column]
            view.imshow(scan.T, cmap="gray", origin="lower", vmin=-0.1, vmax=1.2, interpolation="nearest")
            _outline(view, np.take(labels, index, axis), table)
            view.set_title(f"{plane}: {name}")
            view.set_axis_off()
            column += 1


def _outline(axes: Any, labels: NDArray[np.uint8], table: LabelTable) -> None:
    for index, colour in enumerate(table.colours, start=1):
        mask = np.pad(labels == index, 1)  # so that outlines close at the border of the window
        if mask.any():
            position = [np.arange(-1, size + 1) for size in labels.shape]
            axes.contour(position[0], position[1], mask.T, levels=[0.5], colors=[colour], linewidths=1.0)


def _visible(colour: str) -> str:
    """A colour that shows on white: very light ones are darkened."""
    channels = [int(colour[k : k + 2], 16) for k in (1, 3, 5)] if colour.startswith("#") else None
    if channels is None or sum(channels) < 600:
        return colour
    return "#" + "".join(f"{int(channel * 0.75):02x}" for channel in channels)
