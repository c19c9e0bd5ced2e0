"""e3nn's gate block on voxels: the reference implementation, made of e3nn's own modules.

M. Geiger and T. Smidt, "e3nn: Euclidean Neural Networks", arXiv:2207.09453 (2022).

A point convolution sums tensor products of neighbours' features with spherical harmonics of the way to them, with
weights that depend on the distance (section 3.1 of the paper):

    f'(p) = 1/sqrt(z) sum_q  f(q)  (x)_{w(|q - p|)}  Y((q - p) / |q - p|)

On voxels the neighbours q lie on a lattice, so that the tensor product with Y is a kernel evaluated once, and the sum
an ordinary convolution:

    K[o, i](r) = sum_n phi_n(|r|) sum_paths w[n, path]  C(l_i, l_f -> l_o)[i, f, o]  Y_{l_f}[f](r / |r|)

with phi_n e3nn's bumps of finite support (`soft_one_hot_linspace`, basis "smooth_finite", with cutoff), C and Y within
e3nn's `FullyConnectedTensorProduct`, whose matrix `right` gives. The centre has a `Linear` of its own. Then follow
e3nn's `BatchNorm` and its `Gate`: scalars through SiLU (0e) or tanh (0o), every other field times the sigmoid of a
scalar of its own.

What differs from e3nn's own voxel convolution: the lattice may lie between voxels, so that stride 2 is exact on even
grids; kernels are scaled by the energy of the bumps, not by the number of taps. The U-Net around the
blocks is voxseg's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from e3nn import o3
from e3nn.math import soft_one_hot_linspace
from e3nn.nn import BatchNorm, Gate
from torch import Tensor, nn

from voxseg.networks import UNet
from voxseg.networks.unet import Spacing, Triple
from voxseg.steerable import FieldType, Lattice
from voxseg.steerable.bases import lattice_for, tap_positions
from voxseg.steerable.layout import as_rows, as_volume
from voxseg.steerable.separable import symmetric_padding
from voxseg.testing import grid_rotations

from .base import Baseline, Group, sampled, skeleton

__all__ = ["E3nnConvolution", "E3nnGateBlock", "E3nnGates", "E3nnLayers"]

Norm = Literal["instance", "batch", "none"]


class E3nnConvolution(nn.Module):
    """The convolution of the module's docstring.

    Args:
        field_in: type of the input.
        field_out: type of the output; only what the input can make is allowed.
        diameter: of the kernel's ball, in voxels.
        radial: number of bumps phi_n.
        filter_degree: highest l_f.
        stride: 1 or 2 per axis.
        group: with ``O3`` the harmonics carry their parity (-1)^l, otherwise all fields are even.

    Shape:
        ``[B, C_in, X, Y, Z]`` to ``[B, C_out, ceil(X / stride), ...]``.
    """

    def __init__(
        self,
        field_in: str,
        field_out: str,
        diameter: float = 5.0,
        radial: int = 3,
        filter_degree: int = 2,
        stride: Triple = (1, 1, 1),
        group: Group = "SO3",
    ) -> None:
        super().__init__()
        self.diameter, self.radial, self.stride = diameter, radial, stride
        self.harmonics = o3.Irreps.spherical_harmonics(filter_degree, p=-1 if group == "O3" else 1)
        self.product = o3.FullyConnectedTensorProduct(
            field_in, self.harmonics, field_out, shared_weights=False, compile_right=True
        )
        self.weight = nn.Parameter(torch.randn(radial, self.product.weight_numel))
        self.centre = o3.Linear(field_in, field_out)

    def kernel(self, lattice: Lattice | None = None) -> Tensor:
        """The tensor product's part of the kernel, ``[C_out, C_in, nx, ny, nz]``, without the centre's `Linear`."""
        lattice = lattice or Lattice((1.0, 1.0, 1.0))
        axes = [tap_positions(self.diameter / 2 - 0.5, centred) for centred in lattice.centred]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).to(self.weight)
        bumps = soft_one_hot_linspace(
            points.norm(dim=-1), 0.0, self.diameter / 2, self.radial, "smooth_finite", cutoff=True
        )
        bumps = bumps / bumps.square().sum((0, 1, 2)).clamp(min=1e-6).sqrt() / math.sqrt(self.radial)
        harmonics = o3.spherical_harmonics(self.harmonics, points, normalize=True, normalization="component")
        # A vanishing way to the neighbour has no direction.
        harmonics = harmonics * (points.norm(dim=-1, keepdim=True) > 0)
        kernel: Tensor = self.product.right(harmonics, bumps @ self.weight)
        return kernel.permute(4, 3, 0, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; see the class for shapes."""
        lattice = lattice_for(x.shape[2:], (1.0, 1.0, 1.0), self.stride)
        kernel = self.kernel(lattice).to(x.dtype)
        padding = [symmetric_padding(n, stride) for n, stride in zip(kernel.shape[2:], self.stride, strict=True)]
        y = F.conv3d(x, kernel, None, self.stride, padding)
        at_centre = x if self.stride == (1, 1, 1) else sampled(x, self.stride)
        return y + _on_rows(self.centre, at_centre)


