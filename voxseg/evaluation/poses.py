"""Patients in other poses, and headers that say so rightly or wrongly: all without interpolation, bit for bit.

Two primitives do all of it. `move_header` moves a volume in the world by changing its affine alone; `store_axes`
stores the same volume along other axes. A header that claims another orientation is the first; another orientation of
the file is the second; a patient who lay differently is both, so that the axes of the grid stay as they were and the
voxels move.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.volume import Volume
from voxseg.evaluation.subject import changed

__all__ = ["describe_turn", "move_header", "permuted", "signed_permutations", "store_axes", "turn_voxels"]

AXIS_NAMES = ("x", "y", "z")
PERMUTATION_TOLERANCE = 1e-3
"""By how much axes of two images of a case may miss each other and still be the same axes."""


def signed_permutations(improper: bool) -> list[NDArray[np.float64]]:
    """The 24 rotations of a cubic grid, the identity first, or its 24 reflections, `[3, 3]` each."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), list(order)] = signs
            if (np.linalg.det(matrix) < 0) == improper:
                found.append(matrix)
    return found


def permuted(array: NDArray[Any], matrix: NDArray[np.float64]) -> NDArray[Any]:
    """The array `[X, Y, Z]` with its axes permuted and flipped: the voxel at i, from the middle, goes to matrix i."""
    order = [int(k) for k in np.abs(matrix).argmax(1)]
    turned = array.transpose(order)
    return np.ascontiguousarray(np.flip(turned, tuple(i for i, axis in enumerate(order) if matrix[i, axis] < 0)))


def store_axes(volume: Volume, matrix: NDArray[np.float64]) -> Volume:
    """The same image in the same place, stored along other axes with the header that belongs to it.

    Args:
        volume: an image.
        matrix: signed permutation `[3, 3]` of voxel indices.
    """
    data = np.asfortranarray(permuted(volume.data, matrix))  # the layout of what is read from a file
    old = volume.geometry
    affine = np.eye(4)
    affine[:3, :3] = old.affine[:3, :3] @ matrix.T
    middle = old.to_world((np.array(old.shape) - 1) / 2)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(data.shape) - 1) / 2)
    return changed(volume, data, Geometry(data.shape, affine))


def move_header(volume: Volume, matrix: NDArray[np.float64], centre: NDArray[np.float64]) -> Volume:
    """The same voxels with a header that puts them elsewhere: turned or mirrored about a point.

    Args:
        volume: an image.
        matrix: orthogonal `[3, 3]`, in world space.
        centre: the point that stays where it is, `[3]` mm.
    """
    affine = volume.geometry.affine.copy()
    affine[:3, :3] = matrix @ affine[:3, :3]
    affine[:3, 3] = matrix @ (affine[:3, 3] - centre) + centre
    return changed(volume, volume.data, Geometry(volume.geometry.shape, affine))


def turn_voxels(
    volume: Volume, matrix: NDArray[np.float64], centre: NDArray[np.float64]
) -> tuple[Volume, NDArray[np.float64]]:
    """An image of a patient who was turned or mirrored, on a grid whose axes point where they did.

    An image of which the matrix does not map the axes to themselves (one that is oblique to the first of its case)
    keeps its voxels and gets the header that belongs to them: just as exact.

    Args:
        volume: an image.
        matrix: signed permutation of the grid's axes, as an orthogonal `[3, 3]` of the world.
        centre: the point that stays where it is, `[3]` mm.

    Returns:
        The image, and the signed permutation `[3, 3]` of its voxel indices (`permuted`).
    """
    axes = volume.geometry.rigid_axes
    along = axes.T @ matrix @ axes
    permutation = np.rint(along)
    if np.abs(along - permutation).max() > PERMUTATION_TOLERANCE:
        permutation = np.eye(3)
    return store_axes(move_header(volume, matrix, centre), permutation), permutation


def describe_turn(rotation: NDArray[np.float64]) -> str:
    """A grid rotation in words: "90° about x"."""
    angle = round(math.degrees(math.acos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
    if angle == 0:
        return "0°"
    if angle == 180:
        symmetric = (rotation + np.eye(3)) / 2
        axis = symmetric[int(np.diag(symmetric).argmax())]
    else:
        lower, upper = rotation[[2, 0, 1], [1, 2, 0]], rotation[[1, 2, 0], [2, 0, 1]]
        axis = lower - upper
    axis = np.rint(axis / np.abs(axis).max()).astype(int)
    first = axis[np.flatnonzero(axis)[0]]
    if np.count_nonzero(axis) == 1:
        sign = "-" if first < 0 and angle != 180 else ""
        return f"{angle}° about {sign}{AXIS_NAMES[int(np.abs(axis).argmax())]}"
    return f"{angle}° about ({', '.join(map(str, axis))})"
