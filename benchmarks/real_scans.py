"""How well a model segments real scans with manual labels, upright, padded with empty space, and in other poses.

    python benchmarks/real_scans.py ../shared/data/oasis_manual/validation --model brain
    python benchmarks/real_scans.py ../shared/data/oasis_manual/validation --checks dice padding grid headers angles
    python benchmarks/real_scans.py ../shared/data/oasis_manual/validation --checks dice errors
    python benchmarks/real_scans.py ../shared/data/fsaverage --scan brain.nii.gz --labels aseg.nii.gz

A case is a folder with a scan and its labels (FreeSurfer ids). All figures are at the scans' own resolution.
Angles compare scans that were interpolated once, labels and all, with the same scan turned by 2 degrees, so that both
sides have lost as much to interpolation. Errors are the volume of each structure against the true one, and what its
voxels are called where they are not found, over all cases.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    return joint_dice(joint_counts(found, truth, classes + 1))


def joint_dice(joint: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same from the counts of voxels by the class found and the true class, background first."""
    size = joint.sum(0) + joint.sum(1)
    scores = np.where(joint.sum(0) > 0, 2 * np.diag(joint) / np.maximum(size, 1), np.nan)
    return scores[1:]


def merged(predictor: Predictor, classes: Classes) -> Classes:
    """Both sides of a structure as one."""
    sided = predictor.model.sides
    return classes if sided is None else sided.structure[classes]


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


@dataclass(frozen=True)
class Case:
    """A real scan, and a model that is tried on it."""

    volume: Volume
    truth: Classes
    true_side: NDArray[np.uint8]
    predictor: Predictor

    def segment(self, scan: Volume) -> Classes:
        """Classes with their sides, where the model tells them."""
        return self.predictor.segment(scan).classes

    def merged(self, classes: Classes) -> Classes:
        """Both sides of a structure as one."""
        return merged(self.predictor, classes)

    def score(self, scan: Volume, labels: Classes) -> NDArray[np.float64]:
        """Dice of each structure."""
        return dice(self.merged(self.segment(scan)), labels, len(self.predictor.model.structures))

    def right_side(self, classes: Classes) -> str:
        """How many voxels that have a side are on the right one, in per cent."""
        sided = self.predictor.model.sides
        if sided is None:
            return "no sides"
        told = sided.side[classes]
        both = (told > 0) & (self.true_side > 0)
        return f"side right for {100 * (told == self.true_side)[both].mean():.2f} %"


def grid_check(case: Case, upright: Classes) -> str:
    """Someone who lay differently: the directions of the axes stay, the voxels move."""
    agreement = []
    for rotation in grid_rotations():
        data = grid_turned(case.volume.data, rotation)
        affine = np.eye(4)
        affine[:3, :3] = case.volume.geometry.axes * (rotation.abs().numpy() @ case.volume.geometry.spacing)
        scan = replace(case.volume, data=data, geometry=Geometry(data.shape, affine))
        agreement.append((case.segment(scan) == grid_turned(upright, rotation)).mean())
    return f"24 grid rotations: voxels that agree {100 * min(agreement):.4f} % at least"


def header_check(case: Case, upright: Classes) -> str:
    """The same voxels under every wrong header that keeps the handedness."""
    agreement = []
    for rotation in grid_rotations():
        affine = np.eye(4)
        affine[:3, :3] = rotation.numpy() @ case.volume.geometry.affine[:3, :3]
        scan = replace(case.volume, geometry=Geometry(case.volume.data.shape, affine))
        agreement.append((case.segment(scan) == upright).mean())
    return f"24 headers: voxels that agree {100 * min(agreement):.4f} % at least"


def angle_checks(case: Case) -> Iterator[str]:
    """In other poses, each interpolated once; sides too."""
    for axis, angle in TURNS:
        rotation = rotation_matrix(axis, angle).numpy()
        scan, labels = turned(case.volume, case.truth, rotation)
        sides_there = turned(case.volume, case.true_side, rotation)[1]
        there = replace(case, volume=scan, truth=labels, true_side=sides_there)
        found = there.segment(scan)
        score = np.nanmean(dice(case.merged(found), labels, len(case.predictor.model.structures)))
        yield f"turned by {angle:g} degrees about {axis}: {score:.4f}, {there.right_side(found)}"


def error_rows(joint: NDArray[np.int64], names: Sequence[str]) -> Iterator[str]:
    """Of each structure the volume against the true one, and the two labels that most of its lost voxels got.

    Args:
        joint: voxels by the class found and the true class, background first.
        names: of the classes but the background.
    """
    shares = 100 * joint / np.maximum(joint.sum(0), 1)
    for k in range(1, len(joint)):
        wrong = np.where(np.arange(len(joint)) == k, 0, shares[:, k])
        called = ", ".join(f"{['background', *names][i]} {wrong[i]:.0f} %" for i in np.argsort(-wrong)[:2])
        yield f"{joint[k].sum() / max(joint[:, k].sum(), 1):6.2f}  {called}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scan", default="t1.nii.gz", help="name of the scan of a case")
    parser.add_argument("--labels", default="labels.nii.gz", help="name of its labels")
    parser.add_argument("--model", default="brain")
    parser.add_argument("--cases", type=int, default=None, help="only the first so many")
    checks = ["dice", "padding", "grid", "headers", "angles", "errors"]
    parser.add_argument("--checks", nargs="+", default=["dice", "padding"], choices=checks)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    predictor = Predictor(load_model(arguments.model))
    scheme = LabelScheme(**yaml.safe_load((locate_model(arguments.model) / "config.yaml").read_text())["labels"])
    names = scheme.predicted().names
    rows, joint = [], np.zeros((len(names) + 1,) * 2, dtype=np.int64)
    for scan in sorted(arguments.folder.glob(f"**/{arguments.scan}"))[: arguments.cases]:
        manual = read_volume(scan.with_name(arguments.labels)).data.astype(np.int64)
        case = Case(read_volume(scan), scheme.to_classes(manual).astype(np.uint8), sides(manual), predictor)
        started = time.perf_counter()
        upright = case.segment(case.volume)
        seconds = time.perf_counter() - started
        rows.append(dice(case.merged(upright), case.truth, len(predictor.model.structures)))
        joint += joint_counts(case.merged(upright), case.truth, len(joint))
        line = (
            f"{scan.parent.name}: mean Dice {np.nanmean(rows[-1]):.4f} in {seconds:.1f} s, {case.right_side(upright)}"
        )
        if "padding" in arguments.checks:
            line += f", padded by half {np.nanmean(case.score(*padded(case.volume, case.truth))):.4f}"
        print(line, flush=True)
        if "grid" in arguments.checks:
            print(f"  {grid_check(case, upright)}", flush=True)
        if "headers" in arguments.checks:
            print(f"  {header_check(case, upright)}", flush=True)
        if "angles" in arguments.checks:
            for line in angle_checks(case):
                print(f"  {line}", flush=True)
    print("\nstructure                     mean   worst")
    scores = np.array(rows)
    for index, name in enumerate(names):
        print(f"{name:28s} {np.nanmean(scores[:, index]):6.3f}  {np.nanmin(scores[:, index]):6.3f}")
    print(f"{'mean of all':28s} {np.nanmean(scores):6.4f}")
    if "errors" in arguments.checks:
        print("\nstructure                   volume  its other voxels are called")
        for name, row in zip(names, error_rows(joint, names), strict=True):
            print(f"{name:28s} {row}")


if __name__ == "__main__":
    main()
