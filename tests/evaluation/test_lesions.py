from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from voxseg.evaluation.lesions import lesion_score
from voxseg.evaluation.result import LesionScore, MetricSettings

Mask = NDArray[np.bool_]
UNIT = (1.0, 1.0, 1.0)
GLIOMA = MetricSettings()
METASTASES = MetricSettings(lesion_dilation=1, lesion_mm3=2.0)


def boxes(*corners: tuple[int, int, int], size: tuple[int, int, int] = (5, 5, 5)) -> Mask:
    """Boxes of 125 mm³ unless told, in 40 × 20 × 20 voxels."""
    result = np.zeros((40, 20, 20), dtype=bool)
    for corner in corners:
        result[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] = True
    return result


A, B, FAR = (3, 7, 7), (20, 7, 7), (34, 1, 1)
NOTHING = boxes()


def test_exact_prediction() -> None:
    assert lesion_score(boxes(A, B), boxes(A, B), UNIT, GLIOMA) == LesionScore(1.0, 0.0, 2, 0, 0)


def test_a_missed_lesion_counts_zero_and_374_mm() -> None:
    assert lesion_score(boxes(A), boxes(A, B), UNIT, GLIOMA) == LesionScore(0.5, 187.0, 1, 1, 0)
    assert lesion_score(NOTHING, boxes(A, B), UNIT, GLIOMA) == LesionScore(0.0, 374.0, 0, 2, 0)


def test_a_false_one_does_so_however_small() -> None:
    prediction = boxes(A)
    prediction[FAR] = True
    assert lesion_score(prediction, boxes(A), UNIT, GLIOMA) == LesionScore(0.5, 187.0, 1, 0, 1)
    assert lesion_score(boxes(A, B, FAR), NOTHING, UNIT, GLIOMA) == LesionScore(0.0, 374.0, 0, 0, 3)


def test_nothing_to_find_and_nothing_found() -> None:
    assert lesion_score(NOTHING, NOTHING, UNIT, GLIOMA) == LesionScore(1.0, 0.0, 0, 0, 0)


@pytest.mark.parametrize(("gap", "lesions"), [(6, 1), (7, 2)])
def test_lesions_that_grow_together_are_one(gap: int, lesions: int) -> None:
    second = (A[0] + 5 + gap, *A[1:])
    score = lesion_score(boxes(A), boxes(A, second), UNIT, GLIOMA)
    assert score.found + score.missed == lesions
    assert score.dice == pytest.approx(2 * 125 / 375 if lesions == 1 else 0.5)
    # Of a dilation of one voxel each, two are enough to stay apart from three on.
    for distance, expected in [(2, 1), (3, 2)]:
        near = (A[0] + 5 + distance, *A[1:])
        score = lesion_score(boxes(A), boxes(A, near), UNIT, METASTASES)
        assert score.found + score.missed == expected


def test_small_lesions_are_neither_missed_nor_found_and_what_touches_them_is_not_false() -> None:
    small = boxes(B, size=(5, 5, 2))  # 50 mm³: not more than the limit
    assert lesion_score(boxes(A), boxes(A) | small, UNIT, GLIOMA) == LesionScore(1.0, 0.0, 1, 0, 0)
    assert lesion_score(boxes(A, B), boxes(A) | small, UNIT, GLIOMA) == LesionScore(1.0, 0.0, 1, 0, 0)
    assert lesion_score(NOTHING, small, UNIT, GLIOMA) == LesionScore(1.0, 0.0, 0, 0, 0)
    assert lesion_score(NOTHING, small, UNIT, METASTASES).missed == 1
    assert lesion_score(NOTHING, small, (1.0, 1.0, 1.02), GLIOMA).missed == 1  # 51 mm³


def test_one_component_counts_for_every_lesion_that_it_touches() -> None:
    bar = boxes(A, size=(22, 5, 5))  # from the one through to the end of the other
    score = lesion_score(bar, boxes(A, B), UNIT, GLIOMA)
    assert (score.found, score.missed, score.false) == (2, 0, 0)
    assert score.dice == pytest.approx(2 * 125 / (125 + 550))
    assert 15 <= score.hd95 <= 17


def test_several_components_of_a_lesion_are_compared_together() -> None:
    parts = boxes(A, size=(2, 5, 5)) | boxes((A[0] + 3, *A[1:]), size=(2, 5, 5))
    score = lesion_score(parts, boxes(A), UNIT, GLIOMA)
    assert (score.found, score.false) == (1, 0)
    assert score.dice == pytest.approx(2 * 100 / 225)


def test_beside_a_lesion_within_its_dilation_is_found_with_dice_zero() -> None:
    beside = boxes((A[0] + 7, *A[1:]))  # two voxels between them
    score = lesion_score(beside, boxes(A), UNIT, GLIOMA)
    assert (score.found, score.missed, score.false, score.dice) == (1, 0, 0, 0.0)
    assert 5 <= score.hd95 <= 7
    apart = boxes((A[0] + 8, *A[1:]))
    assert lesion_score(apart, boxes(A), UNIT, GLIOMA) == LesionScore(0.0, 374.0, 0, 1, 1)


