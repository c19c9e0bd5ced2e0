"""What a data set looks like: grids, intensities and labels, measured on its files, for `voxseg plan` to decide by."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.datasets.case import Case, Dataset
from voxseg.data.datasets.read import read_image, read_labels
from voxseg.data.geometry import Geometry
from voxseg.data.normalise import background, intensity_range
from voxseg.data.preparation import covering_grid, head_grid, sample
from voxseg.data.volume import read_header
from voxseg.errors import UserError

__all__ = ["Fingerprint", "ImageFingerprint", "is_ct", "take_fingerprint"]

EXAMINED = 20
"""Cases whose voxels are read; of the others only the headers."""

BOX_SPACING = 3.0
"""mm at which the box around the head is looked for: its size is wanted, not its exact place."""

FOREGROUND_SAMPLES = 20_000
"""Labelled voxels of an image that its percentiles are taken from."""

IMAGE_SAMPLES = 2_000_000
"""Voxels of an image by which it is told what kind it is."""

CT_AIR = (-1100.0, -850.0)
"""Hounsfield units in which the air around a body lies."""

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class ImageFingerprint:
    """What the images of one name have in common.

    Attributes:
        name: as the data set calls it.
        ct: whether they are in Hounsfield units.
        stripped: whether the background of each was set to one value.
        percentiles: 0.5 % and 99.5 % of the intensities of labelled voxels, over all examined cases.
        missing: how many cases lack it.
    """

    name: str
    ct: bool = False
    stripped: bool = False
    percentiles: tuple[float, float] = (0.0, 1.0)
    missing: int = 0


@dataclass(frozen=True)
class Fingerprint:
    """What the decisions of `voxseg.planning.plan` are made from.

    Attributes:
        layout: of the data set.
        cases: how many have labels.
        subjects: how many different subjects they are of.
        examined: how many were read, the others by their headers alone.
        images: one for each channel, in order.
        spacings: mm of each case's first image along its canonical axes.
        extents: mm of its field of view along the same axes.
        box: mm, the median box around the head in the examined cases; None if such boxes would cut labels off, or there
            is no air around a head.
        voxels: labelled voxels of each id in the examined cases together.
        present: in how many of the examined cases an id is.
        label_names: what ids mean, as far as the data set says so.
        regions: overlapping unions of ids, if the data set declares such.
        patterns: by which the files were found, if by patterns.
    """

    layout: str
    cases: int
    subjects: int
    examined: int
    images: tuple[ImageFingerprint, ...]
    spacings: tuple[Vector, ...]
    extents: tuple[Vector, ...]
    box: Vector | None
    voxels: Mapping[int, int]
    present: Mapping[int, int]
    label_names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)


def take_fingerprint(
    dataset: Dataset,
    images: Sequence[str] | None = None,
    patterns: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fingerprint:
    """Look at a data set: at the headers of all its cases, and at the voxels of some, spread evenly over it.

    Args:
        dataset: with labels.
        images: the images to use, in the order of the channels; by default those that every case has.
        patterns: by which the files were found, if by patterns.
        progress: told how many of how many cases have been read.

    Raises:
        UserError: an image is missing, a file cannot be read, or no voxel is labelled; the message names it.
    """
    cases = [case for case in dataset.cases if case.label is not None and case.images]
    names = _images(dataset, cases, images)
    missing = {name: sum(name not in case.images for case in cases) for name in names}
    usable = [case for case in cases if all(name in case.images for name in names)]
    grids = [read_header(case.images[names[0]].path).geometry.canonical for case in usable]
    chosen = sorted({round(k) for k in np.linspace(0, len(usable) - 1, min(EXAMINED, len(usable)))})
    looks = []
    for done, index in enumerate(chosen):
        looks.append(_look(usable[index], names))
        progress(done + 1, len(chosen))
    voxels: dict[int, int] = {}
    for look in looks:
        for label_id, count in look.voxels.items():
            voxels[label_id] = voxels.get(label_id, 0) + count
    if not voxels:
        raise UserError(dataset.folder, f"no voxel is labelled in {len(looks)} cases", "check the label files")
    return Fingerprint(
        layout=dataset.layout,
        cases=len(cases),
        subjects=len({case.subject for case in cases}),
        examined=len(looks),
        images=tuple(_merged(name, [look.images[name] for look in looks], missing[name]) for name in names),
        spacings=tuple(grid.spacing for grid in grids),
        extents=tuple(_extent(grid) for grid in grids),
        box=_median_box([look.box for look in looks]),
        voxels=dict(sorted(voxels.items())),
        present={label_id: sum(label_id in look.voxels for look in looks) for label_id in sorted(voxels)},
        label_names=dict(dataset.label_names),
        regions=dict(dataset.regions),
        patterns=dict(patterns or {}),
    )


def is_ct(name: str, values: NDArray[Any]) -> bool:
    """Whether an image is a CT: by its name, or by air at about -1000 under tissue on both sides of 0.

    Args:
        name: of the image, such as "CT".
        values: its intensities, any shape.
    """
    if "ct" in re.split(r"[^a-z]+", name.lower()):
        return True
    low, high = (float(v) for v in np.percentile(values, (2, 99)))
    # Scanners fill what lies outside their round field of view with less than air.
    return low <= CT_AIR[1] and high > 0 and bool(((values >= CT_AIR[0]) & (values <= CT_AIR[1])).mean() > 0.02)


@dataclass(frozen=True)
class _ImageLook:
    ct: bool
    stripped: bool
    foreground: NDArray[np.float32]


@dataclass(frozen=True)
class _Look:
    """What one case was found to be."""

    images: dict[str, _ImageLook]
    voxels: dict[int, int]
    box: Vector | None


def _images(dataset: Dataset, cases: Sequence[Case], wanted: Sequence[str] | None) -> list[str]:
    """The names of the images to use."""
    there = dataset.modalities
    if wanted:
        unknown = [name for name in wanted if name not in there]
        if unknown:
            raise UserError(f"--images {unknown[0]}", "is in no case", f"the data set has {', '.join(there)}")
        names = list(wanted)
        if not any(all(name in case.images for name in names) for case in cases):
            raise UserError(f"--images {','.join(names)}", "no case has them all", "give fewer")
        return names
    names = [name for name in there if all(name in case.images for case in cases)]
    if not names:
        counts = ", ".join(f"{name} in {sum(name in case.images for case in cases)}" for name in there)
        raise UserError(dataset.folder, f"no image is in all {len(cases)} cases ({counts})", "choose with --images")
    return names


def _look(case: Case, names: Sequence[str]) -> _Look:
    """Read a case."""
    assert case.label is not None
    labels, label_grid = read_labels(case.label)
    ids, counts = np.unique(labels, return_counts=True)
    places = label_grid.to_world(_every(np.argwhere(labels), FOREGROUND_SAMPLES))  # [N, 3] mm
    looks: dict[str, _ImageLook] = {}
    box: Vector | None = None
    for name in names:
        data, grid = read_image(case.images[name])
        values = _every(data.ravel(order="K"), IMAGE_SAMPLES).astype(np.float32)
        index = np.rint(_to_index(grid, places)).astype(np.intp)
        index = index[((index >= 0) & (index < grid.shape)).all(axis=1)]
        stripped = background(np.sort(values)) is not None
        looks[name] = _ImageLook(is_ct(name, values), stripped, data[tuple(index.T)].astype(np.float32))
        if name == names[0] and not looks[name].ct:
            box = _box(data, grid, places, stripped)
    voxels = {int(i): int(n) for i, n in zip(ids, counts, strict=True) if i != 0}
    return _Look(looks, voxels, box)


def _every(rows: NDArray[Any], most: int) -> NDArray[Any]:
    """Rows at equal distances, about so many. The distance is odd, or it could keep to one plane of a volume."""
    return rows[:: max(1, len(rows) // most) | 1]


def _to_index(grid: Geometry, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxel coordinates `[N, 3]` of points in mm."""
    return (places - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T


def _box(data: NDArray[Any], grid: Geometry, places: NDArray[np.float64], stripped: bool) -> Vector | None:
    """The box around the head in mm; None if labels lie outside it, or there is no air that it could leave out.

    Args:
        data: the image.
        grid: its grid.
        places: mm of labelled voxels, `[N, 3]`.
        stripped: whether the background was set to one value.
    """
    whole = covering_grid(grid, BOX_SPACING)
    values, _ = sample(data, grid, whole)
    head = head_grid(values, intensity_range(values)[0], whole, math.ceil(8 / BOX_SPACING))
    if not stripped and math.prod(head.shape) >= 0.9 * math.prod(whole.shape):
        return None
    index = _to_index(head, places)
    if ((index < -0.5) | (index > np.asarray(head.shape) - 0.5)).any():
        return None
    x, y, z = (min(inner, outer) for inner, outer in zip(_extent(head), _extent(whole), strict=True))
    return x, y, z


def _extent(grid: Geometry) -> Vector:
    x, y, z = (float(n * s) for n, s in zip(grid.shape, grid.spacing, strict=True))
    return x, y, z


def _merged(name: str, looks: Sequence[_ImageLook], missing: int) -> ImageFingerprint:
    """What the images of a name have in common."""
    foreground = np.concatenate([look.foreground for look in looks])
    low, high = np.percentile(foreground, (0.5, 99.5)) if len(foreground) else (0.0, 1.0)
    return ImageFingerprint(
        name,
        sum(look.ct for look in looks) > len(looks) / 2,
        all(look.stripped for look in looks),
        (float(low), float(high)),
        missing,
    )


def _median_box(boxes: Sequence[Vector | None]) -> Vector | None:
    """The median of boxes that all are there; None otherwise."""
    found = [box for box in boxes if box is not None]
    if len(found) < len(boxes):
        return None
    x, y, z = (float(v) for v in np.median(np.array(found), axis=0))
    return x, y, z
