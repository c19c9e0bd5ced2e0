"""What the loop asks of training data, and scans generated from label maps as such data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from voxseg.data.synthesis import ScanGenerator


@dataclass
class Batch:
    """Samples that go through the network together.

    Attributes:
        image: `[B, C, X, Y, Z]` float32.
        target: dense class indices `[B, X, Y, Z]` int64: row of `labels.classes` + 1, 0 the background.
        names: what each sample was made from, for messages.
        field: `[B, K, X, Y, Z]` float32, where a field is learned; `target` then is 1 where it is known.
    """

    image: Tensor
    target: Tensor
    names: list[str]
    field: Tensor | None = None


class SampleSource(Protocol):
    """Gives the samples that belong to a step, whatever was asked for before.

    A resumed run so gets the samples that the uninterrupted one would have got, with no state of a loader to save;
    and the samples of one process with a batch of four are those of four processes with a batch of one.
    """

    def batches(self, first: int, last: int) -> Iterator[list[Batch]]:
        """For each of the steps `first`..`last` - 1, from 0, this process's part of it.

        Its parts of a step (`accumulate`, or whole cases of different sizes) are computed one after the other.
        """
        ...


class GeneratedSource:
    """Scans generated from label maps.

    Args:
        generator: makes them.
        seed: of the run.
        batch: samples a step and process.
        accumulate: parts of the batch.
        rank: number of this process.
    """

    def __init__(self, generator: ScanGenerator, seed: int, batch: int, accumulate: int = 1, rank: int = 0) -> None:
        self.generator, self.seed, self.batch, self.accumulate, self.rank = generator, seed, batch, accumulate, rank

    def batches(self, first: int, last: int) -> Iterator[list[Batch]]:
        """The samples of each step, made when they are asked for."""
        size = self.batch // self.accumulate
        for step in range(first, last):
            position = self.rank * self.batch
            yield [self._batch(step, position + part * size, size) for part in range(self.accumulate)]

    def _batch(self, step: int, position: int, size: int) -> Batch:
        pairs = [self.generator.sample((self.seed, step, position + k)) for k in range(size)]
        names = [f"generated scan ({self.seed}, {step}, {position + k})" for k in range(size)]
        return Batch(torch.cat([scan for scan, _ in pairs]), torch.cat([target for _, target in pairs]), names)
