"""Steerable network of any group given by its generators: kernels are the intertwiners that are solved for.

I. Batatia, M. Geiger, J. Munoz, T. Smidt, L. Silberman, C. Ortner, "A General Framework for Equivariant Neural Networks
on Reductive Lie Groups", NeurIPS 2023, arXiv:2306.00091. The paper couples features of points by Clebsch-Gordan
coefficients solved from the generators; here the same solver finds convolution kernels on voxels.

A kernel ``K(r) = sum_e k[o, i, e] phi_e(r)`` over functions that the group turns into each other, ``phi(g r) = M(g)
phi(r)``, makes a convolution that commutes with the group if

    K(g r) = D_out(g) K(r) D_in(g)^-1,

that is, if k is an invariant of ``D_out (x) D_in (x) M*`` with M* the dual of M (`generators.invariants`). The
functions are the ten products of a Gaussian with polynomials up to degree 2, so that the convolution runs as voxseg's
own, separably. For SO(3) the solutions are spherical harmonics times Clebsch-Gordan coefficients again. A group that
leaves z alone has many more, such as the derivative along z between scalars, and its Gaussian may be longer along z.

Between charges of U(1) kernels are complex numbers times anything, and charges never mix. An invariant comes of the
product of a field with itself, whose couplings are solved for in the same way: ``z (x) z -> |z|^2``.

What differs: the paper's own tasks are point clouds (shapes with O(3), jets with the Lorentz group); its symmetric
products over many neighbours are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor, nn

from voxseg.networks import NetworkConfig, UNet
from voxseg.networks.layers import Block, SteerableLayers
from voxseg.networks.unet import Spacing, Triple
from voxseg.steerable import (
    FieldLinear,
    FieldNorm,
    FieldType,
    Gate,
    Irrep,
    Lattice,
    SolidHarmonicBasis,
    SteerableConv3d,
)
from voxseg.steerable.layout import as_rows, as_volume
from voxseg.steerable.separable import MOMENTS, AxisTaps, Taps
from voxseg.testing import grid_rotations

from .base import Baseline, skeleton
from .generators import Representation, clebsch_gordan, invariants, representation_on
from .groups import Group, GroupField, group

__all__ = ["AnyGroup", "GroupConv3d", "SelfProduct"]


class GroupConv3d(SteerableConv3d):
    """The steerable convolution with kernels solved for a group, see the module's docstring.

    Args:
        of: the group.
        field_in: type of the input, in the group's irreps.
        field_out: type of the output.
        sigma: width of the Gaussian, in the unit of `spacing`.
        sigma_z: its width along z, which only a group that leaves z alone can choose.
        reference_spacing: as for `SolidHarmonicBasis`.
        spacing: between input voxels.
        stride: 1 or 2 per axis.

    Raises:
        ValueError: if `sigma_z` differs although the group turns z into other directions.
    """

    def __init__(
        self,
        of: Group,
        field_in: FieldType | str,
        field_out: FieldType | str,
        sigma: float = 0.8,
        sigma_z: float | None = None,
        reference_spacing: float = 1.0,
        spacing: Spacing = (1.0, 1.0, 1.0),
        stride: Triple = (1, 1, 1),
    ) -> None:
        if sigma_z is not None and sigma_z != sigma and not of.fixes_axis():
            raise ValueError(f"{of.name} turns z, so that sigma_z ({sigma_z}) has to be that of the others ({sigma})")
        self.of = of  # before the base class, which asks for paths
        self.along_z = SolidHarmonicBasis(sigma_z or sigma, reference_spacing)
        basis = SolidHarmonicBasis(sigma, reference_spacing)
        taps = basis.taps(reference_spacing, True), self.along_z.taps(reference_spacing, True)
        self.gram = _gram(*taps)
        # "O3" keeps the base class from refusing odd fields; which kernels there are is decided below.
        super().__init__(GroupField(of, field_in), GroupField(of, field_out), basis, spacing, stride, "O3")

    def _paths(self, irrep_out: Irrep, irrep_in: Irrep) -> list[int]:
        return list(range(len(self._solved(irrep_out, irrep_in))))

    def _radial(self, degree: int) -> int:
        return 1

    def _solved(self, irrep_out: Irrep, irrep_in: Irrep) -> Tensor:
        return _kernels(self.of.name, irrep_out.name, irrep_in.name)

    def _coupled_filters(self, lattice: Lattice, device: torch.device) -> dict[str, Tensor]:
        """Solved kernels, made orthogonal on the reference grid, such that white noise comes out with unit variance."""
        coupled = {}
        for o, irrep_out in enumerate(self.field_out.irreps):
            for i, irrep_in in enumerate(self.field_in.irreps):
                solved = self._solved(irrep_out, irrep_in)
                if len(solved):
                    energy = torch.einsum("aoie,ef,boif->ab", solved, self.gram, solved)
                    lower = torch.linalg.cholesky(energy / irrep_out.components)
                    flat = torch.linalg.solve_triangular(lower, solved.flatten(1), upper=False)
                    coupled[f"{o}_{i}"] = flat.reshape(solved.shape).to(device)
        return coupled

    def _taps(self, lattice: Lattice, like: Tensor) -> Taps:
        x, y, _ = super()._taps(lattice, like)
        kernels = self.along_z.taps(lattice.spacing[2], lattice.centred[2]).to(like)
        return x, y, AxisTaps(kernels, self.stride[2])

    def extra_repr(self) -> str:
        """Types, stride and group for ``print``."""
        return f"'{self.field_in}' -> '{self.field_out}', stride={self.stride}, {self.of.name}"


def _monomials(points: Tensor) -> Tensor:
    """``x^a y^b z^c`` in the order of the ten moments, ``[P, 10]``."""
    ones = torch.ones_like(points[:, 0])
    powers = [[ones, p, p * p] for p in points.unbind(-1)]
    return torch.stack([powers[0][a] * powers[1][b] * powers[2][c] for a, b, c in MOMENTS], -1)


@cache
def _moments(name: str) -> Representation:
    """How the ten products turn: the moments of degree 2, less the Gaussian's own, turn as the monomials do."""
    return representation_on(_monomials, group(name).spatial)


