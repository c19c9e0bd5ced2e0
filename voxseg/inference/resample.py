"""Linear resampling, one axis after the other, as products with small banded matrices.

A matrix product is exact enough (1e-7), runs at the processor's full rate, and treats both directions of an axis alike,
so that a flipped volume is resampled to the flipped result. The same holds for axes that change places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["apply_axes", "axis_matrix", "centred_positions", "memory_order"]

BLUR = 0.35
"""Standard deviation of the blur before sampling coarser, as a fraction of the coarser spacing."""

SLAB_BYTES = 2**25


def centred_positions(count: int, step: float, source_count: int) -> Tensor:
    """Where `count` samples, `step` source voxels apart, lie if both grids have the same centre, `[count]` float64."""
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * step + (source_count - 1) / 2


def axis_matrix(positions: Tensor, source_count: int, step: float, clamp: bool) -> Tensor:
    """Weights that take the samples of an axis to other positions by blurring and linear interpolation.

    The blur keeps structures finer than the new grid from leaving false ones behind. Its variance is
    `BLUR^2 (step^2 - 1)` in source voxels, so that it vanishes smoothly where the new grid is as fine as the old one.

    Args:
        positions: of the samples wanted, in source voxels, `[M]` float64.
        source_count: N, samples there are.
        step: spacing of the samples wanted in source voxels.
        clamp: whether the volume's edge goes on for ever; otherwise there is nothing (zero) outside.

    Returns:
        `[M, N]` float32; rows sum to 1, or to less at the edge if not `clamp`.
    """
    if clamp:
        positions = positions.clamp(0, source_count - 1)
    radius = 0
    sigma = BLUR * math.sqrt(max(step**2 - 1, 0.0))
    if sigma > 0.05:
        radius = math.ceil(3.5 * sigma)
    source = torch.arange(-radius, source_count + radius, dtype=torch.float64)
    linear = (1 - (positions[:, None] - source).abs()).clamp_(min=0)  # [M, N + 2 radius]
    if radius:
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        linear = torch.nn.functional.conv1d(linear[:, None], (kernel / kernel.sum())[None, None])[:, 0]
        # What lies 'radius' outside on either side has been cut off by the convolution: [M, N].
    if clamp:
        linear = linear / linear.sum(1, keepdim=True)
    return linear.float()


def memory_order(array: NDArray[Any]) -> tuple[int, int, int]:
    """The axes of a 3D array from the one with the largest step in memory to the one with the smallest."""
    a, b, c = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    return a, b, c


def apply_axes(array: NDArray[Any], matrices: Sequence[Tensor]) -> Tensor:
    """Take each axis of a volume through its matrix, slab by slab, so that no large copy of the volume is made.

    Args:
        array: `[N0, N1, N2]` of any real type and memory layout.
        matrices: for each axis `[M, N]` float32.

    Returns:
        `[M0, M1, M2]` float32.
    """
    order = memory_order(array)
    view = array.transpose(order)
    first, second, third = (matrices[axis] for axis in order)
    slab = max(1, SLAB_BYTES // (4 * view.shape[1] * view.shape[2]))
    partial = torch.empty(view.shape[0], second.shape[0], third.shape[0])
    for start in range(0, view.shape[0], slab):
        values = torch.from_numpy(np.ascontiguousarray(view[start : start + slab], dtype=np.float32))
        torch.matmul(second, values @ third.T, out=partial[start : start + slab])
    result = (first @ partial.flatten(1)).view(first.shape[0], second.shape[0], third.shape[0])
    return result.permute(*np.argsort(order).tolist())
