"""Groups by name: what they do to position, and their irreps as field types.

Field types are written as for SO(3), with the group's own irreps: ``"8x0e+4x1e+2x2e"`` has 8 invariants, 4 fields of
degree (about an axis: frequency; of phase: charge) 1, and 2 of degree 2.

=============  ==============================================  =======================================================
name           generators                                      irreps
=============  ==============================================  =======================================================
SO3            three rotations                                 ``le``, 2 l + 1 components
O3             and the point reflection                        ``le``, ``lo``: even or odd under it
SO2_z          rotations about z                               ``0e``; ``me``, 2 components
O2_z           and the mirror x -> -x                          ``0e``, ``0o`` (odd under it); ``me``
SO2_z_mirror   rotations about z and the mirror z -> -z        ``0e``, ``0o`` (odd under it); ``me``, ``mo``
U1             a phase, which moves no point                   ``0e``; ``me``, charge m: real and imaginary part
=============  ==============================================  =======================================================

Slices of a CT or an axial MR scan are thick along z, and head and feet differ: O2_z is what is left of O(3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from voxseg.steerable import FieldType, Irrep, solid_harmonics

from .generators import Representation, representation_on

__all__ = ["GROUPS", "Group", "GroupField", "group"]

_ROTATIONS = {
    "x": [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
    "y": [[0, 0, 1], [0, 0, 0], [-1, 0, 0]],
    "z": [[0, -1, 0], [1, 0, 0], [0, 0, 0]],
}


@dataclass(frozen=True)
class GroupIrrep(Irrep):
    """An irrep with a dimension of its own."""

    size: int = 1

    @property
    def components(self) -> int:
        """Components of one field."""
        return self.size


@dataclass(frozen=True)
class Group:
    """A group that acts on position and on the components of fields.

    Attributes:
        name: in a config.
        spatial: what the generators do to position, ``[3, 3]`` each.
        irrep: degree and parity to the matrices of an irrep; `ValueError` for what is none.
    """

    name: str
    spatial: Representation
    irrep: Callable[[int, int], Representation]

    def fixes_axis(self) -> bool:
        """Whether z is left alone, or turned round, so that kernels may be longer along it."""
        axis = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        return not bool((self.spatial.algebra @ axis).any())

    def element(self, rotation: Tensor) -> bool:
        """Whether an orthogonal matrix ``[3, 3]`` is what some element does to position."""
        determinant = float(torch.linalg.det(rotation))
        z = float(rotation[2, 2])
        return {
            "SO3": determinant > 0,
            "O3": True,
            "SO2_z": determinant > 0 and math.isclose(z, 1, abs_tol=1e-9),
            "O2_z": math.isclose(z, 1, abs_tol=1e-9),
            "SO2_z_mirror": math.isclose(z, determinant, abs_tol=1e-9),
            "U1": torch.equal(rotation, torch.eye(3, dtype=rotation.dtype)),
        }[self.name]


class GroupField(FieldType):
    """A field type whose irreps are those of a group.

    Args:
        of: the group.
        irreps: as for `FieldType`.

    Raises:
        ValueError: for an irrep that the group does not have.
    """

    def __init__(self, of: Group, irreps: str | FieldType) -> None:
        super().__init__(irreps)
        self.irreps = tuple(
            GroupIrrep(i.multiplicity, i.degree, i.parity, of.irrep(i.degree, i.parity).dimension) for i in self.irreps
        )


def group(name: str) -> Group:
    """A group by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in GROUPS:
        raise ValueError(f"there is no group '{name}'; there are {', '.join(GROUPS)}")
    return _group(name)


@cache
def _group(name: str) -> Group:
    algebra, finite, irrep = GROUPS[name]
    spatial = Representation(_stacked(algebra), _stacked(finite))
    return Group(name, spatial, lambda degree, parity: irrep(name, degree, parity))


def _stacked(matrices: list[list[list[int]]]) -> Tensor:
    return torch.tensor(matrices, dtype=torch.float64).reshape(-1, 3, 3)


@cache
def _spherical(name: str, degree: int, parity: int) -> Representation:
    """Solid harmonics of a degree; the point reflection is (-1)^l on them."""
    if name == "SO3" and parity < 0:
        raise ValueError("SO3 knows no parity: write only 'e' fields, or choose O3")
    natural = representation_on(lambda points: solid_harmonics(degree, points), _group(name).spatial)
    return natural.with_sign([parity * (-1.0) ** degree] * len(natural.finite))


@cache
def _planar(name: str, degree: int, parity: int) -> Representation:
    """Real and imaginary part of (x + iy)^m."""
    known = {"SO2_z": parity > 0, "O2_z": parity > 0 or degree == 0, "SO2_z_mirror": True}[name]
    if not known:
        raise ValueError(f"{name} has no irrep {degree}o; write {degree}e")

    def functions(points: Tensor) -> Tensor:
        re, im = torch.ones_like(points[:, 0]), torch.zeros_like(points[:, 0])
        for _ in range(degree):
            re, im = re * points[:, 0] - im * points[:, 1], re * points[:, 1] + im * points[:, 0]
        return torch.stack([re, im], -1) if degree else re[:, None]

    natural = representation_on(functions, _group(name).spatial)
    return natural.with_sign([float(parity)] * len(natural.finite))


@cache
def _charge(name: str, degree: int, parity: int) -> Representation:
    if parity < 0:
        raise ValueError(f"{name} knows no parity: write only 'e' fields")
    matrix = torch.tensor([[0.0, -degree], [degree, 0.0]], dtype=torch.float64) if degree else torch.zeros(1, 1)
    size = len(matrix)
    return Representation(matrix.double()[None], torch.zeros(0, size, size, dtype=torch.float64))


GROUPS: dict[str, tuple[list[list[list[int]]], list[list[list[int]]], Callable[[str, int, int], Representation]]] = {
    "SO3": (list(_ROTATIONS.values()), [], _spherical),
    "O3": (list(_ROTATIONS.values()), [[[-1, 0, 0], [0, -1, 0], [0, 0, -1]]], _spherical),
    "SO2_z": ([_ROTATIONS["z"]], [], _planar),
    "O2_z": ([_ROTATIONS["z"]], [[[-1, 0, 0], [0, 1, 0], [0, 0, 1]]], _planar),
    "SO2_z_mirror": ([_ROTATIONS["z"]], [[[1, 0, 0], [0, 1, 0], [0, 0, -1]]], _planar),
    "U1": ([[[0, 0, 0], [0, 0, 0], [0, 0, 0]]], [], _charge),
}
"""Name to the generators of rotations, the finite generators, and the irreps."""
