"""How two segmentations of one scan fall on each other, as counts of voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["joint_counts"]


def joint_counts(first: NDArray[np.uint8], second: NDArray[np.uint8], size: int) -> NDArray[np.int64]:
    """Voxels by their class in both segmentations.

    Args:
        first: dense class indices `[X, Y, Z]`, below `size`.
        second: of the same shape.
        size: number of classes, background included.

    Returns:
        `[size, size]` int64: how many voxels have class i in the first and class j in the second.

    Raises:
        ValueError: if the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"one segmentation has shape {first.shape}, the other {second.shape}")
    joint = np.zeros(size * size, dtype=np.int64)
    for one, other in zip(first, second, strict=True):  # all at once would make copies of 8 bytes a voxel
        joint += np.bincount(one.ravel().astype(np.intp) * size + other.ravel(), minlength=size * size)
    return joint.reshape(size, size)
