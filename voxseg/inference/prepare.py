"""From a scan to what the network sees: intensities, and a working grid locked to the head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from voxseg.data.geometry import Geometry
from voxseg.data.normalise import foreground_threshold, intensity_range, rescale
from voxseg.inference.model import PreparationConfig
from voxseg.inference.resample import affine_points, apply_axes, axis_matrix, axis_positions, interpolate_at

__all__ = ["Prepared", "covering_grid", "head_grid", "prepare", "sample"]

SLAB_VOXELS = 2**20
MULTIPLE = 8
"""Voxels from the centre of the head to each side of its grid are a multiple of this: what four levels halve evenly."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan on the working grid.

    Attributes:
        image: `[X, Y, Z]` float32, normalised, canonical axes; 0 where the grid reaches beyond the scan.
        grid: where its voxels lie.
    """

    image: Tensor
    grid: Geometry


def prepare(data: NDArray[Any], scan: Geometry, config: PreparationConfig) -> Prepared:
    """Resample a scan to the working grid and normalise it.

    The levels of empty space and of tissue are those of the whole scan.

    Args:
        data: `[X, Y, Z]`, any real type, in the scan's stored axes.
        scan: its geometry.
        config: of the model.
    """
    whole = covering_grid(scan, config.spacing)
    values, inside = sample(data, scan, whole)
    low, high = intensity_range(values)
    if config.crop:
        grid = head_grid(values, low, whole, math.ceil(config.margin / config.spacing))
        values, inside = sample(data, scan, grid)
    else:
        grid = whole
    return Prepared(rescale(values, low, high) * inside, grid)


def covering_grid(scan: Geometry, spacing: float) -> Geometry:
    """The isotropic grid about the centre of a scan that covers it, along the scan's own axes in canonical order.

    It is symmetric about the scan's centre: turning the scan by right angles, or flipping an axis of its storage, turns
    the grid with it, sample for sample. Its axes are at right angles even where the scan's are not.
    """
    canonical = scan.canonical
    # How far the scan reaches along its rigid axes, which are its own unless it is sheared.
    turned = np.abs(canonical.rigid_axes.T @ canonical.axes)
    lengths = turned @ (np.asarray(canonical.shape) * np.asarray(canonical.spacing))
    # A hundredth of a voxel is forgiven, or rounding of the spacing in a header would decide on the size.
    shape = np.array([max(1, math.ceil(length / spacing - 0.01)) for length in lengths])
    centre = canonical.to_world((np.asarray(canonical.shape) - 1) / 2)
    return _grid(canonical.rigid_axes * spacing, centre, (shape - 1) / 2, shape)


def head_grid(values: Tensor, low: float, whole: Geometry, margin: int) -> Geometry:
    """The part of space that the network is shown: around the largest connected piece of tissue.

    The voxels are laid from the piece's centre of mass outwards, in steps of `MULTIPLE` to each side. Empty space
    around a scan therefore changes neither where samples lie in the head nor which of them the network's coarser levels
    keep; and the grid turns with the scan, as the centre of mass does.

    Args:
        values: `[X, Y, Z]` intensities on `whole`.
        low: intensity of empty space.
        whole: grid over the scan.
        margin: voxels of `whole` that are taken at least on every side of the piece.
    """
    threshold = foreground_threshold(values)
    pieces, count = ndimage.label((values > threshold).numpy())
    if count == 0:
        return whole
    sizes = torch.bincount(torch.from_numpy(pieces).flatten(), minlength=count + 1)
    sizes[0] = 0
    largest = int(sizes.argmax())
    box = ndimage.find_objects(pieces)[largest - 1]
    mass = _mass(values, low, threshold, pieces == largest)
    before, after, centre = [], [], []
    for axis, place in enumerate(box):
        profile = mass.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
        middle = float(profile @ np.arange(len(profile))) / float(profile.sum())
        before.append(_steps(middle - place.start + margin))
        after.append(_steps(place.stop - 1 - middle + margin))
        centre.append(middle)
    # The centre of mass lies between two voxels of the new grid, 'before' of them on one side.
    offset, shape = np.array(before) - 0.5, np.array(before) + np.array(after)
    return _grid(whole.affine[:3, :3], whole.to_world(np.array(centre)), offset, shape)


def _mass(values: Tensor, low: float, threshold: float, piece: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How much of each voxel is tissue: all within the piece, less in the voxels around it that it fills in part.

    With a sharp edge instead, the centre of mass would move by up to half a voxel with where the voxels lie.
    """
    filled = ((values - low) / max(threshold - low, 1e-12)).clamp_(0, 1).numpy()
    return filled * ndimage.binary_dilation(piece, structure=np.ones((3, 3, 3), dtype=bool))


def _steps(voxels: float) -> int:
    """Voxels to one side of the centre, at least so many."""
    return math.ceil((voxels + 0.5) / MULTIPLE) * MULTIPLE


def _grid(axes: NDArray[Any], point: NDArray[Any], index: NDArray[Any], shape: NDArray[Any]) -> Geometry:
    """The grid with these axes `[3, 3]` (mm a voxel) on which `index` lies at the world's `point`."""
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = point - axes @ index
    x, y, z = (int(n) for n in shape)
    return Geometry((x, y, z), affine)


def sample(data: NDArray[Any], scan: Geometry, grid: Geometry) -> tuple[Tensor, Tensor]:
    """Intensities at the voxels of a grid.

    Args:
        data: `[X, Y, Z]` in the scan's stored axes.
        scan: where they lie.
        grid: where they are wanted, with axes along those of the scan or, if it is sheared, along its rigid ones.

    Returns:
        `[X, Y, Z]` float32, and whether the voxel lies inside the scan (bool).
    """
    places = axis_positions(scan, grid)
    if places is None:
        return _sample_points(data, scan, grid)
    matrices: list[Tensor] = [torch.empty(0)] * 3
    inside = torch.ones((), dtype=torch.bool)
    for along, positions in places:
        matrices[along] = axis_matrix(positions, data.shape[along], beyond=True)
        inside = inside[..., None] & (matrices[along].sum(1) > 0)
    stored = apply_axes(data, matrices)
    return stored.permute([along for along, _ in places]).contiguous(), inside


def _sample_points(data: NDArray[Any], scan: Geometry, grid: Geometry) -> tuple[Tensor, Tensor]:
    """`sample` for a scan whose axes are not at right angles: blurred along them, then interpolated point by point."""
    matrices = []
    for count, spacing in zip(data.shape, scan.spacing, strict=True):
        positions = torch.arange(count, dtype=torch.float64)
        matrices.append(axis_matrix(positions, count, beyond=True, step=grid.spacing[0] / spacing))
    blurred = apply_axes(data, matrices)
    lowest = blurred.min()
    source = torch.stack([blurred - lowest, torch.ones_like(blurred)])[None]
    to_scan = np.linalg.inv(scan.affine) @ grid.affine
    result, inside = torch.empty(grid.shape), torch.empty(grid.shape, dtype=torch.bool)
    slab = max(1, SLAB_VOXELS // (grid.shape[1] * grid.shape[2]))
    for start in range(0, grid.shape[0], slab):
        stop = min(start + slab, grid.shape[0])
        points = affine_points(to_scan, (range(start, stop), range(grid.shape[1]), range(grid.shape[2])))
        value, weight = interpolate_at(source, points)
        inside[start:stop] = weight >= 0.125  # half a voxel beyond the centres at a corner
        result[start:stop] = value / weight.clamp(min=0.125) + lowest
    return result, inside
