"""A run folder: what may be written there, and taking it up again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import ValidationError

from voxseg.data.labels import LabelTable
from voxseg.data.staging import write_complete, write_text
from voxseg.errors import UserError
from voxseg.training.checkpoint import CheckpointStore, TrainingState
from voxseg.training.config import TrainingConfig, changed_keys
from voxseg.training.progress import Display
from voxseg.training.samples import Batch

# A resumed run may not change these: the weights in the checkpoint mean nothing under others, or have seen the cases
# that another division would validate on.
FIXED_ON_RESUME = (
    "network", "labels", "targets", "preparation", "dataset.fold", "dataset.folds", "dataset.split", "initial_weights",
)  # fmt: skip
FREE_ON_RESUME = ("network.checkpointing", "network.dense")  # how the same is computed

# What a run that was refused before its first step may leave: another one can take its place, and its prepared cases.
UNBEGUN = ("config.yaml", "environment.json", "splits.json", "cache")


@dataclass
class Run:
    """A run folder and what belongs to it.

    Attributes:
        folder: of the run.
        config: of the run.
        table: of the structures predicted.
        device: that trains.
        facts: about the data, for the model card: `layout`, `training_cases`, `validation_cases`.
        origin: what was taken of another model (`take_weights`), for the card and the checkpoints; None if nothing.
    """

    folder: Path
    config: TrainingConfig
    table: LabelTable
    device: torch.device
    facts: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] | None = None

    @property
    def store(self) -> CheckpointStore:
        """Its checkpoints."""
        return CheckpointStore(self.folder / "checkpoints")

    def write_config(self) -> None:
        """Makes the folder, and writes the config into it.

        Raises:
            UserError: the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(self.folder, f"cannot be made ({error.strerror})", "choose another with -o") from None
        contents = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        write_text(self.folder / "config.yaml", contents)

    def keep_failed(self, step: int, batch: Batch) -> Path:
        """Writes samples that spoilt a step to `failed/`, to be looked at; returns the file."""
        path = self.folder / "failed" / f"step_{step + 1:06d}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        image, target = batch.image.float().cpu().numpy(), batch.target.cpu().numpy().astype(np.uint8)
        arrays: dict[str, Any] = {"image": image, "target": target, "names": np.array(batch.names)}
        if batch.field is not None:
            arrays["field"] = batch.field.float().cpu().numpy()
        write_complete(path, lambda part: np.savez_compressed(part, **arrays))
        return path


def check_folder(folder: Path, resume: bool) -> None:
    """Refuses to write over a run, and to go on with one that is not there.

    Raises:
        UserError: the folder is not empty, or with `resume` it is not the folder of a run.
    """
    if resume:
        if not (folder / "config.yaml").is_file() and not CheckpointStore(folder / "checkpoints").exists():
            raise UserError(folder, "there is no run to go on with", "leave out --resume to start one")
    elif folder.exists() and (not folder.is_dir() or any(entry.name not in UNBEGUN for entry in folder.iterdir())):
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
        if _lies_in(key, FIXED_ON_RESUME) and not _lies_in(key, FREE_ON_RESUME):
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
    run.origin = contents.get("origin")
    changed = "; ".join(f"{key} {before} -> {after}" for key, (before, after) in changes.items())
    display.message(f"{run.folder}: going on at step {state.step}" + (f", changed: {changed}" if changed else ""))


def _lies_in(key: str, blocks: Sequence[str]) -> bool:
    return any(key == block or key.startswith(f"{block}.") for block in blocks)


def _as_read_now(config: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the defaults of keys that were added since it was saved."""
    try:
        return TrainingConfig.model_validate(config).model_dump(mode="json")
    except ValidationError:
        return config
