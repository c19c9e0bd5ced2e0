"""Paired comparison of models, against scipy and hand-computed values."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from voxseg.data.label_scheme import LabelScheme
from voxseg.evaluation.comparison import compare, holm, wilcoxon
from voxseg.evaluation.result import CaseEvaluation, Evaluation, MetricSettings, SideErrors, StructureScore
from voxseg.evaluation.statistics import MEAN
from voxseg.evaluation.structures import structures_of

SCHEME = LabelScheme.model_validate({"classes": [1, 2], "table": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]})


def signs_counted_out(differences: np.ndarray) -> float:
    """The definition: the share of all signs whose rank sum is as far from its mean."""
    kept = differences[differences != 0]
    ranks = stats.rankdata(np.abs(kept))
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in
            itertools.product((0, 1), repeat=len(kept))]  # fmt: skip
    low = np.mean(np.array(sums) <= ranks[kept > 0].sum())
    high = np.mean(np.array(sums) >= ranks[kept > 0].sum())
    return min(1.0, 2 * min(low, high))


@pytest.mark.parametrize("count", [1, 2, 5, 9, 20, 50])
def test_wilcoxon_is_scipys_exact_test_without_ties(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.3, 1, count)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert wilcoxon(differences) == pytest.approx(expected, abs=1e-12)


def test_wilcoxon_counts_ties_out_and_leaves_zeros_out() -> None:
    differences = np.array([0.0, 0.25, -0.25, 0.5, 0.5, 0.5, -1.0, 2.0, 0.0])
    assert wilcoxon(differences) == pytest.approx(signs_counted_out(differences), abs=1e-12)
    assert wilcoxon(differences) == pytest.approx(wilcoxon(differences[differences != 0]))
    # Sizes that are equal but for rounding are ties.
    assert wilcoxon(np.array([0.1 + 0.2, -0.3, 0.7])) == wilcoxon(np.array([0.3, -0.3, 0.7]))


def test_wilcoxon_of_many_cases_is_the_normal_approximation() -> None:
    differences = np.round(np.random.default_rng(2).normal(0.1, 1, 120), 1)
    expected = stats.wilcoxon(differences, zero_method="wilcox", method="approx", correction=False).pvalue
    assert wilcoxon(differences) == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_without_differences() -> None:
    assert wilcoxon(np.zeros(4)) == 1.0
    assert math.isnan(wilcoxon(np.array([])))


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, made monotonous.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    with_gap = holm([0.01, math.nan, 0.02])
    assert with_gap[0] == pytest.approx(0.02)
    assert math.isnan(with_gap[1])
    assert with_gap[2] == pytest.approx(0.02)
    assert holm([]) == []


def score(name: str, dice: float | None, hd95: float = math.nan) -> StructureScore:
    """None: absent; 0: false."""
    if dice is None:
        return StructureScore(name, "absent")
    return StructureScore(name, "found" if dice else "false", dice, nsd=dice, hd95=hd95)


def case(name: str, model: str, a: float | None, b: float | None, hd95: float = math.nan, swapped: int = 0):
    sides = SideErrors(100, swapped, ("a",) if swapped > 50 else ())
    scores = score("a", a, hd95), score("b", b)
    return CaseEvaluation(name, model, Path(name), Path(name), scores, sides)


def two_models() -> Evaluation:
    first = [case(f"c{k}", "one", 0.5 + 0.05 * k, 0.9, 2.0, swapped=k) for k in range(6)]
    other = [case(f"c{k}", "two", 0.6 + 0.05 * k, 0.9, 1.0 if k else math.nan, swapped=20 * k) for k in range(6)]
    alone = [case("c9", "one", 0.1, 0.1)]
    structures = tuple(structures_of(SCHEME))
    return Evaluation(structures, MetricSettings(), ("one", "two"), (*first, *alone, *other))


def test_differences_tests_and_family() -> None:
    result = compare(two_models())
    assert result is not None
    assert result.cases == tuple(f"c{k}" for k in range(6))  # c9 was scored for one of them alone
    tests = {(test.metric, test.structure): test for test in result.tests}
    assert len(tests) == 9
    a = tests["dice", "a"]
    assert (a.cases, a.difference, a.low, a.high) == pytest.approx((6, 0.1, 0.1, 0.1))
    assert (a.first_mean, a.other_mean) == pytest.approx((0.625, 0.725))
    assert a.p == pytest.approx(2 / 64)
    assert tests["dice", "b"].p == 1.0
    assert tests["dice", MEAN].difference == pytest.approx(0.05)
    # Family of three: a, b and the mean; two equal p of 1/32.
    assert a.p_holm == pytest.approx(3 / 32)
    assert tests["dice", MEAN].p_holm == pytest.approx(3 / 32)
    hd95 = tests["hd95", "a"]
    assert (hd95.cases, hd95.difference) == (5, -1.0)
    assert tests["hd95", "b"].cases == 0
    assert math.isnan(tests["hd95", "b"].p_holm)


def test_mixed_sides_stand_side_by_side() -> None:
    result = compare(two_models())
    assert result is not None
    assert [(s.model, s.cases, s.affected, s.swapped, s.lateral) for s in result.sides] == [
        ("one", 6, 0, 15, 600),
        ("two", 6, 3, 300, 600),
    ]


def test_what_one_model_invents_stays_in_the_comparison() -> None:
    """The reference lacks b in both cases: one model invents it, the other one rightly leaves it out."""
    cases = (case("x", "one", 0.5, None), case("y", "one", 0.5, None))
    cases += (case("x", "two", 0.5, 0.0), case("y", "two", 0.5, None))
    result = compare(Evaluation(tuple(structures_of(SCHEME)), MetricSettings(), ("one", "two"), cases))
    assert result is not None
    b = next(test for test in result.tests if test.metric == "dice" and test.structure == "b")
    assert (b.cases, b.first_mean, b.other_mean, b.difference) == (1, 1.0, 0.0, -1.0)


def test_one_model_is_compared_with_nothing() -> None:
    evaluation = two_models()
    assert compare(Evaluation(evaluation.structures, MetricSettings(), ("one",), evaluation.cases[:7])) is None


def test_models_without_a_case_in_common() -> None:
    cases = (case("x", "one", 0.5, 0.5), case("y", "two", 0.5, 0.5))
    result = compare(Evaluation(tuple(structures_of(SCHEME)), MetricSettings(), ("one", "two"), cases))
    assert result is not None
    assert result.cases == ()
    assert all(test.cases == 0 for test in result.tests)
