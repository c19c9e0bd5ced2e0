"""Agreement of repeated measurements: intraclass correlation, Bland–Altman, repeatability, change per year.

Formulas:
    Shrout and Fleiss, Psychological Bulletin 86 (1979) 420; McGraw and Wong, Psychological Methods 1 (1996) 30, with
    the correction on page 390: intraclass correlations and their intervals.
    Bland and Altman, Lancet 327 (1986) 307, and Statistical Methods in Medical Research 8 (1999) 135: limits of
    agreement, their intervals, repeatability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = [
    "BlandAltman",
    "Estimate",
    "IntraclassCorrelation",
    "Repeatability",
    "bland_altman",
    "intraclass_correlation",
    "mean_estimate",
    "repeatability",
    "symmetric_percent",
    "yearly_percent",
]

COVERED = 1.96
"""Standard deviations on either side of the mean that hold 95 % of normally distributed values."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % confidence interval; NaN where it cannot be estimated.

    Attributes:
        value: the number.
        low: and `high`: the ends of the interval.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class IntraclassCorrelation:
    """How much of the variance is between subjects.

    Attributes:
        agreement: ICC(2,1): two-way random effects, absolute agreement of single measurements. A shift between the
            repeats lowers it.
        consistency: ICC(3,1): two-way mixed effects, consistency of single measurements. A shift does not.
        subjects: with all the repeats, which it is computed from.
        repeats: of each of them.
    """

    agreement: Estimate = Estimate()
    consistency: Estimate = Estimate()
    subjects: int = 0
    repeats: int = 0


@dataclass(frozen=True)
class BlandAltman:
    """Bias and 95 % limits of agreement.

    Attributes:
        bias: mean difference, later minus earlier.
        lower: limit of agreement, bias minus 1.96 standard deviations of the differences.
        upper: limit of agreement, bias plus as much.
        deviation: standard deviation of the differences.
        subjects: that the differences come from.
    """

    bias: Estimate = Estimate()
    lower: Estimate = Estimate()
    upper: Estimate = Estimate()
    deviation: float = math.nan
    subjects: int = 0


@dataclass(frozen=True)
class Repeatability:
    """How far measurements of the same subject scatter.

    Attributes:
        deviation: within-subject standard deviation, from a one-way analysis of variance with the subjects as groups.
            A shift between the repeats counts.
        coefficient: of repeatability, 1.96 sqrt(2) times that: 95 % of the differences between two measurements of a
            subject are smaller.
        variation: within-subject coefficient of variation in per cent, root mean square over the subjects.
    """

    deviation: float = math.nan
    coefficient: Estimate = Estimate()
    variation: float = math.nan


def intraclass_correlation(table: ArrayLike, confidence: float = 0.95) -> IntraclassCorrelation:
    """ICC(2,1) and ICC(3,1) with the F-based intervals of McGraw and Wong (their ICC(A,1) and ICC(C,1)).

    Args:
        table: `[n, k]`: n subjects, k measurements of each. Fewer than two of either give NaN.
        confidence: of the intervals.
    """
    values = np.asarray(table, dtype=np.float64)
    n, k = values.shape
    if n < 2 or k < 2:
        return IntraclassCorrelation(subjects=n, repeats=k)
    rows, columns, error = _mean_squares(values)
    spread = rows + (k - 1) * error
    if spread <= 0:  # every subject has the same volume in every scan
        return IntraclassCorrelation(subjects=n, repeats=k)
    upper = (1 + confidence) / 2
    consistency = Estimate((rows - error) / spread, *_consistency_interval(rows, error, n, k, upper))
    value = (rows - error) / (spread + k * (columns - error) / n)
    agreement = Estimate(value, *_agreement_interval(value, rows, columns, error, n, k, upper))
    return IntraclassCorrelation(agreement, consistency, n, k)


