"""From a scan to what the network sees: the working grid, intensities, and the box around the head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from voxseg.data.geometry import Geometry
from voxseg.data.normalise import foreground_threshold, normalise
from voxseg.inference.model import PreparationConfig
from voxseg.inference.resample import apply_axes, axis_matrix, centred_positions

__all__ = ["Prepared", "head_box", "prepare", "working_grid"]

MAX_SHEAR = 0.1  # degrees; below it a grid counts as rectangular (0.2 mm at the edge of a head)
SLAB_VOXELS = 2**20

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan on the working grid.

    Attributes:
        image: `[X, Y, Z]` float32, normalised, the part of the working grid in `box`, canonical axes.
        box: that part; may reach beyond the grid on any side, where the image is 0 (empty space).
        grid: the whole working grid.
    """

    image: Tensor
    box: Box
    grid: Geometry


def working_grid(scan: Geometry, spacing: float) -> Geometry:
    """The isotropic grid about the centre of a scan that covers it, along the scan's own axes in canonical order.

    It is symmetric about the scan's centre: turning the scan by right angles, or flipping an axis of its storage, turns
    the grid with it, sample for sample. Its axes are at right angles even where the scan's are not.
    """
    canonical = scan.canonical
    lengths = np.asarray(canonical.shape) * np.asarray(canonical.spacing)
    if canonical.shear > MAX_SHEAR:
        # How far the sheared box reaches along the rigid axes.
        lengths = np.abs(canonical.rigid_axes.T @ canonical.axes) @ lengths
    # A hundredth of a voxel is forgiven, or rounding of the spacing in a header would decide on the size.
    x, y, z = (max(1, math.ceil(length / spacing - 0.01)) for length in lengths)
    affine = np.eye(4)
    affine[:3, :3] = canonical.rigid_axes * spacing
    centre = canonical.to_world((np.asarray(canonical.shape) - 1) / 2)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array([x, y, z]) - 1) / 2)
    return Geometry((x, y, z), affine)


def prepare(data: NDArray[Any], scan: Geometry, config: PreparationConfig) -> Prepared:
    """Resample a scan to the working grid, normalise it and cut out the head.

    Args:
        data: `[X, Y, Z]`, any real type, in the scan's stored axes.
        scan: its geometry.
        config: of the model.
    """
    grid = working_grid(scan, config.spacing)
    values = _sample(data, scan, grid, config.spacing)
    image = normalise(values)
    whole: Box = (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    box = head_box(values, math.ceil(config.margin / config.spacing)) if config.crop else whole
    return Prepared(_cut(image, box), box, grid)


def head_box(values: Tensor, margin: int) -> Box:
    """Bounding box of the largest connected piece of tissue and `margin` voxels more on every side.

    Args:
        values: `[X, Y, Z]` intensities.
        margin: voxels; the box may reach beyond the volume.
    """
    tissue = (values > foreground_threshold(values)).numpy()
    pieces, count = ndimage.label(tissue)
    if count == 0:
        x, y, z = (slice(0, n) for n in values.shape)
        return x, y, z
    sizes = torch.bincount(torch.from_numpy(pieces).flatten(), minlength=count + 1)
    sizes[0] = 0
    found = ndimage.find_objects(pieces)[int(sizes.argmax()) - 1]
    x, y, z = (slice(s.start - margin, s.stop + margin) for s in found)
    return x, y, z


def _cut(image: Tensor, box: Box) -> Tensor:
    """The part of a volume in a box, 0 where the box lies outside."""
    inside = tuple(slice(max(s.start, 0), s.stop) for s in box)
    missing: list[int] = []
    for s, n in zip(reversed(box), reversed(image.shape), strict=True):
        missing += [max(-s.start, 0), max(s.stop - n, 0)]
    return functional.pad(image[inside], missing)


def _sample(data: NDArray[Any], scan: Geometry, grid: Geometry, spacing: float) -> Tensor:
    """Intensities at the working grid's voxels, `[X, Y, Z]` float32 in canonical axes."""
    if scan.shear > MAX_SHEAR:
        return _sample_sheared(data, scan, grid, spacing)
    matrices: list[Tensor] = [torch.empty(0)] * 3
    for canonical, stored in enumerate(scan.permutation):
        count, step = data.shape[stored], spacing / scan.spacing[stored]
        positions = centred_positions(grid.shape[canonical], step, count)
        matrices[stored] = axis_matrix(positions, count, step, clamp=True)
    stored_axes = apply_axes(data, matrices)
    flipped = [axis for axis, flip in enumerate(scan.flips) if flip]
    return stored_axes.permute(scan.permutation).flip(flipped).contiguous()


def _sample_sheared(data: NDArray[Any], scan: Geometry, grid: Geometry, spacing: float) -> Tensor:
    """The same for a scan whose axes are not at right angles: blurred along them, then interpolated point by point."""
    matrices = []
    for count, step in zip(data.shape, (spacing / s for s in scan.spacing), strict=True):
        positions = torch.arange(count, dtype=torch.float64)
        matrices.append(axis_matrix(positions, count, step, clamp=True))
    blurred = apply_axes(data, matrices)
    lowest = blurred.min()
    source = (blurred - lowest)[None, None]  # outside the scan is what is darkest in it
    to_scan = np.linalg.inv(scan.affine) @ grid.affine
    result = torch.empty(grid.shape)
    slab = max(1, SLAB_VOXELS // (grid.shape[1] * grid.shape[2]))
    for start in range(0, grid.shape[0], slab):
        stop = min(start + slab, grid.shape[0])
        points = affine_points(to_scan, (range(start, stop), range(grid.shape[1]), range(grid.shape[2])))
        result[start:stop] = interpolate_at(source, points)[0]
    return result + lowest


def affine_points(matrix: NDArray[np.float64], ranges: tuple[range, range, range]) -> Tensor:
    """Images `[X, Y, Z, 3]` (float32) of the index lattice `ranges` under a `[4, 4]` affine."""
    axes = [torch.arange(r.start, r.stop, dtype=torch.float64) for r in ranges]
    linear, shift = torch.from_numpy(matrix[:3, :3].copy()), torch.from_numpy(matrix[:3, 3].copy())
    x, y, z = (axis[:, None] * linear[:, k] for k, axis in enumerate(axes))
    return (x[:, None, None] + y[None, :, None] + z[None, None] + shift).float()


def interpolate_at(source: Tensor, points: Tensor) -> Tensor:
    """Linear interpolation of `[1, C, X, Y, Z]` at voxel positions `[A, B, C, 3]`, zero outside: `[C, A, B, C]`."""
    size = torch.tensor(source.shape[2:], dtype=points.dtype)
    # grid_sample counts from -1 to 1 and names the axes backwards.
    places = (points / (size - 1).clamp(min=1) * 2 - 1).flip(-1)[None].to(source.device)
    return functional.grid_sample(source, places, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
