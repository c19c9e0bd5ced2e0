"""What is scored: labels, the two sides of a structure together, and regions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import Side, unsided

__all__ = ["Structure", "structures_of"]

Kind = Literal["label", "both sides", "region"]


@dataclass(frozen=True)
class Structure:
    """A union of labels that gets a score of its own.

    Attributes:
        name: for people; no two structures of a scheme have the same.
        kind: one label of the table, the two sides of a paired one, or a region of the scheme.
        classes: dense class indices (`LabelScheme.to_classes`) of the labels that it consists of, sorted.
        side: of a label; "none" otherwise.
        colour: "#rrggbb".
    """

    name: str
    kind: Kind
    classes: tuple[int, ...]
    side: Side
    colour: str


def structures_of(scheme: LabelScheme) -> list[Structure]:
    """What a scheme has scores for: its regions if it has any, then its labels, then paired labels as a whole.

    The mean over structures that tables end with is over the regions if there are any, otherwise over the labels.
    """
    table = scheme.predicted()
    index = {label.id: k for k, label in enumerate(table, start=1)}
    regions = [
        Structure(region.name, "region", _classes(index, *region.ids), "none", table.by_id(region.label).colour)
        for region in scheme.regions
    ]
    labels = [Structure(label.name, "label", _classes(index, label.id), label.side, label.colour) for label in table]
    pairs = [
        Structure(
            unsided(label, table.by_id(label.partner)),
            "both sides",
            _classes(index, label.id, label.partner),
            "none",
            label.colour,
        )
        for label in table
        if label.side == "left" and label.partner in index
    ]
    return _with_names_of_their_own([*regions, *labels, *pairs])


def _classes(index: dict[int, int], *ids: int) -> tuple[int, ...]:
    return tuple(sorted(index[i] for i in ids))


def _with_names_of_their_own(structures: list[Structure]) -> list[Structure]:
    """The same structures; a name that an earlier one has gets the kind added, and a number if that is taken too."""
    taken: set[str] = set()
    result = []
    for structure in structures:
        candidates = [structure.name, f"{structure.name} ({structure.kind})"]
        candidates += [f"{structure.name} ({structure.kind} {k})" for k in range(2, len(structures) + 2)]
        name = next(name for name in candidates if name not in taken)
        taken.add(name)
        result.append(replace(structure, name=name))
    return result
