"""A prediction and its reference as classes on one grid, or what keeps them from being compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.datasets.case import some
from voxseg.data.datasets.examine import MOST_LABELS, SAME_MM, count_labels
from voxseg.data.datasets.read import read_labels
from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.errors import UserError

__all__ = ["LabelFile", "LabelPair", "on_grid", "read_label_file", "read_pair", "resampled", "to_classes"]

SLAB_VOXELS = 2**20
SHEARED = 1.0
"""Degrees of shear from which on distances that are measured along the axes are not exact."""

TIE = 1e-6
"""Voxels: a place half-way between two voxels belongs to the lower one, whatever the rounding of the affine."""


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A label file as it is.

    Attributes:
        path: where it was read from.
        ids: `[X, Y, Z]` whole numbers, stored axes.
        geometry: their grid.
        counts: voxels of each id but 0.
    """

    path: Path
    ids: NDArray[Any]
    geometry: Geometry
    counts: dict[int, int]


@dataclass(frozen=True, eq=False)
class LabelPair:
    """A prediction and its reference, ready to be compared.

    Attributes:
        prediction: dense class indices `[X, Y, Z]` (uint8), in the stored axes of the reference.
        reference: likewise.
        geometry: the grid of the reference.
        notes: what a reader has to know.
    """

    prediction: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    geometry: Geometry
    notes: tuple[str, ...] = ()


def read_pair(prediction: Path, reference: Path, scheme: LabelScheme, resample: bool = False) -> LabelPair:
    """Read both files, give their ids a meaning, and bring the prediction into the axes of the reference.

    Args:
        prediction: a label file.
        reference: the label file that it is compared with.
        scheme: what the ids mean.
        resample: whether a prediction on another grid is taken to that of the reference, from the nearest voxel.

    Raises:
        UserError: if a file cannot be read, is no label file or has an id that the scheme lacks, or the grids differ.
    """
    first, second = read_label_file(prediction), read_label_file(reference)
    for file in (first, second):
        odd = scheme.unknown(set(file.counts))
        if odd:
            raise _unknown(file, odd, scheme, {*first.counts, *second.counts})
    notes = _background(scheme, first, second)
    truth, predicted = to_classes(second.ids, scheme), to_classes(first.ids, scheme)
    if second.geometry.shear > SHEARED:
        shear = second.geometry.shear
        notes.append(f"the grid is sheared by {shear:.0f}°: distances and volumes are as if its axes were upright")
    aligned = on_grid(predicted, first.geometry, second.geometry)
    if aligned is None and not resample:
        problem = difference(first.geometry, second.geometry, second.path.name)
        remedy = "segment the scan that the reference was drawn on, or give --resample"
        raise UserError(prediction, problem, remedy)
    if aligned is None:
        aligned = resampled(predicted, first.geometry, second.geometry)
        notes.append(_resampling_note(predicted, first.geometry, second.geometry))
    found, expected = (set(count_labels(classes)) - {0} for classes in (aligned, truth))
    if found and expected and not found & expected:
        notes.append("no label is in both files: do the numbers mean the same in both?")
    return LabelPair(np.ascontiguousarray(aligned), truth, second.geometry, tuple(notes))


def read_label_file(path: Path) -> LabelFile:
    """Read a label file and count its labels.

    Raises:
        UserError: as `read_labels`; or if there are so many values that it has to be a scan.
    """
    ids, geometry = read_labels(path)
    counts = count_labels(ids)
    counts.pop(0, None)
    if len(counts) > MOST_LABELS:
        problem = f"holds {len(counts):,} different values; it is a scan and no label file"
        raise UserError(path, problem, "give the segmentation")
    return LabelFile(path, ids, geometry, counts)


def to_classes(ids: NDArray[Any], scheme: LabelScheme) -> NDArray[np.uint8]:
    """Dense class indices, slab by slab: looking up all ids at once takes 17 bytes a voxel."""
    result = np.empty(ids.shape, dtype=np.uint8)
    step = max(1, SLAB_VOXELS // (ids.shape[1] * ids.shape[2]))
    for start in range(0, ids.shape[0], step):
        result[start : start + step] = scheme.to_classes(ids[start : start + step])
    return result


def on_grid(array: NDArray[Any], geometry: Geometry, target: Geometry) -> NDArray[Any] | None:
    """An array in the axes of another grid of the same voxels, its axes permuted and flipped; nothing is resampled.

    Args:
        array: `[X, Y, Z]` in the stored axes of `geometry`.
        geometry: its grid.
        target: the grid wanted.

    Returns:
        A view `[X', Y', Z']` of `array`; None if the voxels of the two grids lie `SAME_MM` or more apart.
    """
    turn = _turn(geometry, target)
    if turn is None:
        return None
    permutation, flips, reordered = turn
    if reordered.displacement(target) >= SAME_MM:
        return None
    index = tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)
    view: NDArray[Any] = array.transpose(permutation)[index]
    return view


def difference(geometry: Geometry, target: Geometry, name: str = "the reference") -> str:
    """How a grid differs from the one wanted, that of the file `name`, for a message."""
    turn = _turn(geometry, target)
    if turn is not None and turn[2].shape == target.shape:
        return f"its voxels lie up to {turn[2].displacement(target):.3g} mm from those of {name}"
    return f"is on another grid ({_grid(geometry)}) than {name} ({_grid(target)})"


