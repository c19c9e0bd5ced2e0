"""Left or right of every voxel of paired structures, told by where the structures lie and never by the header.

The network finds structures without their side. Where they lie tells how the head lies: the cerebellum is at the back,
the brain stem at the bottom, and right is where front x top points. That is a rigid fit of the centres of what was
found to those of a mean brain, in which all centres lie in the plane between the halves, so that no mirror image fits
better. Centres that lie elsewhere count less, as that of a cerebellum of which a part was found in a tumour. The
surface between the halves is then moved to where the least of it runs through paired structures: the fissure between
the hemispheres, the third and fourth ventricle. It is a plane with a slight bend, as brains have.

Everything turns with the scan, so that every pose and every header gives the same sides. A header of the wrong
handedness shows a mirror image, in which right is taken for left by every method there is.

Source of the rigid fit: Kabsch (1976), A solution for the best rotation to relate two sets of vectors, Acta
Crystallographica A32:922; of its weights: Geman and McClure (1987), Statistical methods for tomographic image
reconstruction, Bulletin of the International Statistical Institute 52:5.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize

from voxseg.data.geometry import Geometry

__all__ = ["MidSurface", "find_mid_surface", "header_mid_surface", "structure_centres"]

LEAST_VOXELS = 20
"""Of a structure whose centre counts."""
LEAST_STRUCTURES = 4
FLATTEST_MM = 5.0
"""Centres that lie on a line to within this tell no direction."""
ROBUST_MM, FITS = 5.0, 30
"""A centre so far from its place has a quarter of the weight; how often the fit is made anew with the weights."""
SAMPLING_MM = 3.0
FRONT_MM, TOP_MM = (-96.0, 96.0), (-84.0, 84.0)
SCALE_MM = 60.0
LARGEST_TILT, LARGEST_SHIFT_MM, LARGEST_BEND_MM = 0.25, 8.0, 6.0
REACH_MM = 40
"""How far to both sides the surface is looked for: what shift, tilt and bend can do together where the brain is."""
ROUNDS = ((4.0, 3), (2.0, 6), (1.0, 6))
"""Blur in mm and number of coefficients of each round of the search, from coarse to fine."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MidSurface:
    """The surface between the halves of a brain. Lengths are mm, from the first voxel of the grid and along its axes.

    Attributes:
        axes: unit vectors to the right, the front and the top of the head, [3, 3].
        centre: a point of the brain near the surface, [3].
        bend: how far to the right of the centre the surface lies, as a polynomial of front and top in units of 60 mm:
            coefficients of 1, front, top, front^2, front top, top^2.
    """

    axes: Vector
    centre: Vector
    bend: Vector

    def offset(self, front: Vector, top: Vector) -> Vector:
        """How far to the right the surface lies at points so far to the front and the top of the centre."""
        f, t = front / SCALE_MM, top / SCALE_MM
        a, b, c, d, e, g = self.bend
        result: Vector = a + f * (b + d * f + e * t) + t * (c + g * t)
        return result

    def points(self, front: Vector, top: Vector) -> Vector:
        """Points of the surface, [3, N]."""
        towards = np.stack([self.offset(front, top), front, top])
        result: Vector = self.centre[:, None] + self.axes.T @ towards
        return result

    def distance(self, shape: tuple[int, ...], spacing: float) -> NDArray[np.float32]:
        """How far to the right of the surface each voxel of a grid lies, [X, Y, Z]."""
        right, front, top = (
            sum(
                (component * (spacing * np.arange(n) - middle)).reshape([-1 if a == k else 1 for a in range(3)])
                for k, (component, middle, n) in enumerate(zip(axis, self.centre, shape, strict=True))
            )
            for axis in self.axes
        )
        result: NDArray[np.float32] = (right - self.offset(front, top)).astype(np.float32)
        return result


