"""A case of a data set from its files to arrays on the working grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from voxseg.data.datasets.case import Case, ImageFile
from voxseg.data.datasets.read import read_image, read_labels
from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.preparation import PreparationConfig, prepare, prepare_labels
from voxseg.errors import UserError

__all__ = ["image_files", "label_classes", "label_file", "prepare_case", "sample_points"]

POINTS = 10_000
"""Voxels of each class that a balanced sampler can choose from."""


def prepare_case(
    case: Case, preparation: PreparationConfig, labels: LabelScheme
) -> tuple[Tensor, NDArray[np.uint8], Geometry]:
    """Read a case and bring it onto the working grid.

    Args:
        case: has all images of `preparation`; others are left alone.
        preparation: from scans to what the network sees.
        labels: what the label file's ids mean.

    Returns:
        Images `[C, X, Y, Z]` float32, dense class indices `[X, Y, Z]` uint8, and their grid.

    Raises:
        UserError: an image or the labels are missing or cannot be read, or the labels have an unknown id.
    """
    files, label = image_files(case, preparation), label_file(case)
    prepared = prepare([read_image(file) for file in files.values()], preparation)
    ids, geometry = read_labels(label)
    classes = label_classes(ids, labels, label)
    return prepared.image, prepare_labels(classes, geometry, prepared.grid), prepared.grid


def label_classes(ids: NDArray[Any], labels: LabelScheme, subject: object) -> NDArray[np.uint8]:
    """Dense class indices of a label file's ids, same shape.

    Raises:
        UserError: about `subject`, if it has an id that the scheme refuses.
    """
    unknown = labels.unknown({int(i) for i in np.unique(ids)})
    if unknown:
        remedy = "add it to labels.classes or labels.merge, or set labels.unlisted to background"
        raise UserError(subject, f"has the label {unknown[0]}, which the configuration does not know", remedy)
    return labels.to_classes(ids)


def image_files(case: Case, preparation: PreparationConfig) -> Mapping[str, ImageFile]:
    """The image files that are used, in the order of the channels.

    Raises:
        UserError: the case lacks one.
    """
    for name in preparation.images:
        if name not in case.images:
            there = ", ".join(case.images) or "none"
            remedy = "add the file, or change preparation.images"
            raise UserError(case.id, f"has no image '{name}' (it has: {there})", remedy)
    return {name: case.images[name] for name in preparation.images}


def label_file(case: Case) -> Path:
    """The label file.

    Raises:
        UserError: the case has none.
    """
    if case.label is None:
        raise UserError(case.id, "has no label file", "add it, or leave the case out")
    return case.label


def sample_points(label: NDArray[np.uint8], classes: int, limit: int = POINTS) -> list[NDArray[np.int32]]:
    """For each class from 1 to `classes` voxels `[N, 3]` of it: all of them, or `limit` drawn at random.

    They are drawn with a fixed seed, so that equal labels have equal points.
    """
    random = np.random.default_rng(0)
    flat = label.ravel()
    inside = np.flatnonzero(flat)
    values = flat[inside]
    points = []
    for k in range(1, classes + 1):
        voxels = inside[values == k]
        if len(voxels) > limit:
            voxels = np.sort(random.choice(voxels, limit, replace=False))
        points.append(np.stack(np.unravel_index(voxels, label.shape), -1).astype(np.int32))
    return points
