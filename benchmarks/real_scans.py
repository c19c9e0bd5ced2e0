"""How well a model segments real scans with manual labels, upright, padded with empty space, and in other poses.

    python benchmarks/real_scans.py ../shared/data/oasis_manual/validation --model brain
    python benchmarks/real_scans.py ../shared/data/oasis_manual/validation --checks dice padding grid angles

A case is a folder with `t1.nii.gz` and `labels.nii.gz` (FreeSurfer ids). All figures are at the scans' own resolution.
Angles compare scans that were interpolated once, labels and all, with the same scan turned by 2 degrees, so that both
sides have lost as much to interpolation.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import LabelTable
from voxseg.data.overlap import joint_counts
from voxseg.data.volume import Volume, read_volume
from voxseg.inference.locate import locate_model
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor
from voxseg.testing import grid_rotations, rotation_matrix

TURNS = [
    ((0, 0, 1), 2.0),
    ((0, 0, 1), 45.0),
    ((1, 0, 0), 45.0),
    ((1, 2, 3), 60.0),
    ((-2, 1, 1), 110.0),
    ((1, 1, 0), 180.0),
]
Classes = NDArray[np.uint8]


def dice(found: Classes, truth: Classes, classes: int) -> NDArray[np.float64]:
    """Dice of each class but the background, `[classes]`; NaN where the truth has none."""
    joint = joint_counts(found, truth, classes + 1)
    size = joint.sum(0) + joint.sum(1)
    scores = np.where(joint.sum(0) > 0, 2 * np.diag(joint) / np.maximum(size, 1), np.nan)
    return scores[1:]


def sides(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """0 for ids without a side, 1 for left, 2 for right."""
    lookup = np.zeros(int(ids.max()) + 1, dtype=np.uint8)
    for label in LabelTable.freesurfer():
        if label.id < len(lookup):
            lookup[label.id] = ("none", "left", "right").index(label.side)
    return lookup[ids]


def padded(volume: Volume, truth: Classes) -> tuple[Volume, Classes]:
    """Empty space all round, so that each axis is half as long again (unevenly, as a real field of view is)."""
    margins = [(n // 3, n // 2 - n // 3) for n in volume.data.shape]
    data, truth = np.pad(volume.data, margins), np.pad(truth, margins)
    affine = volume.geometry.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [before for before, _ in margins]
    return replace(volume, data=data, geometry=Geometry(data.shape, affine)), truth


def grid_turned(array: NDArray[np.generic], rotation: torch.Tensor) -> NDArray[np.generic]:
    """The array turned by a grid rotation, without interpolation."""
    order = rotation.abs().argmax(1).tolist()
    turned = array.transpose(order)
    return np.ascontiguousarray(np.flip(turned, [i for i, axis in enumerate(order) if rotation[i, axis] < 0]))


def turned(volume: Volume, truth: Classes, rotation: NDArray[np.float64]) -> tuple[Volume, Classes]:
    """Scan (linear) and labels (nearest) turned about the centre, on a 1 mm grid that holds every pose."""
    side = int(np.ceil(np.linalg.norm(np.array(volume.data.shape) * volume.geometry.spacing)))
    centre = (np.array(volume.data.shape) - 1) / 2
    linear = np.diag(1 / np.array(volume.geometry.spacing)) @ rotation.T
    offset = centre - linear @ np.full(3, (side - 1) / 2)
    shape = (side,) * 3
    scan = affine_transform(volume.data.astype(np.float32), linear, offset, shape, order=1)
    labels = affine_transform(truth, linear, offset, shape, order=0)
    affine = np.eye(4)
    affine[:3, :3] = volume.geometry.axes
    return replace(volume, data=scan, geometry=Geometry(shape, affine)), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="brain")
    parser.add_argument("--cases", type=int, default=None, help="only the first so many")
    parser.add_argument(
        "--checks", nargs="+", default=["dice", "padding"], choices=["dice", "padding", "grid", "angles"]
    )
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    predictor = Predictor(load_model(arguments.model))
    table, with_sides = predictor.model.structures, predictor.model.sides
    scheme = LabelScheme(**yaml.safe_load((locate_model(arguments.model) / "config.yaml").read_text())["labels"])
    rows = {}
    for case in sorted(p for p in arguments.folder.iterdir() if p.is_dir())[: arguments.cases]:
        volume, manual = read_volume(case / "t1.nii.gz"), read_volume(case / "labels.nii.gz")
        truth = scheme.to_classes(manual.data.astype(np.int64)).astype(np.uint8)

        def segment(scan: Volume) -> Classes:
            """Classes with their sides, where the model tells them."""
            return predictor.segment(scan).classes

        def merged(classes: Classes) -> Classes:
            return classes if with_sides is None else with_sides.structure[classes]

        def score(scan: Volume, labels: Classes) -> NDArray[np.float64]:
            return dice(merged(segment(scan)), labels, len(table))

        started = time.perf_counter()
        upright = segment(volume)
        seconds = time.perf_counter() - started
        rows[case.name] = dice(merged(upright), truth, len(table))
        line = f"{case.name}: mean Dice {np.nanmean(rows[case.name]):.4f} in {seconds:.1f} s"
        if with_sides is not None:
            told, true = with_sides.side[upright], sides(manual.data.astype(np.int64))
            both = (told > 0) & (true > 0)
            line += f", side right for {100 * (told == true)[both].mean():.2f} %"
        if "padding" in arguments.checks:
            line += f", padded by half {np.nanmean(score(*padded(volume, truth))):.4f}"
        print(line, flush=True)
        if "grid" in arguments.checks:
            agreement = []
            for rotation in grid_rotations():
                data = grid_turned(volume.data, rotation)
                # The directions of the axes stay: a scan of someone who lay differently, not another header.
                affine = np.eye(4)
                affine[:3, :3] = volume.geometry.axes * (rotation.abs().numpy() @ volume.geometry.spacing)
                scan = replace(volume, data=data, geometry=Geometry(data.shape, affine))
                agreement.append((segment(scan) == grid_turned(upright, rotation)).mean())
            print(f"  24 grid rotations: voxels that agree {100 * min(agreement):.4f} % at least", flush=True)
        if "angles" in arguments.checks:
            for axis, angle in TURNS:
                scores = score(*turned(volume, truth, rotation_matrix(axis, angle).numpy()))
                print(f"  turned by {angle:g} degrees about {axis}: {np.nanmean(scores):.4f}", flush=True)
    print("\nstructure                     mean   worst")
    scores = np.array(list(rows.values()))
    for index, name in enumerate(scheme.predicted().names):
        print(f"{name:28s} {np.nanmean(scores[:, index]):6.3f}  {np.nanmin(scores[:, index]):6.3f}")
    print(f"{'mean of all':28s} {np.nanmean(scores):6.4f}")


if __name__ == "__main__":
    main()