@cache
def _kernels(name: str, out: str, into: str) -> Tensor:
    """The solved ``[solutions, d_out, d_in, 10]`` between two irreps."""
    of = group(name)
    fields = [of.irrep(i.degree, i.parity) for text in (out, into) for i in FieldType(text).irreps]
    return invariants(*fields, _moments(name).dual())


@lru_cache(maxsize=64)
def _gram_of(in_plane: tuple[tuple[float, ...], ...], along_z: tuple[tuple[float, ...], ...]) -> Tensor:
    plane, z = torch.tensor(in_plane, dtype=torch.float64), torch.tensor(along_z, dtype=torch.float64)
    kernels = torch.stack([torch.einsum("a,b,c->abc", plane[a], plane[b], z[c]).flatten() for a, b, c in MOMENTS])
    return kernels @ kernels.T


def _gram(in_plane: Tensor, along_z: Tensor) -> Tensor:
    """Scalar products of the ten products' kernels, ``[10, 10]``."""
    return _gram_of(tuple(map(tuple, in_plane.tolist())), tuple(map(tuple, along_z.tolist())))


class SelfProduct(nn.Module):
    """Products of each field with itself: all couplings ``a (x) a -> c`` into the irreps of a type.

    Args:
        of: the group.
        field: type of the input.
        into: irreps to keep are those of this type.

    Attributes:
        field_out: type of the output: the products, and nothing else.
    """

    def __init__(self, of: Group, field: FieldType | str, into: FieldType | str) -> None:
        super().__init__()
        self.field = GroupField(of, field)
        self.parts: list[tuple[slice, int, str]] = []
        made = []
        for source, channels in self.field.slices():
            a = of.irrep(source.degree, source.parity)
            for target in GroupField(of, into).irreps:
                couplings = clebsch_gordan(a, a, of.irrep(target.degree, target.parity))
                # A field's product with itself is symmetric: antisymmetric couplings give zero.
                couplings = couplings[((couplings + couplings.transpose(1, 2)).flatten(1).norm(dim=1) > 1e-6)]
                for coupling in couplings:
                    name = f"coupling_{len(self.parts)}"
                    self.register_buffer(name, coupling * math.sqrt(target.components), persistent=False)
                    self.parts.append((channels, source.components, name))
                    made.append(Irrep(source.multiplicity, target.degree, target.parity))
        if not made:
            raise ValueError(f"no product of the fields of '{self.field}' gives any of '{into}'")
        self.field_out = FieldType("+".join(map(str, made)))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, field.channels, X, Y, Z]`` to ``[B, C_products, X, Y, Z]``."""
        rows = as_rows(x)
        products = []
        for channels, size, name in self.parts:
            fields = rows[:, channels].unflatten(1, (-1, size))
            products.append(
                torch.einsum("vui,vuj,ijk->vuk", fields, fields, getattr(self, name).to(x.dtype)).flatten(1)
            )
        return as_volume(torch.cat(products, 1), (x.shape[0], *x.shape[2:]))


class _ProductBlock(nn.Module):
    """A block that sees its input and the input's products with itself."""

    def __init__(self, product: SelfProduct, block: Block) -> None:
        super().__init__()
        self.product, self.block = product, block

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, X, Y, Z]`` to ``[B, C_out, X', Y', Z']``."""
        return self.block(torch.cat([x, self.product(x)], 1))


class _GroupLayers(SteerableLayers):
    """Layers of a group for the U-Net's skeleton, whose field types are read in the group's irreps."""

    def __init__(
        self, config: NetworkConfig, of: Group, image: str, sigma: float, sigma_z: float, products: bool
    ) -> None:
        super().__init__(config)
        self.of, self.image, self.products = of, image, products
        self.widths = sigma, sigma_z

    def block(
        self, field_in: FieldType, field_out: FieldType, spacing: Spacing, level: int, stride: Triple
    ) -> nn.Module:
        """Convolution, norm, gate; the first block asked for is the one that sees the image."""
        field_in, self.image = FieldType(self.image or field_in), ""
        product = None
        if self.products:
            product = SelfProduct(self.of, field_in, field_out + FieldType("1x0e"))
            field_in = FieldType(f"{field_in}+{product.field_out}")
        gate = Gate(GroupField(self.of, field_out))
        voxel = self.config.spacing * 2**level
        widen = self.config.sigma_down / self.config.sigma if max(stride) > 1 else 1.0
        sigma, sigma_z = (width * widen * voxel for width in self.widths)
        convolution = GroupConv3d(self.of, field_in, gate.field_in, sigma, sigma_z, voxel, spacing, stride)
        block = Block(convolution, FieldNorm(gate.field_in), gate)
        return block if product is None else _ProductBlock(product, block)

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module:
        """Mixing of fields of one irrep."""
        return FieldLinear(GroupField(self.of, field_in), GroupField(self.of, field_out))


class AnyGroup(Baseline):
    """A U-Net of steerable convolutions of a group.

    Args:
        in_channels: of the volume.
        out_channels: of the logits, which are invariant.
        symmetry: the group: ``SO3``, ``O3``, ``SO2_z``, ``O2_z``, ``SO2_z_mirror`` or ``U1`` (see `groups`).
        levels: field types in the group's irreps, finest first; each begins with its 0e fields.
        sigma: width of the kernels in voxels of their level.
        sigma_z: the same along z, for groups that leave z alone; by default as wide.
        products: whether each block also sees the products of its fields with themselves; U1, where nothing else makes
            invariants of charges, always does.

    Raises:
        ValueError: for a group or an irrep that there is not, or for U1 with an odd number of channels: they are real
            and imaginary part of each image in turn.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        symmetry: str = "O2_z",
        levels: Sequence[str] = ("6x0e+3x1e+2x2e", "12x0e+6x1e+3x2e", "24x0e+10x1e+5x2e"),
        sigma: float = 0.8,
        sigma_z: float | None = None,
        products: bool = False,
    ) -> None:
        super().__init__()
        self.group = group(symmetry)
        image = f"{in_channels}x0e"
        if symmetry == "U1":
            if in_channels % 2:
                raise ValueError(f"U1 takes real and imaginary parts in turn, and in_channels is {in_channels}")
            image, products = f"{in_channels // 2}x1e", True
        config = skeleton(in_channels, out_channels, levels, "O3")
        layers = _GroupLayers(config, self.group, image, sigma, sigma if sigma_z is None else sigma_z, products)
        self.unet = UNet(config, layers)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]``."""
        logits = self.unet(x)
        assert isinstance(logits, Tensor)
        return logits

    def rotations(self) -> list[Tensor]:
        """Those grid rotations and reflections that the group has."""
        return [rotation for rotation in grid_rotations(improper=True) if self.group.element(rotation)]
