"""The space of convolution kernels between two field types of a finite group, solved by averaging.

T. Cohen, M. Geiger, M. Weiler, "Intertwiners between Induced Representations (with Applications to the Theory of
Equivariant Neural Networks)", arXiv:1803.10743 (2018), and "A General Theory of Equivariant CNNs on Homogeneous
Spaces", NeurIPS 2019, arXiv:1811.02017. Theorem: a linear map between fields on a homogeneous space
commutes with the group if and only if it is a convolution whose kernel fulfils

    K(h x) = rho_out(h) K(x) rho_in(h)^-1    for all h that fix the origin.

On the grid Z^3 with a group H of rotations and reflections, kernels are vectors of ``R^(d_out d_in s^3)`` and

    (P K)(x) = 1/|H| sum_h rho_out(h) K(h^-1 x) rho_in(h)^-1

is the projector onto those that do. Each orbit ``H q`` of the kernel's grid can be solved alone: K(q) is anything that
the stabiliser of q leaves alone (averaging over it), and the rest of the orbit follows. So

    dim = sum_orbits dim Hom_{H_q}(rho_in, rho_out) = 1/|H| sum_h chi_out(h) chi_in(h) |{x : h x = x}|,

the first by solving, the second from characters (Burnside's lemma): a test compares them. Where both representations
are permutations (trivial, regular, quotient), solutions are indicators of the orbits of triples (i, j, x): each kernel
entry has the index of one weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .finite_groups import FiniteGroup, FiniteRepresentation, finite_group, representation
from .generators import canonical_basis

__all__ = ["KernelSpace", "dimension_by_characters", "kernel_space"]


@dataclass(frozen=True, eq=False)
class KernelSpace:
    """All kernels between two representations.

    Attributes:
        dimension: number of independent kernels, those of unit norm.
        basis: ``[dimension, d_out, d_in, s, s, s]`` float64, orthonormal; ``None`` where `index` says it all.
        index: ``[d_out, d_in, s, s, s]``, the weight that each entry is a multiple of.
        scale: ``[dimension]``, by how much.
    """

    dimension: int
    basis: Tensor | None = None
    index: Tensor | None = None
    scale: Tensor | None = None

    def kernels(self, weights: Tensor) -> Tensor:
        """Combine: ``[U, V, dimension]`` to ``[U, V, d_out, d_in, s, s, s]``."""
        if self.index is not None and self.scale is not None:
            scaled = weights * self.scale.to(weights)
            return scaled[..., self.index.to(weights.device)]
        assert self.basis is not None
        return torch.einsum("uvb,boixyz->uvoixyz", weights, self.basis.to(weights))


@lru_cache(maxsize=256)
def kernel_space(group_name: str, name_in: str, name_out: str, size: int) -> KernelSpace:
    """Solve for all kernels on a cube of `size` voxels; an even cube's centre lies between voxels.

    Args:
        group_name: of the group, see `finite_groups`.
        name_in: representation of the fields that come in.
        name_out: of those that come out.
        size: voxels along each side.
    """
    of = finite_group(group_name)
    into, out = representation(group_name, name_in), representation(group_name, name_out)
    moved = _moved(of, size)
    if into.permutation and out.permutation:
        return _by_triples(into, out, moved, size)
    return _by_orbits(of, into, out, moved, size)


def dimension_by_characters(group_name: str, name_in: str, name_out: str, size: int) -> int:
    """The dimension by the character formula, which needs no kernel."""
    of = finite_group(group_name)
    fixed = (_moved(of, size) == torch.arange(size**3)).sum(1)
    product = representation(group_name, name_in).characters * representation(group_name, name_out).characters
    return round(float((product * fixed).sum() / len(of)))


def project(group_name: str, name_in: str, name_out: str, kernel: Tensor) -> Tensor:
    """P of the module's docstring, straight from its formula, for ``[d_out, d_in, s, s, s]``."""
    of = finite_group(group_name)
    into, out = representation(group_name, name_in).matrices, representation(group_name, name_out).matrices
    size = kernel.shape[-1]
    flat = kernel.flatten(2)
    moved = _moved(of, size)
    total = torch.zeros_like(flat)
    for h in range(len(of)):
        total += torch.einsum("ab,bcx,dc->adx", out[h], flat[:, :, moved[of.inverses[h]]], into[h])
    return (total / len(of)).reshape(kernel.shape)


@lru_cache(maxsize=64)
def _moved(of: FiniteGroup, size: int) -> Tensor:
    """``[n, s^3]``: the index of the voxel that each element takes a voxel to."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    points = torch.cartesian_prod(axis, axis, axis)
    places = (torch.einsum("hij,pj->hpi", of.elements, points) + (size - 1) / 2).round().long()
    return (places[..., 0] * size + places[..., 1]) * size + places[..., 2]


def _by_triples(into: FiniteRepresentation, out: FiniteRepresentation, moved: Tensor, size: int) -> KernelSpace:
    """Orbits of (i, j, x) under the three permutations at once; each is known by its least member."""
    to_out, to_in = out.matrices.argmax(1), into.matrices.argmax(1)  # [n, d]: where each component goes
    count = (out.dimension, into.dimension, size**3)
    least = torch.arange(torch.Size(count).numel()).reshape(count)
    for h in range(len(moved)):
        images = (to_out[h][:, None, None] * count[1] + to_in[h][None, :, None]) * count[2] + moved[h]
        least = torch.minimum(least, images)
    _, index, members = least.unique(return_inverse=True, return_counts=True)
    return KernelSpace(len(members), None, index.reshape(*count[:2], size, size, size), members.double().rsqrt())


def _by_orbits(
    of: FiniteGroup, into: FiniteRepresentation, out: FiniteRepresentation, moved: Tensor, size: int
) -> KernelSpace:
    """Solve at one voxel of each orbit by averaging over its stabiliser, and carry what is found along the orbit."""
    representatives = moved.amin(0).unique()
    parts = []
    for q in representatives.tolist():
        stabiliser = (moved[:, q] == q).nonzero().flatten()
        average = torch.einsum("hac,hbd->abcd", out.matrices[stabiliser], into.matrices[stabiliser]) / len(stabiliser)
        solved = canonical_basis(average.flatten(2).flatten(0, 1)).reshape(-1, out.dimension, into.dimension)
        kernel = torch.zeros(len(solved), out.dimension, into.dimension, size**3, dtype=torch.float64)
        targets = moved[:, q].unique()
        for x in targets.tolist():
            h = int((moved[:, q] == x).nonzero()[0])
            kernel[..., x] = out.matrices[h] @ solved @ into.matrices[h].T
        parts.append(kernel / len(targets) ** 0.5)
    basis = torch.cat(parts)
    return KernelSpace(len(basis), basis.reshape(*basis.shape[:3], size, size, size))