def test_components_touch_by_corners() -> None:
    prediction = boxes(A)
    prediction[8, 12, 12] = True  # the voxel beyond the corner
    for k in range(9, 15):
        prediction[k, k + 4, k + 4] = True  # and a chain away from there
    assert lesion_score(prediction, boxes(A), UNIT, GLIOMA).false == 0


def test_hd95_is_in_mm() -> None:
    shifted = boxes((A[0] + 2, *A[1:]))
    once, thrice = (lesion_score(shifted, boxes(A), s, GLIOMA).hd95 for s in (UNIT, (3.0, 3.0, 3.0)))
    assert once == pytest.approx(2)
    assert thrice == pytest.approx(6)


def components(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers from 1 of the 26-connected components of voxels [n, 3]."""
    return connected_components(cdist(points, points, "chebyshev") < 1.5, directed=False)[1] + 1


def number(mask: Mask) -> NDArray[np.int64]:
    result = np.zeros(mask.shape, dtype=np.int64)
    if mask.any():
        result[mask] = components(np.argwhere(mask))
    return result


def step_by_step(prediction: Mask, reference: Mask, spacing: tuple[float, float, float], dilation: int, mm3: float):
    """What the organisers do, one lesion at a time on the whole scan: Dice, HD95, found, missed, false."""
    import surface_distance

    everywhere = np.argwhere(np.ones_like(reference))

    def dilated(mask: Mask) -> Mask:
        # Steps over faces and edges reach what is `dilation` off in every axis and twice that in all together.
        places = np.argwhere(mask)
        near = (cdist(everywhere, places, "chebyshev") <= dilation) & (
            cdist(everywhere, places, "cityblock") <= 2 * dilation
        )
        return near.any(1).reshape(mask.shape)

    lesions = number(dilated(reference)) * reference
    parts = number(prediction)
    belonging: set[int] = set()
    dice, distance, found, missed = [], [], 0, 0
    for k in range(1, lesions.max() + 1):
        lesion = lesions == k
        touched = set(np.unique(parts[dilated(lesion)])) - {0}
        belonging |= touched
        if lesion.sum() * np.prod(spacing) <= mm3:
            continue
        together = np.isin(parts, list(touched))
        dice.append(2 * (lesion & together).sum() / (lesion.sum() + together.sum()))
        found, missed = found + bool(touched), missed + (not touched)
        if not touched:
            distance.append(374.0)
            continue
        surfaces = surface_distance.compute_surface_distances(lesion, together, spacing)
        distance.append(surface_distance.compute_robust_hausdorff(surfaces, 95))
    false = len(set(range(1, parts.max() + 1)) - belonging)
    total = len(dice) + false
    if not total:
        return 1, 0, 0, 0, 0
    return sum(dice) / total, (sum(distance) + 374 * false) / total, found, missed, false


def lumps(seed: int, share: float) -> Mask:
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=(22, 18, 16)), 1.1)
    return smooth > np.quantile(smooth, 1 - share)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [(1, 2.0), (1, 20.0), (2, 30.0)])
@pytest.mark.parametrize("spacing", [UNIT, (0.8, 1.0, 1.5)])
def test_agrees_with_a_step_by_step_account(seed: int, settings: tuple[int, float], spacing) -> None:
    reference = lumps(seed, 0.03)
    prediction = (np.roll(reference, 1, axis=seed % 3) & ~lumps(seed + 20, 0.3)) | lumps(seed + 10, 0.004)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = step_by_step(prediction, reference, spacing, *settings)
    found = lesion_score(
        prediction, reference, spacing, MetricSettings(lesion_dilation=settings[0], lesion_mm3=settings[1])
    )
    assert (found.dice, found.hd95) == pytest.approx(expected[:2], rel=1e-6)
    assert (found.found, found.missed, found.false) == expected[2:]
    assert found.found + found.missed > 0


def cut(mask: Mask, box: tuple[slice, ...]) -> Mask:
    return mask[box]


def embed(mask: Mask, box: tuple[slice, ...]) -> Mask:
    return np.pad(mask, 6)


@pytest.mark.parametrize("change", [cut, embed])
def test_a_box_around_both_is_enough(change: Callable[[Mask, tuple[slice, ...]], Mask]) -> None:
    for seed in range(3):
        reference, prediction = lumps(seed, 0.02), lumps(seed, 0.015) | lumps(seed + 7, 0.003)
        filled = np.argwhere(reference | prediction)
        box = tuple(slice(a, b + 1) for a, b in zip(filled.min(0), filled.max(0), strict=True))
        settings = MetricSettings(lesion_dilation=2, lesion_mm3=5.0)
        expected = lesion_score(prediction, reference, UNIT, settings)
        assert lesion_score(change(prediction, box), change(reference, box), UNIT, settings) == expected


def test_no_dilation() -> None:
    settings = MetricSettings(lesion_dilation=0)
    beside = (A[0] + 6, *A[1:])
    assert lesion_score(boxes(A), boxes(A, beside), UNIT, settings) == LesionScore(0.5, 187.0, 1, 1, 0)
