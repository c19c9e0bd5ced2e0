"""Upsampling that mirrors the strided convolution exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Linear interpolation to the finer grid from which a stride-2 convolution came.

    An axis of even size was sampled between its voxels (samples at 1/2, 5/2, ...: ``align_corners=False``), an axis of
    odd size at every second voxel from end to end (``align_corners=True``). Axes that keep their size pass unchanged.
    Acts on components alone, so it is equivariant for every field type; it commutes with grid rotations because both
    samplings are symmetric about the centre.

    Args:
        x: ``[B, C, X, Y, Z]``.
        size: of the finer grid, per axis ``2 X``, ``2 X - 1`` or ``X``.

    Returns:
        ``[B, C, *size]``.

    Raises:
        ValueError: if a size is none of these.
    """
    current = tuple(x.shape[2:])
    for n, target in zip(current, size, strict=True):
        if target not in (n, 2 * n, 2 * n - 1):
            raise ValueError(
                f"an axis of {n} samples cannot come from {target} by a stride of 1 or 2 "
                f"(sizes {current} to {tuple(size)})"
            )
    between = [target if target == 2 * n else n for n, target in zip(current, size, strict=True)]
    if between != list(current):
        x = F.interpolate(x, size=between, mode="trilinear", align_corners=False)
    if between != list(size):
        x = F.interpolate(x, size=list(size), mode="trilinear", align_corners=True)
    return x


def strides_for(spacing: Sequence[float], coarser: float) -> tuple[int, int, int]:
    """Along which axes to go to half the samples, so that voxels become as cubic as possible.

    Args:
        spacing: mm along x, y, z.
        coarser: mm, the spacing aimed at.

    Returns:
        2 for each axis whose doubled spacing does not overshoot the aim by more than a factor sqrt(2), 1 for the
        others.
    """
    x, y, z = (2 if 2 * h <= coarser * 2**0.5 else 1 for h in spacing)
    return x, y, z
