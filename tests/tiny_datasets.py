"""Data sets of a few small cases, in the layouts of the field, for several test modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHAPE = (12, 14, 10)
AFFINE = np.array([[-1.0, 0, 0, 5], [0, -1, 0, 9], [0, 0, 2, -3], [0, 0, 0, 1]])
OLD = ("flair", "t1", "t1ce", "t2")
NEW = ("t1n", "t1c", "t2w", "t2f")


def scan(seed: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.int16]:
    """A noisy box in empty space; another seed, other noise."""
    result = np.zeros(shape, dtype=np.int16)
    inside = result[1:-1, 1:-1, 1:-1]
    inside[...] = np.random.default_rng(seed).integers(100, 900, inside.shape)
    return result


def tumour(ids: tuple[int, ...] = (2, 1, 4), shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    """Nested boxes, the outermost with the first id."""
    result = np.zeros(shape, dtype=np.uint8)
    for k, label in enumerate(ids, start=2):
        result[k:-k, k:-k, k:-k] = label
    return result


def save(path: Path, data: NDArray[Any], affine: NDArray[Any] = AFFINE) -> Path:
    """Write a NIfTI file, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def _own(labels: NDArray[np.uint8], case: int) -> NDArray[np.uint8]:
    """Labels that no other case has, by a row of another length at the edge."""
    labels[1, 1, 1 : 1 + case] = labels.max()
    return labels


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def brats_case(
    folder: Path, modalities: tuple[str, ...] = OLD, ids: tuple[int, ...] = (2, 1, 4), seed: int = 0
) -> Path:
    """One case of BraTS, with the names of 2018 to 2021 or, by its modalities, of 2023 to 2025."""
    between = "-" if modalities[0] in NEW else "_"
    for k, name in enumerate(modalities):
        save(folder / f"{folder.name}{between}{name}.nii.gz", scan(10 * seed + k))
    save(folder / f"{folder.name}{between}seg.nii.gz", _own(tumour(ids), seed))
    return folder


def brats(folder: Path, number: int = 3, modalities: tuple[str, ...] = OLD) -> Path:
    """BraTS 2020: cases BraTS20_Training_001 and on."""
    for k in range(1, number + 1):
        brats_case(folder / f"BraTS20_Training_{k:03d}", modalities, seed=k)
    return folder


def decathlon(folder: Path, number: int = 2) -> Path:
    """A task of the Decathlon with four modalities in each 4-D file, hidden files of macOS, and a test case."""
    names = [f"BRATS_{k:03d}.nii.gz" for k in range(1, number + 2)]
    for k, name in enumerate(names):
        place = "imagesTr" if k < number else "imagesTs"
        save(folder / place / name, np.stack([scan(10 * k + m) for m in range(4)], axis=-1))
        (folder / place / f"._{name}").write_bytes(b"\0\5\26\7")
        if k < number:
            save(folder / "labelsTr" / name, _own(tumour((1, 2, 3)), k))
    description = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "numTraining": number,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names[:number]],
        "test": [f"./imagesTs/{n}" for n in names[number:]],
    }
    write_json(folder / "dataset.json", description)
    return folder


def nnunet(folder: Path, number: int = 2, **description: object) -> Path:
    """nnU-Net with the channels CT and PET, and a test case."""
    for k in range(1, number + 2):
        for channel in range(2):
            place = "imagesTr" if k <= number else "imagesTs"
            save(folder / place / f"case_{k:03d}_{channel:04d}.nii.gz", scan(10 * k + channel))
        if k <= number:
            save(folder / "labelsTr" / f"case_{k:03d}.nii.gz", _own(tumour((1, 2)), k))
    default = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "numTraining": number,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", default | description)
    return folder
