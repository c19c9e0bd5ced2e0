from __future__ import annotations

import math

import numpy as np
import pytest

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.overlap import joint_counts
from voxseg.evaluation.overlap_scores import overlap_score, side_errors
from voxseg.evaluation.structures import Structure, structures_of

SIDES = LabelScheme(classes=[10, 49, 11, 50, 14], merge_sides=False)
"""Thalamus left 1 and right 2, caudate left 3 and right 4, third ventricle 5."""


def union(*classes: int) -> Structure:
    return Structure("it", "region", classes, "none", "#000000")


def test_counts_by_hand() -> None:
    # Rows: reference; columns: prediction.
    joint = np.array([[100, 3, 2], [4, 20, 5], [1, 6, 30]])
    score = overlap_score(joint, union(1), voxel_mm3=2.0)
    assert score.status == "found"
    assert score.dice == pytest.approx(40 / (29 + 29))
    assert score.iou == pytest.approx(20 / 38)
    assert score.sensitivity == pytest.approx(20 / 29)
    assert score.precision == pytest.approx(20 / 29)
    both = overlap_score(joint, union(1, 2), voxel_mm3=2.0)
    assert both.dice == pytest.approx(2 * 61 / (66 + 66))  # what is mixed up within a union is right
    assert (both.reference_ml, both.predicted_ml) == pytest.approx((0.132, 0.132))
    assert both.volume_error == pytest.approx(0)


def test_unions_agree_with_masks() -> None:
    random = np.random.default_rng(0)
    reference, prediction = random.integers(0, 5, (2, 9, 8, 7)).astype(np.uint8)
    joint = joint_counts(reference, prediction, 5)
    for classes in [(1,), (2, 4), (1, 2, 3, 4)]:
        true, found = np.isin(reference, classes), np.isin(prediction, classes)
        score = overlap_score(joint, union(*classes), voxel_mm3=0.5)
        assert score.dice == pytest.approx(2 * (true & found).sum() / (true.sum() + found.sum()), abs=1e-12)
        assert score.iou == pytest.approx((true & found).sum() / (true | found).sum(), abs=1e-12)
        assert score.sensitivity == pytest.approx(found[true].mean(), abs=1e-12)
        assert score.precision == pytest.approx(true[found].mean(), abs=1e-12)
        assert score.volume_error == pytest.approx(found.sum() / true.sum() - 1)


@pytest.mark.parametrize(
    ("joint", "status", "dice", "sensitivity", "precision", "nsd", "error"),
    [
        ([[5, 0], [7, 0]], "missed", 0, 0, math.nan, 0, -1),
        ([[5, 7], [0, 0]], "false", 0, math.nan, 0, 0, math.nan),
        ([[5, 0], [0, 0]], "absent", math.nan, math.nan, math.nan, math.nan, math.nan),
        ([[5, 2], [3, 0]], "found", 0, 0, 0, math.nan, -1 / 3),
    ],
)
def test_empty_and_apart(
    joint: list[list[int]],
    status: str,
    dice: float,
    sensitivity: float,
    precision: float,
    nsd: float,
    error: float,
) -> None:
    score = overlap_score(np.array(joint), union(1), 1.0)
    assert score.status == status
    found = [score.dice, score.iou, score.sensitivity, score.precision, score.nsd, score.volume_error]
    assert found == pytest.approx([dice, dice, sensitivity, precision, nsd, error], nan_ok=True)
    assert math.isnan(score.hd95)
    assert math.isnan(score.assd)


def test_swapped_sides_are_counted_and_named() -> None:
    joint = np.zeros((6, 6), dtype=np.int64)
    joint[1, 1], joint[1, 2], joint[2, 1], joint[2, 2] = 10, 30, 40, 5  # thalamus: 70 of 85
    joint[3, 3], joint[3, 4], joint[4, 4] = 50, 7, 43  # caudate: 7 of 100
    joint[1, 3], joint[0, 1], joint[4, 0], joint[5, 5] = 900, 900, 900, 900  # other mistakes, and what has no side
    errors = side_errors(joint, structures_of(SIDES))
    assert errors is not None
    assert (errors.lateral, errors.swapped, errors.structures) == (185, 77, ("Thalamus",))
    assert errors.share == pytest.approx(77 / 185)


def test_half_on_the_wrong_side_is_not_more_than_half() -> None:
    joint = np.zeros((6, 6), dtype=np.int64)
    joint[1, 1] = joint[1, 2] = 4
    errors = side_errors(joint, structures_of(SIDES))
    assert errors is not None
    assert errors.structures == ()


def test_no_sides_no_errors_and_nothing_found_no_share() -> None:
    assert side_errors(np.zeros((17, 17), dtype=np.int64), structures_of(LabelScheme.brain())) is None
    errors = side_errors(np.zeros((6, 6), dtype=np.int64), structures_of(SIDES))
    assert errors is not None
    assert math.isnan(errors.share)
    assert errors.structures == ()
