"""PhiSNet on voxels: message passing over fields of each degree, whose outputs are matrices in each voxel.

Unke, Bogojeski, Gastegger, Geiger, Smidt and Müller 2021, "SE(3)-equivariant prediction of molecular wavefunctions and
electronic densities", NeurIPS, arXiv:2106.02347. There atoms, Hamiltonians and overlaps; here voxels, and symmetric 3x3
fields: diffusion tensors, structure tensors, Hessians. Features are ``x^L``, F fields of each degree L up to `degree`.

    self-mixing   y^L = W_L (k_L o x^L + sum_(l1 < l2) s_(l1 l2 L) o CG(x^l1, x^l2 -> L)), a bias for L = 0
    activation    x^0 -> a x^0 sigmoid(b x^0), a and b learned; other degrees as they are
    residual      x + W' act(W act(x)), W' small in the beginning
    interaction   v_i = x_i + sum_j [ sum_(l1, l2) (w_(l1 l2 L) . rho(r_ij)) o CG(x_j^l1, Y^l2(r_ij) -> L) ]
    module        x <- residual(x); v = interaction(self-mixing(x)); x <- x + residual(v); y <- y + residual(x)
    output        the field type wanted, mixed from y degree by degree; `matrices` expands it

``o`` multiplies channel by channel. rho are exponential Bernstein polynomials times a smooth cut-off (Unke et al. 2021,
arXiv:2105.00304), which are functions of distance alone. Neighbours are all voxels within `radius`; on a grid the sum
over them is a convolution whose kernel has one block a channel, built once a step.

Differences: W' begins at a tenth and not at 0; the elements of atoms are the intensities, and features enter as
scalars; off-site blocks are in `matrix_fields.PairBlocks`. Kernels are exact under the 24 rotations of the grid.
"""

from __future__ import annotations

import itertools
import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxseg.baselines.base import Baseline
from voxseg.steerable import FieldType, expand, solid_harmonics, symmetric_from_fields, wigner_3j

__all__ = ["Interaction", "PhiSNet", "SelfMixing", "bernstein"]


class PhiSNet(Baseline):
    """The network.

    Args:
        in_channels: of the volume.
        out_channels: of the output.
        output: its field type, with degrees up to `degree`; `out_channels` scalars by default. A config with `targets`
            sets it.
        channels: F, fields of each degree.
        degree: the highest one, 1 or 2.
        modules: interactions, one after the other.
        radius: of the neighbours, voxels.
        radial: Bernstein polynomials.

    Raises:
        ValueError: arguments that do not fit.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        output: str | None = None,
        channels: int = 12,
        degree: int = 2,
        modules: int = 3,
        radius: float = 2.0,
        radial: int = 5,
    ) -> None:
        super().__init__()
        if degree not in (0, 1, 2):
            raise ValueError(f"degree is {degree}: give 0, 1 or 2")
        if channels < 1 or modules < 1 or radial < 1 or not radius >= 1:
            raise ValueError("channels, modules and radial have to be at least 1, and radius 1 voxel")
        self.field = FieldType(output or f"{out_channels}x0e")
        if self.field.channels != out_channels:
            raise ValueError(f"output {output} has {self.field.channels} channels, out_channels is {out_channels}")
        if self.field.max_degree > degree:
            raise ValueError(f"output {output} needs degree {self.field.max_degree}, degree is {degree}")
        self.degree, self.channels = degree, channels
        self.embed = nn.Conv3d(in_channels, channels, 1)
        self.stages = nn.ModuleList(_Module(channels, degree, radius, radial, k > 0) for k in range(modules))
        self.heads = nn.ParameterList(
            nn.Parameter(torch.randn(irrep.multiplicity, channels) / math.sqrt(channels)) for irrep in self.field.irreps
        )
        self.bias = nn.Parameter(torch.zeros(self.field.scalars)) if self.field.scalars else None

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, X, Y, Z]`` to ``[B, out_channels, X, Y, Z]``."""
        y = self.features(x)
        outputs, scalars = [], 0
        for irrep, head in zip(self.field.irreps, self.heads, strict=True):
            part = y[:, :, irrep.degree**2 : (irrep.degree + 1) ** 2]
            mixed = torch.einsum("of,bfcxyz->bocxyz", head, part).flatten(1, 2)
            if irrep.name == "0e" and self.bias is not None:
                mixed = mixed + self.bias[scalars : scalars + irrep.multiplicity, None, None, None]
                scalars += irrep.multiplicity
            outputs.append(mixed)
        return torch.cat(outputs, 1)

    def features(self, x: Tensor) -> Tensor:
        """The sum of the modules' outputs, ``[B, F, (degree + 1)^2, X, Y, Z]``, degrees one after the other."""
        scalars = self.embed(x)[:, :, None]
        rest = scalars.new_zeros(*scalars.shape[:2], (self.degree + 1) ** 2 - 1, *scalars.shape[3:])
        fields = torch.cat([scalars, rest], 2)
        total = torch.zeros_like(fields)
        for stage in self.stages:
            fields, output = stage(fields)
            total = total + output
        return total

    def matrices(self, x: Tensor) -> Tensor:
        """Matrices ``[B, X, Y, Z, 3, 3]`` of an output ``1x0e+1x2e`` (symmetric) or ``1x0e+1x1e+1x2e`` (any).

        Raises:
            ValueError: the output is of another type.
        """
        fields = self(x).movedim(1, -1)
        degrees = [irrep.degree for irrep in self.field.irreps for _ in range(irrep.multiplicity)]
        if degrees == [0, 2]:
            return symmetric_from_fields(fields)
        if degrees == [0, 1, 2]:
            return expand(fields, 1, 1)
        raise ValueError(f"an output {self.field} is no field of 3x3 matrices")


