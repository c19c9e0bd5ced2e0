"""Distances between the surfaces of two segmentations of one structure.

Two kinds of surface are in use, and both are the field's own:

- surface voxels: those that share a face with the outside. HD95 and the average distance are over these, as in MONAI.
- surface elements: where the eight voxels around a corner of the grid are not all in or all out, the surface passes,
  with an area that depends on which are in (marching cubes). Surface Dice is by these areas, as defined by Nikolov et
  al., "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for radiotherapy",
  arXiv:1809.04430, and so is the HD95 of the BraTS lesions.

MONAI is imported inside functions: that takes seconds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.errors import UserError

__all__ = ["SurfaceScore", "area_hd95", "surface_score"]

Spacing = tuple[float, float, float]

ROUNDING = 1e-5
"""Relative slack of the tolerance: 1.000001 mm, the spacing of a scan whose header says 1 mm obliquely, is 1 mm."""


@dataclass(frozen=True)
class SurfaceScore:
    """How far the surfaces of a structure are apart.

    Attributes:
        nsd: normalised surface Dice at the tolerance, 0 to 1.
        hd95: mm.
        assd: average symmetric surface distance, mm.
    """

    nsd: float
    hd95: float
    assd: float


def surface_score(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Spacing, tolerance_mm: float
) -> SurfaceScore:
    """NSD, HD95 and average distance of two masks, neither of them empty.

    HD95 is the larger of the 95th percentiles (linear between ranks) of the distances from each surface voxel of one
    mask to the nearest surface voxel of the other. The average distance is the mean of all these distances, of both
    directions together. NSD is the area of the surface elements that lie within the tolerance of the other surface,
    over the area of all, of both masks together. Distances are between the centres of voxels, or of elements.

    Beyond the border of the array is background. Cutting both masks to a box that holds them therefore changes nothing.

    Args:
        prediction: `[X, Y, Z]`.
        reference: of the same shape.
        spacing: mm along each axis.
        tolerance_mm: of NSD.

    Raises:
        ValueError: if a mask is empty.
        UserError: if MONAI is not installed.
    """
    _refuse_empty(prediction, reference)
    get_mask_edges = _monai().get_mask_edges
    # Not cropped by MONAI: that would be done again for every metric.
    surfaces = get_mask_edges(prediction, reference, crop=False)
    there, back = _distances(surfaces[0], surfaces[1], spacing)
    elements = _elements(prediction, reference, spacing)
    near = sum(areas[distances <= tolerance_mm * (1 + ROUNDING)].sum() for areas, distances in elements)
    return SurfaceScore(
        nsd=float(near / sum(areas.sum() for areas, _ in elements)),
        hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        assd=float(np.concatenate([there, back]).mean(dtype=np.float64)),
    )


def area_hd95(prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Spacing) -> float:
    """HD95 in mm by area: 95 % of the area of each surface is no further from the other; the larger of the directions.

    This is the robust Hausdorff distance of Nikolov et al. Unlike that of `surface_score` it weights elements by their
    area and takes no values between ranks; the two usually differ by less than a voxel.

    Args:
        prediction: `[X, Y, Z]`.
        reference: of the same shape.
        spacing: mm along each axis.

    Raises:
        ValueError: if a mask is empty.
        UserError: if MONAI is not installed.
    """
    _refuse_empty(prediction, reference)
    result = []
    for areas, distances in _elements(prediction, reference, spacing):
        order = np.argsort(distances, kind="stable")
        covered = np.cumsum(areas[order])
        place = int(np.searchsorted(covered, 0.95 * covered[-1]))
        result.append(float(distances[order[min(place, len(order) - 1)]]))
    return max(result)


def _elements(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Spacing
) -> list[tuple[NDArray[np.float64], NDArray[np.float32]]]:
    """Areas in mm² of the surface elements of each mask, with their distances in mm to the other's."""
    codes = [_corner_codes(mask) for mask in (prediction, reference)]
    surfaces = [(code != 0) & (code != 255) for code in codes]
    table = _area_table(spacing)
    areas = [table[code[surface]] for code, surface in zip(codes, surfaces, strict=True)]
    return list(zip(areas, _distances(surfaces[0], surfaces[1], spacing), strict=True))


def _corner_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Which of the eight voxels around each corner of the grid are in the mask, as bits, `[X + 1, Y + 1, Z + 1]`.

    The voxel with the lowest indices is the highest bit, as MONAI's table of areas has it. MONAI computes the same by a
    convolution of floating-point numbers, which takes over ten times as long.
    """
    codes = np.zeros([n + 1 for n in mask.shape], dtype=np.uint8)
    bits = mask.view(np.uint8)
    for bit in range(8):
        lower = [bool(bit >> axis & 1) for axis in (2, 1, 0)]  # whether the voxel lies before the corner, by axis
        codes[tuple(slice(1, None) if before else slice(None, -1) for before in lower)] |= bits << bit
    return codes


@lru_cache(maxsize=8)
def _area_table(spacing: Spacing) -> NDArray[np.float64]:
    """mm² of the surface in the eighths of eight voxels, by their bits, [256]."""
    table, _ = _monai().get_code_to_measure_table(spacing)
    return np.asarray(table, dtype=np.float64)


def _distances(
    first: NDArray[np.bool_], second: NDArray[np.bool_], spacing: Spacing
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distances in mm from each point of a surface to the other, both ways, in the order of `np.argwhere`."""
    distance = _monai().get_surface_distance
    return distance(first, second, spacing=spacing), distance(second, first, spacing=spacing)


def _refuse_empty(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> None:
    if not prediction.any() or not reference.any():
        raise ValueError("an empty mask has no surface: count it as missed or false")


@lru_cache(maxsize=1)
def _monai() -> Any:
    """The module of MONAI with the parts that its metrics are made of."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that MONAI looks for
            from monai.metrics import utils
    except ImportError as error:
        raise UserError("surface distances", f"need MONAI ({error})", "pip install 'voxseg[evaluate]'") from error
    return utils
