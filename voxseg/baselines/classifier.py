"""Volumes to classes with any of the layers that a U-Net is filled with: what the papers' classification tasks need."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from voxseg.networks.unet import LayerFactory
from voxseg.steerable import FieldType

__all__ = ["FieldClassifier"]


class FieldClassifier(nn.Module):
    """Blocks one after the other, the sum over all voxels, and a linear map of the fields that are left.

    Args:
        layers: makes the blocks.
        in_channels: of the volume.
        levels: field type after each block.
        strides: of each block, 1 or 2.
        out: field type of the outputs, such as ``8x0e``; their number are the classes.

    Shape:
        ``[B, in_channels, X, Y, Z]`` to ``[B, out.channels]``.

    Raises:
        ValueError: there is not one stride a level, or some output has no field from which to make it.
    """

    def __init__(
        self, layers: LayerFactory, in_channels: int, levels: Sequence[str], strides: Sequence[int], out: str
    ) -> None:
        super().__init__()
        if len(strides) != len(levels):
            raise ValueError(f"{len(levels)} levels need as many strides, got {len(strides)}")
        field, level, blocks = FieldType(f"{in_channels}x0e"), 0, []
        for following, stride in zip(levels, strides, strict=True):
            spacing = (2.0**level,) * 3
            blocks.append(layers.block(field, FieldType(following), spacing, level, (stride,) * 3))
            field, level = FieldType(following), level + (stride > 1)
        self.blocks = nn.Sequential(*blocks)
        self.read = layers.linear(field, FieldType(out))

    def forward(self, x: Tensor) -> Tensor:
        """Classify; see the class for shapes."""
        features = self.blocks(x)
        # Of unit size for noise, and not thinned out by empty space as a mean would be.
        pooled = features.sum((2, 3, 4), keepdim=True) / math.sqrt(math.prod(features.shape[2:]))
        result: Tensor = self.read(pooled).flatten(1)
        return result
