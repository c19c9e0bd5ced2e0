"""Upsampling that mirrors the strided convolution exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .axes import along

# What a coarse sample gives to the fine ones, on axes of twice as many samples and of twice as many less one.
_EVEN, _ODD = (0.25, 0.75, 0.75, 0.25), (0.5, 1.0, 0.5)

PLANES = 8
"""Planes that are upsampled at a time where nothing upsampled shall be whole."""


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
    return _interpolated(x, size, "trilinear")


def beside_upsampled(x: Tensor, coarse: Tensor | None) -> Tensor:
    """The channels of ``x``, then those of ``coarse`` upsampled to its grid: ``[B, C + C_coarse, X, Y, Z]``."""
    return x if coarse is None else torch.cat([x, upsample(coarse, x.shape[2:])], 1)


def add_upsampled(x: Tensor, coarse: Tensor) -> Tensor:
    """``x + upsample(coarse)`` on the grid of ``x``, ``[B, C, X, Y, Z]``.

    Where no gradients are asked for, ``x`` itself is changed, a few planes at a time: nothing else is ever whole.
    """
    size = x.shape[2:]
    if torch.is_grad_enabled():
        return x + upsample(coarse, size)
    for fine, rows in zip(x.movedim(1, -1), coarse.movedim(1, -1), strict=True):
        for first in range(0, size[0], PLANES):
            last = min(first + PLANES, size[0])
            fine[first:last] += upsample_planes(rows, size, first, last)
    return x


def upsample_planes(x: Tensor, size: Sequence[int], first: int, last: int) -> Tensor:
    """Planes ``first`` to ``last - 1`` along X of ``upsample(x, size)``, for one sample with its channels last.

    First along X and then across, plane by plane: PyTorch interpolates volumes on as many threads as there are samples,
    which is one here, and planes on all of them.

    Args:
        x: ``[X, Y, Z, C]``.
        size: ``X', Y', Z'`` of the finer grid.
        first: the first of the planes.
        last: one past the last.

    Returns:
        ``[last - first, Y', Z', C]``.
    """
    if size[0] != len(x):
        place = torch.arange(first, last, device=x.device) / 2 - (0.25 if size[0] == 2 * len(x) else 0)
        low = place.floor()
        share = (place - low).to(x.dtype).view(-1, 1, 1, 1)
        below, above = (index.long().clamp(0, len(x) - 1) for index in (low, low + 1))
        planes = torch.lerp(x[below], x[above], share)
    else:
        planes = x[first:last]
    return _interpolated(planes.permute(0, 3, 1, 2), size[1:], "bilinear").permute(0, 2, 3, 1)


def _interpolated(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """``[B, C, ...]`` with its last axes at their size on the finer grid."""
    between = [target if target == 2 * n else n for n, target in zip(x.shape[2:], size, strict=True)]
    if between != list(x.shape[2:]):
        x = F.interpolate(x, size=between, mode=mode, align_corners=False)
    if between != list(size):
        x = F.interpolate(x, size=list(size), mode=mode, align_corners=True)
    return x


def add_upsample_adjoint(total: Tensor, planes: Tensor, size: Sequence[int], first: int) -> None:
    """Add the adjoint of :func:`upsample_planes` to the gradient of its input.

    Args:
        total: ``[X, Y, Z, C]``, one sample on the coarse grid with its channels last.
        planes: ``[n, Y', Z', C]``, the gradient of planes of the fine grid.
        size: ``X', Y', Z'``.
        first: the first of the planes.
    """
    seen, span = _seen(len(total), size[0], first, first + len(planes))
    planes = F.pad(planes, (0, 0, 0, 0, 0, 0, first - span.start, span.stop - first - len(planes)))
    coarse = (seen.stop - seen.start, *total.shape[1:3])
    for axis, (n, target) in enumerate(zip(coarse, planes.shape[:3], strict=True)):
        if target == n:
            continue
        reduced = along(planes, planes.new_tensor(_EVEN if target == 2 * n else _ODD), axis, 2, 1)
        if target == 2 * n:  # beyond the first and the last sample of the coarse grid they are repeated
            for end in (0, -1):
                reduced.select(axis, end).add_(planes.select(axis, end), alpha=_EVEN[0])
        planes = reduced
    total[seen] += planes


def _seen(coarse: int, fine: int, first: int, last: int) -> tuple[slice, slice]:
    """Samples of the coarse grid that samples ``first`` to ``last - 1`` of the fine one see, and what these become."""
    if fine == coarse:
        return slice(first, last), slice(first, last)
    even = fine == 2 * coarse
    low, high = max((first - 1) // 2 if even else first // 2, 0), min(last // 2 + 1, coarse)
    return slice(low, high), slice(2 * low, 2 * high if even else 2 * high - 1)


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