def _mean_squares(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean squares of the rows (subjects), the columns (repeats) and the error of a two-way layout."""
    n, k = values.shape
    by_row, by_column, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    rest = values - by_row[:, None] - by_column + mean
    rows = k * float(np.square(by_row - mean).sum()) / (n - 1)
    columns = n * float(np.square(by_column - mean).sum()) / (k - 1)
    error = float(np.square(rest).sum()) / ((n - 1) * (k - 1))
    # Equal measurements leave an error of rounding alone.
    noise = np.square(np.finfo(np.float64).eps * np.abs(values).max()) * n * k
    return tuple(0.0 if square <= noise else square for square in (rows, columns, error))  # type: ignore[return-value]


def _consistency_interval(rows: float, error: float, n: int, k: int, upper: float) -> tuple[float, float]:
    """Of ICC(3,1) = ICC(C,1)."""
    if error == 0:
        return 1.0, 1.0
    ratio, between, within = rows / error, n - 1, (n - 1) * (k - 1)
    low = ratio / stats.f.ppf(upper, between, within)
    high = ratio * stats.f.ppf(upper, within, between)
    return float((low - 1) / (low + k - 1)), float((high - 1) / (high + k - 1))


def _agreement_interval(
    value: float, rows: float, columns: float, error: float, n: int, k: int, upper: float
) -> tuple[float, float]:
    """Of ICC(2,1) = ICC(A,1), whose degrees of freedom are Satterthwaite's."""
    if columns == 0 and error == 0:
        return 1.0, 1.0
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    degrees = (a * columns + b * error) ** 2 / (
        (a * columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    )  # fmt: skip
    among = k * columns + (k * n - k - n) * error
    f_low, f_high = stats.f.ppf(upper, n - 1, degrees), stats.f.ppf(upper, degrees, n - 1)
    low = n * (rows - f_low * error) / (f_low * among + n * rows)
    high = n * (f_high * rows - error) / (among + n * f_high * rows)
    return float(low), float(high)


def bland_altman(differences: Sequence[Sequence[float]], confidence: float = 0.95) -> BlandAltman:
    """Bias and limits of agreement of differences between repeated measurements.

    The limits are mean ± 1.96 standard deviations, with intervals by the t distribution from the variance
    s² (1/n + 1.96² / 2(n - 1)) of a limit (Bland and Altman 1999, section 3.1). Where subjects have several differences
    these are pooled; they do not count as independent, so that n of the intervals is the number of subjects.

    Args:
        differences: for each subject those between its successive measurements, later minus earlier.
        confidence: of the intervals.
    """
    own = [np.asarray(values, dtype=np.float64) for values in differences if len(values)]
    n = len(own)
    if not n:
        return BlandAltman()
    pooled = np.concatenate(own)
    bias = float(pooled.mean())
    if n < 2:
        return BlandAltman(Estimate(bias), subjects=n)
    deviation = float(pooled.std(ddof=1))
    t = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    of_bias = t * deviation / math.sqrt(n)
    of_limit = t * deviation * math.sqrt(1 / n + COVERED**2 / (2 * (n - 1)))
    lower, upper = bias - COVERED * deviation, bias + COVERED * deviation
    return BlandAltman(
        Estimate(bias, bias - of_bias, bias + of_bias),
        Estimate(lower, lower - of_limit, lower + of_limit),
        Estimate(upper, upper - of_limit, upper + of_limit),
        deviation,
        n,
    )


def repeatability(measurements: Sequence[Sequence[float]], confidence: float = 0.95) -> Repeatability:
    """Within-subject standard deviation, coefficient of repeatability and coefficient of variation.

    The interval of the coefficient is that of a standard deviation, by the chi-squared distribution with
    sum(k - 1) degrees of freedom.

    Args:
        measurements: for each subject its k measurements, not the same number for all; with one it says nothing. At
            least two degrees of freedom are asked for.
        confidence: of the interval.
    """
    own = [np.asarray(values, dtype=np.float64) for values in measurements if len(values) > 1]
    degrees = sum(len(values) - 1 for values in own)
    if degrees < 2:
        return Repeatability()
    squares = [float(np.square(values - values.mean()).sum()) for values in own]
    deviation = math.sqrt(sum(squares) / degrees)
    coefficient = COVERED * math.sqrt(2) * deviation
    low, high = (
        coefficient * math.sqrt(degrees / float(stats.chi2.ppf(p, degrees)))
        for p in ((1 + confidence) / 2, (1 - confidence) / 2)
    )
    relative = [square / float(values.mean()) ** 2 for square, values in zip(squares, own, strict=True)]
    variation = 100 * math.sqrt(sum(relative) / degrees)
    return Repeatability(deviation, Estimate(coefficient, low, high), variation)


def symmetric_percent(earlier: float, later: float) -> float:
    """200 (later - earlier) / (later + earlier); NaN where both are 0."""
    return 200 * (later - earlier) / (later + earlier) if later + earlier else math.nan


def yearly_percent(years: Sequence[float], measurements: Sequence[float]) -> float:
    """Change per year of one subject: slope of the least-squares line, in per cent of its value at the first time.

    Args:
        years: when, at least two different times; otherwise the result is NaN.
        measurements: of the same length.
    """
    times, values = np.asarray(years, dtype=np.float64), np.asarray(measurements, dtype=np.float64)
    if len(times) < 2 or np.ptp(times) <= 0:
        return math.nan
    centred = times - times.mean()
    slope = float(centred @ values) / float(centred @ centred)
    first = float(values.mean()) + slope * float(times.min() - times.mean())
    return 100 * slope / first if first > 0 else math.nan


def mean_estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean with its interval by the t distribution; values that are NaN are left out."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return Estimate()
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean)
    half = float(stats.t.ppf((1 + confidence) / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return Estimate(mean, mean - half, mean + half)
