"""From the scores of cases to what a table says: mean, median, spread, and how sure the mean is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from voxseg.evaluation.result import CaseEvaluation, Evaluation, StructureScore
from voxseg.evaluation.structures import Structure

__all__ = [
    "DRAWS",
    "FEW",
    "MEAN",
    "METRICS",
    "STATISTICS",
    "MetricSummary",
    "StructureSummary",
    "bootstrap_interval",
    "case_means",
    "mean_positions",
    "summarise",
    "summarise_values",
]

DRAWS, SEED, LEVEL = 2000, 0, 0.95

FEW = 5
"""Intervals of fewer cases than this are flagged: resampling so few says little of cases that were not seen."""

MEAN = "mean"

STATISTICS = f"""\
Intervals: 95 % percentile bootstrap of the mean over cases ({DRAWS} draws of cases with replacement, fixed seed).
Mean over structures: of each case first, over the structures that have a value in it, then over the cases."""
"""How the figures of the summary come about, for people."""

METRICS: Mapping[str, Callable[[StructureScore], float]] = {
    "dice": lambda score: score.dice,
    "iou": lambda score: score.iou,
    "nsd": lambda score: score.nsd,
    "hd95": lambda score: score.hd95,
    "assd": lambda score: score.assd,
    "volume_error": lambda score: score.volume_error,
    "sensitivity": lambda score: score.sensitivity,
    "precision": lambda score: score.precision,
    "lesion_dice": lambda score: score.lesions.dice if score.lesions else math.nan,
    "lesion_hd95": lambda score: score.lesions.hd95 if score.lesions else math.nan,
}
"""What is summarised, and where it is in a score; NaN where a case has no value."""


@dataclass(frozen=True)
class MetricSummary:
    """One metric of one structure over cases; NaN where there is no value.

    Attributes:
        count: cases with a value.
        mean: over them, `median` and `sd` (of a sample; NaN for one case).
        low: lower end of the interval of the mean, NaN for fewer than two cases; `high`: the upper end.
    """

    count: int
    mean: float = math.nan
    median: float = math.nan
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def few(self) -> bool:
        """Whether the interval comes from too few cases to be relied on."""
        return self.count < FEW


@dataclass(frozen=True)
class StructureSummary:
    """One structure over all cases of a model.

    Attributes:
        model: whose predictions.
        structure: its name, or `MEAN` for the mean over structures.
        kind: as `Structure.kind`, or "mean".
        found: cases by status, also `missed`, `false` and `absent`; of the mean, summed over structures.
        metrics: by the names of `METRICS`.
        lesions: lesions found, missed and false, summed over cases; None where none were looked for.
    """

    model: str
    structure: str
    kind: str
    found: int
    missed: int
    false: int
    absent: int
    metrics: Mapping[str, MetricSummary]
    lesions: tuple[int, int, int] | None = None


def summarise(evaluation: Evaluation) -> tuple[StructureSummary, ...]:
    """Each structure of each model over its cases, and after them the mean over structures.

    Returns:
        For each model: a row a structure in the order of `Evaluation.structures`, then the mean.
    """
    rows = []
    for model in evaluation.models:
        cases = [case for case in evaluation.cases if case.model == model]
        for position, structure in enumerate(evaluation.structures):
            rows.append(_summary(model, structure, [case.scores[position] for case in cases]))
        rows.append(_mean(model, cases, evaluation.structures, rows[-len(evaluation.structures) :]))
    return tuple(rows)


def mean_positions(structures: Sequence[Structure]) -> list[int]:
    """Places of the structures that the mean is over: regions if there are any, otherwise labels."""
    kind = "region" if any(structure.kind == "region" for structure in structures) else "label"
    return [k for k, structure in enumerate(structures) if structure.kind == kind]


def case_means(cases: Sequence[CaseEvaluation], positions: Sequence[int], metric: str) -> NDArray[np.float64]:
    """Mean over structures of each case, `[cases]`; NaN where no structure has a value.

    Args:
        cases: any.
        positions: of the structures.
        metric: one of `METRICS`.
    """
    values = np.array([[METRICS[metric](case.scores[k]) for k in positions] for case in cases], dtype=float)
    return nan_mean(values.reshape(len(cases), len(positions)))


def nan_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean along the last axis of what is not NaN; NaN where there is nothing."""
    there = ~np.isnan(values)
    count = there.sum(axis=-1)
    total = np.where(there, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), math.nan)


def summarise_values(values: Sequence[float] | NDArray[np.float64]) -> MetricSummary:
    """Summary of the values that are not NaN."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    count = len(known)
    if not count:
        return MetricSummary(0)
    low, high = bootstrap_interval(known)
    sd = float(known.std(ddof=1)) if count > 1 else math.nan
    return MetricSummary(count, float(known.mean()), float(np.median(known)), sd, low, high)


def bootstrap_interval(
    values: NDArray[np.float64], level: float = LEVEL, draws: int = DRAWS, seed: int = SEED
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).

    Args:
        values: one a case, without NaN.
        level: share of draws within.
        draws: samples of the cases with replacement.
        seed: of the draws. Structures of equally many cases are resampled alike.

    Returns:
        Lower and upper end; NaN for fewer than two values.
    """
    if len(values) < 2:
        return math.nan, math.nan
    means = values[_draws(len(values), draws, seed)].mean(axis=1)
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


@lru_cache(maxsize=4)
def _draws(count: int, draws: int, seed: int) -> NDArray[np.int32]:
    """Which of `count` cases each draw takes, `[draws, count]`."""
    return np.random.default_rng(seed).integers(0, count, (draws, count), dtype=np.int32)


def _summary(model: str, structure: Structure, scores: Sequence[StructureScore]) -> StructureSummary:
    metrics = {name: summarise_values([get(score) for score in scores]) for name, get in METRICS.items()}
    return StructureSummary(model, structure.name, structure.kind, *_statuses(scores), metrics, _lesions(scores))


def _statuses(scores: Sequence[StructureScore]) -> tuple[int, int, int, int]:
    found, missed, false, absent = (
        sum(score.status == status for score in scores) for status in ("found", "missed", "false", "absent")
    )
    return found, missed, false, absent


def _lesions(scores: Sequence[StructureScore]) -> tuple[int, int, int] | None:
    lesions = [score.lesions for score in scores if score.lesions is not None]
    if not lesions:
        return None
    return sum(one.found for one in lesions), sum(one.missed for one in lesions), sum(one.false for one in lesions)


def _mean(
    model: str, cases: Sequence[CaseEvaluation], structures: Sequence[Structure], rows: Sequence[StructureSummary]
) -> StructureSummary:
    positions = mean_positions(structures)
    metrics = {name: summarise_values(case_means(cases, positions, name)) for name in METRICS}
    statuses = (sum(getattr(rows[k], s) for k in positions) for s in ("found", "missed", "false", "absent"))
    found, missed, false, absent = statuses
    counted = [rows[k].lesions for k in positions]
    lesions = [one for one in counted if one is not None]
    total = tuple(map(sum, zip(*lesions, strict=True))) if lesions else None
    three = (total[0], total[1], total[2]) if total else None
    return StructureSummary(model, MEAN, "mean", found, missed, false, absent, metrics, three)
