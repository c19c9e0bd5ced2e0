"""Finite groups of rotations and reflections of the grid, and their real representations.

Groups are subgroups of O_h, the 48 signed permutations of the axes. Representations: trivial, determinant, vector, the
regular one (functions on the group), quotients (functions on the cosets of a subgroup), and all irreps, found by
averaging: a random symmetric matrix averaged over the regular representation commutes with it, so that its eigenspaces
are irreducible (Schur's lemma).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .generators import canonical_basis

__all__ = ["FINITE_GROUPS", "FiniteGroup", "FiniteRepresentation", "finite_group", "representation"]

Matrix = list[list[int]]

_QUARTER_Z: Matrix = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
_HALF_Z: Matrix = [[-1, 0, 0], [0, -1, 0], [0, 0, 1]]
_HALF_X: Matrix = [[1, 0, 0], [0, -1, 0], [0, 0, -1]]
_THIRD: Matrix = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
_MIRROR_X: Matrix = [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]
_POINT: Matrix = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]

FINITE_GROUPS: dict[str, list[Matrix]] = {
    "C1": [],
    "mirror": [_MIRROR_X],
    "C2": [_HALF_Z],
    "C3": [_THIRD],
    "C4": [_QUARTER_Z],
    "C4v": [_QUARTER_Z, _MIRROR_X],
    "D2": [_HALF_Z, _HALF_X],
    "D4": [_QUARTER_Z, _HALF_X],
    "T": [_HALF_Z, _HALF_X, _THIRD],
    "O": [_QUARTER_Z, _THIRD],
    "Oh": [_QUARTER_Z, _THIRD, _POINT],
}
"""Name (Schoenflies) to generators; `mirror` exchanges left and right; C and D turn about z, C3 about (1, 1, 1)."""


@dataclass(frozen=True, eq=False)
class FiniteGroup:
    """A group of signed permutations.

    Attributes:
        name: in a config.
        elements: ``[n, 3, 3]`` float64, the identity first, in an order that depends on the matrices alone.
        products: ``[n, n]``, the index of ``elements[i] @ elements[j]``.
        inverses: ``[n]``.
    """

    name: str
    elements: Tensor
    products: Tensor
    inverses: Tensor

    def __len__(self) -> int:
        return len(self.elements)

    def index(self, matrices: Tensor) -> Tensor:
        """The index of each of ``[..., 3, 3]``; `ValueError` if one is no element."""
        same = (matrices[..., None, :, :] == self.elements).all(-1).all(-1)
        if not bool(same.any(-1).all()):
            raise ValueError(f"that is no element of {self.name}")
        return same.int().argmax(-1)


@dataclass(frozen=True, eq=False)
class FiniteRepresentation:
    """Orthogonal matrices of all elements.

    Attributes:
        name: as in a field type.
        matrices: ``[n, d, d]`` float64.
    """

    name: str
    matrices: Tensor

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.matrices.shape[-1])

    @property
    def permutation(self) -> bool:
        """Whether components only change places, so that any function may be applied to each."""
        return bool(((self.matrices == 0) | (self.matrices == 1)).all())

    @property
    def characters(self) -> Tensor:
        """``[n]``, the traces."""
        return self.matrices.diagonal(dim1=1, dim2=2).sum(-1)


@cache
def finite_group(name: str) -> FiniteGroup:
    """A group by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in FINITE_GROUPS:
        raise ValueError(f"there is no group '{name}'; there are {', '.join(FINITE_GROUPS)}")
    generators = torch.tensor(FINITE_GROUPS[name], dtype=torch.float64).reshape(-1, 3, 3)
    found = {_key(torch.eye(3, dtype=torch.float64))}
    fresh = found
    while fresh:
        products = [_matrix(key) @ g for key in fresh for g in generators]
        fresh = {_key(p) for p in products} - found
        found = found | fresh
    # The identity is the greatest key of all: 1 on the diagonal comes first, and no row has more than one entry.
    elements = torch.stack([_matrix(key) for key in sorted(found, reverse=True)])
    table = elements[:, None] @ elements[None]
    same = (table[:, :, None] == elements).all(-1).all(-1).int().argmax(-1)
    return FiniteGroup(name, elements, same, (same == 0).int().argmax(1))


