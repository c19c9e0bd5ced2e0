"""Volumes to classes with any of the layers that a U-Net is filled with: what the papers' classification tasks need."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from voxseg.networks.unet import LayerFactory
from voxseg.steerable import FieldType

__all__ = ["FieldClassifier", "PooledNorm"]


class PooledNorm(nn.Module):
    """Batch norm of what a whole volume was summed to: volumes of one kind differ by little in what is summed.

    Each 0e scalar loses its mean over the batch and is divided by its deviation; fields of any other irrep are divided
    by the root mean square of their components, all of one irrep alike, which commutes with rotations and reflections.
    In evaluation the running means of the training are used.

    Args:
        field: type of input and output.
        momentum: of the running means.

    Shape:
        ``[B, field.channels, 1, 1, 1]`` to the same.
    """

    def __init__(self, field: FieldType, momentum: float = 0.1) -> None:
        super().__init__()
        self.field, self.momentum = field, momentum
        self.mean: Tensor
        self.square: Tensor
        self.register_buffer("mean", torch.zeros(field.channels))
        self.register_buffer("square", torch.ones(field.channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; see the class for shapes."""
        mean, square = self.mean, self.square
        if self.training:
            mean, square = self._moments(x.flatten(1))
            self.mean.lerp_(mean.detach().to(self.mean), self.momentum)
            self.square.lerp_(square.detach().to(self.square), self.momentum)
        shape = (1, -1, 1, 1, 1)
        return (x - mean.view(shape)) * (square + 1e-8).rsqrt().view(shape)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What each channel loses, and the mean square that it is divided by the root of."""
        means, squares = [], []
        for irrep, channels in self.field.slices():
            part = x[:, channels]
            if irrep.name == "0e":
                means.append(part.mean(0))
                squares.append(part.var(0, unbiased=False))
            else:
                means.append(torch.zeros_like(part[0]))
                squares.append(part.square().mean().expand(part.shape[1]))
        return torch.cat(means), torch.cat(squares)


class FieldClassifier(nn.Module):
    """Blocks one after the other, the sum over all voxels, its batch norm, and a linear map of what is left.

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
        self.norm = PooledNorm(field)
        self.read = layers.linear(field, FieldType(out))

    def forward(self, x: Tensor) -> Tensor:
        """Classify; see the class for shapes."""
        features = self.blocks(x)
        pooled = features.sum((2, 3, 4), keepdim=True) / math.sqrt(math.prod(features.shape[2:]))
        result: Tensor = self.read(self.norm(pooled)).flatten(1)
        return result
