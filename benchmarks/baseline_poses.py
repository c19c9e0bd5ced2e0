"""Where Dice is lost in turned poses: pose by pose, and the equivariance error of sharper and smoother images.

    voxseg benchmark baselines -o FOLDER
    python benchmarks/baseline_poses.py FOLDER [--models se3cnn,phisnet]

A markdown table of a finished benchmark: Dice in each pose, and the relative error of a trained network's logits at 45
degrees about an odd axis for images of Gaussian blobs of several widths; means over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor

from voxseg.errors import UserError
from voxseg.evaluation.data_efficiency import finished_runs
from voxseg.evaluation.data_efficiency_config import DataEfficiencyConfig, load_benchmark
from voxseg.evaluation.data_efficiency_file import CONFIG_FILE
from voxseg.evaluation.data_efficiency_run import TRAINING, Run, RunResult
from voxseg.inference.model import load_model
from voxseg.testing import blobs
from voxseg.training.equivariance import equivariance_error
from voxseg.training.scores import mean_dice

WIDTHS = (1.0, 1.4, 2.0, 2.8)
"""Standard deviations of the blobs, in voxels."""

SIDE = 16
DEGREES = 45.0


def error(model: Path, width: float) -> float:
    """Of one trained network."""
    loaded = load_model(model, allow_import=True)
    image = blobs(
        f"{loaded.config.network.in_channels}x0e", torch.eye(3, dtype=torch.float64), (SIDE,) * 3, width=width
    )

    @torch.no_grad()
    def logits(x: Tensor) -> Tensor:
        result: Tensor = loaded.network(x).float()
        return result

    return equivariance_error(logits, image[0].float(), DEGREES)


def dice(config: DataEfficiencyConfig, result: RunResult, pose: str) -> float:
    """Mean over the test cases of what the benchmark scores."""
    structures = result.structures(pose)
    return mean_dice(structures) if config.fit.score == "mean" else structures[result.outputs.index(config.fit.score)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a benchmark of the baselines")
    parser.add_argument("--models", default="", metavar="A,B", help="only these")
    options = parser.parse_args()
    try:
        config = load_benchmark(options.folder / CONFIG_FILE)
    except UserError as problem:
        sys.exit(str(problem))
    results = finished_runs(config, options.folder)
    if not results:
        sys.exit(f"{options.folder}: no run is finished")
    poses = list(results[0].dice)
    heads = ["model", *poses, *(f"error, width {width:g}" for width in WIDTHS)]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for arm in config.arms:
        mine = [result for result in results if result.arm == arm.name]
        if not mine or (options.models and arm.name not in options.models.split(",")):
            continue
        models = [options.folder / Run(arm, r.size, r.seed).place / TRAINING / "model" for r in mine]
        cells = [f"{statistics.mean(dice(config, result, pose) for result in mine):.2f}" for pose in poses]
        cells += [f"{statistics.mean(error(model, width) for model in models):.2f}" for width in WIDTHS]
        print(f"| {arm.label} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