def _key(matrix: Tensor) -> tuple[int, ...]:
    return tuple(int(v) for v in matrix.flatten().tolist())


def _matrix(key: tuple[int, ...]) -> Tensor:
    return torch.tensor(key, dtype=torch.float64).reshape(3, 3)


@cache
def representation(group_name: str, name: str) -> FiniteRepresentation:
    """A representation by name.

    Args:
        group_name: of the group.
        name: ``trivial``, ``determinant``, ``vector``, ``regular``, ``quotient:SUBGROUP`` or ``irrep:NUMBER``.

    Raises:
        ValueError: there is none of that name, or the subgroup is none of this group.
    """
    of = finite_group(group_name)
    determinants = torch.linalg.det(of.elements).round()[:, None, None]
    if name == "trivial":
        return FiniteRepresentation(name, torch.ones_like(determinants))
    if name == "determinant":
        return FiniteRepresentation(name, determinants)
    if name == "vector":
        return FiniteRepresentation(name, of.elements)
    if name == "regular":
        return FiniteRepresentation(name, _on_cosets(of, torch.arange(len(of))))
    if match := re.fullmatch(r"quotient:(\w+)", name):
        members = of.index(finite_group(match[1]).elements)
        return FiniteRepresentation(name, _on_cosets(of, of.products[:, members].amin(1)))
    if match := re.fullmatch(r"irrep:(\d+)", name):
        known = irreps(group_name)
        if int(match[1]) >= len(known):
            raise ValueError(f"{group_name} has irreps 0 to {len(known) - 1}, not {match[1]}")
        return known[int(match[1])]
    raise ValueError(
        f"there is no representation '{name}'; there are trivial, determinant, vector, regular, quotient:SUBGROUP "
        "and irrep:NUMBER"
    )


def _on_cosets(of: FiniteGroup, coset: Tensor) -> Tensor:
    """Functions on cosets ``g K`` with ``(g f)(x) = f(g^-1 x)``: ``[n, cosets, cosets]``.

    Args:
        of: the group.
        coset: ``[n]``, the least element of each element's coset.
    """
    least = coset.unique()
    place = torch.full((len(of),), -1)
    place[least] = torch.arange(len(least))
    target = place[coset[of.products[:, least]]]  # [n, cosets]: where g takes each coset
    return torch.nn.functional.one_hot(target, len(least)).mT.to(torch.float64)


@cache
def irreps(group_name: str) -> tuple[FiniteRepresentation, ...]:
    """All real irreps, those of fewer components and higher characters first; number 0 is the trivial one."""
    regular = representation(group_name, "regular").matrices
    generator = torch.Generator().manual_seed(0)
    symmetric = torch.randn(len(regular), len(regular), generator=generator, dtype=torch.float64)
    symmetric = symmetric + symmetric.T
    averaged = (regular @ symmetric @ regular.mT).mean(0)
    values, vectors = torch.linalg.eigh(averaged)
    found: dict[tuple[float, ...], Tensor] = {}
    start = 0
    for end in range(1, len(values) + 1):
        if end < len(values) and values[end] - values[end - 1] < 1e-6:
            continue
        space = vectors[:, start:end]
        basis = canonical_basis(space @ space.T)
        matrices = basis @ regular @ basis.T
        characters = matrices.diagonal(dim1=1, dim2=2).sum(-1)
        key = (len(basis), *(-round(c, 6) for c in characters.tolist()))
        found.setdefault(key, matrices)
        start = end
    ordered: Sequence[tuple[float, ...]] = sorted(found)
    return tuple(FiniteRepresentation(f"irrep:{number}", found[key]) for number, key in enumerate(ordered))
