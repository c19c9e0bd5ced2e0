"""Reading the files of a case: images as they are, labels as whole numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.datasets.case import ImageFile
from voxseg.data.geometry import Geometry
from voxseg.data.labels import MAX_ID
from voxseg.data.volume import read_array, read_volume
from voxseg.errors import UserError

__all__ = ["read_image", "read_labels"]

ROUNDING = 1e-3
"""How far from a whole number a label may lie that a file stores as a scaled or floating-point number."""


def read_image(image: ImageFile) -> tuple[NDArray[Any], Geometry]:
    """Read an image of a case.

    Returns:
        `[X, Y, Z]` in stored axes, and its grid.

    Raises:
        UserError: as `voxseg.data.volume.read_volume`.
    """
    volume = read_volume(image.path, image.volume)
    return volume.data, volume.geometry


def read_labels(path: str | Path) -> tuple[NDArray[Any], Geometry]:
    """Read a label file; it may be empty, and may store its whole numbers as floating-point numbers.

    Returns:
        `[X, Y, Z]` of an integer type, in stored axes, ids of the data set (0 and above), and its grid.

    Raises:
        UserError: if the file cannot be read, has an impossible grid, or holds fractions, negative numbers or ids
            that are too large.
    """
    volume = read_array(path, labels=True)
    volume.geometry.check(volume.path)
    data = volume.data
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif data.dtype.kind == "f":
        data = _rounded(volume.path, data)
    low, high = int(data.min()), int(data.max())
    if low < 0 or high > MAX_ID:
        remedy = f"number labels from 0, the background, to at most {MAX_ID}"
        raise UserError(path, f"holds the label {low if low < 0 else high}", remedy)
    return data.astype(np.int32) if data.dtype.kind == "f" else data, volume.geometry


def _rounded(path: Path, data: NDArray[Any]) -> NDArray[Any]:
    """Floating-point labels, every one exactly a whole number."""
    finite = np.isfinite(data)
    if not finite.all():
        problem = f"{int(data.size - finite.sum()):,} of its voxels are not finite numbers (NaN or infinite)"
        raise UserError(path, problem, "a label file needs a whole number in each voxel")
    rounded = np.rint(data)
    wrong = np.abs(data - rounded) > ROUNDING
    if wrong.any():
        problem = f"{int(wrong.sum()):,} of its voxels are not whole numbers, such as {float(data[wrong][0]):.4g}"
        remedy = "a label file needs a whole number in each voxel: resample labels with nearest neighbours"
        raise UserError(path, problem, remedy)
    return rounded
