"""Linear resampling between grids: axis by axis with small banded matrices, or point by point for sheared grids.

A matrix product is exact enough (1e-7), runs at the processor's full rate, and treats both directions of an axis alike,
so that a flipped volume is resampled to the flipped result. The same holds for axes that change places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from voxseg.data.geometry import Geometry

__all__ = ["affine_points", "apply_axes", "axis_matrix", "axis_positions", "interpolate_at", "memory_order"]

BLUR = 0.25
"""Standard deviation of the blur before sampling coarser, as a fraction of the coarser spacing."""

TOLERANCE = 0.2
"""Voxels by which a sheared axis may stray over its length and still count as straight."""

SLAB_BYTES = 2**25


def axis_positions(source: Geometry, target: Geometry) -> list[tuple[int, Tensor]] | None:
    """Where the voxels of one grid lie in another one whose axes run along the same lines.

    Args:
        source: the grid that there are samples on.
        target: the grid that they are wanted on.

    Returns:
        for each axis of `target` the axis of `source` along it, and the positions `[N]` (float64) of its voxels there;
        None if the axes of the two grids are not parallel.
    """
    matrix = np.linalg.inv(source.affine) @ target.affine
    result = []
    for axis, count in enumerate(target.shape):
        along = int(np.abs(matrix[:3, axis]).argmax())
        strayed = np.delete(np.abs(matrix[:3, axis]), along).max() * count
        if strayed > TOLERANCE:
            return None
        result.append((along, matrix[along, axis] * torch.arange(count, dtype=torch.float64)))
    if len({along for along, _ in result}) < 3:
        return None
    return [(along, positions + matrix[along, 3]) for along, positions in result]


def axis_matrix(positions: Tensor, source_count: int, beyond: bool, step: float | None = None) -> Tensor:
    """Weights that take the samples of an axis to other positions by blurring and linear interpolation.

    The blur keeps structures finer than the new grid from leaving false ones behind. It is a Gaussian of variance
    `BLUR^2 (step^2 - 1)` for positions `step` source voxels apart, so that it vanishes smoothly where the new grid is
    as fine as the old one. The weights are samples of its convolution with the triangle of linear interpolation,

        k(d) = g(d + 1) - 2 g(d) + g(d - 1),  g(d) = d Phi(d / sigma) + sigma phi(d / sigma),

    which blurs alike wherever a position lies between the voxels (a blur of the samples followed by interpolation would
    not).

    Args:
        positions: of the samples wanted, in source voxels, evenly spaced in either direction, `[M]` float64.
        source_count: N, samples there are.
        beyond: whether the outermost samples hold to the outer faces of their voxels; otherwise the signal falls to
            zero from the centres of the outermost voxels to those that would come next.
        step: spacing of the samples wanted, in source voxels; by default that of the positions.

    Returns:
        `[M, N]` float32. Rows sum to 1, or to less near and outside the ends of the axis if not `beyond`; with it, rows
        whose position lies outside the axis are zero.
    """
    if step is None:
        step = abs(float(positions[1] - positions[0])) if len(positions) > 1 else 1.0
    inside = ((positions >= -0.5) & (positions <= source_count - 0.5))[:, None]
    if beyond:
        positions = positions.clamp(0, source_count - 1)
    distance = positions[:, None] - torch.arange(source_count, dtype=torch.float64)
    sigma = BLUR * math.sqrt(max(step**2 - 1, 0.0))
    if sigma < 0.05:
        weights = (1 - distance.abs()).clamp_(min=0)
        weights[weights < 1e-6] = 0  # rounding of the positions, not a neighbour
    else:
        weights = _ramp(distance + 1, sigma) - 2 * _ramp(distance, sigma) + _ramp(distance - 1, sigma)
        weights = torch.where(distance.abs() < 1 + 4 * sigma, weights.clamp_(min=0), 0)
    if beyond:
        weights = weights / weights.sum(1, keepdim=True) * inside
    return weights.float()


def _ramp(distance: Tensor, sigma: float) -> Tensor:
    """The integral of the normal distribution function: `g` of `axis_matrix`."""
    x = distance / sigma
    density = torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    return distance * torch.special.ndtr(x) + sigma * density


def memory_order(array: NDArray[Any]) -> tuple[int, int, int]:
    """The axes of a 3D array from the one with the largest step in memory to the one with the smallest."""
    a, b, c = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    return a, b, c


def apply_axes(array: NDArray[Any], matrices: Sequence[Tensor], axes: Sequence[int] = (0, 1, 2)) -> Tensor:
    """Take each axis of a volume through its matrix, slab by slab, so that no large copy of the volume is made.

    Args:
        array: `[N0, N1, N2]` of any real type and memory layout.
        matrices: for each axis `[M, N]` float32.
        axes: of the array, in the order in which the result has them.

    Returns:
        float32, for `axes` as they come `[M0, M1, M2]`; in one piece of memory.
    """
    order = memory_order(array)
    view = array.transpose(order)
    first, second, third = (matrices[axis] for axis in order)
    result = torch.empty([len(matrices[axis]) for axis in axes])
    target = result.permute([list(axes).index(axis) for axis in order])
    slab = max(1, SLAB_BYTES // (4 * view.shape[1] * view.shape[2]))
    for rows, used in _row_blocks(first, max(1, slab * len(first) // view.shape[0])):
        total: Tensor | None = None
        for start in range(used.start, used.stop, slab):
            stop = min(start + slab, used.stop)
            values = torch.from_numpy(np.ascontiguousarray(view[start:stop], dtype=np.float32))
            partial = torch.matmul(second, values @ third.T).flatten(1)
            weights = first[rows, start:stop]
            total = weights @ partial if total is None else total.addmm_(weights, partial)
        if total is None:
            target[rows] = 0
        else:
            target[rows] = total.view(-1, len(second), len(third))
    return result


def _row_blocks(matrix: Tensor, count: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows of a matrix, each with the columns that they draw on."""
    for start in range(0, len(matrix), count):
        rows = slice(start, min(start + count, len(matrix)))
        used = matrix[rows].any(0).nonzero()
        yield rows, slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)


def affine_points(matrix: NDArray[np.float64], ranges: tuple[range, range, range]) -> Tensor:
    """Images `[X, Y, Z, 3]` (float32) of the index lattice `ranges` under a `[4, 4]` affine."""
    axes = [torch.arange(r.start, r.stop, dtype=torch.float64) for r in ranges]
    linear, shift = torch.from_numpy(matrix[:3, :3].copy()), torch.from_numpy(matrix[:3, 3].copy())
    x, y, z = (axis[:, None] * linear[:, k] for k, axis in enumerate(axes))
    return (x[:, None, None] + y[None, :, None] + z[None, None] + shift).float()


def interpolate_at(source: Tensor, points: Tensor) -> Tensor:
    """Linear interpolation of `[1, C, X, Y, Z]` at voxel positions `[A, B, C, 3]`, zero outside: `[C, A, B, C]`."""
    # To grid_sample an axis of one voxel has no length, and all positions are on it: zeros behind it give it one.
    short = [int(n == 1) for n in source.shape[:1:-1]]
    if any(short):
        source = functional.pad(source, [padding for one in short for padding in (0, one)])
    size = torch.tensor(source.shape[2:], dtype=points.dtype)
    # grid_sample counts from -1 to 1 and names the axes backwards.
    places = (points / (size - 1).clamp(min=1) * 2 - 1).flip(-1)[None].to(source.device)
    return functional.grid_sample(source, places, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
