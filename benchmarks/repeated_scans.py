"""How far the segmentations of two scans of one person agree: volumes, and Dice where the scans lie on each other.

    python benchmarks/repeated_scans.py VALIDATION/1003/t1.nii.gz VALIDATION/1023/t1.nii.gz
    python benchmarks/repeated_scans.py WHOLE_HEADS/t1.nii.gz WHOLE_HEADS/pd.nii.gz --aligned

With `--aligned` the headers are taken to say how the scans lie to each other. That is checked: mutual information is
printed as they lie, and with the second scan moved by 4 mm to either side along each axis. The second segmentation is
then carried to the first grid, and Dice is taken where both fields of view cover it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_scans import dice
from scipy.ndimage import affine_transform

from voxseg.data.geometry import Geometry
from voxseg.data.volume import Volume, read_volume
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor, Segmentation

MOVED_MM = 4.0
BINS = 48


def carried(data: NDArray[np.generic], source: Geometry, target: Geometry, order: int, moved: NDArray[np.float64]):
    """An array of one grid on another, -1 where it does not reach; `moved` in world mm."""
    shift = np.eye(4)
    shift[:3, 3] = moved
    matrix = np.linalg.inv(source.affine) @ shift @ target.affine
    return affine_transform(data.astype(np.float32), matrix, output_shape=target.shape, order=order, cval=-1)


def mutual_information(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Of the intensities of two images where both were measured, in nats."""
    inside = second > 0
    joint = np.histogram2d(first[inside], second[inside], BINS)[0]
    joint /= joint.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float((joint * np.log(np.where(joint > 0, joint / np.maximum(apart, 1e-12), 1))).sum())


def aligned_dice(
    first: Volume, second: Volume, found: tuple[Segmentation, Segmentation], classes: int
) -> NDArray[np.float64]:
    """Dice of each class on the grid of the first scan."""
    still = np.zeros(3)
    scan = carried(second.data, second.geometry, first.geometry, 1, still)
    here = mutual_information(first.data, scan)
    moves = [sign * MOVED_MM * np.eye(3)[axis] for axis in range(3) for sign in (-1, 1)]
    there = [
        mutual_information(first.data, carried(second.data, second.geometry, first.geometry, 1, move)) for move in moves
    ]
    print(f"mutual information {here:.3f}; moved by {MOVED_MM:g} mm at most {max(there):.3f}")
    other = carried(found[1].classes, second.geometry, first.geometry, 0, still)
    covered = other >= 0
    print(f"the second field of view covers {100 * covered[found[0].classes > 0].mean():.1f} % of the first's brain")
    return dice(np.where(covered, found[0].classes, 0), np.where(covered, other, 0).astype(np.uint8), classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs=2, type=Path)
    parser.add_argument("--aligned", action="store_true", help="their headers say how they lie to each other")
    parser.add_argument("--model", default="brain")
    arguments = parser.parse_args()
    predictor = Predictor(load_model(arguments.model))
    table = predictor.model.table
    first, second = (read_volume(scan) for scan in arguments.scans)
    found = (predictor.segment(first), predictor.segment(second))
    sizes = np.array(
        [
            np.bincount(f.classes.ravel(), minlength=len(table) + 1)[1:] * np.prod(v.geometry.spacing) / 1000
            for f, v in zip(found, (first, second), strict=True)
        ]
    )
    change = 200 * np.abs(sizes[0] - sizes[1]) / np.maximum(sizes.sum(0), 1e-9)
    overlap = aligned_dice(first, second, found, len(table)) if arguments.aligned else np.full(len(table), np.nan)
    print(f"quality {found[0].quality:.2f} and {found[1].quality:.2f}")
    print(f"{'structure':30s} {'first ml':>9s} {'second ml':>9s} {'differ %':>9s} {'Dice':>6s}")
    for k, name in enumerate(table.names):
        print(f"{name:30s} {sizes[0, k]:9.2f} {sizes[1, k]:9.2f} {change[k]:9.2f} {overlap[k]:6.3f}")
    print(f"median difference of volumes {np.median(change):.2f} %, largest {change.max():.2f} %")
    if arguments.aligned:
        print(f"mean Dice {np.nanmean(overlap):.3f}")


if __name__ == "__main__":
    main()
