"""Dice of a network on generated windows that stay the same all through a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxseg.training.samples import SampleSource

# In the place of the process's rank in a seed, so that no training sample is ever a validation sample.
VALIDATION_STREAM = 2**32 - 1


@dataclass
class ValidationResult:
    """Scores and one window to look at.

    Attributes:
        dice: one for each structure, pooled over the windows; NaN for one that is neither there nor predicted.
        scan: `[X, Y, Z]` float32, the window in which most structures are.
        target: its class indices `[X, Y, Z]`.
        prediction: what the network makes of it, `[X, Y, Z]`.
    """

    dice: list[float]
    scan: NDArray[np.float32]
    target: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


def mean_dice(dice: Sequence[float]) -> float:
    """Over the structures that have a score; NaN if none has."""
    scores = [score for score in dice if not math.isnan(score)]
    return sum(scores) / len(scores) if scores else math.nan


class Validation:
    """A fixed set of windows, kept on the CPU.

    Args:
        source: where samples come from.
        windows: how many.
        seed: which.
        classes: classes of the network, the background included.
    """

    def __init__(self, source: SampleSource, windows: int, seed: int, classes: int) -> None:
        self.classes = classes
        self.windows: list[tuple[Tensor, Tensor]] = []
        for index in range(windows):
            scan, target = source.sample((seed, index, VALIDATION_STREAM))
            self.windows.append((scan.cpu(), target.to("cpu", torch.uint8)))
        self.shown = max(range(windows), key=lambda index: len(self.windows[index][1].unique()))

    @torch.no_grad()
    def run(self, predict: Callable[[Tensor], Tensor], device: torch.device) -> ValidationResult:
        """Predicts every window.

        Args:
            predict: `scan [1, C, X, Y, Z] -> logits [1, K, X, Y, Z]`.
            device: where it takes the scan.
        """
        both = torch.zeros(self.classes, dtype=torch.int64)
        total = torch.zeros(self.classes, dtype=torch.int64)
        shown = torch.empty(0)
        for index, (scan, target) in enumerate(self.windows):
            prediction = predict(scan.to(device)).argmax(1).cpu()
            truth = target.long()
            both += torch.bincount(truth[truth == prediction], minlength=self.classes)
            total += torch.bincount(truth.flatten(), minlength=self.classes)
            total += torch.bincount(prediction.flatten(), minlength=self.classes)
            if index == self.shown:
                shown = prediction[0]
        scan, target = self.windows[self.shown]
        dice = [2 * int(b) / int(t) if t else math.nan for b, t in zip(both[1:], total[1:], strict=True)]
        return ValidationResult(dice, scan[0, 0].numpy(), target[0].numpy(), shown.numpy().astype(np.uint8))
