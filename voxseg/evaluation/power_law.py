"""Learning curves as power laws: the error after training on n cases, err(n) = a n^-b + c, with bootstrap intervals.

The form is the usual one for learning curves (Cortes et al., "Learning curves: asymptotic values and rate of
convergence", NIPS 1993; Hestness et al., arXiv:1712.00409): c is what no number of cases removes, b how fast the rest
goes. A few sizes say little about three numbers, so that a fit comes with notes on what they leave open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

__all__ = ["LARGEST_EXPONENT", "LearningCurve", "PowerLaw", "PowerLawFit", "fit_power_law"]

Array = NDArray[np.float64]

LARGEST_EXPONENT = 4.0
"""Of b: the error that can vanish is then a sixteenth with every doubling, as good as at once."""

SMALLEST_ERROR = 1e-4
"""What an error below it counts as: logarithms are compared."""

NEGLIGIBLE = 0.01
"""Of the largest mean error: what a c below it is not told from 0."""

GRID = 81
ZOOM = np.linspace(-1, 1, 9)
ZOOMS = 13
CHUNK = 200
BAND_POINTS = 61


@dataclass(frozen=True)
class PowerLaw:
    """err(n) = a n^-b + c, all three at least 0.

    Attributes:
        a: the part of the error that vanishes with more cases, at one case.
        b: how fast it vanishes.
        c: the part that stays.
    """

    a: float
    b: float
    c: float

    def error(self, n: float | Array) -> Array:
        """The error after training on `n` cases, of the shape of `n`."""
        return np.asarray(self.a * np.asarray(n, dtype=np.float64) ** -self.b + self.c)


@dataclass(frozen=True)
class PowerLawFit:
    """A fitted learning curve.

    Attributes:
        law: None where there is no fit.
        sizes: numbers of cases that were fitted, sorted.
        means: geometric mean of the error at each of them.
        intervals: of a, b and c, lower and upper end; empty where the spread is not known.
        level: of the intervals, such as 0.95.
        b_identified: whether b's interval lies within its limits; False without intervals.
        c_identified: whether c's interval leaves out 0 and b is identified; False without intervals.
        grid: numbers of cases between the smallest and the largest size, evenly spaced in the logarithm, `[G]`.
        band: lower and upper end of the pointwise interval of the curve there, `[2, G]`; None without intervals.
        notes: what the data leave open, one line each.
    """

    law: PowerLaw | None
    sizes: tuple[int, ...]
    means: tuple[float, ...]
    level: float
    intervals: Mapping[str, tuple[float, float]]
    b_identified: bool
    c_identified: bool
    grid: Array
    band: Array | None
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """What one arm of a benchmark gave.

    Attributes:
        arm: its name.
        title: of the arm, for people.
        panel: "upright", or "turned" for the mean over the turned poses.
        errors: for each number of training cases 1 - Dice of each run.
        fit: of a power law to them.
    """

    arm: str
    title: str
    panel: str
    errors: dict[int, list[float]]
    fit: PowerLawFit


def fit_power_law(
    errors: Mapping[int, Sequence[float]], draws: int = 1000, level: float = 0.95, seed: int = 0
) -> PowerLawFit:
    """Fits a power law to the errors of runs with several seeds.

    Least squares of the logarithms: an error twice as large as the curve weighs as much as one half as large, and
    curves with different errors are fitted alike. With two sizes c is 0.

    The intervals are those of a bootstrap of the seeds: at every size as many deviations from the mean of their size
    are drawn as there are seeds, from those of all sizes together, because a few seeds a size are too few to draw from.
    That supposes runs that are independent of each other, and deviations of the logarithm that are alike at all sizes.
    The deviations are enlarged by the factor that makes the interval of a mean that of Student's t (for few seeds much
    wider than the percentiles of a plain bootstrap, which would promise too much).

    Args:
        errors: for each number of training cases the error of each run, in 0..1. What is not finite is left out.
        draws: of the bootstrap.
        level: of the intervals.
        seed: of the draws.

    Raises:
        ValueError: a size or an error is negative, or the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level has to be between 0 and 1, got {level}")
    logs = _logarithms(errors)
    sizes, notes = tuple(logs), _size_notes(len(logs))
    means = np.array([np.mean(values) for values in logs.values()])
    nothing = np.zeros(0)
    if len(sizes) < 2:
        shown = tuple(float(value) for value in np.exp(means))
        return PowerLawFit(None, sizes, shown, level, {}, False, False, nothing, None, tuple(notes))
    n = np.array(sizes, dtype=np.float64)
    counts = np.array([len(values) for values in logs.values()], dtype=np.float64)
    law = _laws(n, counts, means[None])[0]
    grid = np.exp(np.linspace(math.log(n[0]), math.log(n[-1]), BAND_POINTS))
    resampled = _resample(logs, draws, level, np.random.default_rng(seed))
    intervals: dict[str, tuple[float, float]] = {}
    band, b_identified, c_identified = None, False, False
    if resampled is None:
        notes.append("one run a size: the spread is not known, so that there are no intervals")
    else:
        laws = _laws(n, counts, resampled)
        ends = [(1 - level) / 2, (1 + level) / 2]
        for k, name in enumerate("abc"):
            low, high = (float(value) for value in np.quantile(laws[:, k], ends))
            intervals[name] = low, high
        curves = laws[:, :1] * grid ** -laws[:, 1:2] + laws[:, 2:]
        band = np.quantile(curves, ends, axis=0)
        b_identified, c_identified = _judge(intervals, len(sizes), NEGLIGIBLE * float(np.exp(means.max())), notes)
    a, b, c = (float(value) for value in law)
    shown = tuple(float(value) for value in np.exp(means))
    fitted = PowerLaw(a, b, c)
    return PowerLawFit(fitted, sizes, shown, level, intervals, b_identified, c_identified, grid, band, tuple(notes))


