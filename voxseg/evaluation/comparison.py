"""Models compared on the same cases: paired differences, Wilcoxon's test, Holm's correction, mix-ups of sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from voxseg.evaluation.result import CaseEvaluation, Evaluation
from voxseg.evaluation.statistics import MEAN, METRICS, bootstrap_interval, mean_positions, nan_mean

__all__ = ["CONVENTIONS", "TESTED", "Comparison", "PairedTest", "SideTotals", "compare", "holm", "wilcoxon"]

TESTED = ("dice", "nsd", "hd95")

EXACT_UP_TO = 50
"""Differences up to which the distribution of the rank sum is computed and not approximated."""

CONVENTIONS = f"""\
Compared on the cases that every model was scored on: the other model minus the first, interval as above.
p: Wilcoxon's signed-rank test, two-sided; cases without a difference are left out; exact, shared ranks included, up to
  {EXACT_UP_TO} differences, with the normal approximation beyond.
p (Holm): corrected within one metric, for all structures of the mean, the mean itself and all models compared.
Missed and false structures count as Dice and NSD 0; one that is neither in the reference nor in one of the predictions
  counts as 1 there if the other prediction has it. HD95: on cases where both found the structure."""
"""How models are compared, for people."""


@dataclass(frozen=True)
class PairedTest:
    """One metric of one structure, of two models on the same cases.

    Attributes:
        metric: one of `TESTED`.
        structure: its name, or `MEAN`.
        first: the model compared with, `other`: the one that is compared.
        cases: with a value for both.
        first_mean: mean over those cases, `other_mean` likewise.
        difference: mean of other minus first.
        low: and `high`: bootstrap interval of it; NaN for fewer than two cases.
        p: of Wilcoxon's test, NaN without cases.
        p_holm: corrected for the number of tests of this metric.
    """

    metric: str
    structure: str
    first: str
    other: str
    cases: int
    first_mean: float
    other_mean: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = math.nan


@dataclass(frozen=True)
class SideTotals:
    """Mix-ups of left and right of a model, summed over the cases compared.

    Attributes:
        model: whose.
        cases: number.
        affected: of them, those with a structure that is mostly on the wrong side.
        lateral: voxels with a side in both files, `swapped`: those with the wrong one.
    """

    model: str
    cases: int
    affected: int
    lateral: int
    swapped: int


@dataclass(frozen=True)
class Comparison:
    """Models on the same cases.

    Attributes:
        cases: names of those that every model was scored on.
        tests: by metric, then model, then structure with the mean last.
        sides: one a model; empty where labels have no sides.
    """

    cases: tuple[str, ...]
    tests: tuple[PairedTest, ...]
    sides: tuple[SideTotals, ...] = ()


def compare(evaluation: Evaluation) -> Comparison | None:
    """Compare every model with the first one; None if there is only one."""
    if len(evaluation.models) < 2:
        return None
    by_model = {m: {case.case: case for case in evaluation.cases if case.model == m} for m in evaluation.models}
    names = sorted(set.intersection(*(set(cases) for cases in by_model.values())))
    chosen = {model: [cases[name] for name in names] for model, cases in by_model.items()}
    first, *others = evaluation.models
    positions = mean_positions(evaluation.structures)
    labels = [evaluation.structures[k].name for k in positions]
    tests: list[PairedTest] = []
    for metric in TESTED:
        family = []
        for other in others:
            one, two = paired_values(chosen[first], chosen[other], positions, metric)
            for column, structure in enumerate([*labels, MEAN]):
                family.append(_test(metric, structure, (first, other), one[:, column], two[:, column]))
        corrected = holm([test.p for test in family])
        tests += [replace(test, p_holm=p) for test, p in zip(family, corrected, strict=True)]
    return Comparison(tuple(names), tuple(tests), _sides(chosen))


def paired_values(
    first: Sequence[CaseEvaluation], other: Sequence[CaseEvaluation], positions: Sequence[int], metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of two models, `[cases, structures + 1]` each, the mean over structures last; NaN in both or in none.

    Args:
        first: cases of one model.
        other: the same cases of another model.
        positions: of the structures.
        metric: one of `TESTED`.
    """
    one, two = (
        np.array([[METRICS[metric](case.scores[k]) for k in positions] for case in cases], dtype=float).reshape(
            len(cases), len(positions)
        )
        for cases in (first, other)
    )
    if metric != "hd95":
        # What one model rightly leaves out and the other one invents must not drop out of the comparison.
        for row, pair in enumerate(zip(first, other, strict=True)):
            for column, k in enumerate(positions):
                absent = [case.scores[k].status == "absent" for case in pair]
                if absent == [True, False]:
                    one[row, column] = 1.0
                elif absent == [False, True]:
                    two[row, column] = 1.0
    lacking = np.isnan(one) | np.isnan(two)
    one[lacking] = two[lacking] = math.nan
    return np.column_stack([one, nan_mean(one)]), np.column_stack([two, nan_mean(two)])


