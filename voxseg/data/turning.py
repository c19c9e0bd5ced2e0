"""Patients turned within their field of view, as voxels: the test that a network does not lean on the grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxseg.data.geometry import Geometry
from voxseg.data.normalise import background, foreground_threshold
from voxseg.data.preparation import ImageConfig, PreparationConfig
from voxseg.data.resample import affine_points, interpolate_at

__all__ = ["empty_values", "turn_image", "turn_labels", "turn_window", "turned_case", "turned_grid"]

Image = tuple[NDArray[Any], Geometry]

SLAB_VOXELS = 2**20
AIR_SAMPLES = 2**14
BALL = 0.85


def turned_case(
    images: Sequence[Image], truth: NDArray[np.uint8], config: PreparationConfig, rotation: NDArray[np.float64]
) -> tuple[list[Image], NDArray[np.uint8]]:
    """A case with the patient turned about the middle of the first image.

    Each image keeps its spacing. Its field of view is enlarged to hold what is turned, once the empty space around that
    is cut off.

    Args:
        images: voxels `[X, Y, Z]` in stored axes and their geometry, in the order of `config.images`.
        truth: dense class indices on the grid of the first image.
        config: says what empty space is.
        rotation: `[3, 3]`, in world space.

    Returns:
        Images and truth, the latter again on the grid of the first image.
    """
    first = images[0][1]
    centre = first.to_world((np.array(first.shape) - 1) / 2)
    empties = [empty_values(data, settings) for (data, _), settings in zip(images, config.images.values(), strict=True)]
    # Images in the grid of the first one, as they mostly are, stay in one grid; others keep their whole field of view.
    together = [geometry.displacement(first) < min(first.spacing) for _, geometry in images]
    filled = truth > 0
    for (data, _), empty, settings in itertools.compress(
        zip(images, empties, config.images.values(), strict=True), together
    ):
        filled |= _filled(data, empty, settings)
    box = _box(filled)
    turned: list[Image] = []
    for image, empty, along in zip(images, empties, together, strict=True):
        data, geometry = _crop(image, box) if along else image
        grid = turned_grid(geometry, rotation, centre)
        turned.append((turn_image(data, geometry, rotation, centre, empty), grid))
    labels = turn_labels(*_crop((truth, first), box), rotation, centre)
    return turned, labels


def turned_grid(geometry: Geometry, rotation: NDArray[np.float64], centre: NDArray[np.float64]) -> Geometry:
    """The grid with the axes and the spacing of `geometry` that holds all of it after a turn.

    Args:
        geometry: of a volume.
        rotation: `[3, 3]`, in world space.
        centre: the point that stays where it is, `[3]` mm.
    """
    ends = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in geometry.shape))))
    turned = (geometry.to_world(ends) - centre) @ rotation.T + centre
    inverse = np.linalg.inv(geometry.affine)
    index = turned @ inverse[:3, :3].T + inverse[:3, 3]
    # Voxels that the turned volume reaches into by a hundredth are left out, so that a turn by 0 changes no grid.
    first = np.ceil(index.min(0) + 0.5 - 0.99).astype(int)
    last = np.floor(index.max(0) - 0.5 + 0.99).astype(int)
    affine = geometry.affine.copy()
    affine[:3, 3] = geometry.to_world(first)
    x, y, z = (int(n) for n in last - first + 1)
    return Geometry((x, y, z), affine)


def turn_image(
    data: NDArray[Any],
    geometry: Geometry,
    rotation: NDArray[np.float64],
    centre: NDArray[np.float64],
    empty: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Intensities of a turned patient on `turned_grid`, interpolated linearly.

    Args:
        data: `[X, Y, Z]`, any real type.
        geometry: its grid.
        rotation: `[3, 3]`, in world space.
        centre: the point that stays where it is, `[3]` mm.
        empty: what lies beyond the scan, as `empty_values` gives it; always drawn alike.

    Returns:
        `[X', Y', Z']` float32.
    """
    grid = turned_grid(geometry, rotation, centre)
    values = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
    source = torch.stack([values, torch.ones_like(values)])[None]
    random = np.random.default_rng(0)
    result = np.empty(grid.shape, dtype=np.float32)
    for slab, points in _source_points(geometry, grid, rotation, centre):
        value, inside = interpolate_at(source, points).numpy()
        beyond = empty[random.integers(0, len(empty), inside.shape)] if len(empty) > 1 else empty[0]
        result[slab] = value + (1 - inside) * beyond
    return result


