"""How many cases a network needs: trained on few and more of them, tested on the same others, upright and turned.

The benchmark's folder holds a run folder of `voxseg.training` for each arm, size and seed. A run is finished once its
`result.json` is there; everything else (`runs.csv`, `fits.json`, the picture) is made from those files anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from voxseg.data.staging import write_text
from voxseg.errors import UserError
from voxseg.evaluation.data_efficiency_cases import open_cases
from voxseg.evaluation.data_efficiency_config import DataEfficiencyConfig, training_config
from voxseg.evaluation.data_efficiency_file import CONFIG_FILE
from voxseg.evaluation.data_efficiency_run import Run, RunResult, logged, make_run, read_result
from voxseg.training.config import changed_keys
from voxseg.training.config_file import read_yaml
from voxseg.training.environment import select_device
from voxseg.training.provenance import environment
from voxseg.training.scores import mean_dice

__all__ = ["Progress", "finished_runs", "planned_runs", "run_benchmark"]

FREE = ("name", "sizes", "seeds", "arms", "fit", "keep_checkpoints", "data")
"""Keys that may change when a benchmark goes on: they make runs of what is there no others. An arm may come or go, but
not change; a data set may move."""


@dataclass
class Progress:
    """How a benchmark went.

    Attributes:
        done: runs that are finished now.
        failures: runs that failed, with what is told of each.
        stopped: the signal that ended it early, or None.
    """

    done: list[RunResult] = field(default_factory=list)
    failures: list[tuple[Run, str]] = field(default_factory=list)
    stopped: signal.Signals | None = None


def planned_runs(config: DataEfficiencyConfig) -> list[Run]:
    """Every run, seed by seed and small sizes first: what is there early compares all arms."""
    return [Run(arm, n, seed) for seed in config.seeds for n in sorted(config.sizes) for arm in config.arms]


def finished_runs(config: DataEfficiencyConfig, folder: Path) -> list[RunResult]:
    """The results of those planned runs that are finished."""
    results = (read_result(folder / run.place) for run in planned_runs(config))
    return [result for result in results if result is not None]


def run_benchmark(
    config: DataEfficiencyConfig,
    folder: Path,
    device: str = "auto",
    tell: Callable[[str], None] = lambda text: None,
    only: Sequence[str] | None = None,
) -> Progress:
    """Makes the runs that are not finished yet, one after the other.

    An interrupted run goes on from its checkpoint. A run that fails is told of, and the others are made.

    Args:
        config: as `load_benchmark` gives it.
        folder: of the benchmark: new, or of one that was begun with the same config but for `FREE`.
        device: "auto", "cpu", "cuda" or "mps".
        tell: called with a line after each run.
        only: names of arms whose runs are made; by default all.

    Raises:
        UserError: the folder belongs to something else, the cases cannot be had, or there are several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        problem = "runs in one process, and torchrun has started several"
        raise UserError("the benchmark", problem, "start it without torchrun, or give each process seeds of its own")
    place = select_device(device)
    trainings = {arm.name: training_config(config, arm) for arm in config.arms}
    _begin(config, folder, place)
    cases = open_cases(config, next(iter(trainings.values())), folder)
    progress = Progress()
    runs = [run for run in planned_runs(config) if only is None or run.arm.name in only]
    missing = [run for run in runs if read_result(folder / run.place) is None]
    shown = sys.stderr.isatty()
    with tqdm(total=len(runs), initial=len(runs) - len(missing), unit="run", disable=not shown, leave=False) as bar:
        try:
            for run in missing:
                bar.set_description_str(str(run))
                path = folder / run.place
                try:
                    with logged(path, bar.set_postfix_str):
                        arm = trainings[run.arm.name]
                        progress.stopped = make_run(run, arm, cases, path, device, config.keep_checkpoints)
                except UserError as error:
                    progress.failures.append((run, str(error)))
                    tell(f"{run}: {error}")
                    continue
                if progress.stopped is not None:
                    break
                bar.update(1)
                result = read_result(path)
                assert result is not None
                tell(f"{run}: {_told(result)}")
        except KeyboardInterrupt:  # outside of a training, which saves its state and tells of the signal
            progress.stopped = signal.SIGINT
    progress.done = finished_runs(config, folder)
    return progress


def _told(result: RunResult) -> str:
    """The scores of a run in a line."""
    scores = {pose: mean_dice(result.structures(pose)) for pose in result.dice}
    upright, *turned = scores.values()
    seconds = result.training_seconds + result.test_seconds
    return f"mean Dice {upright:.3f} upright, {mean_dice(turned):.3f} turned, {seconds:.0f} s"


def _begin(config: DataEfficiencyConfig, folder: Path, device: torch.device) -> None:
    """Writes the config and the environment into the folder, unless it belongs to something else."""
    path = folder / CONFIG_FILE
    values = config.model_dump(mode="json")
    if path.is_file():
        _check_unchanged(path, values)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(folder, "exists and holds no benchmark", "choose another folder with -o")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(folder, f"cannot be made ({error.strerror})", "choose another with -o") from None
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    parts, record = [], folder / "environment.json"
    if record.is_file():
        with contextlib.suppress(ValueError):  # somebody has edited it
            parts = list(json.loads(record.read_text(encoding="utf-8")))
    write_text(record, json.dumps([*parts, environment(device)], indent=2) + "\n")


def _check_unchanged(path: Path, values: dict[str, Any]) -> None:
    """Refuses a config under which the runs that are there would not be those of the plan.

    Raises:
        UserError: which key.
    """
    before = read_yaml(path)
    changes = {key: change for key, change in changed_keys(before, values).items() if key.split(".")[0] not in FREE}
    arms = {arm["name"]: arm for arm in before.get("arms", [])}
    for arm in values["arms"]:
        if arm["name"] in arms:
            for key, change in changed_keys(arms[arm["name"]], arm).items():
                if key != "title":
                    changes[f"arm {arm['name']}: {key}"] = change
    if (before.get("data") is None) != (values["data"] is None):
        changes["data"] = before.get("data"), values["data"]
    for key, (old, new) in changes.items():
        raise UserError(key, f"is {new}, but {path.parent} was begun with {old}", "put it back, or choose another -o")
