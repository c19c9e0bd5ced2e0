"""How sure a network is of each structure: the Dice that its own probabilities let expect.

If a voxel belongs to a structure with probability p, independently of all others, the voxels that are given to the
structure overlap with the truth by the sum of their p, and the truth has the sum of all p. So the Dice to expect is

    2 sum_{found} p / (number found + sum_{all} p),

1 where every voxel is certain. Networks are too sure of themselves, so it is no promise of that Dice; but it falls when
noise, blur, motion or foreign anatomy blur what is seen, and ranks scans by it (`benchmarks/confidence.py`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxseg.inference.pieces import THRESHOLD

__all__ = ["ExpectedDice"]

LEAST_VOXELS = 1.0
"""Of the working grid: a structure of which less is expected, and nothing found, is not there."""


class ExpectedDice:
    """Sums over the working grid, taken in pieces.

    Args:
        count: of structures, or of regions.
        regions: whether the probabilities are those of overlapping regions, without a background.
    """

    def __init__(self, count: int, regions: bool = False) -> None:
        self._regions = regions
        self._found, self._sure, self._expected = (np.zeros(count) for _ in range(3))

    def feed(self, probabilities: Tensor) -> None:
        """Take probabilities `[K, ...]`; of exclusive classes the first is the background."""
        volumes = list(probabilities)  # one at a time: a copy of all would be as large as the network's result
        if self._regions:
            found = torch.stack([(volume > THRESHOLD).sum() for volume in volumes])
            sure = torch.stack([volume[volume > THRESHOLD].sum() for volume in volumes])
            expected = torch.stack([volume.sum() for volume in volumes])
        else:
            value, winner = (part.flatten() for part in probabilities.max(0))
            found = torch.bincount(winner, minlength=len(volumes))[1:]
            sure = torch.zeros(len(volumes), device=value.device).index_add_(0, winner, value)[1:]
            expected = torch.stack([volume.sum() for volume in volumes[1:]])
        for total, part in zip((self._found, self._sure, self._expected), (found, sure, expected), strict=True):
            total += part.double().cpu().numpy()

    def scores(self) -> NDArray[np.float64]:
        """The Dice to expect of each structure or region; NaN for one that is neither found nor expected."""
        there = (self._found > 0) | (self._expected >= LEAST_VOXELS)
        scores = 2 * self._sure / np.maximum(self._found + self._expected, 1e-9)
        return np.where(there, scores, np.nan)
