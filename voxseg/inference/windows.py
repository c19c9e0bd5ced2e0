"""Running a network over a volume in overlapping windows that are blended with Gaussian weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

__all__ = ["gaussian_weights", "in_windows", "window_count", "window_starts"]

SIGMA = 0.125  # of the window's length, as nnU-Net and MONAI have it
OVERLAP = 0.5


def window_starts(length: int, window: int, overlap: float = OVERLAP) -> list[int]:
    """Where the windows on one axis begin: evenly spread, and the same seen from either end.

    Args:
        length: voxels of the axis.
        window: voxels of the window, at most `length`.
        overlap: least fraction of a window that the next one covers too.
    """
    room = length - window
    if room <= 0:
        return [0]
    count = math.ceil(room / max(1, math.floor(window * (1 - overlap)))) + 1
    if count % 2 and room % 2:
        count += 1  # the middle window of an odd number would lie half a voxel off
    half = [i * room // (count - 1) for i in range(count // 2)]
    middle = [room // 2] if count % 2 else []
    return half + middle + [room - start for start in reversed(half)]


def window_count(shape: Sequence[int], window: Sequence[int], overlap: float = OVERLAP) -> int:
    """Windows that it takes to cover a volume."""
    return math.prod(len(window_starts(n, min(n, w), overlap)) for n, w in zip(shape, window, strict=True))


def gaussian_weights(window: Sequence[int]) -> Tensor:
    """Weight of each voxel of a window, `[X, Y, Z]`, 1 in the middle, at least 0.001."""
    weights = torch.ones(())
    for n in window:
        offset = torch.arange(n) - (n - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (offset / (SIGMA * n)) ** 2)
    return weights.clamp_(min=1e-3)


def in_windows(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    window: Sequence[int],
    channels: int,
    overlap: float = OVERLAP,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Tensor:
    """Weighted mean of what `predict` says in all windows that hold a voxel.

    Args:
        predict: `[1, C, *window]` to `[1, channels, *window]`, on any device.
        image: `[1, C, X, Y, Z]`.
        window: voxels of a window; an axis that is shorter than it is taken whole.
        channels: of the result.
        overlap: least fraction of a window that the next one covers too.
        progress: called with the fraction done.

    Returns:
        `[1, channels, X, Y, Z]` float32 on the image's device.
    """
    shape = image.shape[2:]
    size = [min(n, w) for n, w in zip(shape, window, strict=True)]
    weights = gaussian_weights(size).to(image.device)
    result = torch.zeros(1, channels, *shape, device=image.device)
    total = torch.zeros(shape, device=image.device)
    corners = list(product(*(window_starts(n, w, overlap) for n, w in zip(shape, size, strict=True))))
    for done, corner in enumerate(corners, start=1):
        x, y, z = (slice(start, start + w) for start, w in zip(corner, size, strict=True))
        output = predict(image[:, :, x, y, z]).to(image.device, torch.float32)
        result[:, :, x, y, z] += output * weights
        total[x, y, z] += weights
        progress(done / len(corners))
    return result.div_(total)
