"""The steerable convolution, its dense form, and its folded form for inference.

Every kernel is ``K(r) = sum_paths w_path C(l_out, l_in, l) (phi(|r|) Y_l(r/|r|))`` with Clebsch-Gordan coefficients C,
which is the general solution of ``K(R r) = D_out(R) K(r) D_in(R)^-1`` (Weiler et al. 2018, arXiv:1807.02547, eq. 6-8),
truncated to l <= 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bases import KernelBasis, Lattice, SolidHarmonicBasis, lattice_for
from .fields import FieldType, Irrep
from .harmonics import wigner_3j
from .linear import channel_bias
from .nonlinearity import GatedNorm
from .resampling import beside_upsampled
from .separable import MOMENTS, AxisTaps, Taps, separable_convolution, symmetric_padding
from .spans import ChannelSpans
from .uncompiled import uncompiled

Group = Literal["SO3", "O3"]
Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
Then = Callable[[torch.dtype], GatedNorm]


class SteerableConv3d(nn.Module):
    """Convolution between two field types that commutes with rotations.

    With stride 2 on an axis of even size the output samples lie between input voxels, on an axis of odd size on every
    second voxel including both ends; in both cases the output grid is symmetric about the input's centre, so that the
    layer commutes with all grid rotations at every size, without padding the volume to a multiple of anything.

    Args:
        field_in: type of the input.
        field_out: type of the output.
        basis: kernel basis; a :class:`SolidHarmonicBasis` runs separably, any other densely.
        spacing: mm between input voxels along x, y, z.
        stride: 1 or 2 per axis.
        group: ``SO3`` couples fields regardless of parity; ``O3`` keeps only kernels that also commute with
            reflections.
        dense: run the dense kernel, which is faster on some devices; the result is the same.

    Shape:
        ``[B, field_in.channels, X, Y, Z]`` to ``[B, field_out.channels, X', Y', Z']``, with ``X' = ceil(X / stride)``.

    Raises:
        ValueError: if the group is ``SO3`` and a field is odd, a stride is not 1 or 2, or some output field has no path
            from the input.
    """

    def __init__(
        self,
        field_in: FieldType | str,
        field_out: FieldType | str,
        basis: KernelBasis,
        spacing: Spacing = (1.0, 1.0, 1.0),
        stride: Triple = (1, 1, 1),
        group: Group = "SO3",
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.field_in, self.field_out = FieldType(field_in), FieldType(field_out)
        self.basis, self.spacing, self.stride, self.group = basis, spacing, stride, group
        self.separable = isinstance(basis, SolidHarmonicBasis) and not dense
        if any(s not in (1, 2) for s in stride):
            raise ValueError(f"stride is 1 or 2 per axis, got {stride}")
        if group == "SO3" and any(irrep.parity < 0 for irrep in (*self.field_in.irreps, *self.field_out.irreps)):
            raise ValueError(
                f"SO(3) knows no parity: write only 'e' fields, got '{self.field_in}' and '{self.field_out}'"
            )
        self.weights = nn.ParameterDict()
        for o, irrep_out in enumerate(self.field_out.irreps):
            paths_in = [self._paths(irrep_out, irrep_in) for irrep_in in self.field_in.irreps]
            fan_in = sum(
                i.multiplicity * sum(map(self._radial, p)) for i, p in zip(self.field_in.irreps, paths_in, strict=True)
            )
            if fan_in == 0:
                raise ValueError(
                    f"no path leads from '{self.field_in}' to {irrep_out.name} "
                    f"with kernels up to degree {basis.max_degree}"
                )
            for i, (irrep_in, degrees) in enumerate(zip(self.field_in.irreps, paths_in, strict=True)):
                if degrees:
                    shape = (irrep_out.multiplicity, irrep_in.multiplicity, sum(map(self._radial, degrees)))
                    self.weights[f"{o}_{i}"] = nn.Parameter(torch.randn(shape) / math.sqrt(fan_in))
        self.bias = nn.Parameter(torch.zeros(self.field_out.scalars))
        # Coupled filters of each lattice met so far, [paths, 2 l_out + 1, 2 l_in + 1, elements]; constants, so not part
        # of the state.
        self._coupled: dict[tuple[Lattice, torch.device], dict[str, Tensor]] = {}
        self.spans = self._channel_spans() if self.separable else None

    @uncompiled  # the kernels depend on the grid by cached float arithmetic, which dynamo cannot trace
    def forward(
        self,
        x: Tensor,
        after: Tensor | None = None,
        coarse: Tensor | None = None,
        then: Then | None = None,
    ) -> Tensor:
        """Convolve; see the class for shapes.

        Args:
            x: the input, or its first channels.
            after: ``[C_out, C_out]``; the row of each voxel of the output is multiplied by it. It costs nothing,
                because the weights are.
            coarse: the other channels on the next coarser grid: ``conv(torch.cat([x, upsample(coarse, grid)], 1))``
                without making that volume, where the convolution is separable.
            then: for the type that is computed in, what :func:`.separable.separable_convolution` does afterwards; of
                a separable convolution alone.
        """
        channels = x.shape[1] + (0 if coarse is None else coarse.shape[1])
        if x.dim() != 5 or channels != self.field_in.channels:
            beside = "" if coarse is None else f" and {tuple(coarse.shape)}"
            raise ValueError(
                f"expected [B, {self.field_in.channels}, X, Y, Z] of type '{self.field_in}', "
                f"got {tuple(x.shape)}{beside}"
            )
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        lattice = lattice_for(x.shape[2:], self.spacing, self.stride)
        x, coarse = x.to(dtype), None if coarse is None else coarse.to(dtype)
        with torch.autocast(x.device.type, enabled=False):  # weights are multiplied out in their own precision
            bias = channel_bias(self.field_out, self.bias)
            weight = self._mix(lattice) if self.separable else self.dense_kernel(lattice)
            if after is not None:
                bias = bias @ after
                weight = weight @ after if self.separable else torch.einsum("oixyz,op->pixyz", weight, after)
        weight, bias = weight.to(dtype), bias.to(dtype)
        if self.separable:
            return separable_convolution(
                x, weight, bias, self._taps(lattice, x), self.spans, coarse, then and then(dtype)
            )
        return F.conv3d(beside_upsampled(x, coarse), weight, bias, self.stride, _padding(weight.shape[2:], self.stride))

    def dense_kernel(self, lattice: Lattice | None = None) -> Tensor:
        """The same operator as weights of an ordinary ``Conv3d``: ``[C_out, C_in, nx, ny, nz]``.

        Args:
            lattice: where the taps lie; by default that of an input of odd size.
        """
        lattice = lattice or Lattice(self.spacing)
        if not isinstance(self.basis, SolidHarmonicBasis):
            shape = [len(p) for p in self.basis.positions(lattice)]  # type: ignore[attr-defined]
            return self._mix(lattice).permute(2, 1, 0).reshape(self.field_out.channels, self.field_in.channels, *shape)
        mix = self._mix(lattice)
        x, y, z = (taps.kernels for taps in self._taps(lattice, mix))
        kernels = torch.stack([torch.einsum("a,b,c->abc", x[a], y[b], z[c]) for a, b, c in MOMENTS])
        return torch.einsum("mio,mabc->oiabc", mix, kernels)

    @torch.no_grad()
    def fold(self, after: Tensor | None = None) -> FoldedConv3d:
        """A module with constant weights that computes the same and knows nothing of fields."""
        return FoldedConv3d(self, after)

    def _paths(self, irrep_out: Irrep, irrep_in: Irrep) -> list[int]:
        """Kernel degrees that couple two fields."""
        low, high = abs(irrep_out.degree - irrep_in.degree), irrep_out.degree + irrep_in.degree
        degrees = range(low, min(high, self.basis.max_degree) + 1)
        parity = irrep_out.parity * irrep_in.parity
        return [degree for degree in degrees if self.group == "SO3" or parity == (-1) ** degree]

    def _radial(self, degree: int) -> int:
        return self.basis.radial_functions(degree)

    def _taps(self, lattice: Lattice, like: Tensor) -> Taps:
        assert isinstance(self.basis, SolidHarmonicBasis)
        axes = []
        for spacing, centred, stride in zip(lattice.spacing, lattice.centred, self.stride, strict=True):
            kernels = self.basis.taps(spacing, centred).to(like)
            axes.append(AxisTaps(kernels, stride))
        return axes[0], axes[1], axes[2]

    def _mix(self, lattice: Lattice) -> Tensor:
        """``[elements, C_in, C_out]``: the learned combination of coupled filters."""
        device = next(iter(self.weights.values())).device
        key = (lattice, device)
        if key not in self._coupled:
            self._coupled[key] = self._coupled_filters(lattice, device)
        coupled = self._coupled[key]
        columns = []
        for o, irrep_out in enumerate(self.field_out.irreps):
            blocks = []
            for i, irrep_in in enumerate(self.field_in.irreps):
                name = f"{o}_{i}"
                if name in self.weights:
                    weight = self.weights[name]
                    block = torch.einsum("uvp,poim->mviuo", weight, coupled[name].to(weight.dtype))
                    blocks.append(block.reshape(-1, irrep_in.channels, irrep_out.channels))
                else:
                    elements = next(iter(coupled.values())).shape[-1]
                    reference = next(iter(self.weights.values()))
                    blocks.append(reference.new_zeros(elements, irrep_in.channels, irrep_out.channels))
            columns.append(torch.cat(blocks, 1))
        return torch.cat(columns, 2)

    def _coupled_filters(self, lattice: Lattice, device: torch.device) -> dict[str, Tensor]:
        filters = self.basis.filters(lattice)
        coupled = {}
        for o, irrep_out in enumerate(self.field_out.irreps):
            for i, irrep_in in enumerate(self.field_in.irreps):
                parts = [
                    math.sqrt(irrep_out.components)
                    * torch.einsum(
                        "oif,rfm->roim", wigner_3j(irrep_out.degree, irrep_in.degree, degree), filters[degree]
                    )
                    for degree in self._paths(irrep_out, irrep_in)
                ]
                if parts:
                    coupled[f"{o}_{i}"] = torch.cat(parts).to(device)
        return coupled

    def _channel_spans(self) -> ChannelSpans:
        """Which channels of the input each moment couples to anything."""
        coupled = self._coupled_filters(Lattice(self.spacing), torch.device("cpu"))
        used = torch.zeros(len(MOMENTS), self.field_in.channels, dtype=torch.bool)
        for name, filters in coupled.items():
            irrep, channels = list(self.field_in.slices())[int(name.split("_")[1])]
            moments = filters.abs().amax((0, 1)) > 1e-9  # [2 l_in + 1, moments]
            used[:, channels] |= moments.T.repeat(1, irrep.multiplicity)
        return ChannelSpans.of(used, MOMENTS)

    def extra_repr(self) -> str:
        """Types, stride and spacing for ``print``."""
        return f"'{self.field_in}' -> '{self.field_out}', stride={self.stride}, spacing={self.spacing}, {self.group}"


class FoldedConv3d(nn.Module):
    """A steerable convolution with its weights multiplied out, once: constants, plain convolutions and matrix products.

    Args:
        layer: the convolution to fold. Weights for both parities of a strided axis are kept.
        after: as :meth:`SteerableConv3d.forward` takes it.
    """

    def __init__(self, layer: SteerableConv3d, after: Tensor | None = None) -> None:
        super().__init__()
        self.spacing, self.stride, self.separable = layer.spacing, layer.stride, layer.separable
        self.spans = layer.spans
        self.bias: Tensor
        bias = channel_bias(layer.field_out, layer.bias)
        self.register_buffer("bias", bias.clone() if after is None else bias @ after)
        self._lattices: list[Lattice] = []
        for centred in _parities(layer.stride):
            lattice = Lattice(layer.spacing, centred)
            index = len(self._lattices)
            self._lattices.append(lattice)
            if layer.separable:
                mix = layer._mix(lattice)
                self.register_buffer(f"mix_{index}", mix if after is None else mix @ after)
                for axis, taps in enumerate(layer._taps(lattice, mix)):
                    self.register_buffer(f"taps_{index}_{axis}", taps.kernels)
            else:
                kernel = layer.dense_kernel(lattice)
                kernel = kernel if after is None else torch.einsum("oixyz,op->pixyz", kernel, after)
                self.register_buffer(f"kernel_{index}", kernel)

    def forward(self, x: Tensor, coarse: Tensor | None = None, then: Then | None = None) -> Tensor:
        """Convolve as :class:`SteerableConv3d` does."""
        index = self._lattices.index(lattice_for(x.shape[2:], self.spacing, self.stride))
        if not self.separable:
            kernel: Tensor = getattr(self, f"kernel_{index}")
            return F.conv3d(
                beside_upsampled(x, coarse), kernel, self.bias, self.stride, _padding(kernel.shape[2:], self.stride)
            )
        axes = []
        for axis, stride in enumerate(self.stride):
            kernels: Tensor = getattr(self, f"taps_{index}_{axis}")
            axes.append(AxisTaps(kernels, stride))
        mix: Tensor = getattr(self, f"mix_{index}")
        return separable_convolution(
            x, mix, self.bias, (axes[0], axes[1], axes[2]), self.spans, coarse, then and then(x.dtype)
        )


def _padding(lengths: tuple[int, ...] | torch.Size, strides: tuple[int, ...]) -> list[int]:
    return [symmetric_padding(n, stride) for n, stride in zip(lengths, strides, strict=True)]


def _parities(strides: Triple) -> list[tuple[bool, bool, bool]]:
    """Every combination of centred and uncentred taps that a convolution of these strides can meet."""
    options = [(True,) if stride == 1 else (False, True) for stride in strides]
    return [(a, b, c) for a in options[0] for b in options[1] for c in options[2]]
