"""What a steerable network is for: trained on upright heads alone, it finds tumours in heads that lie in any way.

    python benchmarks/generated_tumours.py [-o docs/tumours.png]

Makes heads with tumours by code (`voxseg.data.tumours`, no data set is needed), trains the steerable U-Net and its
plain twin on upright ones in the same way (same cases, steps and loss; no rotation augmentation), and prints the Dice
of the three BraTS regions on heads that neither has seen, in each pose. A turned head is generated anew in its pose,
not interpolated, so that a score that falls is the network's doing.

Why orientation matters in the task, as it does in real heads: along both external capsules stands a sheet of white
matter as bright in FLAIR as oedema and of the volume of a tumour, as in disease of the small vessels; half of the
tumours have no enhancing part that would give them away. Only shape tells a sheet apart: it is thin in one direction.
In a head that lies upright this is always left to right, and a network that has seen no other may learn it as a
direction of the grid. Round caps before and behind the ventricles are told apart by place. In T1 with contrast the
venous sinuses, arteries and the choroid plexus are as bright as an enhancing rim. The plain twin has as many channels
as the steerable network has components, and many times its weights.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from voxseg.cli._allocator import keep_freed_memory
from voxseg.data.tumours import TABLE, GeneratedCase, TumourConfig, TumourHead, generate_case, write_case
from voxseg.data.volume import Volume
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor
from voxseg.testing import rotation_matrix
from voxseg.training.config import TrainingConfig
from voxseg.training.loop import train
from voxseg.training.scores import CaseScore, class_counts

Pose = tuple[str, int]
"""Name of the axis and degrees."""

Scores = dict[Pose, NDArray[np.float64]]
"""Dice by pose, [heads, regions]."""

ANGLES = (0, 15, 30, 45, 60, 90, 120, 150, 180)
AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0), "(1,2,3)": (1.0, 2.0, 3.0)}
NETWORKS = {"steerable_unet": "steerable U-Net", "plain_unet": "plain twin"}
COLOURS = {"steerable_unet": "#0072B2", "plain_unet": "#D55E00"}  # told apart by the colour-blind
MARKERS = {"steerable_unet": "o", "plain_unet": "s"}

HEADS = TumourConfig(
    images=("flair", "t1ce"),
    spacing=4.0,
    radius_mm=(15.0, 24.0),
    second=0.1,
    solid=0.5,
    mimics=1.0,
    sheet_mm=(4.5, 6.0),
    field_mm=(160.0, 192.0, 176.0),
)
TURNED = HEADS.model_copy(update={"field_mm": (208.0, 208.0, 208.0)})
"""The same heads in a field of view in which none is cut off in any pose."""

TRAINING_SEED, TEST_SEED = 1, 2
LEVELS = ("6x0e+3x1e+1x2e", "12x0e+5x1e+2x2e", "16x0e+6x1e+3x2e", "16x0e+6x1e+3x2e")


def training_config(architecture: str, data: Path, steps: int, workers: int) -> TrainingConfig:
    """The run of one network; nothing but the name of the architecture differs."""
    return TrainingConfig.model_validate(
        {
            "name": architecture,
            "steps": steps,
            "data": data,
            "dataset": {"layout": "brats", "fold": "all", "cache": data.parent / "cache", "workers": workers},
            "preparation": {
                "spacing": HEADS.spacing,
                "images": {name: {"scale": "zscore"} for name in HEADS.images},
                "margin": 4.0,
            },
            "windows": {"size": "whole"},
            "augmentation": {
                "rotation_deg": 0, "scale": 0, "mirror": 0.5, "noise": 0.05, "blur_mm": 0, "brightness": 0.1,
                "gamma": 0, "bias": 0, "low_resolution": 0,
            },
            "labels": {
                "classes": TABLE.ids,
                "unlisted": "refuse",
                "table": [{"id": label.id, "name": label.name} for label in TABLE],
                "regions": [
                    {"name": "whole tumour", "ids": [1, 2, 4], "label": 2},
                    {"name": "tumour core", "ids": [1, 4], "label": 1},
                    {"name": "enhancing tumour", "ids": [4], "label": 4},
                ],
            },
            "network": {"architecture": architecture, "levels": LEVELS},
            "schedule": {"warmup": 40},
            "averaging": {"decay": 0.98},
            "postprocessing": {"largest_component": False},
        }
    )  # fmt: skip


def rotations() -> dict[Pose, NDArray[np.float64]]:
    """By axis and angle; the upright pose only once."""
    poses = {("x", 0): np.eye(3)}
    for name, axis in AXES.items():
        poses |= {(name, angle): rotation_matrix(axis, angle).numpy() for angle in ANGLES if angle}
    return poses


def evaluate(
    models: dict[str, Path], config: TrainingConfig, heads: int
) -> tuple[dict[str, Scores], dict[str, dict[Pose, NDArray[np.uint8]]]]:
    """For each network the Dice of each region by pose, [heads, regions], and the labels found in the first head."""
    predictors = {name: Predictor(load_model(folder)) for name, folder in models.items()}
    poses = rotations()
    scores = {name: {pose: np.empty((heads, len(config.labels.outputs))) for pose in poses} for name in models}
    first: dict[str, dict[Pose, NDArray[np.uint8]]] = {name: {} for name in models}
    for k in range(heads):
        head = TumourHead(TURNED, (TEST_SEED, k))
        for pose, rotation in poses.items():
            case = head.scan(rotation)
            truth = config.labels.to_classes(case.labels)
            for name, predictor in predictors.items():
                found = predictor.segment([volume(case, image) for image in config.preparation.images])
                scores[name][pose][k] = CaseScore(k, str(k), class_counts(truth, found.classes, config.labels)).dice
                if k == 0:
                    first[name][pose] = found.labels
    return scores, first


def volume(case: GeneratedCase, name: str) -> Volume:
    """An image of a case as if read from a file."""
    return Volume(Path(name), case.images[name], case.geometry, None, case.geometry.shape)


def by_angle(scores: Scores, angle: int) -> list[NDArray[np.float64]]:
    """For each axis the mean over the heads, [regions]."""
    return [np.nanmean(rows, axis=0) for (_, turned), rows in scores.items() if turned == angle]


def print_table(results: dict[str, Scores], regions: list[str]) -> None:
    """Mean Dice by angle over heads and axes, and the lowest axis for the whole tumour."""
    head = f"{'degrees':>8}  " + "  ".join(f"{region:>16}" for region in regions) + f"  {'whole, worst axis':>18}"
    for architecture, scores in results.items():
        print(f"\n{NETWORKS[architecture]}\n{head}")
        for angle in ANGLES:
            axes = by_angle(scores, angle)
            means = np.nanmean(axes, axis=0)
            print(
                f"{angle:8d}  " + "  ".join(f"{m:16.3f}" for m in means) + f"  {min(row[0] for row in axes):18.3f}",
                flush=True,
            )


def draw(
    results: dict[str, Scores],
    first: dict[str, dict[Pose, NDArray[np.uint8]]],
) -> Figure:
    """The curves, and one head in the pose in which the networks differ most in it."""
    figure = Figure(figsize=(10, 3.9), facecolor="white", layout="constrained")
    grid = figure.add_gridspec(1, 3, width_ratios=(1.7, 1, 1))
    axes = figure.add_subplot(grid[0, 0])
    for architecture, scores in results.items():
        rows = [[row[0] for row in by_angle(scores, angle)] for angle in ANGLES]
        colour = COLOURS[architecture]
        axes.fill_between(ANGLES, [min(r) for r in rows], [max(r) for r in rows], color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            ANGLES, [np.mean(r) for r in rows], color=colour, marker=MARKERS[architecture], linewidth=2,
            label=NETWORKS[architecture],
        )  # fmt: skip
    axes.set_xlabel("head turned by (degrees)")
    axes.set_ylabel("Dice of the whole tumour")
    axes.set_title("Mean over unseen heads and four axes; band: lowest to highest axis", fontsize=9)
    axes.set_xticks(ANGLES)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(min(0.5, axes.get_ylim()[0]), 1.0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", frameon=False)
    steerable, plain = results.values()
    pose = max(rotations(), key=lambda p: steerable[p][0, 0] - plain[p][0, 0])
    case = TumourHead(TURNED, (TEST_SEED, 0)).scan(rotations()[pose])
    difference = sum((found[pose] > 0) != (case.labels > 0) for found in first.values())
    plane = int(np.sum(difference, axis=(0, 1)).argmax())
    for column, architecture in enumerate(results, start=1):
        picture = figure.add_subplot(grid[0, column])
        show(picture, case, first[architecture][pose], plane, COLOURS[architecture])
        dice = results[architecture][pose][0, 0]
        picture.set_title(f"{NETWORKS[architecture]}, {pose[1]}° about {pose[0]}: {dice:.2f}", fontsize=10)
    figure.text(0.985, 0.02, "dashed: true outline, solid: found; FLAIR", ha="right", fontsize=9)
    return figure


def show(axes: Any, case: GeneratedCase, found: NDArray[np.uint8], plane: int, colour: str) -> None:
    """FLAIR with the outlines of the whole tumour, true (white) and predicted."""
    image = case.images["flair"]
    white = np.quantile(image[image > 0], 0.995)
    axes.imshow(image[:, :, plane].T, cmap="gray", vmin=0, vmax=white, origin="lower", interpolation="bilinear")
    for mask, line, style in ((case.labels > 0, "white", "--"), (found > 0, colour, "-")):
        if mask[:, :, plane].any():
            axes.contour(mask[:, :, plane].T, levels=[0.5], colors=[line], linestyles=style, linewidths=1.6)
    axes.set_axis_off()


def main() -> None:
    """Make the heads, train both networks, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="picture to draw")
    parser.add_argument("--folder", type=Path, help="for data and runs; a temporary one by default")
    parser.add_argument("--heads", type=int, default=96, help="to train on")
    parser.add_argument("--test", type=int, default=6, help="heads to test on")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        started = time.monotonic()
        for k in range(arguments.heads):
            write_case(folder / "data" / f"Generated_{k:03d}", generate_case(HEADS, (TRAINING_SEED, k)))
        print(f"{arguments.heads} heads in {minutes(started)}", flush=True)
        models = {}
        for architecture, title in NETWORKS.items():
            started = time.monotonic()
            config = training_config(architecture, folder / "data", arguments.steps, arguments.workers)
            if train(config, folder / architecture, "cpu").signal is not None:
                return  # told to stop
            models[architecture] = folder / architecture / "model"
            print(f"{title}: {arguments.steps} steps in {minutes(started)}", flush=True)
        started = time.monotonic()
        results, first = evaluate(models, config, arguments.test)
        print(f"{arguments.test} heads in {len(rotations())} poses in {minutes(started)}", flush=True)
        print_table(results, config.labels.outputs)
        if arguments.output is not None:
            draw(results, first).savefig(arguments.output, dpi=110, metadata={"Software": "voxseg"})


def minutes(started: float) -> str:
    """Time since then."""
    return f"{math.ceil(time.monotonic() - started) / 60:.1f} minutes"


if __name__ == "__main__":
    main()
