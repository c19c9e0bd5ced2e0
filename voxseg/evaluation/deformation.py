"""Smooth deformations of maximal entropy: random in every way but for their size and their highest frequency.

After Petrini, Favero, Geiger and Wyart (2021), "Relative stability toward diffeomorphisms indicates performance in deep
nets" (arXiv 2105.02468), in three dimensions: each component of the displacement is a sum of products of sines that
vanish at the border of the field of view,

    tau(u) = sqrt(T) sum_{i, j, k >= 1, i^2 + j^2 + k^2 < (c + 1/2)^2} c_ijk sin(i pi u_x) sin(j pi u_y) sin(k pi u_z),

with c_ijk drawn from N(0, 1 / (i^2 + j^2 + k^2)): the Gibbs ensemble of temperature T of an elastic energy
|grad tau|^2, cut off at the frequency c. Instead of the temperature, the root mean square displacement is fixed here,
for every draw. In a field of view that is no cube, i, j and k are counted in half waves along the edge of a cube of
the same volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.resample import axis_positions, interpolate_at
from voxseg.errors import UserError

__all__ = ["CUTOFF", "Deformation", "draw_deformation"]

CUTOFF = 5
"""Highest frequency, in half waves along the field of view: bumps of a fifth of it, about 35 mm in a head."""

SLAB_VOXELS = 2**20
LATTICE = 2**18
"""Points at most at which the size of a deformation is measured."""


@dataclass(frozen=True, eq=False)
class Deformation:
    """A displacement of the points of a field of view: an image x becomes (tau x)(p) = x(p - tau(p)).

    Attributes:
        coefficients: `[3, c, c, c]` mm, of the sines, for the displacement along the three axes of `field`.
        field: the field of view, in canonical axes; displacements vanish at its faces.
    """

    coefficients: NDArray[np.float64]
    field: Geometry

    def displacement(self, places: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Displacements `[3, X, Y, Z]` in mm on a lattice, given as voxel positions of `field` along its three axes."""
        x, y, z = (self._sines(axis, place)[0] for axis, place in enumerate(places))
        return np.einsum("aijk,xi,yj,zk->axyz", self.coefficients, x, y, z, optimize=True)

    def gradient(self, places: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Derivatives `[3, 3, X, Y, Z]` on a lattice: entry (a, b) is that of component a along axis b, mm per mm."""
        waves = [self._sines(axis, place) for axis, place in enumerate(places)]
        rows = []
        for along in range(3):
            x, y, z = (wave[int(axis == along)] for axis, wave in enumerate(waves))
            rows.append(np.einsum("aijk,xi,yj,zk->axyz", self.coefficients, x, y, z, optimize=True))
        return np.stack(rows, axis=1)

    def scaled(self, factor: float) -> Deformation:
        """The same shape, with all displacements times a factor."""
        return replace(self, coefficients=self.coefficients * factor)

    def size(self, within: NDArray[np.bool_]) -> tuple[float, float, float]:
        """Root mean square and largest displacement in mm, and the smallest det(1 - grad tau).

        The last says by how much the deformation shrinks a part at most; it is one to one where that is positive.

        Args:
            within: `[X, Y, Z]` on `field`: where it is measured.
        """
        stride = max(1, math.ceil((within.size / LATTICE) ** (1 / 3)))
        inside = within[::stride, ::stride, ::stride]
        if not inside.any():
            inside = np.ones_like(inside)
        places = [np.arange(0, n, stride, dtype=np.float64) for n in within.shape]
        lengths = np.linalg.norm(self.displacement(places)[:, inside], axis=0)
        gradient = self.gradient(places)[:, :, inside]
        determinants = np.linalg.det(np.eye(3) - np.moveaxis(gradient, 2, 0))
        return float(np.sqrt(np.mean(lengths**2))), float(lengths.max()), float(determinants.min())

    def image(self, data: NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
        """A deformed image, interpolated linearly.

        Args:
            data: `[X, Y, Z]`.
            geometry: its grid, with axes along those of `field`.

        Raises:
            UserError: if its axes are not along those of the field.
        """
        source = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))[None, None]
        result = np.empty(data.shape, dtype=np.float32)
        for slab, points in self.sources(geometry):
            limit = torch.tensor(data.shape, dtype=torch.float32) - 1
            places = torch.from_numpy(points).float().clamp_(min=0).minimum(limit)
            result[slab] = interpolate_at(source, places)[0].numpy()
        return result

    def labels(self, classes: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
        """Deformed dense class indices, from the nearest voxel; otherwise as `image`."""
        result = np.empty_like(classes)
        for slab, points in self.sources(geometry):
            last = np.array(classes.shape) - 1
            i, j, k = np.moveaxis(np.clip(np.rint(points), 0, last).astype(np.intp), -1, 0)
            result[slab] = classes[i, j, k]
        return result

    def _sines(self, axis: int, place: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """sin(i pi u) and its derivative along the axis in 1 / mm, `[positions, c]`."""
        count, step = self.field.shape[axis], self.field.spacing[axis]
        order = np.arange(1, self.coefficients.shape[1] + 1)
        phase = np.pi * np.outer((np.asarray(place) + 0.5) / count, order)
        return np.sin(phase), np.cos(phase) * (np.pi * order / (count * step))

    def sources(self, geometry: Geometry) -> Any:
        """Where the voxels of a grid come from, slab by slab: the slab, and voxel positions `[A, Y, Z, 3]`."""
        places = axis_positions(self.field, geometry)
        if places is None:
            problem = "has images whose grids are oblique to each other, which are not deformed together"
            raise UserError("the case", problem, "resample them to one grid")
        order = [along for along, _ in places]
        to_index = np.linalg.inv(geometry.affine[:3, :3]) @ self.field.rigid_axes
        x, y, z = (positions.numpy() for _, positions in places)
        slab = max(1, SLAB_VOXELS // (len(y) * len(z)))
        for start in range(0, len(x), slab):
            part = slice(start, min(start + slab, len(x)))
            by_axis: list[NDArray[np.float64]] = [np.empty(0)] * 3
            for along, positions in zip(order, (x[part], y, z), strict=True):
                by_axis[along] = positions
            # From the field's order of axes to the stored one.
            moved = self.displacement(by_axis).transpose(0, *(1 + along for along in order))
            indices = np.meshgrid(np.arange(part.start, part.stop), np.arange(len(y)), np.arange(len(z)), indexing="ij")
            yield part, np.stack(indices, -1) - np.moveaxis(np.tensordot(to_index, moved, axes=1), 0, -1)


def draw_deformation(
    field: Geometry, within: NDArray[np.bool_], rms: float, random: np.random.Generator, cutoff: int = CUTOFF
) -> Deformation:
    """A deformation of a stated size.

    Args:
        field: the field of view, in canonical axes.
        within: `[X, Y, Z]` on it: where the size is measured, such as the tissue.
        rms: root mean square displacement, mm.
        random: decides its shape, the same for each size.
        cutoff: highest frequency.

    Raises:
        UserError: if a deformation of that size would fold over itself.
    """
    lengths = np.array(field.shape) * field.spacing
    # Waves are counted along a cube of the same volume: bumps are as wide along a short axis as along a long one.
    scale = (lengths.prod() ** (1 / 3) / lengths) ** 2
    order = np.arange(1, cutoff + 1) ** 2
    squares = scale[0] * order[:, None, None] + scale[1] * order[:, None] + scale[2] * order
    deviation = np.where(squares <= max((cutoff + 0.5) ** 2, squares[0, 0, 0]), squares**-0.5, 0)
    shape = Deformation(random.standard_normal((3, *squares.shape)) * deviation, field)
    result = shape.scaled(rms / shape.size(within)[0])
    if result.size(within)[2] <= 0:
        problem = f"folds over itself with a displacement of {rms:g} mm"
        raise UserError("the deformation", problem, "deform less")
    return result
