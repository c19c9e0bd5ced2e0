"""Shapes and noise as functions of position, which can be evaluated on any grid in any pose without interpolation.

A shape is a signed distance in mm: positive inside, 0 on the surface, exact for spheres and tubes and of first order
elsewhere. Points are float32 [N, 3] in mm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from voxseg.data._intensity import smooth3

Point = tuple[float, float, float]
Node = tuple[float, float, float, float]
"""x, y, z and radius."""

REACH = 150.0
"""mm from the origin to each side within which noise is defined; constant beyond."""


class NoiseField:
    """Smooth random numbers of zero mean and unit deviation at every point of space.

    Args:
        random: generator on the CPU.
        channels: C, independent of each other.
        scale: mm over which they are smooth.
    """

    def __init__(self, random: torch.Generator, channels: int, scale: float) -> None:
        nodes = 2 * math.ceil(2 * REACH / scale) + 1  # half a scale apart
        noise = torch.randn((channels, *(nodes,) * 3), generator=random)
        smooth = torch.stack([smooth3(volume, 1.0) for volume in noise])
        self._nodes = smooth / smooth.std(dim=(1, 2, 3), keepdim=True)

    def __call__(self, points: Tensor) -> Tensor:
        """Values [C, N] at points [N, 3]."""
        # grid_sample's last coordinate is the first axis.
        where = (points.flip(-1) / REACH).view(1, 1, 1, -1, 3)
        values = functional.grid_sample(self._nodes[None], where, padding_mode="border", align_corners=True)
        return values.view(len(self._nodes), -1)


def ellipsoid(points: Tensor, centre: Point, radii: Point) -> Tensor:
    """An ellipsoid along the axes, [N]."""
    offset = points - points.new_tensor(centre)
    scaled = offset / points.new_tensor(radii)
    length = scaled.norm(dim=1)
    slope = (scaled / points.new_tensor(radii)).norm(dim=1).clamp_min(1e-6)
    # In the centre the quotient of the first order breaks down.
    return ((1 - length) * length / slope).minimum((1 - length) * max(radii)).maximum((1 - length) * min(radii))


def tube(points: Tensor, nodes: Sequence[Node]) -> Tensor:
    """A round tube along a line of straight pieces, its radius linear in between, [N]."""
    result = points.new_full((len(points),), -math.inf)
    for (*start, first), (*end, last) in itertools.pairwise(nodes):
        along = points.new_tensor(end) - points.new_tensor(start)
        offset = points - points.new_tensor(start)
        place = ((offset * along).sum(1) / along.square().sum()).clamp(0, 1)
        radius = first + (last - first) * place
        result = torch.maximum(result, radius - (offset - place[:, None] * along).norm(dim=1))
    return result


def within(*distances: Tensor) -> Tensor:
    """The intersection of shapes, [N]."""
    result = distances[0]
    for distance in distances[1:]:
        result = torch.minimum(result, distance)
    return result


def joined(*distances: Tensor) -> Tensor:
    """The union of shapes, [N]."""
    result = distances[0]
    for distance in distances[1:]:
        result = torch.maximum(result, distance)
    return result
