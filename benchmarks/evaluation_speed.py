"""How long the scores of one scan take, and how much memory: 33 labels in 256 × 256 × 256 voxels, both sides, 16 pairs.

    python benchmarks/evaluation_speed.py

The head is made by code: a folded cortex, white matter within it, thirteen deep structures a side and one in the middle
between them. The prediction is the same head a voxel off, with its deep structures grown or shrunk, and specks of every
label scattered through the head, which make the box around each as large as the head. Prints seconds and peak memory of
a fresh process that loads both arrays and scores them, imports included.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from voxseg.data.label_scheme import LabelEntry, LabelScheme
from voxseg.evaluation.case import evaluate_case
from voxseg.evaluation.result import MetricSettings

PAIRS = 16
RADII = np.array([70.0, 88.0, 72.0])
"""Half axes of the head in voxels, for 256 along each axis."""


def scheme() -> LabelScheme:
    """Classes 1, 3, ... of the left, 2, 4, ... of the right, and 33 in the middle."""
    table = [LabelEntry(id=2 * PAIRS + 1, name="Middle")]
    for left in range(1, 2 * PAIRS, 2):
        table += [
            LabelEntry(id=left, name=f"Left-Structure-{left // 2 + 1}", side="left", partner=left + 1),
            LabelEntry(id=left + 1, name=f"Right-Structure-{left // 2 + 1}", side="right", partner=left),
        ]
    return LabelScheme(classes=list(range(1, 2 * PAIRS + 2)), table=tuple(table), merge_sides=False)


def head(size: int, shift: float, growth: float) -> NDArray[np.uint8]:
    """Classes `[size, size, size]`.

    Args:
        size: voxels along each axis.
        shift: voxels by which the head is moved along all axes.
        growth: standard deviation of how much the deep structures grow at their neighbours' cost, in voxels.
    """
    scale = size / 256
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2 - shift) / scale
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    depth = np.sqrt((x / RADII[0]) ** 2 + (y / RADII[1]) ** 2 + (z / RADII[2]) ** 2)
    a, b, c = x / 3, y / 3, z / 3
    folds = np.sin(a) * np.cos(b) + np.sin(b) * np.cos(c) + np.sin(c) * np.cos(a)
    kind = np.zeros(depth.shape, dtype=np.uint8)  # pairs from 1
    kind[depth + 0.05 * folds < 0.97] = 1
    kind[depth + 0.08 * folds < 0.87] = 2
    random = np.random.default_rng(0)
    centres = random.uniform([4, -55, -45], [40, 55, 45], (PAIRS - 2, 3))
    middles = random.uniform([-3, -50, -40], [3, 50, 40], (4, 3))
    weights = np.random.default_rng(1).normal(0, growth, len(centres) + 4)
    deep = np.argwhere(depth < 0.72)
    points = axis[deep]
    points[:, 0] = abs(points[:, 0])
    # The nearest four, less how much each has grown.
    distance, nearest = cKDTree(np.concatenate([centres, middles])).query(points, k=4)
    chosen = nearest[np.arange(len(points)), np.argmin(distance - weights[nearest], axis=1)]
    kind[tuple(deep.T)] = np.where(chosen < len(centres), chosen + 3, PAIRS + 1)
    right = np.broadcast_to(x > 0, kind.shape)
    classes = np.where(kind > 0, 2 * kind - 1 + right, 0)
    classes[kind == PAIRS + 1] = 2 * PAIRS + 1
    return classes.astype(np.uint8)


def write_pair(folder: Path, size: int) -> None:
    """Write `reference.npy` and `prediction.npy`."""
    reference, prediction = head(size, 0.0, 0.0), head(size, 1.0, 1.0)
    inside = np.argwhere(reference > 0)
    random = np.random.default_rng(2)
    for label in range(1, 2 * PAIRS + 2):
        for place in inside[random.integers(0, len(inside), 4)]:
            prediction[tuple(slice(p, p + 2) for p in place)] = label
    np.save(folder / "reference.npy", reference)
    np.save(folder / "prediction.npy", prediction)


def score(folder: Path) -> None:
    """Score the pair and print how well it agrees, and what that took."""
    start = time.perf_counter()
    prediction, reference = (np.load(folder / f"{name}.npy") for name in ("prediction", "reference"))
    scores, sides = evaluate_case(prediction, reference, (1.0, 1.0, 1.0), scheme(), MetricSettings())
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    voxels = " × ".join(map(str, reference.shape))
    print(f"{len(scores)} structures in {voxels} voxels, all found: {all(s.status == 'found' for s in scores)}")
    for name in ("dice", "nsd", "hd95", "assd"):
        values = [getattr(s, name) for s in scores]
        print(f"  {name}: {min(values):.3f} to {max(values):.3f}")
    print(f"  on the wrong side: {sides.share:.2%} of the lateral voxels" if sides else "  no sides")
    print(f"{seconds:.1f} s with the import of MONAI, {peak:.2f} GiB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="voxels along each axis")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.score:
        score(options.score)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_pair(Path(folder), options.size)
        start = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--score", folder], check=True)
        print(f"{time.perf_counter() - start:.1f} s for the whole process")


if __name__ == "__main__":
    main()
