"""Everything that a run on fields writes while it goes on: the errors of its validations in the place of Dice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from voxseg.data.field_kinds import FieldTarget
from voxseg.data.staging import write_complete
from voxseg.training.field_scores import FieldResult
from voxseg.training.model_card import FieldScores
from voxseg.training.picture import draw_loss
from voxseg.training.progress import MetricValue, read_metrics
from voxseg.training.recorder import FIGURES, Recorder

__all__ = ["FieldRecorder", "errors_in_words"]

UNITS = {"relative_error": "", "rmse": "", "angle": "°", "fa_error": ""}
TURNED = "turned "


class FieldRecorder(Recorder):
    """A `Recorder` whose columns, table and pictures are those of a field. The relative error decides what is best."""

    result: FieldResult | None
    latest: FieldScores | None

    @property
    def target(self) -> FieldTarget:
        """What is learned."""
        assert self.run.config.targets is not None
        return self.run.config.targets

    @property
    def dice(self) -> float:
        """There is none."""
        return math.nan

    @property
    def score(self) -> str:
        """The errors of the latest validation, in words."""
        return errors_in_words(self.latest.errors) if self.latest is not None else ""

    def columns(self) -> list[str]:
        """Of `metrics.csv`."""
        names = self.target.error_names()
        return [*FIGURES, "equivariance_error", *names, *(TURNED + name for name in names)]

    def scored(self, result: Any) -> dict[str, MetricValue]:
        """The figures of a validation."""
        errors, turned = result.errors, result.turned
        self.result, self.latest = result, FieldScores(errors, turned, result.equivariance_error)
        if not math.isnan(errors["relative_error"]):
            self.history.append(-errors["relative_error"])
        row: dict[str, MetricValue] = {"equivariance_error": result.equivariance_error, **errors}
        return row | {TURNED + name: error for name, error in (turned or {}).items()}

    def table(self, result: Any) -> str:
        """The figures of a validation as text."""
        lines = [f"  upright  {errors_in_words(result.errors)}"]
        if result.turned is not None:
            lines.append(f"  turned   {errors_in_words(result.turned)}")
        if not math.isnan(result.equivariance_error):
            lines.append(f"  equivariance error {result.equivariance_error:.3f}")
        return "\n".join(lines)

    def draw(self, metrics: dict[str, list[float]], title: str) -> None:
        """`progress.png`."""
        assert self.result is not None
        _draw(self.run.folder / "progress.png", metrics, self.target, self.result, title)

    def earlier(self) -> tuple[list[float], Any]:
        """The history and the latest errors that an earlier part of the run has written."""
        metrics, names = read_metrics(self.run.folder / "metrics.csv"), self.target.error_names()
        rows = [k for k, error in enumerate(metrics["relative_error"]) if not math.isnan(error)]
        if not rows:
            return [], None
        errors = {name: metrics[name][rows[-1]] for name in names}
        turned = {name: metrics[TURNED + name][rows[-1]] for name in names}
        known = None if all(map(math.isnan, turned.values())) else turned
        history = [-metrics["relative_error"][k] for k in rows]
        return history, FieldScores(errors, known, metrics["equivariance_error"][rows[-1]])


def errors_in_words(errors: Mapping[str, float]) -> str:
    """Errors in a line."""
    told = (f"{name.replace('_', ' ')} {value:.3g}{UNITS[name]}" for name, value in errors.items())
    return ", ".join(told)


def _draw(path: Path, metrics: dict[str, list[float]], target: FieldTarget, result: FieldResult, title: str) -> None:
    """Loss and errors by step, and planes of the first case with the truth above the prediction."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1, 1.3])
    curves, views = halves
    loss_axes, error_axes, angle_axes = curves.subplots(1, 3)
    draw_loss(loss_axes, metrics)
    _draw_errors(error_axes, metrics, ["relative_error", "fa_error"], "relative error")
    _draw_errors(angle_axes, metrics, ["angle"], "angle (degrees)")
    shown = next((case for case in result.cases if case.views), None)
    if shown is not None:
        views.suptitle(f"latest validation: {shown.name}, {target.name}", fontsize="medium", parse_math=False)
        axes = views.subplots(2, len(shown.views))
        for column, view in enumerate(shown.views):
            for row, (name, plane) in enumerate((("truth", view.truth), ("prediction", view.prediction))):
                place, (across, up) = axes[row][column], view.spacing
                place.imshow(plane.swapaxes(0, 1), origin="lower", aspect=up / across, interpolation="nearest")
                place.invert_xaxis()  # as radiologists see it
                place.set_title(f"{view.name}: {name}", fontsize="medium")
                place.set_axis_off()
    write_complete(path, lambda temporary: figure.savefig(temporary, dpi=100, format="png"))


def _draw_errors(axes: Any, metrics: dict[str, list[float]], names: list[str], title: str) -> None:
    steps = np.array(metrics["step"])
    names = [name for name in names if name in metrics]
    axes.set_title(title)
    axes.set_xlabel("step")
    for name, colour in zip(names, ("black", "tab:purple"), strict=False):
        for column, style in ((name, "-"), (TURNED + name, "--")):
            values = np.array(metrics[column])
            there = ~np.isnan(values)
            if there.any():
                label = f"{column.replace('_', ' ')} {values[there][-1]:.3g}"
                axes.plot(steps[there], values[there], style, color=colour, marker=".", label=label)
    if names and axes.lines:
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize="small")
    axes.grid(alpha=0.3)
