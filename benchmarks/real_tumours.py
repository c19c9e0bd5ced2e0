"""From a folder of real tumours to a segmentation, end to end: `python benchmarks/real_tumours.py BRATS_FOLDER`.

Trains `configs/brats2020.yaml` at 2 mm on all cases but one, segments that one with `voxseg predict`, and prints the
Dice of the regions and the pose curve: the patient turned by 0 to 180 degrees about an axis along no axis of the grid,
images and labels interpolated once. With a handful of cases this shows that the path works, not how good the network
would be after training on the 369 cases of BraTS 2020.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from voxseg.data.datasets.case import Case
from voxseg.data.datasets.find import find_dataset
from voxseg.data.datasets.read import read_image, read_labels
from voxseg.data.turning import empty_values, turn_image, turn_labels, turned_grid
from voxseg.data.volume import Volume
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor
from voxseg.testing import rotation_matrix
from voxseg.training.config import TrainingConfig, load_config
from voxseg.training.config_file import find_config
from voxseg.training.equivariance import AXIS
from voxseg.training.scores import CaseScore, class_counts

ANGLES = (0, 15, 30, 45, 60, 90, 120, 150, 180)
SETTINGS = (
    "preparation.spacing=2.0",
    "windows.size=[64, 64, 64]",
    "batch=1",
    "precision=float32",
    "validation.cases=1",
    "network.levels=[8x0e+3x1e+1x2e, 16x0e+6x1e+2x2e, 24x0e+8x1e+3x2e, 24x0e+8x1e+3x2e]",
    "network.encoder_convolutions=[1, 2, 2, 2]",
    "network.decoder_convolutions=[1, 1, 1]",
    "loss.deep_supervision=[1.0, 0.4, 0.16]",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/real_tumours"))
    parser.add_argument("--images", default="flair,t1ce")
    parser.add_argument("--fold", type=int, default=0, help="which case is held out")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()

    folds = len({case.subject for case in find_dataset(arguments.folder).cases})
    changes = [*SETTINGS, f"dataset.folds={folds}", f"steps={arguments.steps}"]
    changes += [f"validation.every={max(1, arguments.steps // 3)}", *arguments.overrides]
    options = ["--images", arguments.images, "--fold", str(arguments.fold)]
    run = arguments.output / f"fold{arguments.fold}"
    command = [sys.executable, "-m", "voxseg", "train", "brats2020", "--data", str(arguments.folder), "-o", str(run)]
    if run.exists():
        command.append("--resume")
    start = time.monotonic()
    subprocess.run([*command, *options, *(word for change in changes for word in ("--set", change))], check=True)
    print(f"training: {(time.monotonic() - start) / 60:.1f} min")

    config = load_config(find_config(run))
    case = held_out(run, config)
    first = next(iter(case.images.values())).path.parent
    predict = [sys.executable, "-m", "voxseg", "predict", str(first), "--model", str(run / "model"), "-o", str(run)]
    subprocess.run(predict, check=True)
    written, _ = read_labels(next(run.glob(f"{case.id}*_seg.nii.gz")))
    truth = config.labels.to_classes(read_labels(case.label)[0])  # type: ignore[arg-type]
    names = config.labels.outputs
    dice = CaseScore(0, case.id, class_counts(truth, config.labels.to_classes(written), config.labels)).dice
    print(f"{case.id}, held out: " + ", ".join(f"{name} {score:.3f}" for name, score in zip(names, dice, strict=True)))
    print("degrees  " + "  ".join(names))
    for degrees, scores in pose_curve(run / "model", config, case, truth):
        print(f"{degrees:7d}  " + "  ".join(f"{s:{len(n)}.3f}" for n, s in zip(names, scores, strict=True)), flush=True)


def held_out(run: Path, config: TrainingConfig) -> Case:
    """The first case of the fold that was validated on."""
    from voxseg.data.datasets.splits import read_splits

    assert config.data is not None
    assert config.dataset is not None
    dataset = find_dataset(config.data, config.dataset.layout, config.dataset.patterns)
    split = read_splits(run / "splits.json", dataset)[config.dataset.fold]  # type: ignore[index]
    return next(case for case in dataset.cases if case.id == split.validation[0])


def pose_curve(model: Path, config: TrainingConfig, case: Case, truth: np.ndarray):
    """For each angle the Dice of the regions."""
    predictor = Predictor(load_model(model))
    images = [read_image(case.images[name]) for name in config.preparation.images]
    scales = list(config.preparation.images.values())
    first = images[0][1]
    centre = first.to_world((np.array(first.shape) - 1) / 2)
    for degrees in ANGLES:
        rotation = rotation_matrix(AXIS, degrees).numpy()
        volumes = []
        for (data, geometry), scale in zip(images, scales, strict=True):
            grid = turned_grid(geometry, rotation, centre)
            turned = turn_image(data, geometry, rotation, centre, empty_values(data, scale))
            volumes.append(Volume(Path(case.id), turned, grid, None, grid.shape))
        labels = turn_labels(truth, first, rotation, centre)
        prediction = predictor.segment(volumes).classes
        yield degrees, CaseScore(0, case.id, class_counts(labels, prediction, config.labels)).dice


if __name__ == "__main__":
    main()
