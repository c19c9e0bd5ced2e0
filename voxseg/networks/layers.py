"""The two families of layers that fill the skeleton: steerable fields, and the plain twin."""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..steerable import (
    FieldLinear,
    FieldNorm,
    FieldType,
    Gate,
    GatedNorm,
    KernelBasis,
    PointwiseConv3d,
    ShellBasis,
    SolidHarmonicBasis,
    SteerableConv3d,
    beside_upsampled,
    gated_norm,
)
from .config import NetworkConfig

GAIN = 5 / 3
"""A gate or SiLU leaves about 0.6 of a field of unit size: what comes before it starts with the inverse."""

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]


class Block(nn.Sequential):
    """A convolution, its norm and its gate; for scalars alone the gate is SiLU.

    The norm's centring is multiplied into the convolution's weights, and norm and gate are computed together. Where
    gradients are not asked for, or with `recompute`, all of a separable block is done slab by slab: the convolution's
    output is never whole.

    Args:
        convolution: makes the channels that the norm takes.
        norm: what follows it.
        gate: what follows the norm.
        recompute: whether the backward pass of a separable block computes everything again in place of keeping it.
    """

    def __init__(self, convolution: nn.Module, norm: FieldNorm, gate: Gate, recompute: bool = False) -> None:
        super().__init__(convolution, norm, gate)
        self.recompute = recompute
        self.folded = False

    def forward(self, x: Tensor, coarse: Tensor | None = None, head: nn.Module | None = None) -> Tensor:
        """``[B, C_in, X, Y, Z]`` to ``[B, C_out, X', Y', Z']``.

        Args:
            x: the input, or its first channels.
            coarse: as in `SteerableConv3d.forward`.
            head: mixes the channels of each voxel, with `affine`; its output is returned in place of the block's.
        """
        convolution, norm, gate = self
        assert isinstance(norm, FieldNorm)
        assert isinstance(gate, Gate)
        constants = {} if self.folded else {"after": norm.centring}
        if getattr(convolution, "separable", False) and (self.recompute or not torch.is_grad_enabled()):
            then = partial(GatedNorm.of, norm, gate, head)  # type: ignore[arg-type]
            result: Tensor = convolution(x, coarse=coarse, then=then, **constants)
            return result
        y = gated_norm(convolution(x, coarse=coarse, **constants), norm, gate)
        return y if head is None else head(y)

    @torch.no_grad()
    def fold(self) -> Block:
        """A copy for inference, with constant weights."""
        convolution, norm, gate = self
        assert isinstance(convolution, (SteerableConv3d, PlainConv3d))
        assert isinstance(norm, FieldNorm)
        assert isinstance(gate, Gate)
        folded = Block(convolution.fold(norm.centring), copy.deepcopy(norm), copy.deepcopy(gate))
        folded.folded = True
        return folded


class SteerableLayers:
    """Steerable convolution, norm per voxel, gate."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config

    def block(
        self, field_in: FieldType, field_out: FieldType, spacing: Spacing, level: int, stride: Triple
    ) -> nn.Module:
        """A steerable block; kernels are in mm, as wide as ``sigma`` voxels of the level on the network's own grid."""
        gate = Gate(field_out)
        convolution = SteerableConv3d(
            field_in,
            gate.field_in,
            self._basis(level, max(stride) > 1),
            spacing,
            stride,
            self.config.group,
            self.config.dense,
        )
        recompute = self.config.checkpointing and convolution.separable
        return Block(convolution, _norm(gate.field_in), gate, recompute)

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module:
        """Mixing of fields of one kind."""
        return FieldLinear(field_in, field_out)

    def _basis(self, level: int, strided: bool) -> KernelBasis:
        config, voxel = self.config, self.config.spacing * 2**level
        if config.basis == "shells":
            return ShellBasis(config.shell_diameter * voxel, voxel, config.shell_count)
        return SolidHarmonicBasis((config.sigma_down if strided else config.sigma) * voxel, voxel)


class PlainLayers:
    """Ordinary convolution, norm per voxel, SiLU, with as many channels as the field type has components."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config

    def block(
        self, field_in: FieldType, field_out: FieldType, spacing: Spacing, level: int, stride: Triple
    ) -> nn.Module:
        """A plain block; spacing and level do not matter, because its kernels are in voxels."""
        del spacing, level
        convolution = PlainConv3d(field_in.channels, field_out.channels, self.config.plain_kernel, stride)
        scalars = FieldType(f"{field_out.channels}x0e")
        return Block(convolution, _norm(scalars), Gate(scalars))

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module:
        """A plain 1x1x1 convolution."""
        return PointwiseConv3d(field_in.channels, field_out.channels)


def _norm(field: FieldType) -> FieldNorm:
    norm = FieldNorm(field)
    nn.init.constant_(norm.scale, GAIN)
    return norm


class PlainConv3d(nn.Conv3d):
    """``Conv3d`` with zeros at the border such that ``ceil(n / stride)`` samples come out.

    Where the zeros cannot be even, there is one more at the far end.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: Triple) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride)

    def forward(self, x: Tensor, after: Tensor | None = None, coarse: Tensor | None = None) -> Tensor:
        """``[B, C_in, X, Y, Z]`` to ``[B, C_out, ceil(X / stride), ...]``; the rest as in `SteerableConv3d.forward`."""
        x = beside_upsampled(x, coarse)
        weight, bias = self.weight, self.bias
        if after is not None:
            weight = torch.einsum("oixyz,op->pixyz", weight, after)
            bias = bias if bias is None else bias @ after
        padding: list[int] = []
        for n, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
            padding += [total // 2, total - total // 2]
        return self._conv_forward(F.pad(x, padding), weight, bias)

    @torch.no_grad()
    def fold(self, after: Tensor | None = None) -> PlainConv3d:
        """A copy with `after` multiplied into its weights."""
        folded = copy.deepcopy(self)
        if after is not None:
            folded.weight.copy_(torch.einsum("oixyz,op->pixyz", self.weight, after))
            if folded.bias is not None:
                folded.bias.copy_(folded.bias @ after)
        return folded
