"""Where a generated scan looks at the head: position, rotation, scale and smooth deformation of its sampling grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from voxseg.data.label_maps import HeadMap

TETRAHEDRON = ((0.25, 0.25, 0.25), (0.25, -0.25, -0.25), (-0.25, 0.25, -0.25), (-0.25, -0.25, 0.25))
"""Four points within a voxel, in voxels: the fewest that spread alike along the three axes."""

DEFORMATION_NODES = 6
"""Points along each axis of a window between which the random deformation is smooth."""

BULGE_NODES = 12
"""The same for the finer grid that also carries local growth and shrinkage."""


@dataclass(frozen=True)
class Placement:
    """A window of voxels laid into a head.

    Attributes:
        matrix: from window voxels (counted from its centre) to map voxels, float32 [3, 3] on the CPU.
        centre: the window's centre in map voxels, float32 [3] on the CPU.
        displacement: in map voxels on a coarse grid over the window, float32 [1, 3, n, n, n] on the CPU, or None.
    """

    matrix: Tensor
    centre: Tensor
    displacement: Tensor | None

    def points(self, position: Tensor) -> Tensor:
        """Map coordinates [N, 3] of window positions [N, 3] (voxels from the centre), deformation left out."""
        return position @ self.matrix.T.to(position) + self.centre.to(position)


def uniform(random: torch.Generator, low: float, high: float) -> float:
    """One number, drawn uniformly."""
    return low + (high - low) * float(torch.rand((), generator=random))


def rotation_matrix(random: torch.Generator, degrees: float) -> Tensor:
    """A rotation by a uniform angle of up to `degrees` about a uniform axis, float32 [3, 3] (Rodrigues' formula)."""
    axis = torch.randn(3, generator=random)
    x, y, z = (axis / axis.norm().clamp_min(1e-6)).tolist()
    angle = math.radians(uniform(random, -degrees, degrees))
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def ellipsoid(random: torch.Generator, spread: float) -> Tensor:
    """A random symmetric matrix [3, 3] that takes an ellipsoid to the sphere of its volume.

    Args:
        random: generator on the CPU.
        spread: deviation of the logarithm of its half axes.
    """
    stretch = torch.exp(spread * torch.randn(3, generator=random).clamp(-1.5, 1.5))
    turn = rotation_matrix(random, 180)
    return turn @ torch.diag(stretch / stretch.prod() ** (1 / 3)) @ turn.T


def draw_displacement(
    random: torch.Generator,
    head: HeadMap,
    matrix: Tensor,
    centre: Tensor,
    window: tuple[int, int, int],
    strength: float,
    growth: float,
) -> Tensor:
    """A smooth deformation of the window's sampling points.

    Random displacements, and two places within the brain that grow or shrink: ventricles and sulci of the old and the
    young differ far more than a few millimetres of random displacement make them.

    Args:
        random: generator on the CPU.
        head: the head that the window looks at.
        matrix: as in `Placement`.
        centre: as in `Placement`.
        window: its size in voxels.
        strength: standard deviation of the displacements in mm.
        growth: largest growth, as a fraction of the distance from the middle of the place; below 1.

    Returns:
        Displacement in map voxels at `BULGE_NODES` points along each axis, float32 [1, 3, n, n, n].
    """
    noise = strength * torch.randn((1, 3, *(DEFORMATION_NODES,) * 3), generator=random)
    nodes = (BULGE_NODES,) * 3
    displacement = functional.interpolate(noise, size=nodes, mode="trilinear", align_corners=True)
    axes = [torch.linspace(-(n - 1) / 2, (n - 1) / 2, BULGE_NODES) for n in window]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ matrix.T + centre
    for _ in range(2):
        middle = head.brain_low + (head.brain_high - head.brain_low) * (0.25 + 0.5 * torch.rand(3, generator=random))
        away = (position - middle) * head.spacing
        width = uniform(random, 10.0, 25.0)
        amount = uniform(random, -growth, growth)
        pull = -amount * torch.exp(-away.square().sum(-1, keepdim=True) / (2 * width**2)) * away
        displacement += pull.permute(3, 0, 1, 2)
    return displacement / head.spacing.view(1, 3, 1, 1, 1)


def window_index(head: HeadMap, placement: Placement, window: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Which voxels of a head a window sees.

    Positions outside the head's map are moved to its outermost layer, which is background.

    Args:
        head: the label map.
        placement: where the window lies.
        window: its size in voxels.

    Returns:
        (centre, parts): flat indices into ``head.rows``, int64 [X, Y, Z] for the voxel centres and [4, X, Y, Z] for
        four points within each voxel, whose mean is the voxel's partial volume.
    """
    device = head.rows.device
    offsets = [torch.arange(n, device=device) - (n - 1) / 2 for n in window]
    matrix, centre = placement.matrix.tolist(), placement.centre.tolist()
    bent = None
    if placement.displacement is not None:
        bent = functional.interpolate(
            placement.displacement.to(device), size=window, mode="trilinear", align_corners=True
        )[0]
    flat: list[Tensor] = []
    shape = head.rows.shape
    points = ((0.0, 0.0, 0.0), *TETRAHEDRON)
    for axis in range(3):
        row = matrix[axis]
        along = [offsets[k] * row[k] for k in range(3)]
        # + 0.5: truncation then rounds, as what lies below zero is clamped in any case.
        base = along[0][:, None, None] + along[1][:, None] + (along[2] + (centre[axis] + 0.5))
        if bent is not None:
            base = base + bent[axis]
        for k, point in enumerate(points):
            shift = sum(r * p for r, p in zip(row, point, strict=True))
            index = (base + shift).clamp_(0, shape[axis] - 1).to(torch.int32)
            if axis == 0:
                flat.append(index)
            else:
                flat[k].mul_(shape[axis]).add_(index)
    return flat[0].long(), torch.stack(flat[1:]).long()
