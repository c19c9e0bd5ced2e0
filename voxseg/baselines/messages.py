"""Equivariant messages between neighbours, on all voxels or between scattered points, with the same weights.

The interaction of NequIP (Batzner et al. 2022, arXiv:2101.03164, eqs. 5-8), here for a place p and its neighbours q:

    m(p) = W_out sum_q  (W_in h(q))  (x)_uvu  R(|q - p|) Y(q - p)

"uvu" is the depthwise tensor product: each field of h is coupled with the harmonics by itself, to every degree that the
output asks for, with a weight of its own for each such path; the mixing of fields is left to W_in and W_out. The
weights come from a small bias-free network of the distance,

    R(r) = f(r / r_c) MLP(B_1(r), ..., B_N(r)),     B_n(r) = sqrt(2) sin(n pi r / r_c) / (r / r_c),
    f(u) = 1 - 28 u^6 + 48 u^7 - 21 u^8             (polynomial cut-off, eq. 8 with p = 6),

so that it is a function of millimetres, not a table of taps, and the same weights can be run on another grid. In the
data-dependent form the network also sees the intensities of both ends, I(p), I(q) and |I(p) - I(q)|: a bilateral
filter, but steerable.

What differs: the harmonics are solid, ``(r / r_c)^l Y_l``, so that kernels are smooth functions of the offset at the
centre too, which is then a neighbour like any other; each Bessel function has unit size on average over the kernel; f
multiplies what the MLP gives, because intensities do not vanish at the cut-off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from voxseg.networks.unet import Spacing, Triple
from voxseg.steerable import FieldLinear, FieldType, Irrep, Lattice, solid_harmonics, wigner_3j
from voxseg.steerable.bases import lattice_for
from voxseg.steerable.layout import as_rows, as_volume
from voxseg.steerable.separable import symmetric_padding

from .base import Group
from .quadrature import quadrature

__all__ = ["DepthwiseProduct", "Graph", "Messages", "RadialNetwork", "cutoff", "merged"]

SILU_GAIN = 1.6765
"""Makes the second moment of SiLU of a standard normal number 1."""


def cutoff(u: Tensor) -> Tensor:
    """The polynomial cut-off f: 1 at 0, and 0 with two derivatives from ``u = 1`` on."""
    # The same polynomial as a product, which does not lose its digits near u = 1.
    series = 1 + u * (3 + u * (6 + u * (10 + u * (15 + u * 21))))
    return (1 - u).clamp(min=0) ** 3 * series


def merged(field: FieldType | str) -> FieldType:
    """The same fields with one entry for each irrep, in the order of their first appearance."""
    counts: dict[tuple[int, int], int] = {}
    for irrep in FieldType(field).irreps:
        counts[irrep.degree, irrep.parity] = counts.get((irrep.degree, irrep.parity), 0) + irrep.multiplicity
    return FieldType(tuple(Irrep(count, *kind) for kind, count in counts.items()))


@dataclass(frozen=True)
class Graph:
    """Who hears whom among points.

    Attributes:
        source: ``[E]``, numbers of the points that send.
        target: ``[E]``, numbers of the points that receive.
        offsets: ``[E, 3]``, from target to source, in mm.
        targets: number of points that can receive.
    """

    source: Tensor
    target: Tensor
    offsets: Tensor
    targets: int


class RadialNetwork(nn.Module):
    """R of the module's docstring: weights of all paths from a distance, and where asked from both ends' intensities.

    Args:
        outputs: number of weights.
        bessel: N, number of Bessel functions; more than ``r_c`` in voxels oscillate faster than the grid can tell.
        width: of the hidden layer.
        intensities: number of intensities of a place that it sees; 0 for the form that does not depend on the data.
        scale: ``[N]``, what each Bessel function is multiplied by.
    """

    def __init__(self, outputs: int, bessel: int, width: int, intensities: int, scale: Tensor) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(bessel, width) / math.sqrt(bessel))
        self.ends = nn.Parameter(0.5 * torch.randn(3 * intensities, width)) if intensities else None
        self.second = nn.Parameter(torch.randn(width, outputs) * SILU_GAIN / math.sqrt(width))
        self.scale: Tensor
        self.register_buffer("scale", scale.to(torch.get_default_dtype()), persistent=False)

    def forward(self, u: Tensor, here: Tensor | None = None, there: Tensor | None = None) -> Tensor:
        """Weights.

        Args:
            u: ``[...]``, distances over the cut-off.
            here: ``[..., intensities]`` at the receiving end; None: as if all three terms were zero.
            there: the same at the sending end.

        Returns:
            ``[..., outputs]``.
        """
        hidden = (bessel_functions(u, len(self.scale)) * self.scale) @ self.first
        if self.ends is not None and here is not None and there is not None:
            hidden = hidden + torch.cat([here, there, (here - there).abs()], -1) @ self.ends
        weights: Tensor = cutoff(u)[..., None] * (F.silu(hidden) @ self.second)
        return weights


def bessel_functions(u: Tensor, count: int) -> Tensor:
    """B_1 .. B_count at distances `u` in units of the cut-off, ``[..., count]``; smooth at 0."""
    n = torch.arange(1, count + 1, device=u.device, dtype=u.dtype)
    return math.sqrt(2) * math.pi * n * torch.sinc(n * u[..., None])


@dataclass(frozen=True)
class _Path:
    kind_in: str
    kind_out: str
    source: slice
    weights: slice
    target: slice
    coupling: Tensor  # [2 l_out + 1, 2 l_in + 1, 2 l + 1]
    degree: int


class DepthwiseProduct:
    """The uvu tensor product of fields with harmonics up to a degree; constants alone, no weights.

    Normalised such that for inputs, harmonics and weights of unit size every path gives components of unit size.

    Args:
        field_in: type of the fields, one entry an irrep.
        degree: highest l of the harmonics.
        kinds: names of the irreps that may come out, such as ``1e``.
        group: with ``O3`` the harmonics have the parity (-1)^l.

    Attributes:
        field_out: type of the output, path by path.
        weights: their number, one a path and field.
        spread: ``[weights, C_out]``, 1 where a weight belongs to a channel.

    Raises:
        ValueError: no path leads to some kind.
    """

    def __init__(self, field_in: FieldType, degree: int, kinds: Sequence[str], group: Group = "SO3") -> None:
        self.field_in, self.degree = field_in, degree
        self.paths: list[_Path] = []
        irreps, rows, used, channels = [], [], 0, 0
        for irrep, source in field_in.slices():
            for l in range(degree + 1):  # noqa: E741
                parity = irrep.parity * (-1) ** l if group == "O3" else irrep.parity
                for l_out in range(abs(irrep.degree - l), irrep.degree + l + 1):
                    made = Irrep(irrep.multiplicity, l_out, parity)
                    if made.name not in kinds:
                        continue
                    coupling = math.sqrt(made.components) * wigner_3j(l_out, irrep.degree, l)
                    weights = slice(used, used + made.multiplicity)
                    target = slice(channels, channels + made.channels)
                    self.paths.append(_Path(irrep.name, made.name, source, weights, target, coupling, l))
                    irreps.append(made)
                    rows.append(torch.eye(made.multiplicity).repeat_interleave(made.components, 1))
                    used, channels = used + made.multiplicity, channels + made.channels
        missing = set(kinds) - {made.name for made in irreps}
        if missing:
            raise ValueError(
                f"no path leads from '{field_in}' with harmonics up to {degree} to {', '.join(sorted(missing))}"
            )
        self.field_out = FieldType(tuple(irreps))
        self.weights = used
        self.spread = torch.block_diag(*rows)

    def couplings(self, harmonics: Sequence[Tensor]) -> list[Tensor]:
        """For each path ``[n, 2 l_out + 1, 2 l_in + 1]``, from harmonics ``[n, 2l + 1]`` of each degree."""
        return [
            torch.einsum("abf,nf->nab", p.coupling.to(harmonics[p.degree]), harmonics[p.degree]) for p in self.paths
        ]

    def matrix(self, harmonics: Sequence[Tensor]) -> Tensor:
        """The product with harmonics ``[2l + 1]`` of each degree and weights 1, as a matrix ``[C_out, C_in]``."""
        like = harmonics[0]
        found = like.new_zeros(self.field_out.channels, self.field_in.channels)
        for path, coupling in zip(self.paths, self.couplings([h[None] for h in harmonics]), strict=True):
            copies = torch.eye(path.weights.stop - path.weights.start, dtype=like.dtype, device=like.device)
            found[path.target, path.source] = torch.kron(copies, coupling[0])
        return found

    def on_edges(self, x: Tensor, weights: Tensor, harmonics: Sequence[Tensor]) -> Tensor:
        """``[E, C_in]`` with weights ``[E, weights]`` and harmonics of each edge to ``[E, C_out]``."""
        parts = []
        for path, coupling in zip(self.paths, self.couplings(harmonics), strict=True):
            fields = x[:, path.source].unflatten(1, (-1, coupling.shape[2]))
            parts.append(torch.einsum("eab,eub,eu->eua", coupling, fields, weights[:, path.weights]).flatten(1))
        return torch.cat(parts, 1)


class Messages(nn.Module):
    """m of the module's docstring.

    The sum over voxels stands for an integral, see `quadrature`: what is learned on one grid can be run on another.

    On voxels, without dependence on the data, all of it is one linear map of the neighbourhood: W_out, the product and
    W_in are multiplied into the kernel of an ordinary convolution. With dependence on the data it is a loop over the
    offsets, in which each offset is computed again in the backward pass: at any time at most
    ``V (3 C_mid + C_in + 2 width)`` numbers more than input and output are held, V the number of voxels and C_mid the
    channels of all paths, however many offsets there are.

    Args:
        field_in: type of h.
        field_out: type of m.
        radius: r_c in mm.
        spacing: mm between voxels of the grid on which messages of white noise have unit size.
        degree: highest l of the harmonics.
        bessel: see `RadialNetwork`, as the next two.
        width: of the hidden layer.
        intensities: that the radial network sees, 0 for none.
        group: ``SO3``, or ``O3`` for products that keep parity.
        trained: lattice that the network is trained on; by default voxels of `spacing`.

    Raises:
        ValueError: no path leads to some output, or the radius does not reach the next voxel.
    """

    def __init__(
        self,
        field_in: FieldType | str,
        field_out: FieldType | str,
        radius: float,
        spacing: float = 1.0,
        degree: int = 2,
        bessel: int = 4,
        width: int = 8,
        intensities: int = 0,
        group: Group = "SO3",
        trained: Lattice | None = None,
    ) -> None:
        super().__init__()
        if radius <= spacing:
            raise ValueError(f"radius has to reach beyond the next voxel, got {radius} for voxels of {spacing}")
        self.radius, self.spacing = radius, spacing
        self.trained = trained or Lattice((spacing,) * 3)
        field_out = FieldType(field_out)
        kinds = list(dict.fromkeys(irrep.name for irrep in field_out.irreps))
        self.product = DepthwiseProduct(merged(field_in), degree, kinds, group)
        self.mix_in = FieldLinear(field_in, self.product.field_in, bias=False)
        self.mix_out = FieldLinear(self.product.field_out, field_out, bias=False)
        own = Lattice((spacing,) * 3)
        offsets = quadrature(own, own, radius).offsets
        u = offsets.norm(dim=-1) / radius
        inside, f = u < 1, cutoff(u)
        basis = bessel_functions(u[inside], bessel)
        scale = basis.square().mean(0).rsqrt()
        self.radial = RadialNetwork(self.product.weights, bessel, width, intensities, scale)
        energies = [(h * f[:, None]).square().sum() / h.shape[1] for h in self._solid(offsets)]
        self._scales = [1 / math.sqrt(energy) for energy in energies]
        # Where each channel of the input is once its fields are sorted by kind.
        self._order: list[int] = []
        starts = {irrep.name: channels.start for irrep, channels in self.product.field_in.slices()}
        for irrep in self.mix_in.field_in.irreps:
            self._order += range(starts[irrep.name], starts[irrep.name] + irrep.channels)
            starts[irrep.name] += irrep.channels

    def forward(
        self,
        x: Tensor,
        spacing: Spacing | None = None,
        stride: Triple = (1, 1, 1),
        here: Tensor | None = None,
        there: Tensor | None = None,
    ) -> Tensor:
        """Messages on voxels.

        Args:
            x: ``[B, C_in, X, Y, Z]``.
            spacing: mm between its voxels; by default those of the constructor.
            stride: 1 or 2 per axis; receivers lie as those of a `SteerableConv3d`.
            here: ``[B, intensities, ceil(X / stride), ...]``, where the network depends on the data.
            there: ``[B, intensities, X, Y, Z]``.

        Returns:
            ``[B, C_out, ceil(X / stride), ...]``.
        """
        lattice = lattice_for(x.shape[2:], spacing or (self.spacing,) * 3, stride)
        if self.radial.ends is None or here is None or there is None:
            kernel = self.kernel(lattice).to(x.dtype)
            padding = [symmetric_padding(n, s) for n, s in zip(kernel.shape[2:], stride, strict=True)]
            return F.conv3d(x, kernel, None, stride, padding)
        return self._bilateral(x, lattice, stride, here, there)

    def on_points(self, x: Tensor, graph: Graph, ends: Tensor | None = None, volume: float = 1.0) -> Tensor:
        """Messages between points.

        Args:
            x: ``[N, C_in]``.
            graph: who hears whom.
            ends: ``[N, intensities]``, where the network depends on the data; senders and receivers are then the same
                points.
            volume: of space that belongs to a point, in voxels of the constructor's grid.

        Returns:
            ``[graph.targets, C_out]``.
        """
        x = F.linear(x, self.mix_in.matrix())
        u = _distance(graph.offsets) / self.radius
        pair = (None, None) if ends is None or self.radial.ends is None else (ends[graph.target], ends[graph.source])
        messages = self.product.on_edges(x[graph.source], self.radial(u, *pair), self._harmonics(graph.offsets))
        total = messages.new_zeros(graph.targets, messages.shape[1]).index_add(0, graph.target, messages)
        return volume * F.linear(total, self.mix_out.matrix())

    def kernel(self, lattice: Lattice | None = None) -> Tensor:
        """The whole map as weights of a ``Conv3d``, ``[C_out, C_in, nx, ny, nz]``; intensities do not count."""
        lattice = lattice or Lattice((self.spacing,) * 3)
        sampled = quadrature(lattice, self.trained, self.radius)
        offsets, like = sampled.offsets, self.radial.first
        weights = self.radial((offsets.norm(dim=-1) / self.radius).to(like))  # [points, weights]
        harmonics = self._harmonics(offsets)
        mixes_in = dict(zip(self._kinds(self.product.field_in), self.mix_in.weights, strict=True))
        # Where among the middle fields of its output's kind a path begins.
        begins: dict[str, int] = {}
        blocks: dict[tuple[int, str], Tensor] = {}
        for path, coupling in zip(self.product.paths, self.product.couplings(harmonics), strict=True):
            depthwise = torch.einsum("tu,tab->tuab", weights[:, path.weights], coupling.to(like))
            begin = begins.get(path.kind_out, 0)
            begins[path.kind_out] = begin + depthwise.shape[1]
            for number, kind in enumerate(self._kinds(self.mix_out.field_out)):
                if kind == path.kind_out:
                    mix_out = self.mix_out.weights[number][:, begin : begins[kind]]
                    block = torch.einsum("vu,tuab,uw->vawbt", mix_out, depthwise, mixes_in[path.kind_in])
                    block = block.flatten(2, 3).flatten(0, 1)
                    key = (number, path.kind_in)
                    blocks[key] = blocks[key] + block if key in blocks else block
        rows = []
        for number, irrep in enumerate(self.mix_out.field_out.irreps):
            columns = []
            for kind, mix_in in mixes_in.items():
                components = 2 * int(kind[:-1]) + 1
                nothing = like.new_zeros(irrep.channels, mix_in.shape[1] * components, len(offsets))
                columns.append(blocks.get((number, kind), nothing))
            rows.append(torch.cat(columns, 1)[:, self._order])
        kernel = (sampled.volume / self.spacing**3 * torch.cat(rows)).unflatten(2, sampled.points)
        for dim, axis in enumerate(sampled.axes, 2):
            kernel = axis.folded(kernel, dim)
        return kernel

    def _bilateral(self, x: Tensor, lattice: Lattice, stride: Triple, here: Tensor, there: Tensor) -> Tensor:
        """The loop over offsets."""
        sampled = quadrature(lattice, self.trained, self.radius)
        offsets = sampled.offsets.unflatten(0, sampled.points)
        grid, spread = here.shape[2:], self.product.spread.to(x)
        mixed = as_volume(F.linear(as_rows(x), self.mix_in.matrix()), (x.shape[0], *x.shape[2:]))
        sides = [symmetric_padding(axis.taps, s) for axis, s in zip(sampled.axes, stride, strict=True)]
        # Odd strides may ask for one voxel more at the far end than the padding of a convolution gives.
        padding = [side for s, p in zip(stride[::-1], sides[::-1], strict=True) for side in (p, p + s - 1)]
        sent = F.pad(torch.cat([mixed, there], 1), padding)
        receiver = as_rows(here)
        total: Tensor | None = None

        def part(sent: Tensor, receiver: Tensor, u: Tensor, matrix: Tensor, place: Sequence[int]) -> Tensor:
            for dim, (axis, point, s, n) in enumerate(zip(sampled.axes, place, stride, grid, strict=True), 2):
                sent = axis.shifted(sent, dim, point, s, n)
            rows = as_rows(sent)
            features, intensities = rows[:, : mixed.shape[1]], rows[:, mixed.shape[1] :]
            weights = self.radial(u.expand(len(rows)), receiver, intensities)
            return (features @ matrix.T).mul(weights @ spread)

        distances = (offsets.norm(dim=-1) / self.radius).to(x)
        for i, j, k in (distances < 1).nonzero().tolist():
            matrix = self.product.matrix([h[0] for h in self._harmonics(offsets[i, j, k][None])]).to(x)
            arguments: tuple[Any, ...] = (sent, receiver, distances[i, j, k], matrix, (i, j, k))
            message = checkpoint(part, *arguments, use_reentrant=False) if torch.is_grad_enabled() else part(*arguments)
            total = message if total is None else total + message
        assert total is not None
        rows = F.linear(total, sampled.volume / self.spacing**3 * self.mix_out.matrix())
        return as_volume(rows, (x.shape[0], *grid))

    @staticmethod
    def _kinds(field: FieldType) -> list[str]:
        return [irrep.name for irrep in field.irreps]

    def _solid(self, offsets: Tensor) -> list[Tensor]:
        return [solid_harmonics(degree, offsets / self.radius) for degree in range(self.product.degree + 1)]

    def _harmonics(self, offsets: Tensor) -> list[Tensor]:
        """Of each degree ``[n, 2l + 1]``, such that the sum over neighbours of white noise has unit size."""
        return [scale * h for scale, h in zip(self._scales, self._solid(offsets), strict=True)]


def _distance(offsets: Tensor) -> Tensor:
    """Lengths ``[n]``, with derivatives at 0 too."""
    return (offsets.square().sum(-1) + 1e-16).sqrt()
