"""One run of a data-efficiency benchmark: trained, tested, and its result written down."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from voxseg.data.datasets.splits import Split, write_splits
from voxseg.data.staging import write_text
from voxseg.evaluation.data_efficiency_cases import Cases, draw_cases
from voxseg.evaluation.data_efficiency_config import ArmConfig
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor
from voxseg.networks import build_network
from voxseg.training.config import TrainingConfig
from voxseg.training.config_file import read_yaml
from voxseg.training.loop import train
from voxseg.training.progress import read_metrics
from voxseg.training.scores import CaseScore, class_counts, mean_dice

__all__ = ["Run", "RunResult", "logged", "make_run", "read_result"]

RESULT = "result.json"
LOG = "log.txt"
SPLIT = "cases.json"
TRAINING = "training"
"""The folder of the training within that of the run."""


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        arm: how it is trained.
        size: on how many cases.
        seed: as in the config.
    """

    arm: ArmConfig
    size: int
    seed: int

    @property
    def place(self) -> Path:
        """Of its folder in that of the benchmark."""
        return Path("runs") / self.arm.name / f"cases_{self.size:04d}" / f"seed_{self.seed}"

    @property
    def training_seed(self) -> int:
        """Of the initial weights and the samples: another one for each size, the same for every arm."""
        return int(np.random.SeedSequence((self.seed, self.size)).generate_state(1)[0])

    def __str__(self) -> str:
        return f"{self.arm.name}, {self.size} case{'s' * (self.size != 1)}, seed {self.seed}"


@dataclass(frozen=True)
class RunResult:
    """What a finished run gave.

    Attributes:
        arm: its name.
        size: number of training cases.
        seed: as in the config.
        steps: of the optimiser.
        training_seconds: spent in them.
        test_seconds: spent on the test cases.
        parameters: weights of the network.
        cases: that were trained on.
        outputs: names of the structures.
        dice: for each pose by its name and each test case the Dice of each structure; NaN for one that is neither
            there nor found.
        pool: how many cases they were drawn from.
    """

    arm: str
    size: int
    seed: int
    steps: int
    training_seconds: float
    test_seconds: float
    parameters: int
    cases: list[str]
    outputs: list[str]
    dice: dict[str, dict[str, list[float]]]
    pool: int = 0

    def structures(self, pose: str) -> list[float]:
        """Mean Dice of each structure over the test cases in a pose."""
        return [mean_dice(column) for column in zip(*self.dice[pose].values(), strict=True)]


def read_result(folder: Path) -> RunResult | None:
    """The result of a run; None if it is not finished."""
    try:
        values = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        for pose in values["dice"].values():
            for case, scores in pose.items():
                pose[case] = [math.nan if score is None else float(score) for score in scores]
        return RunResult(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # or somebody has edited it: the run is then tested again


def make_run(
    run: Run, training: TrainingConfig, cases: Cases, folder: Path, device: str = "auto", keep: bool = False
) -> signal.Signals | None:
    """Trains and tests, or goes on with that where it was interrupted.

    Args:
        run: which one.
        training: of its arm, as `training_config` gives it.
        cases: to draw from and to test on.
        folder: of the run.
        device: "auto", "cpu", "cuda" or "mps".
        keep: whether checkpoints are kept once the result is there.

    Returns:
        The signal that stopped the training, which can then go on; None if the run is finished.

    Raises:
        UserError: as `voxseg.training.loop.train` does, or a test case cannot be read.
    """
    names, place = draw_cases(cases.pool, run.size, run.seed), folder / TRAINING
    split = (folder / SPLIT).resolve()
    resume = (place / "config.yaml").is_file()
    if resume and (read_yaml(place / "config.yaml").get("dataset") or {}).get("split") != str(split):
        shutil.rmtree(place)  # somebody has moved the benchmark: training refuses to go on with another split
        resume = False
    folder.mkdir(parents=True, exist_ok=True)
    write_splits(split, [Split(tuple(names), tuple(case.id for case in cases.test))])
    config = _complete(training, run, cases.folder, split)
    outcome = train(config, place, device, resume)
    if outcome.signal is not None:
        return outcome.signal
    started = time.monotonic()
    dice = _test(place, config, cases, device)
    result = RunResult(
        arm=run.arm.name,
        size=run.size,
        seed=run.seed,
        steps=outcome.step,
        training_seconds=round(read_metrics(place / "metrics.csv")["seconds"][-1], 2),
        test_seconds=round(time.monotonic() - started, 2),
        parameters=sum(weight.numel() for weight in build_network(config.network).parameters()),
        cases=names,
        outputs=config.labels.outputs,
        dice=dice,
        pool=len(cases.pool),
    )
    values: dict[str, Any] = asdict(result)
    for pose in values["dice"].values():
        for case, scores in pose.items():
            pose[case] = [None if math.isnan(score) else score for score in scores]
    write_text(folder / RESULT, json.dumps(values, indent=1) + "\n")
    if not keep:
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return None


def _complete(training: TrainingConfig, run: Run, data: Path, split: Path) -> TrainingConfig:
    """The config of a run: that of its arm with the run's own seed, cases and place for prepared cases."""
    assert training.dataset is not None
    cache = training.dataset.cache or split.parents[4] / "cache"  # one for all runs
    dataset = training.dataset.model_copy(update={"split": split, "fold": 0, "cache": cache})
    return training.model_copy(update={"seed": run.training_seed, "data": data, "dataset": dataset})


def _test(place: Path, config: TrainingConfig, cases: Cases, device: str) -> dict[str, dict[str, list[float]]]:
    """Dice of each structure by pose and case."""
    predictor = Predictor(load_model(place / "model", allow_import=True), device)  # whose code has just been trained
    dice: dict[str, dict[str, list[float]]] = {}
    for k, scan in enumerate(cases.scans(config.preparation, config.labels)):
        found = predictor.segment(scan.images).classes
        score = CaseScore(k, scan.case, class_counts(scan.truth, found, config.labels)).dice
        dice.setdefault(scan.pose.name, {})[scan.case] = score
    return dice


@contextlib.contextmanager
def logged(folder: Path, show: Callable[[str], object]) -> Iterator[None]:
    """Sends what is written to standard error into the log of a run.

    Args:
        folder: of the run.
        show: called with each line as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOG, "a", encoding="utf-8", buffering=1) as file:
        before = sys.stderr
        sys.stderr = _Log(file, show)
        try:
            yield
        finally:
            sys.stderr = before


class _Log:
    """A text stream that tells of each line."""

    def __init__(self, file: TextIO, show: Callable[[str], object]) -> None:
        self._file, self._show = file, show

    def write(self, text: str) -> int:
        line = text.strip()
        if line:
            self._show(line.splitlines()[0])
        return self._file.write(text)

    def flush(self) -> None:
        self._file.flush()

    def isatty(self) -> bool:
        return False
