"""Scans whose gradient and Hessian are known at every point and in every pose, as data sets with dense targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file

from voxseg.data.field_kinds import LOWER
from voxseg.data.geometry import Geometry
from voxseg.networks import build_network
from voxseg.training.config import TrainingConfig
from voxseg.training.model_config import model_config

Array = NDArray[np.float64]
SHAPE = (20, 22, 24)


def phantom(seed: int, geometry: Geometry, turn: Array | None = None, count: int = 6) -> tuple[Array, Array, Array]:
    """Long bright blobs around the origin of the world.

    Returns:
        The image `[X, Y, Z]`, its gradient `[X, Y, Z, 3]` and its Hessian `[X, Y, Z, 3, 3]` per mm, in world axes; of
        the patient turned by `turn`.
    """
    random, turn = np.random.default_rng(seed), np.eye(3) if turn is None else turn
    lattice = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), -1)
    points = geometry.to_world(lattice)
    image, gradient, hessian = np.zeros(points.shape[:3]), np.zeros(points.shape), np.zeros((*points.shape, 3))
    for _ in range(count):
        frame = np.linalg.qr(random.normal(size=(3, 3)))[0]
        inverse = turn @ frame @ np.diag(random.uniform([3.5, 2, 2], [5, 2.5, 2.5]) ** -2.0) @ frame.T @ turn.T
        offset = points - turn @ random.uniform(-6, 6, 3)
        steep = offset @ inverse
        bump = random.uniform(0.6, 1.2) * np.exp(-0.5 * (offset * steep).sum(-1))
        image += bump
        gradient -= bump[..., None] * steep
        hessian += bump[..., None, None] * (steep[..., :, None] * steep[..., None, :] - inverse)
    return image, gradient, hessian


def centred(shape: tuple[int, int, int] = SHAPE, axes: Array | None = None) -> Geometry:
    """A grid with its middle at the origin of the world; `axes` `[3, 3]` are its steps in mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3) if axes is None else axes
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Geometry(shape, affine)


def six(tensors: Array) -> Array:
    """The numbers of symmetric tensors in NIfTI's order."""
    return np.stack([tensors[..., i, j] for i, j in LOWER], -1)


def write_case(folder: Path, seed: int, geometry: Geometry, kind: str = "vector", turn: Array | None = None) -> None:
    """`image.nii.gz`, `target.nii.gz` (5-D, world axes) and `mask.nii.gz` in a folder."""
    folder.mkdir(parents=True)
    image, gradient, hessian = phantom(seed, geometry, turn)
    target = {"scalar": image, "vector": gradient, "axis": gradient, "tensor": six(hessian)}[kind]
    mask = image > 0.15
    if target.ndim == 4:
        target = target[:, :, :, None]
    for name, values in (("image", image), ("target", target), ("mask", mask)):
        dtype = np.uint8 if name == "mask" else np.float32
        nib.save(nib.Nifti1Image(values.astype(dtype), geometry.affine), folder / f"{name}.nii.gz")


def write_dataset(folder: Path, count: int = 4, kind: str = "vector", shape: tuple[int, int, int] = SHAPE) -> Path:
    """Cases in folders of their own, each in an orientation of its own."""
    stored = [np.eye(3), np.diag([-1.0, 1, 1]), np.diag([-1.0, -1, 1]), np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])]
    for k in range(count):
        write_case(folder / f"case_{k}", k, centred(shape, stored[k % 4]), kind)
    return folder


PATTERNS = {"image": "*/image.nii.gz", "target": "*/target.nii.gz", "mask": "*/mask.nii.gz"}


def field_config(kind: str = "vector", **changes: Any) -> dict[str, Any]:
    """A training config for `write_dataset`, small enough for a few seconds; `changes` replace top-level keys."""
    scales = {"scalar": 1.0, "vector": 0.2, "axis": 0.2, "tensor": 0.1}
    return {
        "name": "fields",
        "steps": 40,
        "targets": {"kind": kind, "scale": scales[kind]},
        "dataset": {"layout": "patterns", "patterns": PATTERNS, "folds": 4, "fold": 0, "workers": 0},
        "preparation": {
            "spacing": 1.0, "crop": False, "images": {"image": {"scale": "window", "low": 0, "high": 2}},
        },
        "windows": {"size": [16, 16, 16]},
        "augmentation": {"probability": 0.0, "mirror": 0.5},
        "network": {
            "levels": ["8x0e+6x1e+2x2e", "8x0e+4x1e+2x2e"], "encoder_convolutions": [1, 1], "decoder_convolutions": [1],
        },
        "loss": {"deep_supervision": [1.0]},
        "schedule": {"warmup": 5},
        "averaging": {"decay": 0.9},
        "validation": {"every": 40},
        "checkpoint": {"steps": 20},
    } | changes  # fmt: skip


def write_field_model(folder: Path, kind: str = "vector", **changes: Any) -> Path:
    """A model folder with random weights."""
    config = TrainingConfig.model_validate(field_config(kind, **changes))
    folder.mkdir(parents=True)
    contents = {**model_config(config), "training": {"steps": 0}}
    (folder / "config.yaml").write_text(yaml.safe_dump(contents))
    torch.manual_seed(3)
    weights = {name: tensor.contiguous() for name, tensor in build_network(config.network).state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    return folder
