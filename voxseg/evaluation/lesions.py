"""Regions scored lesion by lesion, as the organisers of BraTS 2023 do.

Written from the description of the metrics at github.com/rachitsaluja/BraTS-2023-Metrics and of its parameters, and
tested against a step-by-step account of it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxseg.evaluation.result import LesionScore, MetricSettings
from voxseg.evaluation.surface import Spacing, area_hd95

__all__ = ["PENALTY_MM", "lesion_score"]

PENALTY_MM = 374.0
"""HD95 of a missed or a false lesion: the diagonal of a BraTS scan, 240 × 240 × 155 mm, as they round it."""

EDGES = ndimage.generate_binary_structure(3, 2)
CORNERS = ndimage.generate_binary_structure(3, 3)


def lesion_score(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Spacing, settings: MetricSettings
) -> LesionScore:
    """Mean Dice and HD95 over lesions.

    1. The reference is dilated `settings.lesion_dilation` times over faces and edges. Parts of it that are in one
       component (26 neighbours) of the dilated mask are one lesion, with the voxels that it had before.
    2. A component (26 neighbours) of the prediction belongs to every lesion whose dilated mask it shares a voxel with.
       Those of a lesion are compared with it together: Dice, and HD95 by area (`surface.area_hd95`). A lesion that has
       none is missed.
    3. Lesions of at most `settings.lesion_mm3` are left out; components that belong to them are no mistake.
    4. Components that belong to no lesion are false, however small.
    5. Means are over lesions and false components; missed and false ones count Dice 0 and HD95 `PENALTY_MM`. If there
       are neither, Dice is 1 and HD95 0.

    Lengths are mm here, with spacing; dilation is by voxels. That is the same for BraTS, whose voxels have 1 mm.

    Args:
        prediction: `[X, Y, Z]`; may be empty, as may the reference.
        reference: of the same shape. Both may be cut to a box that holds them.
        spacing: mm along each axis.
        settings: dilation and volume.

    Raises:
        UserError: if MONAI is not installed.
    """
    grown = reference
    if settings.lesion_dilation:  # 0 would mean: until nothing changes
        grown = ndimage.binary_dilation(reference, EDGES, iterations=settings.lesion_dilation)
    lesions, _ = ndimage.label(grown, CORNERS)
    parts, count = ndimage.label(prediction, CORNERS)
    touching = (lesions > 0) & (parts > 0)
    pairs = np.unique(np.stack([lesions[touching], parts[touching]], axis=1), axis=0)
    false = count - len(np.unique(pairs[:, 1]))
    volumes = np.bincount(lesions[reference], minlength=1) * math.prod(spacing)
    boxes, part_boxes = ndimage.find_objects(lesions), ndimage.find_objects(parts)
    dice, distance = [0.0] * false, [PENALTY_MM] * false
    found = missed = 0
    for lesion in np.flatnonzero(volumes > settings.lesion_mm3):
        belonging = pairs[pairs[:, 0] == lesion, 1]
        if not len(belonging):
            missed += 1
            dice.append(0.0)
            distance.append(PENALTY_MM)
            continue
        found += 1
        box = _around([boxes[lesion - 1], *(part_boxes[part - 1] for part in belonging)])
        true, predicted = reference[box] & (lesions[box] == lesion), np.isin(parts[box], belonging)
        dice.append(2 * np.count_nonzero(true & predicted) / (np.count_nonzero(true) + np.count_nonzero(predicted)))
        distance.append(area_hd95(predicted, true, spacing))
    if not dice:
        return LesionScore(1.0, 0.0, 0, 0, 0)
    return LesionScore(float(np.mean(dice)), float(np.mean(distance)), found, missed, false)


def _around(boxes: list[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box that holds all of them."""
    return tuple(
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3)
    )
