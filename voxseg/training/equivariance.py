"""How far a network is from turning its output with its input, between the rotations of the grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from voxseg.steerable import FieldType, representation
from voxseg.testing import rotation_matrix

__all__ = ["AXIS", "equivariance_error"]

AXIS = (1.0, 2.0, 3.0)
"""Of the turned pose: along no axis, plane or diagonal of the grid."""

BLUR = 1.5
"""Voxels of deviation: with it, interpolating the input by cubic splines adds less than 0.001 to the error."""

EDGE = (0.8, 1.0)
"""Where the input fades to empty space, as fractions of the radius of the ball in the cube: nothing is turned out."""

INSIDE = 0.75
"""Where outputs are compared: within this fraction of that radius."""

LARGEST = 96
"""Voxels along the cube at most."""


@torch.no_grad()
def equivariance_error(
    predict: Callable[[Tensor], Tensor], image: Tensor, degrees: float, field: FieldType | None = None
) -> float:
    """The relative difference `|f(R x) - R f(x)| / |f(x) - mean|` between turning before and after the network.

    `x` is the middle of the image, blurred by a Gaussian and faded out towards a ball, so that it can be turned almost
    exactly; `f` are the logits within that ball, turned by cubic splines; the mean, of each channel there, is left out
    because a bias turns with anything. 0 is an equivariant network; around 1 the turned output has nothing to do with
    the other one. A grid that is coarser than what a network looks at leaves an error to steerable ones too: 0.1 to
    0.3 is usual.

    Args:
        predict: `[1, C, X, Y, Z]` to logits `[1, K, X, Y, Z]`.
        image: `[C, X, Y, Z]` float32 on the network's grid, 0 where there is nothing.
        degrees: of the rotation, about `AXIS`.
        field: of the output, whose components turn; scalars by default.

    Returns:
        The error; NaN if the logits are constant.
    """
    side = max(8, min(max(image.shape[1:]), LARGEST) // 8 * 8)
    rotation = rotation_matrix(AXIS, degrees).numpy()
    positions = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 3, indexing="ij"))
    radius = np.linalg.norm(positions, axis=0) / (side / 2)
    fade = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - EDGE[0]) / (EDGE[1] - EDGE[0]), 0, 1))
    cube = np.stack([gaussian_filter(channel, BLUR) * fade for channel in _cube(image.numpy(), side)])

    upright = predict(torch.from_numpy(cube[None]).float())[0].float().cpu().numpy()
    turned_cube = _turned(cube, positions.reshape(3, -1), rotation).reshape(cube.shape)
    turned = predict(torch.from_numpy(turned_cube[None]).float())[0].float().cpu().numpy()

    inside = radius <= INSIDE
    expected, found = _turned(upright, positions[:, inside], rotation), turned[:, inside]
    if field is not None:
        expected = representation(field, torch.from_numpy(rotation)).numpy() @ expected
    contrast = float(np.linalg.norm(expected - expected.mean(1, keepdims=True)))
    return float(np.linalg.norm(found - expected)) / contrast if contrast > 0 else math.nan


def _cube(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The middle of an image `[C, X, Y, Z]`, `[C, side, side, side]`, with zeros where it is shorter."""
    for axis in (1, 2, 3):
        more = side - image.shape[axis]
        if more > 0:
            image = np.pad(image, [(more // 2, more - more // 2) if a == axis else (0, 0) for a in range(4)])
        else:
            image = np.take(image, range(-more // 2, -more // 2 + side), axis)
    return image


def _turned(volume: NDArray[np.float32], positions: NDArray[np.float64], rotation: NDArray[np.float64]) -> NDArray:
    """Channels `[C, N, N, N]` turned about the centre, at positions `[3, P]` in voxels from there: `[C, P]`."""
    source = rotation.T @ positions + (np.array(volume.shape[1:])[:, None] - 1) / 2
    return np.stack([map_coordinates(channel, source, order=3, mode="constant") for channel in volume])
