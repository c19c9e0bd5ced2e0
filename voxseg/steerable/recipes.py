"""Volumes that are not kept for the backward pass, but made again from little, a few planes at a time.

What the first convolution of a network makes of a scan is among the largest volumes of a training step, because it is
on the finest grid, and the cheapest to compute, because a scan has few channels. Those who read it in the forward pass
need it again in the backward pass, and go through it in slabs from the lowest plane to the highest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import sample_rows
from .nonlinearity import GatedNorm
from .sources import Source
from .ways import MixAfter, MixBefore

_NAME = "_voxseg_recipe"


@dataclass(frozen=True)
class Recipe:
    """How a separable convolution and what follows it made a volume.

    Attributes:
        x: what was convolved, ``[B, C_in, X, Y, Z]`` in ``channels_last_3d``; has no gradient.
        way: how.
        bias: added at every voxel.
        then: what followed.
        grid: of the volume.
    """

    x: Tensor
    way: MixBefore | MixAfter
    bias: Tensor
    then: GatedNorm
    grid: tuple[int, int, int]

    def attach(self, volume: Tensor) -> None:
        """Remember that this made a volume, for as long as nobody writes into it."""
        setattr(volume, _NAME, (self, volume._version))

    @staticmethod
    def of(volume: Tensor) -> Recipe | None:
        """The recipe of a volume that is as it was made."""
        recipe, version = getattr(volume, _NAME, (None, 0))
        return recipe if version == volume._version else None

    def samples(self) -> Iterator[RemadePlanes]:
        """Each sample of the volume."""
        for number in range(len(self.x)):
            yield RemadePlanes(self, number)


class RemadePlanes:
    """One sample ``[X, Y, Z, C]``, made as it is read; planes that the last slab held too are not made twice.

    Args:
        recipe: of the volume.
        number: of the sample.
    """

    def __init__(self, recipe: Recipe, number: int) -> None:
        self.shape = (*recipe.grid, recipe.then.channels)
        self._recipe = recipe
        self._source = Source(sample_rows(recipe.x, number), None)
        self._first, self._held = 0, recipe.x.new_empty(0, *self.shape[1:])

    def __getitem__(self, planes: slice) -> Tensor:
        """Planes from one to before another."""
        if planes.start < self._first:
            self._held = self._held[:0]
        known = self._held[planes.start - self._first :]
        self._held = torch.cat([known, self._made(slice(planes.start + len(known), planes.stop))])
        self._first = planes.start
        return self._held[: planes.stop - planes.start]

    def _made(self, planes: slice) -> Tensor:
        recipe = self._recipe
        result = recipe.x.new_empty(max(planes.stop - planes.start, 0), *self.shape[1:])
        if len(result):
            convolve_slab(recipe.way, self._source, planes, recipe.bias, recipe.then, result)
        return result


def convolve_slab(
    way: MixBefore | MixAfter, source: Source, part: slice, bias: Tensor, then: GatedNorm | None, target: Tensor
) -> None:
    """Set ``target``, ``[n, Y, Z, C]``, to planes of a convolution's output, and what is done with its voxels."""
    convolved = target if then is None else target.new_empty(*target.shape[:3], way.mix.shape[2])
    way.forward(way.along_x(source, part), bias, convolved)
    if then is not None:
        then.forward(convolved.flatten(0, 2), target.flatten(0, 2))
