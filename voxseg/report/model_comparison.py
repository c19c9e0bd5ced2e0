"""The picture of a comparison of models: Dice upright and turned, a line a model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxseg.data.staging import write_complete
from voxseg.evaluation.model_row import ModelRow

__all__ = ["draw_models"]

UPRIGHT, TURNED = "#0072B2", "#D55E00"
"""Told apart by the colour-blind (Okabe and Ito)."""

DPI = 120


def draw_models(path: Path, table: Sequence[ModelRow], title: str, score: str) -> None:
    """Draws for each model its seeds, their mean, and a bar from upright to turned; complete or not at all.

    Args:
        path: of the PNG.
        table: at least one model, from top to bottom.
        title: of the picture.
        score: what the Dice is of.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 1.5 + 0.42 * len(table)), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, parse_math=False)
    axes: Any = figure.subplots()
    for place, row in enumerate(table):
        means = [sum(values) / len(values) for values in (row.upright, row.turned)]
        axes.plot(means, [place, place], color="#999999", linewidth=2, zorder=1)
        for values, mean, colour, name in zip(
            (row.upright, row.turned), means, (UPRIGHT, TURNED), ("upright", "turned"), strict=True
        ):
            axes.plot(values, [place] * len(values), "o", color=colour, markersize=4, alpha=0.5, zorder=2)
            label = name if place == 0 else None
            axes.plot([mean], [place], "o", color=colour, markersize=9, zorder=3, label=label)
    axes.set_yticks(range(len(table)), [f"{row.label}\n{row.parameters:,} weights" for row in table], fontsize=8)
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.invert_yaxis()
    axes.set_xlabel(f"Dice of {score}; small points: seeds, large ones: their mean", fontsize=9)
    axes.grid(alpha=0.3, axis="x")
    axes.legend(frameon=False, fontsize=9, loc="best")
    write_complete(path, lambda part: figure.savefig(part, dpi=DPI, format="png", metadata={"Software": "voxseg"}))