def structure_centres(
    classes: NDArray[np.uint8], ids: list[int], spacing: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres of the structures that were found, and where they lie in a mean brain.

    Args:
        classes: structure of each voxel, [X, Y, Z]; 0 background, k the k-th of `ids`.
        ids: FreeSurfer ids of the structures, paired ones by their left label.
        spacing: mm between voxels.

    Returns:
        mm from the first voxel, [N, 3]; mm to the right, front and top of a mean brain's centre, [N, 3].
    """
    frame = _brain_frame()
    found, known = [], []
    for k, label_id in enumerate(ids, start=1):
        if label_id not in frame:
            continue
        where = np.argwhere(classes == k)
        if len(where) >= LEAST_VOXELS:
            found.append(where.mean(0) * spacing)
            known.append((0.0, *frame[label_id]))
    return np.array(found).reshape(-1, 3), np.array(known).reshape(-1, 3)


def find_mid_surface(
    classes: NDArray[np.uint8], paired: NDArray[np.float32], ids: list[int], spacing: float
) -> MidSurface | None:
    """The surface between left and right.

    Args:
        classes: structure of each voxel, [X, Y, Z]; 0 background, k the k-th of `ids`.
        paired: probability of any structure that has sides, [X, Y, Z].
        ids: FreeSurfer ids of the structures, paired ones by their left label.
        spacing: mm between voxels.

    Returns:
        None where too little of a brain was found to tell how it lies.
    """
    found, known = structure_centres(classes, ids, spacing)
    if len(found) < LEAST_STRUCTURES:
        return None
    start = _rigid_fit(found, known)
    if start is None:
        return None
    return _moved_to_the_fissure(start, paired, spacing)


def header_mid_surface(grid: Geometry, paired: NDArray[np.float32]) -> MidSurface:
    """The plane across the header's left-right axis through the middle of what was found: where nothing else tells.

    Args:
        grid: whose affine is that of the header, with equal spacing along all axes.
        paired: probability of any structure that has sides, [X, Y, Z].
    """
    spacing = grid.spacing[0]
    where = np.argwhere(paired > 0.5)
    middle = where.mean(0) if len(where) else np.array(paired.shape) / 2
    return MidSurface((grid.affine[:3, :3] / spacing), middle * spacing, np.zeros(6))


def _rigid_fit(found: Vector, known: Vector) -> MidSurface | None:
    """The plane in which the centres of a mean brain lie, laid on those found, both [N, 3]; None if it is not told."""
    weights = np.ones(len(found))
    for _ in range(FITS):
        weights /= weights.sum()
        middle, known_middle = weights @ found, weights @ known
        covariance = (found - middle).T @ (weights[:, None] * (known - known_middle))
        left, sizes, right = np.linalg.svd(covariance)
        if sizes[1] < FLATTEST_MM**2:
            return None
        mirror = np.sign(np.linalg.det(left) * np.linalg.det(right))
        axes = (left @ np.diag([1.0, 1.0, mirror]) @ right).T
        off = (found - middle) @ axes.T - (known - known_middle)
        weights = (1 + (off**2).sum(1) / ROBUST_MM**2) ** -2
    return MidSurface(axes, middle - axes.T @ known_middle, np.zeros(6))


def _moved_to_the_fissure(surface: MidSurface, paired: NDArray[np.float32], spacing: float) -> MidSurface:
    """The surface of which the least runs through paired structures, near the one given."""
    lattice = np.meshgrid(np.arange(*FRONT_MM, SAMPLING_MM), np.arange(*TOP_MM, SAMPLING_MM), indexing="ij")
    front, top = (axis.ravel() for axis in lattice)
    tilt = LARGEST_TILT * SCALE_MM
    bounds = [(-LARGEST_SHIFT_MM, LARGEST_SHIFT_MM), *[(-tilt, tilt)] * 2, *[(-LARGEST_BEND_MM, LARGEST_BEND_MM)] * 3]
    basis = np.stack([replace(surface, bend=one).offset(front, top) for one in np.eye(6)])
    bend = surface.bend.copy()
    for blur, count in ROUNDS:
        profiles = _profiles(gaussian_filter(paired, blur / spacing, truncate=3), surface, front, top, spacing)

        def cut(free: Vector, profiles: CubicSpline = profiles, count: int = count) -> tuple[float, Vector]:
            value, slope = _along(profiles, np.concatenate([free, bend[count:]]) @ basis)
            gradient = basis[:count] @ slope
            # A bend has to be worth it: that of 1 mm is as bad as half a sample more of paired structures.
            gradient[3:] += free[3:]
            return float(value.sum() + 0.5 * (free[3:] ** 2).sum()), gradient

        # Smooth, and followed to the end: a turned scan's search ends in the same place to within rounding.
        options = {"maxiter": 200, "ftol": 1e-13, "gtol": 1e-7}
        found = minimize(cut, bend[:count], jac=True, method="L-BFGS-B", bounds=bounds[:count], options=options)
        bend[:count] = found.x
    return replace(surface, bend=bend)


def _profiles(
    volume: NDArray[np.float32], surface: MidSurface, front: Vector, top: Vector, spacing: float
) -> CubicSpline:
    """A volume along lines from left to right through points of a surface, as functions of mm to the right of it."""
    right = np.arange(-REACH_MM, REACH_MM + 1)
    start = surface.points(front, top)
    where = start[:, None, :] + (surface.axes[0][:, None] * right)[:, :, None]
    return CubicSpline(right, map_coordinates(volume, where / spacing, order=1, mode="nearest"), axis=0)


def _along(profiles: CubicSpline, right: Vector) -> tuple[Vector, Vector]:
    """Value and slope of each of N profiles at its own position, both [N]."""
    inside = np.clip(right, -REACH_MM, REACH_MM)
    piece = np.minimum((inside + REACH_MM).astype(int), profiles.c.shape[1] - 1)
    a, b, c, d = profiles.c[:, piece, np.arange(len(piece))]
    u = inside - profiles.x[piece]
    return d + u * (c + u * (b + u * a)), np.where(inside == right, c + u * (2 * b + 3 * u * a), 0.0)


@lru_cache(maxsize=1)
def _brain_frame() -> dict[int, tuple[float, float]]:
    """Where structures lie in a mean brain, by id: mm to the front and to the top (`benchmarks/brain_frame.py`)."""
    text = (resources.files("voxseg.inference") / "brain_frame.csv").read_text(encoding="utf-8")
    return {int(r["id"]): (float(r["front_mm"]), float(r["top_mm"])) for r in csv.DictReader(text.splitlines())}