def wilcoxon(differences: NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test that differences are symmetric about 0.

    Zeros are left out, equal sizes share the mean of their ranks. Up to `EXACT_UP_TO` differences the distribution of
    the rank sum under all signs is counted out, with those shared ranks; beyond it scipy's normal approximation with
    its correction for ties is taken. (Wilcoxon 1945; Hollander & Wolfe, Nonparametric Statistical Methods, ch. 3.)

    Args:
        differences: one a case, without NaN.

    Returns:
        1 if all differences are 0, NaN if there are none.
    """
    from scipy import stats

    if not len(differences):
        return math.nan
    # Means of equal scores may differ by rounding.
    kept = differences[np.abs(differences) > 1e-12]
    if not len(kept):
        return 1.0
    ranks = stats.rankdata(np.round(np.abs(kept), 12))
    if len(kept) > EXACT_UP_TO:
        signed = np.sign(kept) * ranks  # the test sees ranks alone
        return float(stats.wilcoxon(signed, zero_method="wilcox", correction=False, method="approx").pvalue)
    doubled = np.rint(2 * ranks).astype(int)  # whole numbers also where ranks are shared
    ways = np.zeros(doubled.sum() + 1)
    ways[0] = 1.0
    for rank in doubled:
        ways[rank:] = ways[rank:] + ways[: len(ways) - rank]
    ways /= ways.sum()
    positive = doubled[kept > 0].sum()
    return float(min(1.0, 2 * min(ways[: positive + 1].sum(), ways[positive:].sum())))


def holm(p: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction (Holm 1979); NaN stays NaN and is not counted."""
    known = sorted((k for k, value in enumerate(p) if not math.isnan(value)), key=lambda k: p[k])
    result, highest = [math.nan] * len(p), 0.0
    for position, k in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - position) * p[k]))
        result[k] = highest
    return result


def _test(
    metric: str, structure: str, models: tuple[str, str], first: NDArray[np.float64], other: NDArray[np.float64]
) -> PairedTest:
    there = ~np.isnan(first)
    first, other = first[there], other[there]
    if not len(first):
        return PairedTest(metric, structure, *models, 0, *[math.nan] * 6)
    differences = other - first
    low, high = bootstrap_interval(differences)
    means = float(first.mean()), float(other.mean()), float(differences.mean())
    return PairedTest(metric, structure, *models, len(first), *means, low, high, wilcoxon(differences))


def _sides(chosen: dict[str, list[CaseEvaluation]]) -> tuple[SideTotals, ...]:
    rows = []
    for model, cases in chosen.items():
        sides = [case.sides for case in cases if case.sides is not None]
        if sides:
            affected = sum(bool(one.structures) for one in sides)
            totals = sum(one.lateral for one in sides), sum(one.swapped for one in sides)
            rows.append(SideTotals(model, len(sides), affected, *totals))
    return tuple(rows)
