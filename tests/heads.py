"""Toy heads: label maps of nested ellipsoids in the layout of the real ones."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (72, 84, 78)
SPACING = 2.0
LABELS = """map_label,intensity_class_any_contrast,intensity_class_t1,segmentation_label
0,0,0,0
24,1,1,0
502,2,5,0
516,3,6,0
2,4,2,2
3,5,3,3
4,6,1,4
10,7,4,10
41,8,2,41
42,9,3,42
43,10,1,43
49,11,4,49
"""
PRIOR = """intensity_class_t1,mean_of_mean,std_of_mean,mean_of_std,std_of_std
0,7,1.75,5,2.5
1,44,11,25,9.8
2,160,21,15,5.4
3,96,12,18,6.3
4,130,17,19,7.7
5,60,10,40,10
6,110,12,40,10
"""


def toy_labels(scale: float = 1.0) -> np.ndarray:
    """A head: scalp, skull, fluid, cortex, white matter, ventricles, thalami; int16 [X, Y, Z] in RAS+ order."""
    axes = [(np.arange(n) - (n - 1) / 2) * SPACING for n in SHAPE]
    x, y, z = np.meshgrid(*axes, indexing="ij")

    def ellipsoid(a: float, b: float, c: float, middle: float = 0.0) -> np.ndarray:
        return ((np.abs(x) - middle) / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < scale**2

    labels = np.zeros(SHAPE, dtype=np.int16)
    right = x > 0
    for outline, left_id, right_id in (
        (ellipsoid(62, 74, 68), 516, 516),
        (ellipsoid(56, 68, 62), 502, 502),
        (ellipsoid(52, 64, 58), 24, 24),
        (ellipsoid(50, 62, 56), 3, 42),
        (ellipsoid(42, 54, 48), 2, 41),
        (ellipsoid(8, 30, 14, 10), 4, 43),
        (ellipsoid(7, 12, 7, 26), 10, 49),
    ):
        labels[outline] = np.where(right, right_id, left_id)[outline]
    return labels


def write_toy_heads(folder: Path, count: int = 2) -> Path:
    """Write a folder of label maps with its two tables; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").write_text(LABELS)
    (folder / "t1_intensity_prior.csv").write_text(PRIOR)
    # Stored left-handed, as the real maps are, so that reading has something to reorient.
    affine = np.diag([-SPACING, SPACING, SPACING, 1.0])
    for k in range(count):
        labels = toy_labels(1 - 0.05 * k)[::-1]
        nib.save(nib.Nifti1Image(np.ascontiguousarray(labels), affine), folder / f"map_{k + 1:02d}.nii.gz")
    return folder
