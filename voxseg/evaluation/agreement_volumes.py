"""Volumes of the structures of one scan, from its segmentation or from the table that goes with it."""

from __future__ import annotations

import csv
import gzip
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from voxseg.data.datasets.read import read_labels
from voxseg.data.geometry import Geometry
from voxseg.data.labels import MAX_ID, Label, LabelTable, Side
from voxseg.data.paths import NIFTI_SUFFIXES
from voxseg.data.segmentation import read_label_names
from voxseg.errors import UserError
from voxseg.evaluation.agreement_scans import VOLUMES

__all__ = ["MeasuredScan", "MeasuredStructure", "measured_structures", "read_scan"]

COLUMNS = ("id", "name", "mm3")
SIDE = re.compile(r"^(left|right|lh|rh|ctx-lh|ctx-rh)[-_ .]|[-_ .](left|right|lh|rh|l|r)$", re.IGNORECASE)
GREY = "#808080"


@dataclass(frozen=True, eq=False)
class MeasuredScan:
    """What one file says.

    Attributes:
        ml: millilitres by id; ids that are not listed were not found, or not looked for.
        names: of the labels that the file lists, found or not; empty if it has no list.
        labels: `[X, Y, Z]` ids; None for a table of volumes.
        geometry: their grid.
    """

    ml: Mapping[int, float]
    names: Mapping[int, str] = field(default_factory=dict)
    labels: NDArray[Any] | None = None
    geometry: Geometry | None = None


@dataclass(frozen=True)
class MeasuredStructure:
    """A label, or the two sides of a structure together.

    Attributes:
        name: for people.
        ids: of its labels.
        side: "left", "right" or "none".
        colour: "#rrggbb".
    """

    name: str
    ids: tuple[int, ...]
    side: Side = "none"
    colour: str = GREY

    @property
    def kind(self) -> str:
        """As tables of structures call it."""
        return "label" if len(self.ids) == 1 else "both sides"


def read_scan(path: Path) -> MeasuredScan:
    """Read a segmentation or a table of volumes as `voxseg predict` writes it.

    Raises:
        UserError: if the file cannot be read, or is something else.
    """
    if path.name.endswith(VOLUMES):
        return _read_table(path)
    labels, geometry = read_labels(path)
    counts = _counts(labels)
    names = _header_names(path) if path.name.lower().endswith(NIFTI_SUFFIXES) else {}
    ml = {label: count * geometry.voxel_volume / 1000 for label, count in counts.items()}
    return MeasuredScan(ml, names, labels, geometry)


def _header_names(path: Path) -> dict[int, str]:
    """Names of labels in the header of a NIfTI file; none where it has none, or has them in a way of its own."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        length = stream.read(4)
        stream.seek(0)
        newer = nib.Nifti2Header.sizeof_hdr
        kind = (
            nib.Nifti2Header if length in (newer.to_bytes(4, "little"), newer.to_bytes(4, "big")) else nib.Nifti1Header
        )
        try:
            return read_label_names(kind.from_fileobj(stream, check=False))
        except (SyntaxError, ValueError, KeyError):  # of XML, texts and numbers that others have written
            return {}


def _counts(labels: NDArray[Any]) -> dict[int, int]:
    """Voxels of each id but 0."""
    total: dict[int, int] = {}
    for plane in labels.T if labels.flags.f_contiguous else labels:  # all at once would sort a copy of everything
        for label, count in zip(*np.unique(plane, return_counts=True), strict=True):
            total[int(label)] = total.get(int(label), 0) + int(count)
    total.pop(0, None)
    return total


def _read_table(path: Path) -> MeasuredScan:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "check the path") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(path, "is not a text file", "segment the scan again") from None
    missing = [name for name in COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise UserError(path, f"has no column {missing[0]!r}", "give a table of volumes as voxseg predict writes it")
    ml, names = {}, {}
    for number, row in enumerate(rows, start=2):
        try:
            label, volume = int(row["id"]), float(row["mm3"]) / 1000
        except (TypeError, ValueError):
            label, volume = 0, math.nan
        if not (1 <= label <= MAX_ID and math.isfinite(volume) and volume >= 0) or label in ml:
            problem = f"has the id {row['id']} and the volume {row['mm3']}"
            raise UserError(f"{path}, line {number}", problem, "segment the scan again")
        ml[label], names[label] = volume, row["name"] or f"label {label}"
    return MeasuredScan(ml, names)


def measured_structures(
    names: Mapping[int, str], found: Iterable[int], table: LabelTable | None
) -> list[MeasuredStructure]:
    """The structures of a set of scans: their labels, and paired ones as a whole behind these.

    Names are those of the table if one is given, otherwise those that the files say, otherwise FreeSurfer's. Pairs are
    told by the table, by FreeSurfer's if a label has the name that it has there, or by names that differ in the
    side alone.

    Args:
        names: that the files say, by id.
        found: ids that are in the scans.
        table: that the user gave.
    """
    ids = list(dict.fromkeys([*(table.ids if table else ()), *names, *sorted(found)]))
    labels = [_label(label, names, table) for label in ids]
    structures = [MeasuredStructure(label.name, (label.id,), label.side, label.colour) for label in labels]
    by_id = {label.id: label for label in labels}
    rights = {_unsided(label.name).lower(): label for label in labels if label.side == "right"}
    for label in labels:
        if label.side != "left":
            continue
        partner = by_id.get(label.partner or 0) or rights.get(_unsided(label.name).lower())
        if partner is not None:
            name = _unsided(label.name)
            taken = name == label.name or any(name == other.name for other in labels)
            name = f"{name} (both sides)" if taken else name
            structures.append(MeasuredStructure(name, (label.id, partner.id), "none", label.colour))
    return structures


def _label(label_id: int, names: Mapping[int, str], table: LabelTable | None) -> Label:
    """What an id means."""
    if table is not None and label_id in table.ids:
        return table.by_id(label_id)
    known = LabelTable.freesurfer()
    usual: Label | None = known.by_id(label_id) if label_id in known.ids else None
    name = names.get(label_id)
    if usual is not None and name in (None, usual.name):
        return usual
    name = name or f"label {label_id}"
    match = SIDE.search(name)
    side: Side = "none"
    if match:
        word = next(group for group in match.groups() if group).lower()
        side = "left" if word in ("left", "lh", "ctx-lh", "l") else "right"
    return Label(label_id, name, usual.colour if usual else GREY, side)


def _unsided(name: str) -> str:
    return SIDE.sub("", name)