def resampled(array: NDArray[np.uint8], geometry: Geometry, target: Geometry) -> NDArray[np.uint8]:
    """Classes on another grid from the nearest voxel in world space, 0 beyond the volume.

    Args:
        array: `[X, Y, Z]` in the stored axes of `geometry`.
        geometry: its grid.
        target: the grid wanted.

    Returns:
        `target.shape`, uint8.
    """
    matrix = np.linalg.inv(geometry.affine) @ target.affine
    result = np.zeros(target.shape, dtype=np.uint8)
    rows, columns = np.arange(target.shape[1]), np.arange(target.shape[2])
    step = max(1, SLAB_VOXELS // (target.shape[1] * target.shape[2]))
    for start in range(0, target.shape[0], step):
        slab = np.arange(start, min(start + step, target.shape[0]))
        index, inside = [], np.ones((len(slab), *target.shape[1:]), dtype=bool)
        for axis, length in enumerate(array.shape):
            a, b, c = (matrix[axis, k] * n for k, n in enumerate((slab, rows, columns)))
            place = a[:, None, None] + b[None, :, None] + (c + matrix[axis, 3])
            nearest = np.floor(place + (0.5 - TIE)).astype(np.int32)
            inside &= (nearest >= 0) & (nearest < length)
            index.append(nearest)
        result[slab[0] : slab[-1] + 1][inside] = array[tuple(i[inside] for i in index)]
    return result


def _turn(geometry: Geometry, target: Geometry) -> tuple[tuple[int, ...], tuple[bool, ...], Geometry] | None:
    """Permutation and flips that take the axes of a grid to those of another, and the grid so reordered.

    None where the axes are not the same lines with the same spacing, but for a rounding of headers.
    """
    matrix = np.linalg.inv(geometry.affine)[:3, :3] @ target.affine[:3, :3]
    signs = np.rint(matrix)
    if not np.array_equal(np.abs(signs).sum(axis=0), [1, 1, 1]) or np.abs(signs).sum(axis=1).max() > 1:
        return None
    permutation = tuple(int(k) for k in np.abs(signs).argmax(axis=0))
    flips = tuple(bool(s < 0) for s in signs.sum(axis=0))
    reorder = np.eye(4)  # index in the target's axes -> stored index
    reorder[:3, :3] = signs
    for axis, (stored, flip) in enumerate(zip(permutation, flips, strict=True)):
        reorder[stored, 3] = geometry.shape[stored] - 1 if flip else 0
        assert signs[stored, axis]
    x, y, z = (geometry.shape[stored] for stored in permutation)
    return permutation, flips, Geometry((x, y, z), geometry.affine @ reorder)


def _resampling_note(classes: NDArray[np.uint8], geometry: Geometry, target: Geometry) -> str:
    """That a prediction was resampled, and how much of it lies outside the reference's volume."""
    text = f"the prediction was resampled from {_grid(geometry)} to {_grid(target)}, nearest voxel"
    index = np.argwhere(classes)
    places = geometry.to_world(index)
    inverse = np.linalg.inv(target.affine)
    inside = np.rint(places @ inverse[:3, :3].T + inverse[:3, 3])
    lost = int(((inside < 0) | (inside > np.array(target.shape) - 1)).any(axis=1).sum())
    if lost:
        text += f"; {lost * geometry.voxel_volume / 1000:.3g} ml of it lie outside the reference's volume"
    return text


def _background(scheme: LabelScheme, prediction: LabelFile, reference: LabelFile) -> list[str]:
    """Which ids of the files count as background although the scheme does not say so of each."""
    notes = []
    for what, file in (("prediction", prediction), ("reference", reference)):
        ids = np.array(sorted(file.counts), dtype=np.int64)
        dropped = ids[scheme.to_classes(ids) == 0].tolist() if len(ids) else []
        dropped = [i for i in dropped if scheme.merge.get(i) != 0]
        if dropped:
            notes.append(f"counted as background in the {what}: {some(dropped, 12)}")
    return notes


def _unknown(file: LabelFile, odd: list[int], scheme: LabelScheme, ids: set[int]) -> UserError:
    """That a file holds ids without a meaning, and which --labels have one for them."""
    from voxseg.evaluation.labelling import advice

    told = some([f"{i} ({file.counts[i]:,} voxel{'s' * (file.counts[i] != 1)})" for i in odd], 5)
    names = {label.id: label.name for label in scheme.base}
    known = some([f"{i} {names.get(i, '')}".strip() for i in sorted(scheme.classes)], 4)
    problem = f"holds the label{'s' * (len(odd) > 1)} {told}, which the labels in use lack ({known})"
    return UserError(file.path, problem, advice(ids, scheme))


def _grid(geometry: Geometry) -> str:
    voxels = " x ".join(map(str, geometry.shape))
    spacing = " x ".join(f"{s:.3g}" for s in geometry.spacing)
    return f"{voxels} voxels of {spacing} mm, {geometry.orientation}"
