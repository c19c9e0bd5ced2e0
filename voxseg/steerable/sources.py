"""What a separable convolution reads and the gradient that it gives back, a few planes at a time.

The first convolution of a decoder level sees features of its own grid and those of the next coarser one, upsampled.
Made whole, the upsampled features, both side by side, and the gradients of both would be the largest volumes of a
training step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .layout import empty_volume, sample_rows
from .resampling import add_upsample_adjoint, upsample_planes


class Planes(Protocol):
    """``[X, Y, Z, C]``, of which a few planes along X are read at a time; a tensor, or what makes them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(X, Y, Z, C)``."""

    def __getitem__(self, planes: slice, /) -> Tensor:
        """``[n, Y, Z, C]``."""


@dataclass(frozen=True)
class Source:
    """The input of one sample.

    Attributes:
        fine: ``[X, Y, Z, C]``.
        coarse: ``[X', Y', Z', C']``, to be upsampled to the grid of ``fine``; its channels are the last.
    """

    fine: Planes
    coarse: Tensor | None

    @classmethod
    def of(cls, fine: Iterable[Planes], coarse: Tensor | None) -> Iterator[Source]:
        """Of each sample of ``fine``, and of ``coarse``, ``[B, C', X', Y', Z']``, whose memory is shared."""
        for number, sample in enumerate(fine):
            yield cls(sample, None if coarse is None else sample_rows(coarse, number))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(X, Y, Z, C + C')``."""
        x, y, z, channels = self.fine.shape
        return x, y, z, channels + (0 if self.coarse is None else self.coarse.shape[3])

    def planes(self, first: int, last: int) -> Tensor:
        """Planes ``first`` to ``last - 1`` along X, ``[last - first, Y, Z, C + C']``."""
        slab = self.fine[first:last]
        if self.coarse is None:
            return slab
        return torch.cat([slab, upsample_planes(self.coarse, self.fine.shape[:3], first, last)], 3)


class Gradient:
    """The gradients of the volumes that a convolution reads.

    Args:
        shape: of the fine volume, ``[B, C, X, Y, Z]``.
        coarse: ``[B, C', X', Y', Z']`` or nothing.
        like: has the type and the device of both.

    Attributes:
        fine: the gradient of the fine volume, once all planes have been added.
        coarse: that of ``coarse``.
    """

    def __init__(self, shape: tuple[int, ...], coarse: Tensor | None, like: Tensor) -> None:
        batch, channels, *grid = shape
        self.fine = empty_volume(like, channels, (batch, *grid))
        self.coarse = None if coarse is None else torch.zeros_like(coarse, memory_format=torch.channels_last_3d)
        self._reached = [0] * batch  # planes of each sample that have been set

    def add(self, number: int, first: int, planes: Tensor) -> None:
        """Add to a sample.

        Args:
            number: of the sample.
            first: the first of the planes along X; slabs come from the lowest to the highest.
            planes: ``[n, Y, Z, C + C']``.
        """
        sample, known = sample_rows(self.fine, number), self._reached[number] - first
        fine = planes[..., : sample.shape[3]]
        sample[first : first + known] += fine[:known]
        sample[first + known : first + len(planes)] = fine[known:]
        self._reached[number] = first + len(planes)
        if self.coarse is not None:
            upsampled = planes[..., sample.shape[3] :]
            add_upsample_adjoint(sample_rows(self.coarse, number), upsampled, sample.shape[:3], first)
