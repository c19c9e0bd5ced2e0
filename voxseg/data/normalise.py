"""Intensity scaling that depends on nothing but the tissue: not on pose, padding, noise in the air or a few hot voxels.

Every figure is an order statistic or comes from integer counts, so a scan that was flipped, whose axes were swapped or
that was padded with empty space is scaled by the same two numbers to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 4096
"""Bins of the histogram on which the tissue level is found."""

FOREGROUND_FRACTION = 0.35
"""Foreground is what lies above this fraction of the way from empty space to the mean level of tissue."""

OFFSET_FRACTION = 0.25
"""A scan whose minimum lies above this fraction of its bright tissue carries an offset: its empty space is not 0."""

CLAMP = (-0.5, 2.0)
"""Range of the result."""

ZSCORE_LIMIT = 20.0
"""Largest z-score: a few hot voxels must neither dominate a network's input nor overflow half precision."""

CHUNK = 2**20
"""Voxels that are sorted into bins at a time."""

BACKGROUND_SHARE = 0.05
"""Share of voxels that a value has to have to be a background..."""

BACKGROUND_EXCESS = 4
"""...and how many times as many as any other value."""


def normalise(volume: Tensor) -> Tensor:
    """Scale a scan so that empty space is 0 and bright tissue is 1.

    The result is ``(volume - low) / (high - low)``, clamped to [-0.5, 2], with the two levels of `intensity_range`.
    Zero is what convolutions pad with, so the border of a volume looks to the network like more empty space.

    Args:
        volume: intensities in any unit, [X, Y, Z] (or any other shape), any real type.

    Returns:
        float32 of the same shape and device. All zero if the volume is constant.
    """
    low, high = intensity_range(volume)
    return rescale(volume, low, high)


def rescale(volume: Tensor, low: float, high: float, in_place: bool = False) -> Tensor:
    """Map `low` to 0 and `high` to 1 linearly and clamp to [-0.5, 2]; float32 of the same shape.

    Args:
        volume: intensities of any real type; float32 if `in_place`.
        low: becomes 0.
        high: becomes 1.
        in_place: whether the volume may be overwritten.
    """
    values = volume.float()
    values = values.sub_(low) if in_place else values - low
    return values.mul_(1.0 / max(high - low, 1e-12)).clamp_(*CLAMP)


def intensity_range(volume: Tensor) -> tuple[float, float]:
    """Levels of empty space and of bright tissue.

    The upper one is the 98th percentile of the foreground (`foreground_threshold`). The lower one is 0 for ordinary
    magnitude images, and the 0.1 % quantile of the voxels above the minimum for scans that have negative values or
    carry an offset (`OFFSET_FRACTION`).

    Args:
        volume: intensities in any unit, any shape.

    Returns:
        (low, high) in the volume's unit, high > low; (c, c + 1) if every voxel is c.
    """
    levels = intensity_levels(volume)
    return levels.low, levels.high


@dataclass(frozen=True)
class Levels:
    """Levels of a scan in its unit.

    Attributes:
        low: of empty space.
        high: of bright tissue.
        threshold: above which a voxel counts as tissue rather than as air.
    """

    low: float
    high: float
    threshold: float


def intensity_levels(volume: Tensor) -> Levels:
    """What `intensity_range` and `foreground_threshold` say of a volume, found together."""
    above, minimum = _above_minimum(volume)
    count = above.numel()
    if count == 0:
        return Levels(minimum, minimum + 1.0, minimum)
    low, threshold = _empty_and_threshold(above, minimum)
    foreground = int((above > threshold).sum()) or count
    high = _order_statistics(above, [count - foreground + _rank(foreground, 0.98)])[0]
    return Levels(low, high, threshold) if high > low else Levels(low, low + 1.0, threshold)


def rescale_window(volume: Tensor, low: float, high: float, in_place: bool = False) -> Tensor:
    """Map `low` to 0 and `high` to 1 linearly and clamp to [0, 1]; as `rescale` otherwise."""
    values = volume.float()
    values = values.sub_(low) if in_place else values - low
    return values.mul_(1.0 / (high - low)).clamp_(0, 1)


def zscore(data: NDArray[Any]) -> NDArray[np.float32]:
    """Scale an image by the mean and deviation of its foreground, so that empty space is 0.

    Where the background was set to one value (`background`), the foreground is everything else, gets mean 0 and
    deviation 1, and the background becomes exactly 0. Elsewhere the foreground is what lies above
    `foreground_threshold`, and the result is ``(value - empty space) / deviation``: subtracting the mean would make air
    a negative number, but 0 is what convolutions pad with.

    Args:
        data: intensities in any unit, of any real type and shape.

    Returns:
        float32 of the same shape, within ±`ZSCORE_LIMIT`. All zero if the foreground is constant.
    """
    values = np.asarray(data, dtype=np.float32)
    ordered = np.sort(values, axis=None)
    empty = background(ordered)
    if empty is None:
        volume = torch.from_numpy(ordered)
        level, _ = intensity_range(volume)
        ordered = ordered[np.searchsorted(ordered, np.float32(foreground_threshold(volume)), side="right") :]
        _, deviation = mean_and_deviation(ordered)
    else:
        first, last = np.searchsorted(ordered, empty, side="left"), np.searchsorted(ordered, empty, side="right")
        level, deviation = mean_and_deviation(np.concatenate([ordered[:first], ordered[last:]]))
    factor = 1 / deviation if deviation > 0 else 0.0
    result = np.clip((values - np.float32(level)) * np.float32(factor), -ZSCORE_LIMIT, ZSCORE_LIMIT)
    if empty is not None:
        result[values == empty] = 0
    return result


