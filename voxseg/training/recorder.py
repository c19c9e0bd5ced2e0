"""Everything that a run writes while it goes on."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from voxseg.data.staging import write_text
from voxseg.errors import UserError
from voxseg.training.checkpoint import TrainingState
from voxseg.training.model_card import Scores
from voxseg.training.model_folder import write_model
from voxseg.training.picture import draw_case, draw_progress
from voxseg.training.progress import Display, MetricsFile, MetricValue, open_tensorboard, read_metrics, score_table
from voxseg.training.provenance import environment
from voxseg.training.run import Run
from voxseg.training.scores import mean_dice
from voxseg.training.tracking import MetricLogger, open_mlflow

FIGURES = ("step", "seconds", "waiting", "loss", "learning_rate", "gradient_norm")
COLUMNS = (*FIGURES, "dice", "turned", "equivariance_error")
"""Of `metrics.csv`: time so far and time spent waiting for data in s; mean Dice of
the validation, upright and turned, and how far the network is from turning its output with its input. The columns
`dice NAME` and `turned NAME` follow."""


class Recorder:
    """Writes a run's figures after each step, and its checkpoint, model folder and picture when told to save.

    Args:
        run: whose folder is written.
        state: what is saved.
        display: where figures are shown.

    Attributes:
        history: mean Dice of each validation, those of earlier parts of the run included.
        latest: scores of the latest one, if there was one.
        saved_step: of the latest checkpoint.
    """

    def __init__(self, run: Run, state: TrainingState, display: Display) -> None:
        self.run, self.state, self.display = run, state, display
        run.write_config()
        self._write_environment()
        outputs = run.config.labels.outputs
        self.dice_columns, self.turned_columns = [f"dice {n}" for n in outputs], [f"turned {n}" for n in outputs]
        self.metrics = MetricsFile(run.folder / "metrics.csv", self.columns(), state.step)
        self.loggers = self._open_loggers()
        self.saved_step = state.step
        self.result: Any = None
        self.history, self.latest = self.earlier()

    @property
    def stale(self) -> int:
        """Validations since the best."""
        return len(self.history) - 1 - self.history.index(max(self.history)) if self.history else 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.metrics.close()
        for logger in self.loggers:
            logger.close()

    @property
    def dice(self) -> float:
        """Mean Dice of the latest validation; NaN if there was none."""
        return mean_dice(self.latest.dice) if self.latest is not None else math.nan

    @property
    def score(self) -> str:
        """That in words; empty if there is none."""
        return "" if math.isnan(self.dice) else f"Dice {self.dice:.3f}"

    def columns(self) -> list[str]:
        """Of `metrics.csv`."""
        return [*COLUMNS, *self.dice_columns, *self.turned_columns]

    def scored(self, result: Any) -> dict[str, MetricValue]:
        """The figures of a validation."""
        dice, turned = result.dice, result.turned
        self.result, self.latest = result, Scores(dice, turned, result.equivariance_error)
        row: dict[str, MetricValue] = {"dice": mean_dice(dice), "equivariance_error": result.equivariance_error}
        row |= dict(zip(self.dice_columns, dice, strict=True))
        if turned is not None:
            row |= {"turned": mean_dice(turned), **dict(zip(self.turned_columns, turned, strict=True))}
        if not math.isnan(mean_dice(dice)):
            self.history.append(mean_dice(dice))
        return row

    def table(self, result: Any) -> str:
        """The figures of a validation as text."""
        return score_table(self.run.config.labels.outputs, result.dice, result.turned, result.equivariance_error)

    def draw(self, metrics: dict[str, list[float]], title: str) -> None:
        """`progress.png`, and the pictures of cases."""
        run, scheme = self.run, self.run.config.labels
        draw_progress(run.folder / "progress.png", metrics, scheme, self.result, title)
        for view in self.result.views if run.config.dataset else ():
            pictures = run.folder / "pictures"
            pictures.mkdir(exist_ok=True)
            draw_case(pictures / f"{view.name}.png", view, scheme, f"{title}: {view.name}")

    def record(self, figures: Mapping[str, float], result: Any) -> None:
        """Writes and shows the figures of the step that was just taken."""
        step = self.state.step
        row: dict[str, MetricValue] = {"step": step, "seconds": round(self.state.seconds, 3), **figures}
        if result is not None:
            row |= self.scored(result)
        self.metrics.write(row)
        known = {name: value for name, value in row.items() if value is not None and not math.isnan(value)}
        for logger in self.loggers:
            logger.log(known, step)
        self.display.update(row)
        if result is not None:
            self.display.message(self.table(result))

    def save(self) -> None:
        """Writes the checkpoint first, then what can be made again from it.

        Raises:
            UserError: the disk is full, or the folder cannot be written to any more.
        """
        run, state = self.run, self.state
        try:
            run.store.save({**state.contents(run.config.model_dump(mode="json")), "origin": run.origin})
        except OSError as error:
            problem = f"step {state.step} cannot be saved ({error.strerror})"
            kept = f"the checkpoint of step {self.saved_step} is kept: " if self.saved_step else ""
            raise UserError(run.store.folder, problem, f"{kept}make room, then use --resume") from None
        self.saved_step = state.step
        for logger in self.loggers:
            logger.flush()
        write_model(run, state, self.latest)
        if self.result is not None:
            title = f"{run.config.name}: step {state.step} of {run.config.steps}"
            self.draw(read_metrics(run.folder / "metrics.csv"), title)

    def earlier(self) -> tuple[list[float], Any]:
        """The history and the latest scores that an earlier part of the run has written."""
        metrics = read_metrics(self.run.folder / "metrics.csv")
        rows = [k for k, score in enumerate(metrics["dice"]) if not math.isnan(score)]
        if not rows:
            return [], None
        dice = [metrics[name][rows[-1]] for name in self.dice_columns]
        turned = [metrics[name][rows[-1]] for name in self.turned_columns]
        error = metrics["equivariance_error"][rows[-1]]
        return [metrics["dice"][k] for k in rows], Scores(dice, None if all(map(math.isnan, turned)) else turned, error)

    def _write_environment(self) -> None:
        """Adds where this part of the run computes: one entry for each time that it was started or resumed."""
        path, parts = self.run.folder / "environment.json", []
        if path.is_file():
            with contextlib.suppress(ValueError):  # somebody has edited it
                parts = list(json.loads(path.read_text(encoding="utf-8")))
        parts.append({"from_step": self.state.step, **environment(self.run.device)})
        write_text(path, json.dumps(parts, indent=2) + "\n")

    def _open_loggers(self) -> list[MetricLogger]:
        run, step = self.run, self.state.step
        loggers: list[MetricLogger] = []
        tensorboard = open_tensorboard(run.folder / "events", step)
        if tensorboard is None:
            self.display.message("no TensorBoard events: tensorboard is not installed (pip install 'voxseg[train]')")
        else:
            loggers.append(tensorboard)
        if "mlflow" in run.config.loggers:
            settings = run.config.model_dump(mode="json")
            loggers.append(open_mlflow(run.folder, run.config.name, settings, self.display.message))
        return loggers


def open_recorder(run: Run, state: TrainingState, display: Display) -> Recorder:
    """The recorder of a run: of labels, or of a field."""
    if run.config.targets is None:
        return Recorder(run, state, display)
    from voxseg.training.field_recorder import FieldRecorder  # which derives from the one here

    return FieldRecorder(run, state, display)


class SilentRecorder:
    """In the place of a `Recorder` in all processes of a run but the first: nothing is written twice."""

    latest = None
    dice = math.nan
    score = ""
    stale = 0

    def __init__(self, state: TrainingState) -> None:
        self.saved_step = state.step

    def __enter__(self) -> SilentRecorder:
        return self

    def __exit__(self, *error: object) -> None: ...

    def record(self, figures: Mapping[str, float], result: Any) -> None:
        """Does nothing."""

    def save(self) -> None:
        """Does nothing."""
