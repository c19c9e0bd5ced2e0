"""The planes of a validated case that its picture shows, cut from it so that the rest need not be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.views import VIEWS, View

__all__ = ["Plane", "cut_planes"]

CONTRAST = 0.05
"""Of the range of intensities: what differs by less from a corner of the scan is empty space around it."""

MARGIN = 3
"""Voxels of that space that are shown."""


@dataclass
class Plane:
    """One plane through a case.

    Attributes:
        view: which one, and how it is shown.
        image: `[A, B]` float32, the first axis across, the second one up.
        truth: whether a voxel belongs to each output, `[outputs, A, B]`.
        prediction: the same as the network has it.
        spacing: mm between voxels along A and B.
    """

    view: View
    image: NDArray[np.float32]
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    spacing: tuple[float, float]


def cut_planes(
    image: NDArray[Any],
    truth: NDArray[Any],
    prediction: NDArray[Any],
    geometry: Geometry,
    members: NDArray[np.bool_] | None = None,
) -> list[Plane]:
    """An axial, a coronal and a sagittal plane, each where most of the structures is seen.

    Args:
        image: `[X, Y, Z]` in stored axes.
        truth: dense class indices `[X, Y, Z]`; or whether a voxel belongs to each output, `[outputs, X, Y, Z]`.
        prediction: the same.
        geometry: of all three.
        members: for class indices, the classes of each output as `output_members` gives them.
    """
    image = geometry.to_canonical(image)
    truth, prediction = (_canonical(labels, geometry, members) for labels in (truth, prediction))
    there = truth if truth.any() else prediction
    box = _filled(image)
    planes = []
    for view in VIEWS:
        areas = _areas(there, members, view.cut)
        fullest = int((areas / np.maximum(areas.max(axis=0), 1)).sum(axis=1).argmax()) if areas.any() else None
        index = image.shape[view.cut] // 2 if fullest is None else fullest
        shown = (slice(None), box[view.across], box[view.up])
        spacing = geometry.canonical.spacing
        planes.append(
            Plane(
                view,
                np.take(image, index, view.cut)[shown[1:]].astype(np.float32),
                _masks(truth, members, view.cut, index)[shown],
                _masks(prediction, members, view.cut, index)[shown],
                (spacing[view.across], spacing[view.up]),
            )
        )
    return planes


def _canonical(labels: NDArray[Any], geometry: Geometry, members: NDArray[np.bool_] | None) -> NDArray[Any]:
    if members is not None:
        return geometry.to_canonical(labels)
    return np.moveaxis(geometry.to_canonical(np.moveaxis(labels, 0, -1)), -1, 0)


def _areas(labels: NDArray[Any], members: NDArray[np.bool_] | None, axis: int) -> NDArray[np.int64]:
    """Voxels of each output on each plane across an axis, `[planes, outputs]`."""
    if members is None:
        return labels.sum(axis=tuple(a + 1 for a in range(3) if a != axis)).T
    planes = [np.bincount(plane.ravel(), minlength=len(members)) for plane in np.moveaxis(labels, axis, 0)]
    return np.array(planes) @ members.astype(np.int64)


def _masks(labels: NDArray[Any], members: NDArray[np.bool_] | None, axis: int, index: int) -> NDArray[np.bool_]:
    """Whether each voxel of a plane belongs to each output, `[outputs, A, B]`."""
    if members is None:
        return np.take(labels, index, axis + 1)
    return np.moveaxis(members[np.take(labels, index, axis)], -1, 0)


def _filled(image: NDArray[Any]) -> list[slice]:
    """The part of a volume with anything in it, for each axis."""
    stride = 2
    sample = image[::stride, ::stride, ::stride].astype(np.float32)
    different = np.abs(sample - sample[0, 0, 0]) > CONTRAST * (sample.max() - sample.min())
    box = []
    for axis, length in enumerate(image.shape):
        used = np.flatnonzero(different.any(axis=tuple(a for a in range(3) if a != axis))) * stride
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, length - 1)
        box.append(slice(max(0, first - MARGIN), min(length, last + stride + MARGIN)))
    return box
