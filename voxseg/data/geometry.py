"""Where a volume lies in space: its voxel-to-world affine, and the way to canonical RAS axes and exactly back."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.errors import UserError

__all__ = ["Geometry"]

MIN_SPACING, MAX_SPACING = 0.05, 20.0  # mm: micro-CT is finer and no clinical scan is coarser
MAX_EXTENT = 2500.0  # mm: longer than any whole-body scan
MIN_VOXELS = 8  # an axis
MAX_SHEAR = 40.0  # degrees; gantry tilts reach 30
MIN_DETERMINANT = 0.4  # of the unit axes: pairwise angles alone do not see three axes in one plane


def _signed_permutations() -> NDArray[np.float64]:
    """The 48 matrices that permute and flip axes, `[48, 3, 3]`, plain permutations of few swaps first."""
    matrices = []
    for permutation in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(permutation), range(3)] = signs
            matrices.append(matrix)
    return np.stack(matrices)


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a volume in RAS+ world space.

    Attributes:
        shape: number of voxels along the three stored axes.
        affine: `[4, 4]` float64, from voxel index to world millimetres (x to the right, y to the front, z up);
            read-only.

    Any invertible affine will do: oblique, anisotropic, left-handed, sheared.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise ValueError(f"an affine is 4 x 4, this one is {affine.shape}")
        if len(self.shape) != 3:
            raise ValueError(f"a geometry has three axes, this shape is {tuple(self.shape)}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and bool(np.array_equal(self.affine, other.affine))

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    def __repr__(self) -> str:
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing)
        voxels = " x ".join(map(str, self.shape))
        return f"Geometry({voxels} voxels of {spacing} mm, {self.orientation}, {self.handedness}-handed)"

    @classmethod
    def from_lps(
        cls,
        shape: tuple[int, int, int],
        spacing: tuple[float, ...],
        origin: tuple[float, ...],
        direction: tuple[float, ...],
    ) -> Geometry:
        """Geometry of an image as DICOM and ITK describe it (x to the left, y to the back, z up).

        Args:
            shape: voxels along each axis, first axis fastest.
            spacing: mm along each axis.
            origin: LPS position of the first voxel, mm.
            direction: the 3 x 3 direction cosines in row-major order; column j is axis j.
        """
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(direction, dtype=np.float64).reshape(3, 3) * np.asarray(spacing, dtype=np.float64)
        affine[:3, 3] = origin
        return cls(shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between neighbouring voxels along the three stored axes."""
        x, y, z = (float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @cached_property
    def voxel_volume(self) -> float:
        """Cubic millimetres of one voxel, shear included."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    @cached_property
    def handedness(self) -> str:
        """`"right"`, or `"left"` where the stored axes are mirrored against the world's."""
        return "right" if np.linalg.det(self.affine[:3, :3]) > 0 else "left"

    @cached_property
    def axes(self) -> NDArray[np.float64]:
        """`[3, 3]`, column j the unit vector of stored axis j in the world."""
        return self.affine[:3, :3] / np.asarray(self.spacing)

    @cached_property
    def rigid_axes(self) -> NDArray[np.float64]:
        """`[3, 3]`, the orthonormal matrix nearest to `axes` (their polar factor); equal to it without shear."""
        left, _, right = np.linalg.svd(self.axes)
        return left @ right

    @cached_property
    def shear(self) -> float:
        """Degrees by which the worst pair of stored axes misses a right angle."""
        cosines = (self.axes.T @ self.axes)[np.triu_indices(3, 1)]
        return math.degrees(math.asin(min(1.0, float(np.abs(cosines).max()))))

    @cached_property
    def _reorientation(self) -> NDArray[np.float64]:
        """`[3, 3]` signed permutation; row i names the world axis, column j the stored axis nearest to it.

        The best of the 24 that keep handedness, so that the canonical grid is right-handed for every affine; the
        first of equals, so that a grid turned by exactly 45 degrees has one answer.
        """
        candidates = _signed_permutations()
        candidates = candidates[np.linalg.det(candidates) * np.linalg.det(self.rigid_axes) > 0]
        scores = np.einsum("nij,ij->n", candidates, self.rigid_axes)
        return candidates[int(np.flatnonzero(scores > scores.max() - 1e-6)[0])]

    @cached_property
    def permutation(self) -> tuple[int, int, int]:
        """For each canonical axis (right, anterior, superior) the stored axis that runs along it."""
        x, y, z = (int(j) for j in np.abs(self._reorientation).argmax(axis=1))
        return x, y, z

    @cached_property
    def flips(self) -> tuple[bool, bool, bool]:
        """For each canonical axis whether the stored axis runs against it."""
        x, y, z = (bool(s < 0) for s in self._reorientation.sum(axis=1))
        return x, y, z

    @cached_property
    def orientation(self) -> str:
        """Where the stored axes point to, as three of the letters R, L, A, P, S, I."""
        letters = [""] * 3
        for canonical, (stored, flipped) in enumerate(zip(self.permutation, self.flips, strict=True)):
            letters[stored] = ("RAS", "LPI")[flipped][canonical]
        return "".join(letters)

    @cached_property
    def obliqueness(self) -> float:
        """Degrees of the largest angle between a stored axis and the world axis that it is named after."""
        cosines = np.abs(self.axes[range(3), list(self.permutation)])
        return math.degrees(math.acos(min(1.0, float(cosines.min()))))

    @cached_property
    def canonical(self) -> Geometry:
        """The same grid with its axes permuted and flipped to run right, anterior, superior; right-handed."""
        to_stored = np.eye(4)  # canonical index -> stored index
        to_stored[:3, :3] = self._reorientation.T
        for stored, flipped in zip(self.permutation, self.flips, strict=True):
            to_stored[stored, 3] = self.shape[stored] - 1 if flipped else 0
        x, y, z = (self.shape[stored] for stored in self.permutation)
        return Geometry((x, y, z), self.affine @ to_stored)

    def to_canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """View of `array[shape..., *rest]` in canonical axes; nothing is copied."""
        self._check_shape(array, self.shape)
        rest = tuple(range(3, array.ndim))
        return array.transpose(*self.permutation, *rest)[self._flip_index()]

    def from_canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """View of `array[canonical.shape..., *rest]` in the stored axes: the exact inverse of `to_canonical`."""
        self._check_shape(array, self.canonical.shape)
        rest = tuple(range(3, array.ndim))
        back = tuple(int(i) for i in np.argsort(self.permutation))
        return array[self._flip_index()].transpose(*back, *rest)

    def to_world(self, index: NDArray[Any]) -> NDArray[np.float64]:
        """World millimetres `[..., 3]` of voxel indices `[..., 3]`."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def displacement(self, other: Geometry) -> float:
        """Millimetres by which the worst corner voxel lies elsewhere in `other`; infinite where the shapes differ."""
        if self.shape != other.shape:
            return math.inf
        corners = np.array(list(itertools.product(*((0, n - 1) for n in self.shape))))
        return float(np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max())

    def overlaps(self, other: Geometry) -> bool:
        """Whether any of a lattice of points in this field of view lies in the other."""
        lattice = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 9) for n in self.shape), indexing="ij"), -1)
        index = (self.to_world(lattice) - other.affine[:3, 3]) @ np.linalg.inv(other.affine[:3, :3]).T
        return bool(((index >= -0.5) & (index <= np.array(other.shape) - 0.5)).all(-1).any())

    def check(self, subject: object) -> None:
        """Refuse grids that no scan has.

        Raises:
            UserError: about `subject`, for an affine that is not finite or not invertible, zero or absurd spacing,
                more shear than any gantry tilt, or an axis of too few voxels or too many millimetres.
        """
        remedy = "correct the header, or convert the scan again from its source"
        if not np.isfinite(self.affine).all():
            raise UserError(subject, "the affine in the header is not finite", remedy)
        if min(self.shape) < MIN_VOXELS:
            voxels = " x ".join(map(str, self.shape))
            problem = f"the volume is too small, {voxels} voxels (at least {MIN_VOXELS} on each axis are needed)"
            raise UserError(subject, problem, "give the whole scan")
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing)
        if min(self.spacing) < MIN_SPACING or max(self.spacing) > MAX_SPACING:
            problem = f"the voxel spacing is {spacing} mm (between {MIN_SPACING:g} and {MAX_SPACING:g} mm is possible)"
            raise UserError(subject, problem, remedy)
        if self.shear > MAX_SHEAR or abs(np.linalg.det(self.axes)) < MIN_DETERMINANT:
            problem = "the affine in the header is singular or nearly so: its axes do not span three dimensions"
            raise UserError(subject, problem, remedy)
        extent = max(n * s for n, s in zip(self.shape, self.spacing, strict=True))
        if extent > MAX_EXTENT:
            problem = f"the field of view is {extent / 1000:.1f} m long at a voxel spacing of {spacing} mm"
            raise UserError(subject, problem, remedy)

    def _flip_index(self) -> tuple[slice, slice, slice]:
        x, y, z = (slice(None, None, -1) if flipped else slice(None) for flipped in self.flips)
        return x, y, z

    @staticmethod
    def _check_shape(array: NDArray[Any], shape: tuple[int, int, int]) -> None:
        if array.shape[:3] != shape:
            raise ValueError(f"this geometry is for arrays of {shape}, got {array.shape}")
