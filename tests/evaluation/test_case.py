from __future__ import annotations

import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from strict import no_warnings
from voxseg.data.label_scheme import LabelEntry, LabelScheme, Region
from voxseg.evaluation.case import evaluate_case
from voxseg.evaluation.lesions import lesion_score
from voxseg.evaluation.result import CONVENTIONS, MetricSettings, StructureScore
from voxseg.evaluation.structures import structures_of
from voxseg.evaluation.surface import surface_score

SPACING = (0.9, 1.1, 1.6)
TUMOUR = LabelScheme(
    classes=[1, 2, 4],
    table=(LabelEntry(id=1, name="core"), LabelEntry(id=2, name="oedema"), LabelEntry(id=4, name="rim")),
    regions=(
        Region(name="whole", ids=(1, 2, 4), label=2),
        Region(name="solid", ids=(1, 4), label=1),
        Region(name="enhancing", ids=(4,), label=4),
    ),
)
SIDES = LabelScheme(classes=[10, 49, 11, 50, 14], merge_sides=False)


def nested(seed: int, shape: tuple[int, int, int] = (20, 22, 16)) -> NDArray[np.uint8]:
    """Three classes, one within another, that touch the border of the array."""
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    levels = np.quantile(smooth, [0.8, 0.9, 0.95])
    return np.array([0, 2, 3, 1], dtype=np.uint8)[np.digitize(smooth, levels)]


def scores_of(prediction: NDArray[np.uint8], reference: NDArray[np.uint8], scheme: LabelScheme, **settings):
    """Scores by structure, in which a warning would be an error."""
    with no_warnings():
        scores, _ = evaluate_case(prediction, reference, SPACING, scheme, MetricSettings(**settings))
    assert [score.structure for score in scores] == [structure.name for structure in structures_of(scheme)]
    return {score.structure: score for score in scores}


def figures(score: StructureScore) -> list[float]:
    values = astuple(replace(score, lesions=None))[2:-1]
    return [*values, *(astuple(score.lesions) if score.lesions else ())]


def test_overlapping_regions_and_labels_from_their_masks() -> None:
    prediction, reference = nested(0), nested(1)
    scores = scores_of(prediction, reference, TUMOUR, tolerance_mm=2.0, lesion_mm3=4.0, lesion_dilation=1)
    members = {"whole": (1, 2, 3), "solid": (1, 3), "enhancing": (3,), "core": (1,), "oedema": (2,), "rim": (3,)}
    assert set(scores) == set(members)
    for name, classes in members.items():
        found, true = np.isin(prediction, classes), np.isin(reference, classes)
        score = scores[name]
        surface = surface_score(found, true, SPACING, 2.0)
        assert score.status == "found"
        assert score.dice == pytest.approx(2 * (found & true).sum() / (found.sum() + true.sum()), abs=1e-12)
        assert (score.nsd, score.hd95, score.assd) == pytest.approx((surface.nsd, surface.hd95, surface.assd))
        assert score.reference_ml == pytest.approx(true.sum() * 0.9 * 1.1 * 1.6 / 1000)
        settings = MetricSettings(lesion_mm3=4.0, lesion_dilation=1)
        whole = lesion_score(found, true, SPACING, settings) if len(scores) and name in list(members)[:3] else None
        assert score.lesions == whole
    assert scores["whole"].lesions != scores["solid"].lesions


def test_lesions_only_if_asked_for() -> None:
    assert all(s.lesions is None for s in scores_of(nested(0), nested(1), TUMOUR, lesions=False).values())


def test_sides_as_one_and_mixed_up() -> None:
    reference = np.zeros((20, 12, 12), dtype=np.uint8)
    reference[2:7, 3:8, 3:8], reference[13:18, 3:8, 3:8] = 1, 2
    reference[2:7, 8:11, 3:8], reference[13:18, 8:11, 3:8] = 3, 4
    prediction = reference.copy()
    prediction[reference == 1], prediction[reference == 2] = 2, 1
    scores, errors = evaluate_case(prediction, reference, SPACING, SIDES)
    by_name = {score.structure: score for score in scores}
    assert by_name["Left-Thalamus"].dice == by_name["Right-Thalamus"].dice == 0
    assert by_name["Left-Thalamus"].hd95 == pytest.approx(11 * 0.9)  # the other side, in mm
    assert by_name["Thalamus"].dice == by_name["Thalamus"].nsd == by_name["Left-Caudate"].dice == 1
    assert by_name["3rd-Ventricle"].status == "absent"
    assert errors is not None
    assert (errors.lateral, errors.swapped, errors.structures) == (250 + 150, 250, ("Thalamus",))


