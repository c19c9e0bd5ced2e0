"""Summaries over cases, against analytic cases and scipy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from voxseg.data.label_scheme import LabelScheme
from voxseg.evaluation.result import CaseEvaluation, Evaluation, LesionScore, MetricSettings, StructureScore
from voxseg.evaluation.statistics import MEAN, bootstrap_interval, summarise, summarise_values
from voxseg.evaluation.structures import structures_of

TABLE = [{"id": 1, "name": "Left-Ear", "side": "left", "partner": 2}, {"id": 2, "name": "Right-Ear", "side": "right",
         "partner": 1}, {"id": 3, "name": "Nose"}]  # fmt: skip
SIDED = LabelScheme.model_validate({"classes": [1, 2, 3], "merge_sides": False, "table": TABLE})
REGIONS = LabelScheme.model_validate(
    {
        "classes": [1, 2],
        "table": [{"id": 1, "name": "rim"}, {"id": 2, "name": "core"}],
        "regions": [{"name": "all", "ids": [1, 2], "label": 1}, {"name": "inner", "ids": [2], "label": 2}],
    }
)


def found(name: str, dice: float, **more: float) -> StructureScore:
    return StructureScore(name, "found", dice, reference_ml=2.0, predicted_ml=2.5, **more)


def evaluation(scheme: LabelScheme, *cases: list[StructureScore]) -> Evaluation:
    done = [CaseEvaluation(f"c{k}", "m", Path("p"), Path("r"), tuple(scores)) for k, scores in enumerate(cases)]
    return Evaluation(tuple(structures_of(scheme)), MetricSettings(), ("m",), tuple(done))


def test_interval_of_two_values_is_analytic() -> None:
    """Means of resampled pairs of 0 and 1 are 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    values = np.array([0.0, 1.0])
    assert bootstrap_interval(values) == (0.0, 1.0)
    # A quarter lies at each end, so that the middle half ends between those and the middle.
    assert bootstrap_interval(values, level=0.4) == (0.5, 0.5)


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).beta(8, 2, 25)
    ours = bootstrap_interval(values, draws=20000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=3).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(random.normal(0.5, 0.1, 40), draws=500)
        hits += low <= 0.5 <= high
    assert 0.88 <= hits / 200 <= 0.98


def test_intervals_are_repeatable_and_need_two_cases() -> None:
    values = np.array([0.1, 0.5, 0.9, 0.7])
    assert bootstrap_interval(values) == bootstrap_interval(values)
    many = np.random.default_rng(0).random(30)
    assert bootstrap_interval(many, seed=1) != bootstrap_interval(many, seed=2)
    assert np.isnan(bootstrap_interval(values[:1])).all()
    assert summarise_values(values).few
    assert not summarise_values([*values, 0.3]).few


def test_values_that_are_not_there_do_not_count() -> None:
    summary = summarise_values([0.2, math.nan, 0.6, 0.7])
    assert summary.count == 3
    assert (summary.mean, summary.median) == pytest.approx((0.5, 0.6))
    assert summary.sd == pytest.approx(np.std([0.2, 0.6, 0.7], ddof=1))
    assert summarise_values([math.nan]).count == 0
    assert math.isnan(summarise_values([0.5]).sd)


def test_missed_structures_count_in_dice_and_not_in_distances() -> None:
    missed = StructureScore("Left-Ear", "missed", 0.0, 0.0, 0.0, nsd=0.0, reference_ml=1.0)
    false = StructureScore("Nose", "false", 0.0, 0.0, precision=0.0, nsd=0.0, predicted_ml=1.0)
    absent = StructureScore("Nose", "absent")
    first = [found("Left-Ear", 0.8, hd95=2.0), found("Right-Ear", 0.6, hd95=4.0), absent, found("Ear", 0.7)]
    second = [missed, found("Right-Ear", 0.5, hd95=1.0), false, found("Ear", 0.4)]
    rows = summarise(evaluation(SIDED, first, second))
    by_name = {row.structure: row for row in rows}
    assert list(by_name) == ["Left-Ear", "Right-Ear", "Nose", "Ear", MEAN]
    left, nose, mean = by_name["Left-Ear"], by_name["Nose"], by_name[MEAN]
    assert (left.found, left.missed, left.false, left.absent) == (1, 1, 0, 0)
    assert (left.metrics["dice"].mean, left.metrics["dice"].count) == (0.4, 2)
    assert (left.metrics["hd95"].mean, left.metrics["hd95"].count) == (2.0, 1)
    assert (nose.found, nose.missed, nose.false, nose.absent) == (0, 0, 1, 1)
    assert (nose.metrics["dice"].mean, nose.metrics["dice"].count) == (0.0, 1)
    assert nose.metrics["volume_error"].count == 0
    # Over labels, not over joined sides: the cases have (0.8 + 0.6) / 2 and (0 + 0.5 + 0) / 3.
    assert mean.metrics["dice"].mean == pytest.approx((0.7 + 0.5 / 3) / 2)
    assert mean.metrics["hd95"].mean == pytest.approx((3.0 + 1.0) / 2)
    assert (mean.missed, mean.false) == (1, 1)
    assert by_name["Ear"].metrics["volume_error"].mean == pytest.approx(0.25)


def test_the_mean_is_over_regions_if_there_are_any() -> None:
    names = [structure.name for structure in structures_of(REGIONS)]
    assert names == ["all", "inner", "rim", "core"]
    lesions = LesionScore(0.5, 100.0, 1, 1, 2)
    scores = [found("all", 0.9, lesions=lesions), found("inner", 0.5), found("rim", 0.1), found("core", 0.5)]
    rows = summarise(evaluation(REGIONS, scores, scores))
    assert rows[-1].metrics["dice"].mean == pytest.approx(0.7)
    assert rows[0].lesions == (2, 2, 4)
    assert rows[1].lesions is None
    assert rows[-1].lesions == (2, 2, 4)
    assert rows[0].metrics["lesion_dice"].mean == 0.5


def test_no_cases() -> None:
    rows = summarise(evaluation(REGIONS))
    assert [row.metrics["dice"].count for row in rows] == [0] * 5
