"""Small cases of a data set: two images and labels of nested balls, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from voxseg.data.cache import CachedCase, CaseCache
from voxseg.data.datasets.case import Case, ImageFile
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.preparation import PreparationConfig
from voxseg.training.config import TrainingConfig

SHAPE = (30, 34, 28)
IDS = [2, 1, 4]
SCHEME = LabelScheme.model_validate(
    {"classes": IDS, "unlisted": "refuse", "table": [{"id": i, "name": f"part-{i}"} for i in IDS]}
)
PREPARATION = PreparationConfig.model_validate(
    {"spacing": 1.5, "images": {"t1": {"scale": "zscore"}, "flair": {"scale": "zscore"}}, "crop": False}
)


def balls(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids [X, Y, Z] (uint8) of three nested balls somewhere in an ellipsoid of tissue, and the tissue (bool)."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1.4, 1.4, n) for n in shape), indexing="ij")
    tissue = sum(a**2 for a in axes) < 0.8
    centre = random.uniform(-0.25, 0.25, 3)
    away = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)))
    return np.select([away < 0.15, away < 0.3, away < 0.45], [4, 1, 2], 0).astype(np.uint8), tissue


def write_case(
    folder: Path,
    name: str = "case",
    seed: int = 0,
    shape: tuple[int, int, int] = SHAPE,
    affine: np.ndarray | None = None,
) -> Case:
    """Writes the files of a case."""
    ids, tissue = balls(shape, seed)
    random = np.random.default_rng(seed + 1000)
    affine = np.diag([-1.5, -1.5, 1.5, 1.0]) if affine is None else affine
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for k, image in enumerate(("t1", "flair")):
        values = np.where(tissue, 300 + 40.0 * (k + 1) * ids + random.normal(0, 20, shape), 0).astype(np.int16)
        path = folder / f"{name}_{image}.nii.gz"
        nib.save(nib.Nifti1Image(values, affine), path)
        images[image] = ImageFile(path)
    label = folder / f"{name}_seg.nii.gz"
    nib.save(nib.Nifti1Image(ids, affine), label)
    return Case(name, images, label, name)


def training_config(**changes: Any) -> TrainingConfig:
    """A run on windows of these cases; `changes` replace top-level keys."""
    values: dict[str, Any] = {
        "name": "balls",
        "steps": 10,
        "batch": 2,
        "seed": 5,
        "labels": SCHEME.model_dump(),
        "preparation": PREPARATION.model_dump(),
        "dataset": {"workers": 0},
        "windows": {"size": [16, 16, 16]},
        "network": {},
    }
    return TrainingConfig.model_validate({**values, **changes})


def build_cases(folder: Path, count: int = 5, sizes: Sequence[float] = (1.0,)) -> list[CachedCase]:
    """Cases written and prepared; their sizes go through the factors given."""
    cases = []
    for k in range(count):
        factor = sizes[k % len(sizes)]
        shape = (round(SHAPE[0] * factor), round(SHAPE[1] * factor), round(SHAPE[2] * factor))
        cases.append(write_case(folder / "data", f"c{k}", k, shape))
    return CaseCache(folder / "cache", PREPARATION, SCHEME).build(cases)


def save_head(path: Path) -> None:
    """A ball of tissue in empty space, at 4 mm."""
    x, y, z = np.meshgrid(*(np.arange(40) - 19.5,) * 3, indexing="ij")
    noise = np.random.default_rng(0).integers(300, 900, x.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image((noise * (x**2 + y**2 + z**2 < 17**2)).astype(np.int16), np.diag([-4.0, 4, 4, 1]))
    nib.save(image, path)