def background(ordered: NDArray[np.float32]) -> float | None:
    """The one value that the background of an image was set to, or None.

    It is the minimum or 0, `BACKGROUND_SHARE` of the voxels have it, and no other value is nearly as frequent.

    Args:
        ordered: the image's intensities in ascending order, [N].
    """
    for value in (float(ordered[0]), 0.0):
        first, last = np.searchsorted(ordered, value, side="left"), np.searchsorted(ordered, value, side="right")
        count = int(last - first)
        if count < BACKGROUND_SHARE * len(ordered) or count == len(ordered):
            continue
        rest = np.concatenate([ordered[:first], ordered[last:]])
        run = count // BACKGROUND_EXCESS + 1  # a value that frequent lies this far apart from itself
        if len(rest) <= run or not (rest[run - 1 :] == rest[: len(rest) - run + 1]).any():
            return value
    return None


def mean_and_deviation(ordered: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation of sorted values [N], in float64; (0, 0) of none.

    Sums of floating-point numbers depend on their order. Sorted ones are the same to the last bit however the volume
    was flipped or turned.
    """
    if not len(ordered):
        return 0.0, 0.0
    mean = float(ordered.mean(dtype=np.float64))
    step = 2**20
    squares = [
        float(np.square(ordered[k : k + step] - mean).sum(dtype=np.float64)) for k in range(0, len(ordered), step)
    ]
    return mean, math.sqrt(math.fsum(squares) / len(ordered))


def foreground_threshold(volume: Tensor) -> float:
    """Intensity above which a voxel counts as tissue rather than as air.

    Voxels equal to the minimum (padding, stripped background) are left out; the rest is split in two by the method of
    Ridler and Calvard (1978, "Picture thresholding using an iterative selection method"), the mean of the upper part
    is the tissue level, and the threshold lies `FOREGROUND_FRACTION` of the way from empty space up to it.

    Args:
        volume: intensities in any unit, any shape.

    Returns:
        The threshold in the volume's unit; the constant itself if the volume is constant.
    """
    above, minimum = _above_minimum(volume)
    return _empty_and_threshold(above, minimum)[1] if above.numel() else minimum


def _above_minimum(volume: Tensor) -> tuple[Tensor, float]:
    """The voxels above the minimum [N] as a copy, and the minimum."""
    values = volume.detach().reshape(-1).float()
    minimum = float(values.min())
    if values.device.type == "cpu":  # torch would make an index of 8 bytes a voxel
        array = values.numpy()
        return torch.from_numpy(array[array > minimum]), minimum
    return values[values > minimum], minimum


def _empty_and_threshold(above: Tensor, minimum: float) -> tuple[float, float]:
    """The level of empty space and the foreground threshold; the voxels above the minimum [N] are put in order."""
    count = above.numel()
    # A few hot voxels (vessels, spikes, a burnt-in marker) must not stretch the histogram.
    darkest, bright, top = _order_statistics(above, [_rank(count, q) for q in (0.001, 0.98, 0.995)])
    low = 0.0 if 0 <= minimum <= OFFSET_FRACTION * bright else darkest
    return low, _threshold(above, low, top)


def _threshold(above: Tensor, low: float, top: float) -> float:
    """The foreground threshold for the voxels above the minimum [N], on a histogram from `low` to `top`."""
    if top <= low:
        return low
    counts = torch.zeros(BINS, dtype=torch.int64, device=above.device)
    for part in above.split(CHUNK):
        bins = ((part - low) * (BINS / (top - low))).clamp_(0, BINS - 1).to(torch.int64)
        counts += torch.bincount(bins, minlength=BINS)
    counts = counts.cpu().double()
    centres = torch.arange(BINS, dtype=torch.float64) + 0.5
    mass, moment = counts.cumsum(0), (counts * centres).cumsum(0)
    total, total_moment = float(mass[-1]), float(moment[-1])
    split = total_moment / total
    upper = split
    for _ in range(100):
        k = min(int(split), BINS - 2)
        below_n, below_m = float(mass[k]), float(moment[k])
        if below_n == 0 or below_n == total:
            break
        lower, upper = below_m / below_n, (total_moment - below_m) / (total - below_n)
        if abs((lower + upper) / 2 - split) < 0.5:
            break
        split = (lower + upper) / 2
    return low + FOREGROUND_FRACTION * upper * (top - low) / BINS


def _rank(count: int, q: float) -> int:
    """How many of so many ordered values come before the quantile."""
    return round(q * (count - 1))


def _order_statistics(values: Tensor, ranks: list[int]) -> list[float]:
    """The values [N] of these ranks, counted from 0; exact, whatever their order, which may change."""
    if values.device.type != "cpu":
        return [float(values.kthvalue(1 + rank).values) for rank in ranks]
    array = values.numpy()
    array.partition(sorted(set(ranks)))
    return [float(array[rank]) for rank in ranks]
