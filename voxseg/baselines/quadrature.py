"""Integrals over the neighbourhood of a voxel, as sums that mean the same on grids of other spacings.

A network that is trained on one grid knows its kernels at the offsets of that grid alone. On a coarser grid the sum is
taken over these same offsets, and the features there are interpolated between voxels, by Keys' cubic convolution (IEEE
Trans. Acoust., Speech, Signal Process. 29, 1153, 1981), which is exact for polynomials up to degree 2: what degrees 0,
1 and 2 of a kernel answer to; the nearest voxel's in their place would not even keep the size of a gradient. On a finer
grid the offsets are those of its voxels. Both weigh by the volume of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from voxseg.networks.unet import Spacing, Triple
from voxseg.steerable import Lattice
from voxseg.steerable.bases import tap_positions

__all__ = ["Quadrature", "SampledAxis", "quadrature", "trained_on"]

SAME = 1e-6
"""Relative difference below which two spacings are one."""


@dataclass(frozen=True)
class SampledAxis:
    """Where a kernel is evaluated along an axis, and from which voxels the features there are interpolated.

    Attributes:
        points: ``[m]`` offsets in mm, float64.
        weights: ``[taps, m]`` float64, of each voxel for each point; None: the points are the voxels.
        taps: number of voxels.
    """

    points: Tensor
    weights: Tensor | None
    taps: int

    def folded(self, kernel: Tensor, dim: int) -> Tensor:
        """A kernel at the points, as one of the voxels: ``m`` becomes ``taps`` along `dim`."""
        if self.weights is None:
            return kernel
        return torch.tensordot(kernel, self.weights.to(kernel), dims=([dim], [1])).movedim(-1, dim)

    def shifted(self, x: Tensor, dim: int, point: int, stride: int, count: int) -> Tensor:
        """What `count` receivers, `stride` voxels apart, find at a point: from padded `x` along `dim`."""

        def window(tap: int) -> Tensor:
            return x[(slice(None),) * dim + (slice(tap, tap + stride * (count - 1) + 1, stride),)]

        if self.weights is None:
            return window(point)
        column = self.weights[:, point].tolist()
        return torch.stack([weight * window(tap) for tap, weight in enumerate(column) if weight]).sum(0)


@dataclass(frozen=True)
class Quadrature:
    """The sampled axes x, y, z.

    Attributes:
        axes: each of them.
        volume: of a sample in mm³.
    """

    axes: tuple[SampledAxis, SampledAxis, SampledAxis]
    volume: float

    @property
    def offsets(self) -> Tensor:
        """All points ``[m_x m_y m_z, 3]`` in mm, float64, z fastest."""
        x, y, z = (axis.points for axis in self.axes)
        return torch.cartesian_prod(x, y, z)

    @property
    def points(self) -> tuple[int, int, int]:
        """Their numbers along x, y, z."""
        x, y, z = (len(axis.points) for axis in self.axes)
        return x, y, z


def quadrature(lattice: Lattice, trained: Lattice, radius: float) -> Quadrature:
    """Of a ball.

    Args:
        lattice: of the voxels that send, around a receiver.
        trained: the one that the kernel was trained on.
        radius: of the ball in mm; what lies on its surface has no weight.
    """
    axes, volume = [], 1.0
    for h, centred, own, own_centred in zip(
        lattice.spacing, lattice.centred, trained.spacing, trained.centred, strict=True
    ):
        coarse = h > own * (1 + SAME)
        step = own if coarse else h
        points = tap_positions(radius / step - 0.5 - SAME, own_centred if coarse else centred) * step
        volume *= step
        if not coarse:
            axes.append(SampledAxis(points, None, len(points)))
            continue
        taps = tap_positions(float(points[-1]) / h + 1.5 - SAME, centred)
        weights = _keys(taps[:, None] - points / h)
        axes.append(SampledAxis(points, weights, len(taps)))
    return Quadrature((axes[0], axes[1], axes[2]), volume)


def trained_on(grid: Spacing | None, stride: Triple) -> Lattice | None:
    """The lattice of the voxels that send, on even grids with this spacing and stride; None where none is known."""
    return None if grid is None else Lattice(grid, (stride[0] == 1, stride[1] == 1, stride[2] == 1))


def _keys(distance: Tensor) -> Tensor:
    """The cubic convolution kernel with a = -1/2, of distances in voxels."""
    d = distance.abs()
    near, far = (1.5 * d - 2.5) * d**2 + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, 0.0))
