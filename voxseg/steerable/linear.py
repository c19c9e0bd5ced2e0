"""Mixing of fields of the same kind at each voxel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fields import FieldType
from .layout import as_rows, as_volume


def channel_bias(field: FieldType, bias: Tensor) -> Tensor:
    """The bias of the 0e scalars spread over all channels ``[C]``: zero elsewhere, as a constant vector would point."""
    parts, used = [], 0
    for irrep in field.irreps:
        count = irrep.multiplicity if irrep.name == "0e" else 0
        parts.append(bias[used : used + count] if count else bias.new_zeros(irrep.channels))
        used += count
    return torch.cat(parts)


class PointwiseConv3d(nn.Conv3d):
    """A plain ``Conv3d`` of one voxel, run as a product of matrices: some sizes have no fast convolution on CPUs."""

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True) -> None:
        super().__init__(channels_in, channels_out, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, X, Y, Z]`` to ``[B, C_out, X, Y, Z]``."""
        return _at_each_voxel(x, *self.affine())

    def affine(self) -> tuple[Tensor, Tensor | None]:
        """``[C_out, C_in]`` and ``[C_out]``."""
        return self.weight.flatten(1), self.bias


def _at_each_voxel(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return as_volume(F.linear(as_rows(x), matrix, bias), (x.shape[0], *x.shape[2:]))


class FieldLinear(nn.Module):
    """A 1x1x1 convolution that commutes with rotations: fields of one irrep are mixed among themselves (Schur's lemma).

    Args:
        field_in: type of the input.
        field_out: type of the output.
        bias: add a learned constant to the scalars (0e).

    Shape:
        ``[B, field_in.channels, X, Y, Z]`` to ``[B, field_out.channels, X, Y, Z]``.

    Raises:
        ValueError: if the input holds no field of some output irrep.
    """

    def __init__(self, field_in: FieldType | str, field_out: FieldType | str, bias: bool = True) -> None:
        super().__init__()
        self.field_in, self.field_out = FieldType(field_in), FieldType(field_out)
        self.weights = nn.ParameterList()
        for out in self.field_out.irreps:
            count = sum(irrep.multiplicity for irrep in self.field_in.irreps if irrep.name == out.name)
            if count == 0:
                raise ValueError(f"'{self.field_in}' holds no {out.name} field from which to make {out}")
            self.weights.append(nn.Parameter(torch.randn(out.multiplicity, count) / math.sqrt(count)))
        scalars = self.field_out.scalars if bias else 0
        self.bias = nn.Parameter(torch.zeros(scalars)) if scalars else None

    def matrix(self) -> Tensor:
        """The full channel matrix ``[C_out, C_in]``."""
        rows = []
        for out, weight in zip(self.field_out.irreps, self.weights, strict=True):
            blocks, used = [], 0
            for irrep in self.field_in.irreps:
                if irrep.name == out.name:
                    part = weight[:, used : used + irrep.multiplicity].contiguous()
                    blocks.append(torch.kron(part, torch.eye(irrep.components, dtype=part.dtype, device=part.device)))
                    used += irrep.multiplicity
                else:
                    blocks.append(weight.new_zeros(out.channels, irrep.channels))
            rows.append(torch.cat(blocks, 1))
        return torch.cat(rows, 0)

    def affine(self) -> tuple[Tensor, Tensor | None]:
        """The full channel matrix, and the bias of each channel ``[C_out]``."""
        return self.matrix(), None if self.bias is None else channel_bias(self.field_out, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mix; see the class for shapes."""
        return _at_each_voxel(x, *self.affine())

    @torch.no_grad()
    def fold(self) -> PointwiseConv3d:
        """The same map as a plain 1x1x1 convolution with constant weights."""
        matrix, bias = self.affine()
        folded = PointwiseConv3d(self.field_in.channels, self.field_out.channels, bias=bias is not None)
        folded.weight.copy_(matrix[:, :, None, None, None])
        if bias is not None and folded.bias is not None:
            folded.bias.copy_(bias)
        return folded.requires_grad_(False)
