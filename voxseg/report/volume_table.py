"""The table of volumes on a page: sides beside each other, with an asymmetry index."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from voxseg.data.labels import Label, LabelTable
from voxseg.report.page import Column, Html, escape, number, table
from voxseg.report.viewer import swatch, toggle

__all__ = ["VolumeRow", "asymmetry", "volume_rows", "volume_table"]

INDEX = "difference of left and right divided by their mean; positive where the left is larger"


@dataclass(frozen=True)
class VolumeRow:
    """A structure: one label, or the two of a pair.

    Attributes:
        name: without its side for a pair.
        classes: class indices; left before right.
        labels: rows of the label table, likewise.
        voxels: of each of them.
    """

    name: str
    classes: tuple[int, ...]
    labels: tuple[Label, ...]
    voxels: tuple[int, ...]

    @property
    def paired(self) -> bool:
        """Whether it has two sides."""
        return len(self.labels) == 2


def asymmetry(left: float, right: float) -> float:
    """(L - R) / ((L + R) / 2): 0 for equal sides, 2 where there is only a left one; NaN where there is neither."""
    return (left - right) / ((left + right) / 2) if left + right else math.nan


def volume_rows(labels: LabelTable, counts: Sequence[int]) -> list[VolumeRow]:
    """The structures of a label table in its order, pairs where their first side comes.

    Args:
        labels: the table.
        counts: voxels of each label.
    """
    index = {label.id: k for k, label in enumerate(labels)}
    rows: list[VolumeRow] = []
    used: set[int] = set()
    for label in labels:
        if label.id in used:
            continue
        members = [label]
        if label.side != "none" and label.partner is not None and label.partner in index:
            members.append(labels.by_id(label.partner))
            members.sort(key=lambda member: member.side != "left")
        used.update(member.id for member in members)
        places = [index[member.id] for member in members]
        name = _without_side(members[0].name) if len(members) == 2 else label.name
        voxels = tuple(int(counts[place]) for place in places)
        rows.append(VolumeRow(name, tuple(place + 1 for place in places), tuple(members), voxels))
    return rows


def volume_table(labels: LabelTable, counts: Sequence[int], voxel_volume: float, legend: str) -> Html:
    """The volumes in ml, with a box before each structure that shows and hides it in the viewer.

    Args:
        labels: the label table.
        counts: voxels of each label.
        voxel_volume: cubic millimetres of a voxel.
        legend: name of the viewer's legend for these labels.
    """
    rows = volume_rows(labels, counts)
    sided = any(row.paired for row in rows)
    columns = [Column("structure")]
    if sided:
        columns += [Column("left, ml", number=True), Column("right, ml", number=True)]
    columns.append(Column("both, ml" if sided else "volume, ml", number=True))
    if sided:
        columns.append(Column("asymmetry", number=True, hint=INDEX))
    if not sided:  # there the table is wide enough to stand beside the viewer
        columns += [Column("voxels", number=True), Column("id", number=True)]
    cells = [_cells(row, sided, voxel_volume / 1000, legend) for row in rows]
    total = sum(counts)
    foot = ["all structures", *(["", ""] if sided else []), number(total * voxel_volume / 1000)]
    foot += [""] if sided else [number(total, 0), ""]
    note = Html(f'<p class="note">Asymmetry is the {escape(INDEX)}.</p>') if sided else Html("")
    return Html(table(columns, cells, sortable=True, foot=foot) + note)


def _cells(row: VolumeRow, sided: bool, ml: float, legend: str) -> list[object]:
    """A row of the table; `ml` is the volume of a voxel."""
    swatches = "".join(swatch(colour) for colour in _distinct([label.colour for label in row.labels]))
    ids = ", ".join(str(label.id) for label in row.labels)
    name = Html(f'<label title="id {ids}">{toggle(legend, row.classes, row.name)}{swatches}{escape(row.name)}</label>')
    cells: list[object] = [(name, row.name)]
    volumes = [count * ml for count in row.voxels]
    if sided:
        by_side = {label.side: volume for label, volume in zip(row.labels, volumes, strict=True)}
        cells += [_volume(by_side.get("left")), _volume(by_side.get("right"))]
    cells.append(_volume(sum(volumes)))
    if sided:
        index = asymmetry(*volumes) if row.paired else math.nan
        text = number(100 * index, 1, missing="")
        cells.append((text and f"{text} %", index))
    else:
        cells += [(number(row.voxels[0], 0), row.voxels[0]), (str(row.labels[0].id), row.labels[0].id)]
    return cells


def _distinct(colours: Sequence[str]) -> list[str]:
    """The first colour, and the second if the eye can tell it from the first."""
    channels = [[int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in colours]
    differ = max(abs(a - b) for a, b in zip(channels[0], channels[-1], strict=True)) > 24
    return list(colours) if differ else [colours[0]]


def _volume(volume: float | None) -> object:
    """A cell; nothing where a structure has no such side, and softly where nothing was found."""
    if volume is None:
        return ("", math.nan)
    text = number(volume)
    return (text if volume else Html('<span class="zero">not found</span>'), volume)


def _without_side(name: str) -> str:
    """The name of a left or right structure without its side: Left-Putamen and putamen_left become Putamen, putamen."""
    return re.sub(r"^(left|right|lh|rh|l|r)[-_ ]|[-_ ](left|right|lh|rh|l|r)$", "", name, flags=re.IGNORECASE)
