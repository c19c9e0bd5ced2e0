"""A case to be disturbed: its images, what is tissue in them, and what a disturbance makes of the case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from voxseg.data.geometry import Geometry
from voxseg.data.normalise import background, foreground_threshold, intensity_range
from voxseg.data.volume import Volume

__all__ = ["Levels", "Shown", "Subject", "changed"]

Classes = NDArray[np.uint8]
Carry = Callable[[Classes], Classes]


@dataclass(frozen=True, eq=False)
class Levels:
    """Where the intensities of an image lie.

    Attributes:
        low: of empty space.
        high: of bright tissue.
        empty: the one value that the background was set to (skull-stripped scans), or None.
        tissue: `[X, Y, Z]` bool: what is not background, holes filled.
    """

    low: float
    high: float
    empty: float | None
    tissue: NDArray[np.bool_]

    @property
    def range(self) -> float:
        """From empty space to bright tissue; what levels of noise are fractions of."""
        return self.high - self.low

    @cached_property
    def box(self) -> tuple[slice, slice, slice]:
        """The smallest box that holds the tissue."""
        x, y, z = ndimage.find_objects(self.tissue.astype(np.uint8))[0] if self.tissue.any() else (slice(None),) * 3
        sizes = self.tissue.shape
        first, second, third = (slice(*s.indices(n)[:2]) for s, n in zip((x, y, z), sizes, strict=True))
        return first, second, third


@dataclass(frozen=True, eq=False)
class Subject:
    """A case as it was scanned.

    Attributes:
        name: of the case.
        volumes: its images, in the order of the model; the first one's grid is segmented.
    """

    name: str
    volumes: tuple[Volume, ...]

    @property
    def geometry(self) -> Geometry:
        """The grid that is segmented."""
        return self.volumes[0].geometry

    @cached_property
    def frame(self) -> NDArray[np.float64]:
        """`[3, 3]`: columns point along the scan's grid to the right, the front and up (nearly, if it is oblique)."""
        return self.geometry.canonical.rigid_axes

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """The middle of the scan in the world, `[3]` mm: the point that every pose turns about."""
        return self.geometry.to_world((np.array(self.geometry.shape) - 1) / 2)

    @cached_property
    def levels(self) -> tuple[Levels, ...]:
        """Of each image."""
        return tuple(_levels(volume.data) for volume in self.volumes)

    def in_frame(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """A rotation or reflection about the axes of the scan's grid, as one of the world; both `[3, 3]`."""
        return self.frame @ matrix @ self.frame.T


@dataclass(frozen=True, eq=False)
class Shown:
    """What a model is shown of a disturbed case, and what it is to find there.

    Attributes:
        volumes: the images.
        reference: dense class indices on the grid of the first of them.
        carry: takes a segmentation of the undisturbed scan to that grid as it took the reference there; None where the
            images were interpolated, so that a segmentation of them is to be compared with one of a scan that was too.
    """

    volumes: tuple[Volume, ...]
    reference: Classes
    carry: Carry | None = None


def changed(volume: Volume, data: NDArray[Any], geometry: Geometry | None = None) -> Volume:
    """The volume with other voxels, and another grid if one is given; the header of its file is dropped."""
    grid = volume.geometry if geometry is None else geometry
    return replace(volume, data=data, geometry=grid, header=None, file_shape=grid.shape)


def _levels(data: NDArray[Any]) -> Levels:
    values = np.asarray(data, dtype=np.float32)
    flat = torch.from_numpy(np.ascontiguousarray(values)).flatten()
    low, high = intensity_range(flat)
    empty = background(np.sort(values, axis=None))
    if empty is None:
        tissue = values > np.float32(foreground_threshold(flat))
        tissue = _largest(tissue)
    else:
        tissue = values != empty
    return Levels(low, high, empty, ndimage.binary_fill_holes(tissue))


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected piece: specks of noise in the air are no tissue."""
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())