EMPTY = np.zeros((6, 7, 8), dtype=np.uint8)


def test_empty_masks_in_all_combinations_without_a_warning() -> None:
    filled = EMPTY.copy()
    filled[1:5, 1:5, 1:5] = 3  # 64 voxels of 1.584 mm³
    missed, false = scores_of(EMPTY, filled, TUMOUR), scores_of(filled, EMPTY, TUMOUR)
    absent = scores_of(EMPTY, EMPTY, TUMOUR)
    for name in ("whole", "solid", "enhancing", "rim"):
        assert [s[name].status for s in (missed, false, absent)] == ["missed", "false", "absent"]
        for score in (missed[name], false[name]):
            assert (score.dice, score.iou, score.nsd) == (0, 0, 0)
        assert all(math.isnan(v) for s in (missed, false, absent) for v in (s[name].hd95, s[name].assd))
        assert all(math.isnan(v) for v in (absent[name].dice, absent[name].nsd, absent[name].volume_error))
    assert missed["core"].status == false["core"].status == "absent"
    lesions = [s["solid"].lesions for s in (missed, false, absent)]
    assert [(x.dice, x.hd95) for x in lesions if x] == [(0, 374), (0, 374), (1, 0)]
    assert (missed["rim"].volume_error, math.isnan(false["rim"].volume_error)) == (-1, True)


def test_prediction_and_reference_exchanged() -> None:
    first, second = nested(2), nested(3)
    second[second == 3] = 2
    there = scores_of(first, second, TUMOUR, lesions=False)
    back = scores_of(second, first, TUMOUR, lesions=False)
    assert (there["rim"].status, back["rim"].status) == ("false", "missed")
    for name, score in there.items():
        other = back[name]
        same = [(s.dice, s.iou, s.nsd, s.hd95, s.assd) for s in (score, other)]
        assert same[0] == pytest.approx(same[1], nan_ok=True)
        assert (score.sensitivity, score.precision) == pytest.approx((other.precision, other.sensitivity), nan_ok=True)
        assert (score.reference_ml, score.predicted_ml) == (other.predicted_ml, other.reference_ml)


@pytest.mark.parametrize("width", [1, 9])
def test_empty_space_around_changes_nothing(width: int) -> None:
    first, second = nested(4), nested(5)
    scores = scores_of(first, second, TUMOUR, lesion_mm3=4.0)
    padded = scores_of(np.pad(first, width), np.pad(second, width), TUMOUR, lesion_mm3=4.0)
    for name, score in scores.items():
        assert figures(padded[name]) == pytest.approx(figures(score), nan_ok=True)


def test_order_in_memory_does_not_matter_and_arrays_stay_as_they_are() -> None:
    first, second = nested(4), nested(5)
    copies = first.copy(), second.copy()
    expected = scores_of(first, second, TUMOUR)
    assert np.array_equal(first, copies[0])
    assert np.array_equal(second, copies[1])
    assert scores_of(np.asfortranarray(first), second[::-1][::-1], TUMOUR) == expected


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(ValueError, match="has shape"):
        evaluate_case(EMPTY, EMPTY[1:], SPACING, TUMOUR)
    with pytest.raises(ValueError, match="class 4"):
        evaluate_case(EMPTY, EMPTY + np.uint8(4), SPACING, TUMOUR)


def test_conventions_fit_on_a_screen() -> None:
    lines = CONVENTIONS.splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) <= 14
    for word in ("HD95", "ASSD", "NSD", "Missed", "False", "Absent", "BraTS", "374"):
        assert word in CONVENTIONS
