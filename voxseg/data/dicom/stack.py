"""Slices of a series as a volume: sorted by position, with what stands against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxseg.data.dicom.headers import UNIT, Frame, Header
from voxseg.data.geometry import Geometry
from voxseg.errors import UserError

__all__ = ["Stack", "stack_frames"]

SAME_PLACE = 0.01  # mm
SAME_DIRECTION = 0.002  # difference of a cosine; scanners round to 1e-6
UNEVEN = 0.05  # part of the distance between slices by which one may be off
SHIFTED = 0.05  # part of a pixel by which a slice may be off its place
MIN_SLICES = 2


@dataclass(frozen=True, eq=False)
class Stack:
    """The grid of a series.

    Attributes:
        order: the frames in the order of their positions along the normal, so that columns, rows and slices are
            right-handed; an index into what was given.
        duplicates: pairs of a frame in `order` and one at the same place, which is not.
        origin: LPS position of the first pixel of the first slice, mm.
        axes: `[3, 3]`, columns the LPS directions in which columns, rows and slices are counted; orthonormal.
        spacing: mm between rows, and between columns.
        step: mm between slices.
        shifts: `[N, 2]` mm by which each slice lies off the normal through the first one, in the directions of columns
            and of rows; zero without gantry tilt.
    """

    order: tuple[int, ...]
    duplicates: tuple[tuple[int, int], ...]
    origin: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, float]
    step: float
    shifts: NDArray[np.float64]

    @property
    def tilt(self) -> float:
        """Degrees of the gantry's tilt, 0 without any."""
        if not self.shifts.any():
            return 0.0
        return math.degrees(math.atan(float(np.linalg.norm(self.shifts[-1])) / (self.step * (len(self.order) - 1))))

    def geometry(self, rows: int, columns: int, corner: NDArray[np.float64] | None = None) -> Geometry:
        """The grid in RAS millimetres of `[columns, rows, slices]`.

        Args:
            rows: of the grid.
            columns: of the grid.
            corner: mm from `origin` to its first voxel, in the directions of columns and of rows.
        """
        origin = self.origin if corner is None else self.origin + self.axes[:, :2] @ corner
        spacing = (self.spacing[1], self.spacing[0], self.step)
        shape = (columns, rows, len(self.order))
        return Geometry.from_lps(shape, spacing, tuple(origin), tuple(self.axes.ravel()))


def stack_frames(subject: str, header: Header, frames: Sequence[Frame]) -> Stack:
    """Sort frames by their position and check that they fill a grid.

    Args:
        subject: what messages are about.
        header: of the series.
        frames: with a position each.

    Raises:
        UserError: if orientation or spacing varies, slices are missing, unevenly spaced or off their line, or there
            are too few.
    """
    again = "export the series again, all of it"
    directions = np.array([frame.orientation for frame in frames])
    if np.abs(directions - directions[0]).max() > SAME_DIRECTION:
        count = len(np.unique(np.round(directions, 2), axis=0))
        raise UserError(subject, f"its slices lie in {count} orientations", "choose a series with parallel slices")
    row, column = directions[0, :3], directions[0, 3:]
    if abs(np.linalg.norm(row) - 1) > UNIT or abs(np.linalg.norm(column) - 1) > UNIT or abs(row @ column) > UNIT:
        raise UserError(subject, "the directions of its rows and columns are not at right angles", again)
    spacings = np.array([frame.spacing for frame in frames])
    if not (spacings > 0).all() or np.abs(spacings / spacings[0] - 1).max() > 0.01:
        raise UserError(subject, "the distance between its pixels varies or is 0", again)

    row = row / np.linalg.norm(row)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    axes = np.stack([row, np.cross(normal, row), normal], axis=1)
    positions = np.array([frame.position for frame in frames])
    local = positions @ axes  # along columns, rows and the normal
    order, duplicates = _sorted(local)
    if len(order) < MIN_SLICES:
        remedy = "give the folder with all of its files" if len(frames) == 1 else again
        raise UserError(subject, "has images of one place only, and is no volume", remedy)
    step = _even_step(subject, local[order, 2])
    shifts = local[order, :2] - local[order[0], :2]
    line = np.linspace(0, 1, len(order))[:, None] * shifts[-1]
    pixel = spacings[0][::-1]
    if (np.abs(shifts - line) > SHIFTED * pixel + SAME_PLACE).any():
        raise UserError(subject, "its slices do not lie in one line", again)
    if (np.abs(shifts) <= SHIFTED * pixel + SAME_PLACE).all():
        line = np.zeros_like(line)
    spacing = (float(spacings[0, 0]), float(spacings[0, 1]))
    return Stack(tuple(order), tuple(duplicates), positions[order[0]], axes, spacing, step, line)


def _sorted(local: NDArray[np.float64]) -> tuple[list[int], list[tuple[int, int]]]:
    """Indices by the position along the normal, and pairs at the same place, of which only the first is among them."""
    order: list[int] = []
    duplicates = []
    for index in np.argsort(local[:, 2], kind="stable"):
        if order and np.abs(local[index] - local[order[-1]]).max() < SAME_PLACE:
            duplicates.append((order[-1], int(index)))
        else:
            order.append(int(index))
    return order, duplicates


def _even_step(subject: str, places: NDArray[np.float64]) -> float:
    """Mm between slices.

    Raises:
        UserError: if there is a gap, or they are unevenly spaced.
    """
    steps = np.diff(places)
    usual = float(np.median(steps))
    uneven = np.abs(steps - usual) > UNEVEN * usual + SAME_PLACE
    if usual < SAME_PLACE or (uneven.any() and not (steps[uneven] > 1.5 * usual).all()):
        problem = f"its slices are {steps.min():.3g} to {steps.max():.3g} mm apart"
        raise UserError(subject, problem, "give a series with even distances, or NIfTI made from it")
    if uneven.any():
        missing = round(float((steps[uneven] / usual - 1).sum()))
        first = int(np.flatnonzero(uneven)[0])
        problem = (
            f"about {missing} of its slices {'are' if missing > 1 else 'is'} missing (the first gap is "
            f"{steps[first]:.3g} mm behind slice {first + 1} of {len(places)}, others are {usual:.3g} mm apart)"
        )
        raise UserError(subject, problem, "export the series again, all of it")
    return float(places[-1] - places[0]) / (len(places) - 1)
