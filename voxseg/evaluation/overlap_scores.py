"""Scores of overlap: everything that follows from how many voxels have which class in both segmentations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxseg.evaluation.result import SideErrors, Status, StructureScore
from voxseg.evaluation.structures import Structure

__all__ = ["overlap_score", "side_errors"]

STATUS: dict[tuple[bool, bool], Status] = {
    (True, True): "found",
    (True, False): "missed",
    (False, True): "false",
    (False, False): "absent",
}
"""By whether the structure is in the reference, and in the prediction."""


def overlap_score(joint: NDArray[np.int64], structure: Structure, voxel_mm3: float) -> StructureScore:
    """Status, overlap and volumes of a structure; the scores of its surface are left open (NaN; NSD 0 if not found).

    With R voxels in the reference, P in the prediction and B in both: Dice 2B / (R + P), IoU B / (R + P - B),
    sensitivity B / R, precision B / P.

    Args:
        joint: voxels by class, [reference, prediction], from `voxseg.data.overlap.joint_counts(reference, prediction)`.
        structure: the classes that count as one.
        voxel_mm3: volume of a voxel.
    """
    classes = np.array(structure.classes)
    both = int(joint[np.ix_(classes, classes)].sum())
    reference, predicted = int(joint[classes].sum()), int(joint[:, classes].sum())
    status = STATUS[reference > 0, predicted > 0]
    return StructureScore(
        structure.name,
        status,
        dice=_ratio(2 * both, reference + predicted),
        iou=_ratio(both, reference + predicted - both),
        sensitivity=_ratio(both, reference),
        precision=_ratio(both, predicted),
        nsd=0.0 if status in ("missed", "false") else math.nan,
        reference_ml=reference * voxel_mm3 / 1000,
        predicted_ml=predicted * voxel_mm3 / 1000,
    )


def side_errors(joint: NDArray[np.int64], structures: Sequence[Structure]) -> SideErrors | None:
    """How often a voxel got the label of the same structure on the other side.

    Args:
        joint: voxels by class, [reference, prediction].
        structures: of the scheme (`structures_of`).

    Returns:
        None if no structure has two sides.
    """
    pairs = [structure for structure in structures if structure.kind == "both sides"]
    if not pairs:
        return None
    lateral = [int(joint[np.ix_(pair.classes, pair.classes)].sum()) for pair in pairs]
    swapped = [int(joint[pair.classes] + joint[pair.classes[::-1]]) for pair in pairs]
    mixed = tuple(p.name for p, all_, wrong in zip(pairs, lateral, swapped, strict=True) if 2 * wrong > all_)
    return SideErrors(sum(lateral), sum(swapped), mixed)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
