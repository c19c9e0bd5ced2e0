"""What the loop asks of training data."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class SampleSource(Protocol):
    """Gives the sample that belongs to a seed, whatever was asked for before.

    A resumed run so gets the samples that the uninterrupted one would have got, with no state of a loader to save.
    """

    def sample(self, seed: int | tuple[int, ...], batch: int = 1) -> tuple[Tensor, Tensor]:
        """A scan `[B, C, X, Y, Z]` float32 and its class indices `[B, X, Y, Z]` int64."""
        ...
