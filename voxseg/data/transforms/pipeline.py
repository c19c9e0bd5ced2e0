"""What happens to a window, or to a whole case, on its way from the cache to the network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    CastToTyped,
    CenterSpatialCropd,
    Compose,
    DivisiblePadd,
    OneOf,
    RandAdjustContrast,
    RandAffined,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
)
from scipy.spatial.transform import Rotation

from voxseg.data.config import AugmentationConfig, WindowConfig
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.preparation import MULTIPLE
from voxseg.data.transforms.intensity import EachImaged, RandDropImaged, RandThickSlices
from voxseg.data.transforms.spatial import RandMirrord, RandWindowd
from voxseg.data.transforms.user import UserTransform

__all__ = ["cut_margin", "look_changes", "whole_transforms", "window_transforms"]

KEYS = ("image", "label")
DTYPES = (torch.float32, torch.uint8)
BIAS_DEGREE = 2
BIAS_TERMS = 3.0
"""The largest value of a sum of random polynomials of that degree, in units of the range of their coefficients."""


def window_transforms(
    windows: WindowConfig, augmentation: AugmentationConfig, labels: LabelScheme, spacing: float, training: bool = True
) -> Compose:
    """Cuts a window out of a prepared case and, in training, changes it.

    Takes "image" `[C, X, Y, Z]`, "label" `[1, X, Y, Z]` (dense class indices) and, if there, "points"
    (`RandWindowd`); gives "image" float32 and "label" uint8, both of the size of the window. What is turned or
    stretched is cut out of a larger window, so that no border shows. `set_random_state(seed)` before a call decides
    everything.

    Args:
        windows: size, and the share of windows near structures.
        augmentation: how much is changed, and transforms of the user's own.
        labels: the classes.
        spacing: mm of a voxel.
        training: whether anything is changed.

    Raises:
        UserError: sides cannot be swapped, or a transform of the user's own cannot be imported.
    """
    if windows.size == "whole":
        return whole_transforms(augmentation, labels, spacing, training)
    classes, size = len(labels.classes), windows.size
    if not training:
        return Compose([RandWindowd(KEYS, size, classes, windows.foreground)])
    turned = augmentation.probability > 0 and (augmentation.rotation_deg > 0 or augmentation.scale > 0)
    margin = cut_margin(size, augmentation) if turned else (0, 0, 0)
    steps: list[Callable[..., Any]] = [RandWindowd(KEYS, size, classes, windows.foreground, margin)]
    if turned:
        # An affine map that is the identity would interpolate all the same.
        weights = (augmentation.probability, 1 - augmentation.probability)
        steps.append(OneOf([_affine(augmentation, 1.0, size), CenterSpatialCropd(KEYS, size)], weights=weights))
    return Compose(steps + _changes(augmentation, labels, spacing))


def whole_transforms(
    augmentation: AugmentationConfig, labels: LabelScheme, spacing: float, training: bool = True
) -> Compose:
    """A whole case, padded with 0 to sizes that four levels of a network halve evenly, and changed in training.

    Takes and gives the keys of `window_transforms`.
    """
    steps: list[Callable[..., Any]] = [CastToTyped(KEYS, dtype=DTYPES), DivisiblePadd(KEYS, k=MULTIPLE)]
    if training:
        if augmentation.rotation_deg > 0 or augmentation.scale > 0:
            steps.append(_affine(augmentation, augmentation.probability, None))
        steps += _changes(augmentation, labels, spacing)
    return Compose(steps)


def _affine(augmentation: AugmentationConfig, prob: float, size: tuple[int, int, int] | None) -> RandAffined:
    """Rotation about and stretch of each axis."""
    return RandAffined(
        KEYS,
        spatial_size=size,
        prob=prob,
        rotate_range=(math.radians(augmentation.rotation_deg),) * 3,
        scale_range=(augmentation.scale,) * 3,
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
    )


def cut_margin(size: tuple[int, int, int], augmentation: AugmentationConfig) -> tuple[int, int, int]:
    """Voxels on each side of a window that turning and stretching may look at."""
    extremes = np.linspace(-augmentation.rotation_deg, augmentation.rotation_deg, 9)
    rotations = Rotation.from_euler("xyz", list(itertools.product(extremes, repeat=3)), degrees=True).as_matrix()
    half = np.array(size) / 2
    reach = (np.abs(rotations) @ half).max(0) * (1 + augmentation.scale)
    x, y, z = (max(0, math.ceil(r - h)) + 1 for r, h in zip(reach, half, strict=True))
    return x, y, z


def _changes(augmentation: AugmentationConfig, labels: LabelScheme, spacing: float) -> list[Callable[..., Any]]:
    """What is changed of a window of the right size, in the order in which a scanner would do it."""
    steps: list[Callable[..., Any]] = []
    if augmentation.mirror > 0:
        steps.append(RandMirrord(KEYS, labels.predicted(), augmentation.mirror))
    looks = look_changes(augmentation, spacing)
    if looks:
        steps.append(EachImaged(("image",), Compose(looks)))
    if augmentation.drop_image > 0:
        steps.append(RandDropImaged(("image",), augmentation.drop_image))
    steps.append(CastToTyped(KEYS, dtype=DTYPES))  # MONAI interpolates labels in float32
    steps += [UserTransform(transform) for transform in augmentation.transforms]
    return steps


def look_changes(augmentation: AugmentationConfig, spacing: float) -> list[Callable[..., Any]]:
    """What is changed of each image `[1, X, Y, Z]` alone, in that order."""
    prob = augmentation.probability
    looks: list[Callable[..., Any]] = []
    if augmentation.gamma > 0:
        looks.append(RandAdjustContrast(prob, gamma=(1 - augmentation.gamma, 1 + augmentation.gamma)))
    if augmentation.bias > 0:
        coefficient = augmentation.bias / BIAS_TERMS
        looks.append(RandBiasField(BIAS_DEGREE, (-coefficient, coefficient), prob=prob))
    if augmentation.blur_mm > 0:
        sigma = (0.0, augmentation.blur_mm / spacing)
        looks.append(RandGaussianSmooth(sigma, sigma, sigma, prob=prob))
    if augmentation.brightness > 0:
        looks.append(RandScaleIntensity(augmentation.brightness, prob=prob))
    if augmentation.noise > 0:
        looks.append(RandGaussianNoise(prob, std=augmentation.noise))
    if augmentation.low_resolution > 0:
        looks.append(RandThickSlices(augmentation.low_resolution))
    return looks