class E3nnGateBlock(nn.Module):
    """Convolution, e3nn's `BatchNorm`, e3nn's `Gate`.

    Args:
        field_in: type of the input.
        field_out: type of the output.
        stride: of the convolution.
        group: see `E3nnConvolution`.
        norm: ``instance`` normalises over each volume, ``batch`` over a batch with running means, ``none`` not at all.
        **convolution: further arguments of `E3nnConvolution`.
    """

    def __init__(
        self,
        field_in: FieldType | str,
        field_out: FieldType | str,
        stride: Triple = (1, 1, 1),
        group: Group = "SO3",
        norm: Norm = "instance",
        **convolution: float,
    ) -> None:
        super().__init__()
        irreps = o3.Irreps(str(field_out))
        scalars = o3.Irreps([(n, ir) for n, ir in irreps if ir.l == 0])
        gated = o3.Irreps([(n, ir) for n, ir in irreps if ir.l > 0])
        gates = o3.Irreps([(gated.num_irreps, "0e")]) if gated.num_irreps else o3.Irreps([])
        acts = [torch.nn.functional.silu if ir.p > 0 else torch.tanh for _, ir in scalars]
        self.gate = Gate(scalars, acts, gates, [torch.sigmoid] * len(gates), gated)
        before = self.gate.irreps_in
        self.convolution = E3nnConvolution(
            str(FieldType(field_in)),
            str(before),
            stride=stride,
            group=group,
            **convolution,  # type: ignore[arg-type]
        )
        self.norm = None if norm == "none" else BatchNorm(before, instance=norm == "instance", eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, X, Y, Z]`` to ``[B, C_out, X', Y', Z']``."""
        y = self.convolution(x)
        if self.norm is not None:
            # e3nn has channels last and any number of axes between them and the batch.
            y = self.norm(y.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        return _on_rows(self.gate, y)


class E3nnLinear(nn.Module):
    """e3nn's `Linear` at each voxel."""

    def __init__(self, field_in: FieldType, field_out: FieldType) -> None:
        super().__init__()
        self.linear = o3.Linear(str(field_in), str(field_out), biases=True)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, X, Y, Z]`` to ``[B, C_out, X, Y, Z]``."""
        return _on_rows(self.linear, x)


class E3nnLayers:
    """A factory of e3nn's layers for the skeletons of voxseg (`voxseg.networks.unet.LayerFactory`).

    Args:
        group: see `E3nnConvolution`.
        norm: see `E3nnGateBlock`.
        **convolution: further arguments of `E3nnConvolution`.
    """

    def __init__(self, group: Group = "SO3", norm: Norm = "instance", **convolution: float) -> None:
        self.group, self.norm, self.convolution = group, norm, convolution

    def block(
        self, field_in: FieldType, field_out: FieldType, spacing: Spacing, level: int, stride: Triple
    ) -> nn.Module:
        """A gate block; spacing and level do not matter, because kernels are in voxels."""
        del spacing, level
        return E3nnGateBlock(field_in, field_out, stride, self.group, self.norm, **self.convolution)

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module:
        """Mixing of fields of one kind."""
        return E3nnLinear(field_in, field_out)


class E3nnGates(Baseline):
    """A U-Net of e3nn's gate blocks; two convolutions on every level but the finest, which has one.

    Args:
        in_channels: of the volume.
        out_channels: of the logits.
        levels: field types, finest first.
        diameter: of the kernels, in voxels of their level.
        radial: bumps along the radius.
        filter_degree: highest degree of the kernels' harmonics.
        group: ``SO3``, or ``O3`` for couplings that keep parity.
        norm: ``instance``, ``batch`` or ``none``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: Sequence[str] = ("4x0e+2x1e+1x2e", "8x0e+4x1e+2x2e", "20x0e+10x1e+5x2e"),
        diameter: float = 5.0,
        radial: int = 3,
        filter_degree: int = 2,
        group: Group = "SO3",
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        self.group = group
        layers = E3nnLayers(group, norm, diameter=diameter, radial=radial, filter_degree=filter_degree)
        # e3nn's generated code has constants that become buffers when it is copied, as the averaged weights of a
        # training are: without a first copy here, weights of a copy would not fit a network made anew.
        self.unet = copy.deepcopy(UNet(skeleton(in_channels, out_channels, levels, group), layers))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]``."""
        logits = self.unet(x)
        assert isinstance(logits, Tensor)
        return logits

    def rotations(self) -> list[Tensor]:
        """The 24 rotations, and with O(3) the reflections."""
        return grid_rotations(improper=self.group == "O3")


def _on_rows(module: nn.Module, x: Tensor) -> Tensor:
    """A module of e3nn, whose channels come last, at each voxel."""
    return as_volume(module(as_rows(x)), (x.shape[0], *x.shape[2:]))
