"""3D Steerable CNNs: shells of Gaussians, a degree cut-off by radius, and a smooth stride.

M. Weiler, M. Geiger, M. Welling, W. Boomsma, T. Cohen, "3D Steerable CNNs: Learning Rotationally Equivariant Features
in Volumetric Data", NeurIPS 2018, arXiv:1807.02547.

A kernel between fields of degrees j (in) and l (out) has to fulfil ``K(R r) = D_l(R) K(r) D_j(R)^-1`` (eq. 8). All
solutions are combinations of (eqs. 13 to 15)

    K(r) = sum_{n, J} w[n, J]  phi_n(|r|)  Q_J Y_J(r / |r|),      |j - l| <= J <= j + l

with Q_J the Clebsch-Gordan coefficients and the radial functions Gaussian shells,

    phi_n(|r|) = exp(-(|r| - R_n)^2 / 2 s^2),      R_n = 0, 1, 2, ... voxels,  s = 0.6.

On a shell of radius R_n a grid has too few voxels to tell high degrees apart: they alias into each other, and the
kernel is no longer equivariant. So shell n has only degrees up to a bound J_n; that of the authors' programs is
0, 3, 5, ... ("compromise"), 0, 2, 4, ... being safer and 0, 4, 6, ... ("sfcnn") bolder. A strided convolution is one
of stride 1, then a Gaussian low-pass of width ``s = 1/2 sqrt(k^2 - 1)`` for stride k, then the sampling.

Non-linearities: a *gate* multiplies a field by the sigmoid of a scalar that a convolution makes for it (eq. 6 and
section 4.3); the *norm* non-linearity rescales a field to ``softplus(|v| - b)``.

What differs here: the norm before the non-linearity is voxseg's, over the channels of each voxel, in the place of a
batch norm; the low-pass has an even number of taps on axes of even size, which makes it exact under grid rotations; and
the skeleton for segmentation is voxseg's U-Net. Kernels, field types, coupling and gates are `voxseg.steerable`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxseg.networks import UNet
from voxseg.networks.layers import GAIN
from voxseg.networks.unet import Spacing, Triple
from voxseg.steerable import (
    FieldLinear,
    FieldNorm,
    FieldType,
    Gate,
    KernelBasis,
    Lattice,
    SolidHarmonicBasis,
    SteerableConv3d,
    solid_harmonics,
)
from voxseg.steerable.bases import lattice_for, tap_positions
from voxseg.steerable.separable import symmetric_padding
from voxseg.testing import grid_rotations

from .base import Baseline, Group, skeleton

__all__ = ["SE3CNN", "GaussianShells", "NormNonLinearity", "SE3Layers", "SmoothStride"]

Cutoff = Literal["conservative", "compromise", "sfcnn"]
Kernels = Literal["shells", "solid_harmonics"]
NonLinearity = Literal["gated", "norm"]

FIRST_BOUND = {"conservative": 2, "compromise": 3, "sfcnn": 4}
"""Highest degree on the shell of radius 1; it grows by two a voxel, and the centre has degree 0 alone."""


class GaussianShells:
    """Gaussian shells times spherical harmonics with a degree cut-off by radius (a `voxseg.steerable.KernelBasis`).

    Args:
        size: voxels along an axis of the kernel, odd; shells lie at 0, 1, ... (size - 1) / 2 voxels.
        sigma: width of a shell in voxels.
        cutoff: how the highest degree grows with the radius.
        max_degree: a further bound on all shells; the ablation of degrees sets it.
        spacing: mm between the voxels of its level.
    """

    def __init__(
        self,
        size: int = 5,
        sigma: float = 0.6,
        cutoff: Cutoff = "compromise",
        max_degree: int | None = None,
        spacing: float = 1.0,
    ) -> None:
        if size < 3 or size % 2 == 0 or sigma <= 0 or cutoff not in FIRST_BOUND:
            raise ValueError(f"size is odd and at least 3, sigma positive, cutoff one of {', '.join(FIRST_BOUND)}")
        self.size, self.sigma, self.spacing = size, sigma, spacing
        bounds = [0, *(FIRST_BOUND[cutoff] + 2 * n for n in range(size // 2))]
        self.bounds = [min(bound, max_degree) if max_degree is not None else bound for bound in bounds]
        self.max_degree = max(self.bounds)

    def radii(self, degree: int) -> list[int]:
        """Shells that have a degree."""
        return [n for n, bound in enumerate(self.bounds) if bound >= degree]

    def radial_functions(self, degree: int) -> int:
        """Number of such shells."""
        return len(self.radii(degree))

    def positions(self, lattice: Lattice) -> tuple[Tensor, Tensor, Tensor]:
        """Tap positions along x, y and z in mm."""
        reach = self.size / 2 - 0.5
        x, y, z = (tap_positions(reach, centred) * self.spacing for centred in lattice.centred)
        return x, y, z

    def filters(self, lattice: Lattice) -> list[Tensor]:
        """Filters over the voxels of the dense kernel, flattened in (x, y, z) order, of unit energy each."""
        points = torch.cartesian_prod(*self.positions(lattice)) / self.spacing
        radius = points.norm(dim=-1)
        directions = points / radius.clamp(min=1e-12)[:, None]
        filters = []
        for degree in range(self.max_degree + 1):
            shells = torch.stack([torch.exp(-((radius - n) ** 2) / (2 * self.sigma**2)) for n in self.radii(degree)])
            sampled = shells[:, None] * solid_harmonics(degree, directions).T  # at the centre 0 for degree > 0
            filters.append(sampled / sampled.square().sum(-1).mean(-1).sqrt()[:, None, None])
        return filters


class SmoothStride(nn.Module):
    """Gaussian low-pass and sampling, component by component; sizes ``n`` become ``ceil(n / stride)``.

    Args:
        stride: 1 or 2 per axis.

    Shape:
        ``[B, C, X, Y, Z]`` to ``[B, C, ceil(X / stride), ...]``.
    """

    def __init__(self, stride: Triple) -> None:
        super().__init__()
        self.stride = stride

    def taps(self, stride: int, centred: bool) -> Tensor:
        """The low-pass of one axis, ``[n]`` of unit sum."""
        sigma = 0.5 * math.sqrt(stride**2 - 1)
        positions = tap_positions(2.5 * sigma, centred)
        weights = torch.exp(-positions.square() / (2 * sigma**2))
        return weights / weights.sum()

    def forward(self, x: Tensor) -> Tensor:
        """Blur and sample; see the class for shapes."""
        centred = lattice_for(x.shape[2:], (1.0, 1.0, 1.0), self.stride).centred
        channels = x.shape[1]
        for axis, stride in enumerate(self.stride):
            if stride == 1:
                continue
            taps = self.taps(stride, centred[axis]).to(x)
            shape, strides, padding = [1, 1, 1], [1, 1, 1], [0, 0, 0]
            shape[axis], strides[axis] = len(taps), stride
            padding[axis] = symmetric_padding(len(taps), stride)
            kernel = taps.view(1, 1, *shape).expand(channels, 1, *shape)
            x = F.conv3d(x, kernel, None, strides, padding, groups=channels)
        return x


class NormNonLinearity(nn.Module):
    """``v softplus(|v| - b) / |v|`` for fields of degree above 0 (and odd scalars), SiLU for 0e scalars.

    A small number under the root makes it smooth where a field vanishes.

    Args:
        field: type of input and output.

    Shape:
        ``[B, field.channels, X, Y, Z]`` to the same.
    """

    def __init__(self, field: FieldType) -> None:
        super().__init__()
        self.field = self.field_in = field
        self.bias = nn.Parameter(torch.zeros(sum(i.multiplicity for i in field.irreps if i.name != "0e")))

    def forward(self, x: Tensor) -> Tensor:
        """Rescale; see the class for shapes."""
        parts, used = [], 0
        for irrep, channels in self.field.slices():
            part = x[:, channels]
            if irrep.name == "0e":
                parts.append(F.silu(part))
                continue
            fields = part.unflatten(1, (irrep.multiplicity, irrep.components))
            norm = (fields.square().sum(2, keepdim=True) + 1e-2).sqrt()
            bias = self.bias[used : used + irrep.multiplicity].view(1, -1, 1, 1, 1, 1)
            used += irrep.multiplicity
            parts.append((fields * F.softplus(norm - bias) / norm).flatten(1, 2))
        return torch.cat(parts, 1)


class SE3Layers:
    """A factory of this paper's layers for the skeletons of voxseg (`voxseg.networks.unet.LayerFactory`).

    Args:
        size: see `GaussianShells`, as the next three.
        sigma: width of a shell.
        cutoff: of degrees by radius.
        max_degree: bound on all shells.
        nonlinearity: ``gated`` or ``norm``.
        group: ``SO3``, or ``O3`` for couplings that keep parity.
        norm: whether fields are normalised before the non-linearity, and scalars have a bias. Where all voxels are
            summed in the end, as in a classifier of small shapes, both would make empty space as loud as the shape.
        kernels: the paper's ``shells``, or ``solid_harmonics``: voxseg's own, Gaussians of width `sigma`, which a grid
            samples with a smaller error, cut off at `size` voxels (`cutoff` and `max_degree` then do not matter).
    """

    def __init__(
        self,
        size: int = 5,
        sigma: float = 0.6,
        cutoff: Cutoff = "compromise",
        max_degree: int | None = None,
        nonlinearity: NonLinearity = "gated",
        group: Group = "SO3",
        norm: bool = True,
        kernels: Kernels = "shells",
    ) -> None:
        self.size, self.sigma, self.cutoff, self.max_degree = size, sigma, cutoff, max_degree
        self.nonlinearity, self.group, self.norm, self.kernels = nonlinearity, group, norm, kernels

    def block(
        self, field_in: FieldType, field_out: FieldType, spacing: Spacing, level: int, stride: Triple
    ) -> nn.Module:
        """Convolution, smooth stride, norm, non-linearity."""
        del level
        act = Gate(field_out) if self.nonlinearity == "gated" else NormNonLinearity(field_out)
        convolution = SteerableConv3d(field_in, act.field_in, self._basis(spacing[0]), spacing, group=self.group)
        smooth = [SmoothStride(stride)] if max(stride) > 1 else []
        if not self.norm:
            for weight in convolution.weights.values():
                weight.data *= GAIN
            convolution.bias.requires_grad_(False)  # stays zero, so that empty space stays empty
            return nn.Sequential(convolution, *smooth, act)
        norm = FieldNorm(act.field_in)
        nn.init.constant_(norm.scale, GAIN)
        return nn.Sequential(convolution, *smooth, norm, act)

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module:
        """Mixing of fields of one kind."""
        return FieldLinear(field_in, field_out)

    def _basis(self, voxel: float) -> KernelBasis:
        if self.kernels == "solid_harmonics":
            return SolidHarmonicBasis(self.sigma * voxel, voxel, (self.size - 1) / 2 / self.sigma)
        return GaussianShells(self.size, self.sigma, self.cutoff, self.max_degree, voxel)


class SE3CNN(Baseline):
    """A 3D steerable CNN for segmentation; two convolutions on every level but the finest, which has one.

    Args:
        in_channels: of the volume.
        out_channels: of the logits.
        levels: field types, finest first.
        size: voxels along an axis of the kernels.
        sigma: width of a Gaussian shell in voxels.
        cutoff: ``conservative``, ``compromise`` or ``sfcnn``: how degrees grow with the radius.
        nonlinearity: ``gated`` or ``norm``.
        group: ``SO3``, or ``O3`` for couplings that keep parity.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: Sequence[str] = ("4x0e+2x1e+1x2e", "8x0e+4x1e+2x2e", "16x0e+8x1e+4x2e"),
        size: int = 5,
        sigma: float = 0.6,
        cutoff: Cutoff = "compromise",
        nonlinearity: NonLinearity = "gated",
        group: Group = "SO3",
    ) -> None:
        super().__init__()
        self.group = group
        layers = SE3Layers(size, sigma, cutoff, None, nonlinearity, group)
        self.unet = UNet(skeleton(in_channels, out_channels, levels, group), layers)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]``."""
        logits = self.unet(x)
        assert isinstance(logits, Tensor)
        return logits

    def rotations(self) -> list[Tensor]:
        """The 24 rotations, and with O(3) the reflections."""
        return grid_rotations(improper=self.group == "O3")
