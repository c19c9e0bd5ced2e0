"""A run folder: what may be written there, taking it up again, and everything that a run leaves in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from voxseg.data.labels import LabelTable
from voxseg.data.staging import write_text
from voxseg.errors import UserError
from voxseg.training.checkpoint import CheckpointStore, TrainingState
from voxseg.training.config import TrainingConfig, changed_keys
from voxseg.training.model_folder import write_model
from voxseg.training.picture import draw_progress
from voxseg.training.progress import Display, MetricsFile, MetricValue, open_tensorboard, read_metrics
from voxseg.training.validation import ValidationResult, mean_dice

# A resumed run may not change these blocks: the weights in the checkpoint mean nothing under others.
FIXED_ON_RESUME = ("network", "labels")


@dataclass
class Run:
    """A run folder and what belongs to it.

    Attributes:
        folder: of the run.
        config: of the run.
        table: of the structures predicted.
        device: that trains.
    """

    folder: Path
    config: TrainingConfig
    table: LabelTable
    device: torch.device

    @property
    def store(self) -> CheckpointStore:
        """Its checkpoints."""
        return CheckpointStore(self.folder / "checkpoints")


def check_folder(folder: Path, resume: bool) -> None:
    """Refuses to write over a run, and to go on with one that is not there.

    Raises:
        UserError: the folder is not empty, or with `resume` it is not the folder of a run.
    """
    if resume:
        if not (folder / "config.yaml").is_file() and not CheckpointStore(folder / "checkpoints").exists():
            raise UserError(folder, "there is no run to go on with", "leave out --resume to start one")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            folder, "exists and is not empty", "go on with that run with --resume, or choose another folder with -o"
        )


def take_up(run: Run, state: TrainingState, display: Display) -> None:
    """Puts the state of the last readable checkpoint in place and tells what has changed since.

    Raises:
        UserError: the config has another network or other labels, or fewer steps than were taken.
    """
    if not run.store.exists():
        display.message(f"{run.folder}: no checkpoint yet, starting at step 0")
        return
    contents, warning = run.store.load()
    if warning:
        display.message(f"warning: {warning}")
    changes = changed_keys(_as_read_now(contents["config"]), run.config.model_dump(mode="json"))
    for key, (before, after) in changes.items():
        if key.split(".")[0] in FIXED_ON_RESUME:
            raise UserError(
                key, f"is {after}, but the run was started with {before}", "put it back, or start a new run with -o"
            )
    if contents["step"] > run.config.steps:
        raise UserError("steps", f"is {run.config.steps}, but {contents['step']} were taken", "raise it")
    try:
        state.restore(contents)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(run.store.folder, f"does not fit this network ({reason})", "start a new run with -o") from None
    changed = "; ".join(f"{key} {before} -> {after}" for key, (before, after) in changes.items())
    display.message(f"{run.folder}: going on at step {state.step}" + (f", changed: {changed}" if changed else ""))


def _as_read_now(config: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the defaults of keys that were added since it was saved."""
    try:
        return TrainingConfig.model_validate(config).model_dump(mode="json")
    except ValidationError:
        return config


class Recorder:
    """Writes a run's figures after each step, and its checkpoint, model folder and picture when told to save.

    Args:
        run: whose folder is written.
        state: what is saved.
        display: where figures are shown.

    Attributes:
        dice: of each structure at the latest validation, that of an earlier part of the run included.
    """

    def __init__(self, run: Run, state: TrainingState, display: Display) -> None:
        self.run, self.state, self.display = run, state, display
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            write_text(run.folder / "config.yaml", yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False))
        except OSError as error:
            raise UserError(run.folder, f"cannot be written to ({error.strerror})", "choose another with -o") from None
        self.dice_columns = [f"dice {name}" for name in run.table.names]
        columns = ["step", "seconds", "loss", "learning_rate", "gradient_norm", "dice", *self.dice_columns]
        self.metrics = MetricsFile(run.folder / "metrics.csv", columns, state.step)
        self.events = open_tensorboard(run.folder / "events", state.step)
        if self.events is None:
            display.message("no TensorBoard events: tensorboard is not installed (pip install 'voxseg[train]')")
        self.saved_step = state.step
        self.dice = self._latest_dice()
        self.result: ValidationResult | None = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.metrics.close()
        if self.events is not None:
            self.events.close()

    def record(self, loss: float, rate: float, norm: float, result: ValidationResult | None) -> None:
        """Writes and shows the figures of the step that was just taken."""
        row: dict[str, MetricValue] = {
            "step": self.state.step,
            "seconds": round(self.state.seconds, 3),
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": norm,
        }
        if result is not None:
            self.result, self.dice = result, result.dice
            row |= {"dice": mean_dice(result.dice), **dict(zip(self.dice_columns, result.dice, strict=True))}
        self.metrics.write(row)
        if self.events is not None:
            for name, value in row.items():
                if name != "step" and value is not None and not math.isnan(value):
                    self.events.add_scalar(name.replace(" ", "/"), value, self.state.step)
        self.display.update(row)

    def save(self) -> None:
        """Writes the checkpoint first, then what can be made again from it.

        Raises:
            UserError: the disk is full, or the folder cannot be written to any more.
        """
        run, state = self.run, self.state
        try:
            run.store.save(state.contents(run.config.model_dump(mode="json")))
        except OSError as error:
            problem = f"step {state.step} cannot be saved ({error.strerror})"
            kept = f"the checkpoint of step {self.saved_step} is kept: " if self.saved_step else ""
            raise UserError(run.store.folder, problem, f"{kept}make room, then use --resume") from None
        self.saved_step = state.step
        write_model(
            run.folder / "model",
            run.config,
            run.table,
            state.averaged,
            state.step,
            state.seconds,
            run.device,
            self.dice,
        )
        if self.result is not None:
            title = f"{run.config.name}: step {state.step} of {run.config.steps}"
            metrics = read_metrics(run.folder / "metrics.csv")
            draw_progress(run.folder / "progress.png", metrics, run.table, self.result, title)

    def _latest_dice(self) -> list[float] | None:
        metrics = read_metrics(self.run.folder / "metrics.csv")
        validated = [k for k, dice in enumerate(metrics["dice"]) if not math.isnan(dice)]
        return [metrics[name][validated[-1]] for name in self.dice_columns] if validated else None