def _logarithms(errors: Mapping[int, Sequence[float]]) -> dict[int, Array]:
    """Logarithms of the finite errors by size, in the order of the sizes; sizes without any are left out."""
    result = {}
    for size in sorted(errors):
        values = np.array([value for value in errors[size] if math.isfinite(value)], dtype=np.float64)
        if size < 1 or (values < 0).any():
            raise ValueError(f"needs sizes of at least 1 and errors of at least 0, got {size}: {list(errors[size])}")
        if len(values):
            result[size] = np.log(np.maximum(values, SMALLEST_ERROR))
    return result


def _size_notes(count: int) -> list[str]:
    """What follows from the number of sizes alone."""
    if count < 2:
        return ["one size: no curve can be fitted" if count else "no finished run"]
    if count == 2:
        return ["two sizes: c was set to 0, b is the slope between them and nothing tests the form of the curve"]
    if count == 3:
        return ["three sizes for three numbers: nothing tests the form of the curve"]
    return []


def _judge(
    intervals: Mapping[str, tuple[float, float]], sizes: int, negligible: float, notes: list[str]
) -> tuple[bool, bool]:
    """Whether b and c are identified; adds why not to the notes. A c below `negligible` is as good as 0."""
    (b_low, b_high), (c_low, c_high) = intervals["b"], intervals["c"]
    b_identified = b_low > 1e-3 and b_high < 0.99 * LARGEST_EXPONENT
    c_identified = sizes > 2 and b_identified and c_low > negligible
    if b_low <= 1e-3:
        notes.append("b is not identified: its interval reaches 0, the errors do not show a gain from more cases")
    if b_high >= 0.99 * LARGEST_EXPONENT:
        notes.append(f"b is not identified: its interval reaches the largest value tried, {LARGEST_EXPONENT:g}")
    if sizes > 2 and not c_identified:
        reason = "its interval reaches 0" if c_low <= negligible else "it cannot be told from the part that b describes"
        notes.append(
            f"c is not identified: {reason}; anything up to {c_high:.3f} fits, so nothing is said of more cases"
        )
    return b_identified, c_identified