class _Module(nn.Module):
    """One of PhiSNet's modules: ``[B, F, (degree + 1)^2, X, Y, Z]`` to the next features and to what the sum gets."""

    def __init__(self, channels: int, degree: int, radius: float, radial: int, products: bool) -> None:
        super().__init__()
        self.before = _Residual(channels, degree)
        self.mixing = SelfMixing(channels, degree, products)
        self.interaction = Interaction(channels, degree, radius, radial)
        self.after = _Residual(channels, degree)
        self.output = _Residual(channels, degree)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.before(x)
        x = x + self.after(self.interaction(self.mixing(x)))
        return x, self.output(x)


class _Linear(nn.Module):
    """Mixes the F fields of each degree; a bias for scalars."""

    def __init__(self, channels: int, degree: int, size: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(size * torch.randn(degree + 1, channels, channels) / math.sqrt(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, [2 * k + 1 for k in range(len(self.weight))], 2)
        mixed = [torch.einsum("of,bfcxyz->bocxyz", w, part) for w, part in zip(self.weight, parts, strict=True)]
        mixed[0] = mixed[0] + self.bias[:, None, None, None, None]
        return torch.cat(mixed, 2)


class _Activation(nn.Module):
    """The generalised swish of scalars; other degrees stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.steepness = nn.Parameter(torch.full((channels,), 1.702))

    def forward(self, x: Tensor) -> Tensor:
        scalars = x[:, :, 0]
        scale, steepness = (p[:, None, None, None] for p in (self.scale, self.steepness))
        scalars = scale * scalars * torch.sigmoid(steepness * scalars)
        return torch.cat([scalars[:, :, None], x[:, :, 1:]], 2)


class _Residual(nn.Module):
    """``x + W' act(W act(x))``, nearly the identity in the beginning."""

    def __init__(self, channels: int, degree: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _Activation(channels),
            _Linear(channels, degree),
            _Activation(channels),
            _Linear(channels, degree, size=0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.layers(x)
        return x + mixed


class SelfMixing(nn.Module):
    """Fields of a voxel multiplied with each other, degree by degree, and mixed.

    Args:
        channels: F.
        degree: the highest one.
        products: whether there are any; of scalars alone, as in the beginning, there is none.
    """

    def __init__(self, channels: int, degree: int, products: bool = True) -> None:
        super().__init__()
        self.paths = [
            (l1, l2, out)
            for l1 in range(degree + 1)
            for l2 in range(l1 + 1, degree + 1)
            for out in range(degree + 1)
            if products and abs(l1 - l2) <= out <= l1 + l2
        ]
        self.keep = nn.Parameter(torch.ones(degree + 1, channels))
        self.products = nn.Parameter(0.1 * torch.randn(len(self.paths), channels)) if self.paths else None
        self.linear = _Linear(channels, degree)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, F, (degree + 1)^2, X, Y, Z]``, kept in shape."""
        sizes = [2 * k + 1 for k in range(len(self.keep))]
        parts = torch.split(x, sizes, 2)
        mixed = [k[:, None, None, None, None] * part for k, part in zip(self.keep, parts, strict=True)]
        for (l1, l2, out), scale in zip(self.paths, () if self.products is None else self.products, strict=True):
            coupling = math.sqrt(2 * out + 1) * wigner_3j(l1, l2, out).to(x)
            left = torch.einsum("ijk,bfixyz->bfjkxyz", coupling, scale[:, None, None, None, None] * parts[l1])
            mixed[out] = mixed[out] + (left * parts[l2][:, :, :, None]).sum(2)
        result: Tensor = self.linear(torch.cat(mixed, 2))
        return result


class Interaction(nn.Module):
    """Messages from all voxels within a radius, as a convolution with a block for each channel.

    Args:
        channels: F.
        degree: the highest one.
        radius: of the neighbours, voxels.
        radial: Bernstein polynomials.
    """

    def __init__(self, channels: int, degree: int, radius: float, radial: int) -> None:
        super().__init__()
        self.channels, self.reach, self.kernels = channels, math.floor(radius), (degree, float(radius), radial)
        size, count = (degree + 1) ** 2, len(_message_basis(*self.kernels))
        self.weight = nn.Parameter(torch.randn(channels, count) * math.sqrt(size / count))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, F, (degree + 1)^2, X, Y, Z]``, kept in shape."""
        basis = _message_basis(*self.kernels).to(self.weight)
        kernel = torch.einsum("fp,poixyz->foixyz", self.weight, basis).flatten(0, 1)
        # Of many small groups the channels-last form takes a fifth of the time on processors.
        layout = torch.channels_last_3d
        volume, kernel = x.flatten(1, 2).contiguous(memory_format=layout), kernel.contiguous(memory_format=layout)
        messages = F.conv3d(volume, kernel, padding=self.reach, groups=self.channels)
        return x + messages.contiguous().view_as(x)


@cache
def _message_basis(degree: int, radius: float, radial: int) -> Tensor:
    """All kernels that messages are mixed of, `[P, size, size, k, k, k]` float64, orthonormal."""
    size, reach = (degree + 1) ** 2, math.floor(radius)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    offsets = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1)
    distance = offsets.norm(dim=-1)
    near = (distance <= radius) & (distance > 0)  # messages come from neighbours, and the voxel itself is none
    rho = bernstein(distance, radial, radius + 1.0) * near[..., None]
    unit = offsets / distance.clamp(min=1)[..., None]
    blocks = []
    for l1, out in itertools.product(range(degree + 1), repeat=2):
        for l2 in range(abs(l1 - out), l1 + out + 1):
            angular = torch.einsum("ijk,xyzj->kixyz", wigner_3j(l1, l2, out), solid_harmonics(l2, unit))
            block = torch.zeros(size, size, *near.shape, radial, dtype=torch.float64)
            block[out**2 : (out + 1) ** 2, l1**2 : (l1 + 1) ** 2] = angular[..., None] * rho
            blocks.append(_orthonormal(block.movedim(-1, 0)))
    return torch.cat(blocks)


def _orthonormal(functions: Tensor) -> Tensor:
    """The span of kernels `[K, ...]` in an orthonormal basis of it.

    Bernstein polynomials are so alike on the few distances of a grid that weights of them would hardly be learned, and
    where there are more of them than distances some say nothing new.
    """
    flat = functions.flatten(1)
    values, vectors = torch.linalg.eigh(flat @ flat.T)
    kept = values > 1e-6 * values[-1]
    return ((vectors[:, kept] / values[kept].sqrt()).T @ flat).unflatten(1, functions.shape[1:])


def bernstein(distance: Tensor, count: int, cutoff: float, decay: float = 0.5) -> Tensor:
    """Exponential Bernstein polynomials times a smooth cut-off (Unke et al. 2021, arXiv:2105.00304, equation 14).

    Args:
        distance: ``[...]``, voxels.
        count: K.
        cutoff: where they vanish with all their derivatives, voxels.
        decay: of the exponential, per voxel.

    Returns:
        ``[..., K]``.
    """
    x = torch.exp(-decay * distance)[..., None]
    order = torch.arange(count, dtype=distance.dtype)
    binomials = torch.tensor([math.comb(count - 1, k) for k in range(count)], dtype=distance.dtype)
    polynomials = binomials * x**order * (1 - x) ** (count - 1 - order)
    inside = distance < cutoff
    safe = torch.where(inside, distance, 0)
    smooth = torch.exp(-(safe**2) / ((cutoff - safe) * (cutoff + safe))) * inside
    return polynomials * smooth[..., None]
