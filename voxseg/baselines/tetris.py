"""The eight Tetris shapes of four cubes as volumes in any pose, two of them mirror images: the field's smallest test.

Weiler et al. (2018, arXiv:1807.02547, section 5.1) train a network on each shape in one pose and test it in others. A
network that turns its features needs one pose; one of O(3) whose outputs are even cannot tell the two mirror images
apart, and one of SO(3) can.

A shape is blurred with an isotropic Gaussian, which has a closed form in every pose: nothing is interpolated.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CHIRAL", "SHAPES", "tetris"]

SHAPES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "chiral 1": ((0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 1, 0)),
    "chiral 2": ((1, 0, 0), (1, 0, 1), (0, 0, 0), (0, 1, 0)),
    "square": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)),
    "line": ((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)),
    "corner": ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "L": ((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)),
    "T": ((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 1)),
    "zigzag": ((0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 1, 0)),
}
"""Cubes by their places; the first two shapes are mirror images of each other (x to 1 - x)."""

CHIRAL = (0, 1)
"""Numbers of the mirror pair."""


def tetris(
    rotation: Tensor | None = None,
    size: int = 12,
    edge: float = 2.0,
    blur: float = 0.7,
    shift: Tensor | None = None,
) -> Tensor:
    """All shapes in a pose.

    Args:
        rotation: ``[3, 3]``, by default the identity; each shape turns about its centre of mass, which lies in the
            centre of the grid.
        size: voxels of the grid along each axis.
        edge: of a cube, in voxels.
        blur: standard deviation of the Gaussian, in voxels. A grid of one voxel holds a Gaussian of about 0.9 and more:
            of a narrower one, a turned shape is sampled to other sums.
        shift: ``[8, 3]``, of each shape in voxels, by default none.

    Returns:
        ``[8, 1, size, size, size]`` float64, 1 deep inside a shape.
    """
    turn = torch.eye(3, dtype=torch.float64) if rotation is None else rotation.to(torch.float64)
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1) @ turn  # R^-1 p
    moved = torch.zeros(len(SHAPES), 3) if shift is None else shift
    volumes = []
    for places, by in zip(SHAPES.values(), moved.to(torch.float64) @ turn, strict=True):
        cubes = torch.tensor(places, dtype=torch.float64)
        centres = (cubes - cubes.mean(0)) * edge  # [4, 3]
        offsets = (points - by)[..., None, :] - centres  # [X, Y, Z, 4, 3]
        # A box blurred by a Gaussian is a product of differences of its distribution function.
        sides = torch.special.ndtr((offsets + edge / 2) / blur) - torch.special.ndtr((offsets - edge / 2) / blur)
        volumes.append(sides.prod(-1).sum(-1))
    return torch.stack(volumes)[:, None]
