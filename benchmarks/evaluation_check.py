"""What `voxseg evaluate` says of real scans, against a computation that shares nothing with it but the definitions.

    python benchmarks/evaluation_check.py RESULTS ../shared/data/oasis_manual/validation

RESULTS holds a folder a case with what `voxseg predict --model brain` wrote for it, `NAME_seg.nii.gz`; the references a
folder of the same name with `labels.nii.gz` (FreeSurfer ids). Dice is counted with numpy, surfaces are voxels with a
face to the outside, and nearest neighbours come from a k-d tree. Prints the largest differences over all cases and
structures; exits with 1 if one is over 1e-6 (Dice) or 0.05 mm.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

IDS = {
    "3rd-Ventricle": [14],
    "4th-Ventricle": [15],
    "Brain-Stem": [16],
    "Cerebral-White-Matter": [2, 41],
    "Cerebral-Cortex": [3, 42],
    "Lateral-Ventricle": [4, 43, 5, 44, 31, 63],
    "Cerebellum-White-Matter": [7, 46],
    "Cerebellum-Cortex": [8, 47],
    "Thalamus": [10, 49],
    "Caudate": [11, 50],
    "Putamen": [12, 51],
    "Pallidum": [13, 52],
    "Hippocampus": [17, 53],
    "Amygdala": [18, 54],
    "Accumbens-area": [26, 58],
    "VentralDC": [28, 60],
}
"""FreeSurfer's ids of each structure of the brain model, both sides, with what it counts as part of it."""
BOUNDS = {"dice": 1e-6, "hd95_mm": 0.05, "assd_mm": 0.05}


def surface(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Indices of the voxels that have a face to the outside."""
    padded = np.pad(mask, 1)
    inner = padded.copy()
    for axis in range(3):
        for step in (1, -1):
            inner &= np.roll(padded, step, axis)
    return np.argwhere(padded & ~inner)


def scores(found: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: NDArray[np.float64]) -> dict[str, float]:
    """Dice, HD95 and average surface distance of two masks that are not empty."""
    points = [surface(mask) * spacing for mask in (found, truth)]
    there, back = cKDTree(points[1]).query(points[0])[0], cKDTree(points[0]).query(points[1])[0]
    return {
        "dice": 2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth)),
        "hd95_mm": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd_mm": np.concatenate([there, back]).mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("references", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "voxseg", "evaluate", options.results, options.references, "-o", folder]
        subprocess.run(list(map(str, command)), check=True)
        with (Path(folder) / "cases.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["structure"] in IDS]
    largest = dict.fromkeys(BOUNDS, 0.0)
    for case in sorted({row["case"] for row in rows}):
        image = nib.load(options.references / case / "labels.nii.gz")
        truth, spacing = np.asarray(image.dataobj), np.linalg.norm(image.affine[:3, :3], axis=0)
        found = np.asarray(nib.load(next((options.results / case).glob("*_seg.nii.gz"))).dataobj)
        for row in rows:
            if row["case"] == case:
                ids = IDS[row["structure"]]
                expected = scores(found == ids[0], np.isin(truth, ids), spacing)
                largest = {name: max(worst, abs(expected[name] - float(row[name]))) for name, worst in largest.items()}
    print(f"\n{len(rows)} structures of {len({row['case'] for row in rows})} cases, largest difference:")
    print("\n".join(f"  {name}: {worst:.1e}" for name, worst in largest.items()))
    sys.exit(any(not worst <= BOUNDS[name] for name, worst in largest.items()) or not rows)


if __name__ == "__main__":
    main()
