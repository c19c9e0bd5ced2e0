"""Field types: what the channels of a feature volume are, as an e3nn irreps string."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

_TERM = re.compile(r"^\s*(?:(\d+)\s*x\s*)?(\d+)([eo])\s*$")


@dataclass(frozen=True)
class Irrep:
    """``multiplicity`` fields of one irreducible representation of O(3).

    Attributes:
        multiplicity: number of fields.
        degree: l; a field has ``2l + 1`` components.
        parity: +1 (``e``) or -1 (``o``), the sign that a point reflection gives.
    """

    multiplicity: int
    degree: int
    parity: int

    @property
    def components(self) -> int:
        """Components of one field, 2l + 1."""
        return 2 * self.degree + 1

    @property
    def channels(self) -> int:
        """Channels that all fields take together."""
        return self.multiplicity * self.components

    @property
    def name(self) -> str:
        """The representation without its multiplicity, such as ``1o``."""
        return f"{self.degree}{'e' if self.parity > 0 else 'o'}"

    def __str__(self) -> str:
        return f"{self.multiplicity}x{self.name}"


class FieldType:
    """The type of a feature volume ``[B, channels, X, Y, Z]``: channels grouped by irrep, component index fastest.

    The notation and the real basis are e3nn's (Geiger and Smidt 2022, arXiv:2207.09453): ``"8x0e+4x1e+2x2e"`` is 8
    scalars, 4 vectors with components in (x, y, z) order, and 2 fields of degree 2.

    Args:
        irreps: an irreps string, another field type, or a sequence of :class:`Irrep`.

    Raises:
        ValueError: if the string is not an irreps string or holds no field.
    """

    def __init__(self, irreps: str | FieldType | tuple[Irrep, ...]) -> None:
        if isinstance(irreps, FieldType):
            self.irreps: tuple[Irrep, ...] = irreps.irreps
        elif isinstance(irreps, str):
            self.irreps = _parse(irreps)
        else:
            self.irreps = _merge(irreps)
        if not self.irreps:
            raise ValueError(f"field type {irreps!r} holds no field; write something like '8x0e+4x1e+2x2e'")

    @cached_property
    def channels(self) -> int:
        """Total number of channels."""
        return sum(irrep.channels for irrep in self.irreps)

    @cached_property
    def max_degree(self) -> int:
        """The highest degree l among the fields."""
        return max(irrep.degree for irrep in self.irreps)

    @property
    def scalars(self) -> int:
        """Number of 0e fields."""
        return sum(irrep.multiplicity for irrep in self.irreps if irrep.name == "0e")

    def slices(self) -> Iterator[tuple[Irrep, slice]]:
        """Each irrep with the channels that it takes."""
        start = 0
        for irrep in self.irreps:
            yield irrep, slice(start, start + irrep.channels)
            start += irrep.channels

    def __add__(self, other: FieldType) -> FieldType:
        return FieldType(self.irreps + other.irreps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FieldType) and self.irreps == other.irreps

    def __hash__(self) -> int:
        return hash(self.irreps)

    def __str__(self) -> str:
        return "+".join(str(irrep) for irrep in self.irreps)

    def __repr__(self) -> str:
        return f"FieldType('{self}')"


def _parse(text: str) -> tuple[Irrep, ...]:
    irreps = []
    for term in text.split("+"):
        match = _TERM.match(term)
        if match is None:
            raise ValueError(f"{term.strip()!r} in {text!r} is no irrep; write terms like '4x1e', joined by '+'")
        multiplicity, degree, parity = match.groups()
        irreps.append(Irrep(int(multiplicity or 1), int(degree), 1 if parity == "e" else -1))
    return _merge(tuple(irreps))


def _merge(irreps: tuple[Irrep, ...]) -> tuple[Irrep, ...]:
    """Neighbours of the same kind become one entry, empty ones vanish; the order of channels stays."""
    merged: list[Irrep] = []
    for irrep in irreps:
        if irrep.multiplicity == 0:
            continue
        if merged and merged[-1].name == irrep.name:
            irrep = Irrep(merged.pop().multiplicity + irrep.multiplicity, irrep.degree, irrep.parity)
        merged.append(irrep)
    return tuple(merged)
