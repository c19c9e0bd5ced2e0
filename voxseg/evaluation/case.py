"""All scores of one prediction against its reference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.overlap import joint_counts
from voxseg.evaluation.lesions import lesion_score
from voxseg.evaluation.overlap_scores import overlap_score, side_errors
from voxseg.evaluation.result import MetricSettings, SideErrors, StructureScore
from voxseg.evaluation.structures import Structure, structures_of
from voxseg.evaluation.surface import Spacing, SurfaceScore, surface_score

__all__ = ["evaluate_case"]


def evaluate_case(
    prediction: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    spacing: Spacing,
    scheme: LabelScheme,
    settings: MetricSettings | None = None,
) -> tuple[tuple[StructureScore, ...], SideErrors | None]:
    """Score every structure of a scheme.

    Overlap is by counting each voxel once. Surfaces and lesions are looked at in the box around a structure in both.
    `result.CONVENTIONS` says what the figures mean, `surface`, `lesions` and `overlap_scores` how they are defined.

    Args:
        prediction: dense class indices (`scheme.to_classes`), `[X, Y, Z]`.
        reference: likewise, in the same grid.
        spacing: mm along each axis, above 0.
        scheme: the classes, their sides and regions.
        settings: tolerance and lesions.

    Returns:
        The scores in the order of `structures_of(scheme)`, and the mix-ups of sides, None if the scheme has no sides.

    Raises:
        ValueError: if the shapes differ or a class is not in the scheme.
        UserError: if MONAI is not installed.
    """
    settings = settings or MetricSettings()
    spacing = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    # Files hold the first axis fastest; counting goes along the last.
    prediction, reference = np.ascontiguousarray(prediction), np.ascontiguousarray(reference)
    size = len(scheme.classes) + 1
    highest = max((int(array.max()) for array in (prediction, reference) if array.size), default=0)
    if highest >= size:
        raise ValueError(f"there is a class {highest}, but the scheme has {size - 1}: turn ids into classes first")
    structures = structures_of(scheme)
    joint = joint_counts(reference, prediction, size)
    boxes = [ndimage.find_objects(array, size - 1) for array in (prediction, reference)]
    surfaces: dict[tuple[int, ...], SurfaceScore] = {}
    scores = []
    for structure in structures:
        score = overlap_score(joint, structure, math.prod(spacing))
        lesions = structure.kind == "region" and settings.lesions
        found = score.status == "found"
        if lesions or (found and structure.classes not in surfaces):
            predicted, true = _masks(prediction, reference, boxes, structure)
            if found and structure.classes not in surfaces:  # a region may be one label
                surfaces[structure.classes] = surface_score(predicted, true, spacing, settings.tolerance_mm)
            if lesions:
                score = replace(score, lesions=lesion_score(predicted, true, spacing, settings))
        if found:
            surface = surfaces[structure.classes]
            score = replace(score, nsd=surface.nsd, hd95=surface.hd95, assd=surface.assd)
        scores.append(score)
    return tuple(scores), side_errors(joint, structures)


def _masks(
    prediction: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    boxes: list[list[tuple[slice, ...] | None]],
    structure: Structure,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where a structure is in both, cut to the box that holds both; one voxel of each if it is in neither.

    Args:
        prediction: dense class indices.
        reference: likewise.
        boxes: of the classes 1, 2, ... in the prediction, then in the reference; None where there is none.
        structure: the classes that count as one.
    """
    filled = [box for one in boxes for k in structure.classes if (box := one[k - 1]) is not None]
    box = tuple(
        slice(min((b[axis].start for b in filled), default=0), max((b[axis].stop for b in filled), default=1))
        for axis in range(3)
    )
    belongs = np.zeros(256, dtype=bool)
    belongs[list(structure.classes)] = True
    return belongs[prediction[box]], belongs[reference[box]]