def _resample(logs: Mapping[int, Array], draws: int, level: float, random: np.random.Generator) -> Array | None:
    """Means of the logarithms in resampled experiments, `[draws, sizes]`; None where no size has two runs."""
    freedom = sum(len(values) - 1 for values in logs.values())
    if freedom == 0:
        return None
    # sqrt(m / (m - 1)) undoes that deviations from a mean of m values are too small.
    deviations = np.concatenate(
        [(v - v.mean()) * math.sqrt(len(v) / (len(v) - 1)) for v in logs.values() if len(v) > 1]
    )
    tail = (1 + level) / 2
    deviations *= t.ppf(tail, freedom) / norm.ppf(tail)
    columns = [v.mean() + random.choice(deviations, (draws, len(v))).mean(1) for v in logs.values()]
    return np.stack(columns, axis=1)


def _laws(n: Array, counts: Array, means: Array) -> Array:
    """The best power law for each of several experiments.

    With the error at the smallest size divided into a share s that stays and the rest, the logarithm of a curve is
    a constant plus g(n; b, s) = log((1 - s) (n / n_0)^-b + s). The best constant is a mean, so that only b in
    0..`LARGEST_EXPONENT` and s in 0..1 are looked for: on a grid, then on finer ones around the best. There is no
    start to choose, and no local minimum to be caught in that the grid does not see.

    Args:
        n: sizes, `[K]`.
        counts: runs at each, the weights, `[K]`.
        means: of the logarithms, `[B, K]`.

    Returns:
        a, b, c of each, `[B, 3]`.
    """
    weights = counts / counts.sum()
    ratio = np.log(n / n[0])
    shares = np.linspace(0, 1, GRID) if len(n) > 2 else np.zeros(1)
    # Shares near 0 matter as soon as errors fall far.
    shares = np.unique(np.concatenate([shares, shares**3]))
    b, s = (axis.ravel() for axis in np.meshgrid(np.linspace(0, LARGEST_EXPONENT, GRID), shares, indexing="ij"))
    curves = _curves(ratio, b, s)
    centred = curves - (curves @ weights)[:, None]
    target = means - (means @ weights)[:, None]
    norms = (centred**2) @ weights
    parts = np.split(target, range(CHUNK, len(target), CHUNK))  # all at once would be a matrix of hundreds of MB
    best = np.concatenate([np.argmin(norms - 2 * (part * weights) @ centred.T, axis=1) for part in parts])
    best_b, best_s = b[best], s[best]
    width_b, width_s = LARGEST_EXPONENT / (GRID - 1), 1.0 / (GRID - 1)
    for _ in range(ZOOMS):
        near_b = np.clip(best_b[:, None, None] + width_b * ZOOM[:, None], 0, LARGEST_EXPONENT)
        near_s = np.clip(best_s[:, None, None] + width_s * ZOOM, 0, 1) * (len(n) > 2)
        near_b, near_s = (axis.reshape(len(best), -1) for axis in np.broadcast_arrays(near_b, near_s))
        curve = _curves(ratio, near_b, near_s)
        curve -= (curve @ weights)[..., None]
        place = np.argmin(((target[:, None] - curve) ** 2) @ weights, axis=1)[:, None]
        best_b, best_s = (np.take_along_axis(axis, place, 1)[:, 0] for axis in (near_b, near_s))
        width_b, width_s = width_b / 2, width_s / 2
    level = np.exp((means - _curves(ratio, best_b, best_s)) @ weights)
    vanishing = level * (1 - best_s)
    return np.stack([vanishing * n[0] ** best_b, best_b, level * best_s], axis=1)


def _curves(ratio: Array, b: Array, s: Array) -> Array:
    """g(n; b, s) for each pair, `[..., K]`."""
    return np.log((1 - s[..., None]) * np.exp(-b[..., None] * ratio) + s[..., None])