def turn_labels(
    labels: NDArray[np.uint8], geometry: Geometry, rotation: NDArray[np.float64], centre: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Dense class indices of a turned patient on `turned_grid`, from the nearest voxel, 0 where there is none."""
    grid = turned_grid(geometry, rotation, centre)
    result = np.zeros(grid.shape, dtype=np.uint8)
    for slab, points in _source_points(geometry, grid, rotation, centre):
        index = points.round().long().numpy()
        inside = ((index >= 0) & (index < np.array(labels.shape))).all(-1)
        result[slab][inside] = labels[tuple(index[inside].T)]
    return result


def turn_window(image: Tensor, target: Tensor, rotation: NDArray[np.float64]) -> tuple[Tensor, Tensor, Tensor]:
    """A window turned about its centre.

    Args:
        image: `[C, X, Y, Z]` float32.
        target: dense class indices `[X, Y, Z]`.
        rotation: `[3, 3]`.

    Returns:
        Image, target, and whether a voxel lies well inside of the window before and after, `[X, Y, Z]` bool: within
        a ball of `BALL` of the largest that fits. What was outside is unknown, and near it the network cannot know.
    """
    size = target.shape
    middle = (np.array(size) - 1) / 2
    matrix = np.eye(4)
    matrix[:3, :3] = rotation.T
    matrix[:3, 3] = middle - rotation.T @ middle
    x, y, z = (range(n) for n in size)
    points = affine_points(matrix, (x, y, z))
    index = points.round().long()
    there = ((index >= 0) & (index < torch.tensor(size))).all(-1)
    i, j, k = index[there].T
    turned = torch.zeros_like(target)
    turned[there] = target[i, j, k]
    inside = (points - torch.from_numpy(middle)).norm(dim=-1) <= BALL * min(size) / 2
    return interpolate_at(image[None], points), turned, inside


def empty_values(data: NDArray[Any], config: ImageConfig) -> NDArray[np.float32]:
    """Intensities that preparation takes for empty space, as what lies beyond a scan has to be.

    One value where it recognises one: the lower end of a window of absolute units, a background that was set to one
    value, or the minimum. A z-scored image with noise in the air would be scaled in another way if it got such a
    background, and gets values of its own air.

    Args:
        data: `[X, Y, Z]`, any real type.
        config: how it is scaled.

    Returns:
        `[N]`, to draw from.
    """
    if config.scale == "window":
        return np.array([config.low], dtype=np.float32)
    if config.scale == "zscore":
        ordered = np.sort(data.astype(np.float32), axis=None)
        level = background(ordered)
        if level is not None:
            return np.array([level], dtype=np.float32)
        threshold = np.float32(foreground_threshold(torch.from_numpy(ordered)))
        air = ordered[: np.searchsorted(ordered, threshold, side="right")]
        return air[:: max(1, len(air) // AIR_SAMPLES)]
    return np.array([data.min()], dtype=np.float32)


def _filled(data: NDArray[Any], empty: NDArray[np.float32], config: ImageConfig) -> NDArray[np.bool_]:
    """Where an image is not empty; everywhere if its air is noise."""
    if len(empty) > 1:
        return np.ones(data.shape, dtype=bool)
    return data > empty[0] if config.scale == "window" else data != empty[0]


def _crop(image: Image, box: tuple[slice, ...]) -> Image:
    """The part of a volume in a box of voxels, and its grid."""
    array, geometry = image
    affine = geometry.affine.copy()
    affine[:3, 3] = geometry.to_world(np.array([part.start for part in box]))
    part = array[box]
    x, y, z = part.shape
    return part, Geometry((x, y, z), affine)


def _box(filled: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box of voxels that holds all that are true, with one more on each side; all if none is."""
    box = []
    for axis, length in enumerate(filled.shape):
        used = np.flatnonzero(filled.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, length - 1)
        box.append(slice(max(0, first - 1), min(length, last + 2)))
    return tuple(box)


def _source_points(
    geometry: Geometry, grid: Geometry, rotation: NDArray[np.float64], centre: NDArray[np.float64]
) -> Iterator[tuple[slice, Tensor]]:
    """Slab by slab along the first axis of `grid`: where its voxels come from, in voxels of `geometry`."""
    back = np.eye(4)
    back[:3, :3] = rotation.T
    back[:3, 3] = centre - rotation.T @ centre
    matrix = np.linalg.inv(geometry.affine) @ back @ grid.affine
    step = max(1, SLAB_VOXELS // (grid.shape[1] * grid.shape[2]))
    for start in range(0, grid.shape[0], step):
        stop = min(start + step, grid.shape[0])
        yield (
            slice(start, stop),
            affine_points(matrix, (range(start, stop), range(grid.shape[1]), range(grid.shape[2]))),
        )
