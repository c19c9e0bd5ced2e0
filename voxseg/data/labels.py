"""Label tables: which number stands for which structure, and the dense class indices that networks use.

Ids are the data set's own (FreeSurfer's for brains) and are what every file holds. A network numbers its classes 0
(background), 1, 2, ... in the order of its table; those numbers stay inside the program.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from voxseg.data.staging import write_text
from voxseg.errors import UserError

Side = Literal["left", "right", "none"]
COLUMNS = ("id", "name", "colour", "side", "partner")
CODE = "code"
"""A further column, in tables that have codes."""

CODE_FORM = r"[A-Za-z0-9-]{1,16}:[^:\s]{1,16}:[^:]{1,64}"
MAX_ID = 2**31 - 1


@dataclass(frozen=True)
class Label:
    """One structure.

    Attributes:
        id: the number in label files, at least 1.
        name: for people, such as "Left-Putamen".
        colour: "#rrggbb".
        side: "left", "right" or "none".
        partner: the id of the same structure on the other side, None for unpaired ones.
        code: what it is in a terminology, for DICOM: scheme, code and meaning, such as
            "SCT:89278009:Putamen" (SNOMED CT); "" without one. Not part of what makes labels equal.
    """

    id: int
    name: str
    colour: str
    side: Side = "none"
    partner: int | None = None
    code: str = field(default="", compare=False)


class LabelTable(Sequence[Label]):
    """The structures of a data set, a model or a segmentation, in the order of the dense class indices 1, 2, ...

    Args:
        labels: the structures without the background.

    Raises:
        ValueError: if two labels have the same id, or there are more than 255.
    """

    def __init__(self, labels: Iterable[Label]) -> None:
        self._labels = tuple(labels)
        self._index = {label.id: k for k, label in enumerate(self._labels)}
        if len(self._index) != len(self._labels):
            raise ValueError("two labels of a table have the same id")
        if len(self._labels) > 255:
            raise ValueError(f"a table can hold 255 labels, got {len(self._labels)}")

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, item: Any) -> Any:
        return self._labels[item]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelTable) and self._labels == other._labels

    def __hash__(self) -> int:
        return hash(self._labels)

    def __repr__(self) -> str:
        return f"LabelTable({list(self.ids)})"

    @property
    def ids(self) -> list[int]:
        """Ids in the order of the class indices 1, 2, ..."""
        return [label.id for label in self._labels]

    @property
    def names(self) -> list[str]:
        """Names in the order of `ids`."""
        return [label.name for label in self._labels]

    @property
    def colours(self) -> list[str]:
        """Colours "#rrggbb" in the order of `ids`."""
        return [label.colour for label in self._labels]

    @property
    def has_sides(self) -> bool:
        """Whether left and right are told apart, so that a mirrored image needs its labels swapped."""
        return any(label.side != "none" for label in self._labels)

    def by_id(self, label_id: int) -> Label:
        """The label with this id.

        Raises:
            KeyError: if the table has none.
        """
        return self._labels[self._index[label_id]]

    def __contains__(self, item: object) -> bool:
        return item in self._index or item in self._labels

    def select(self, ids: Iterable[int]) -> LabelTable:
        """The table of these ids, in their order.

        Raises:
            UserError: if an id is not in the table.
        """
        wanted = list(ids)
        unknown = [i for i in wanted if i not in self._index]
        if unknown:
            raise UserError(f"label {unknown[0]}", "is not in the label table", f"use one of {_shorten(self.ids)}")
        return LabelTable(self.by_id(i) for i in wanted)

    def mirrored(self) -> NDArray[np.uint8]:
        """Class index of the same structure on the other side, [len + 1]; unpaired classes stay as they are."""
        partners = [self._index.get(label.partner or 0, k) + 1 for k, label in enumerate(self._labels)]
        return np.array([0, *partners], dtype=np.uint8)

    def to_classes(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """Dense class indices of an array of ids, same shape.

        Args:
            array: whole numbers of any integer type; ids that the table lacks become 0, background.

        Raises:
            ValueError: if the array is not of an integer type.
        """
        return take(self.lookup(max(self.ids, default=0)), array)

    def lookup(self, max_id: int) -> NDArray[np.uint8]:
        """Class index of each id from 0 to `max_id`, 0 where the table lacks it."""
        table = np.zeros(max_id + 1, dtype=np.uint8)
        for k, label_id in enumerate(self.ids, start=1):
            if label_id <= max_id:
                table[label_id] = k
        return table

    def to_ids(self, classes: NDArray[Any]) -> NDArray[Any]:
        """Ids of an array of dense class indices, same shape; the smallest of uint8, int16, int32 that holds them."""
        largest = max(self.ids, default=0)
        dtype = np.uint8 if largest < 2**8 else np.int16 if largest < 2**15 else np.int32
        return np.array([0, *self.ids], dtype=dtype)[classes]

    @classmethod
    def freesurfer(cls) -> LabelTable:
        """FreeSurfer's subcortical segmentation (aseg) ids, with the names and colours of its lookup table."""
        return _freesurfer()

    @classmethod
    def read(cls, path: str | Path) -> LabelTable:
        """Read a `labels.csv` with the columns id, name, colour, side, partner, code (the last three may be missing).

        Raises:
            UserError: if the file is missing, lacks a column, or has a row that makes no sense; the row is named.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UserError(path, "does not exist", "give a label table (labels.csv)") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(path, f"cannot be read ({error})", "give a label table (labels.csv)") from None
        return cls._parse(text, str(path))

    @classmethod
    def _parse(cls, text: str, source: str) -> LabelTable:
        reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
        missing = [c for c in COLUMNS[:3] if c not in (reader.fieldnames or [])]
        if missing:
            raise UserError(source, f"has no column {missing[0]!r}", f"the first line has to be {','.join(COLUMNS)}")
        labels: list[Label] = []
        for row in reader:
            where = f"{source}, line {reader.line_num}"
            label = _parse_row(row, where)
            if any(label.id == other.id for other in labels):
                raise UserError(where, f"repeats the id {label.id}", "give each structure an id of its own")
            labels.append(label)
        if not 1 <= len(labels) <= 255:
            raise UserError(source, f"has {len(labels)} labels", "give between 1 and 255")
        return cls(labels)

    def write(self, path: str | Path) -> None:
        """Write `labels.csv`; complete or not at all."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        coded = any(label.code for label in self._labels)
        writer.writerow((*COLUMNS, CODE) if coded else COLUMNS)
        for label in self._labels:
            partner = "" if label.partner is None else label.partner
            row = [label.id, label.name, label.colour, label.side, partner]
            writer.writerow([*row, label.code] if coded else row)
        write_text(Path(path), text.getvalue())


def unsided(left: Label, right: Label) -> str:
    """The name of a pair: without the one word that differs, as "Thalamus"; with both names if that is not the case."""
    words, others = (re.split(r"([-_. ]+)", label.name) for label in (left, right))
    differing = [k for k, (word, other) in enumerate(zip(words, others, strict=False)) if word != other]
    if len(words) != len(others) or len(differing) != 1 or len(words) < 3:
        return f"{left.name} and {right.name}"
    position = differing[0]
    if position == 0:
        return "".join(words[2:])
    return "".join(words[: position - 1] + words[position + 1 :])


def take(lookup: NDArray[np.uint8], array: NDArray[Any]) -> NDArray[np.uint8]:
    """``lookup[array]``, where ids that lie outside the lookup table give 0.

    Args:
        lookup: class index of each id, [largest id + 1], with ``lookup[0] == 0``.
        array: whole numbers of any integer type and shape.

    Raises:
        ValueError: if the array is not of an integer type.
    """
    if array.dtype.kind not in "iub":
        raise ValueError(f"labels have to be whole numbers, got an array of {array.dtype}")
    inside = (array >= 0) & (array < len(lookup))
    return lookup[np.where(inside, array, 0).astype(np.intp, copy=False)]


@lru_cache(maxsize=1)
def _freesurfer() -> LabelTable:
    text = files("voxseg.data").joinpath("freesurfer.csv").read_text(encoding="utf-8")
    return LabelTable._parse(text, "freesurfer.csv")


def _parse_row(row: dict[str, Any], where: str) -> Label:
    """One row of a `labels.csv` as a label."""
    cells = {key: (row.get(key) or "").strip() for key in (*COLUMNS, CODE)}
    label_id = _whole(cells["id"], f"{where}, id")
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", cells["colour"]):
        raise UserError(f"{where}, colour", f"is {cells['colour']!r}", "write it as #rrggbb")
    side = cells["side"] or "none"
    if side not in ("left", "right", "none"):
        raise UserError(f"{where}, side", f"is {side!r}", "write left, right or none")
    if not cells["name"]:
        raise UserError(f"{where}, name", "is empty", "name the structure")
    partner = _whole(cells["partner"], f"{where}, partner") if cells["partner"] else None
    if cells[CODE] and not re.fullmatch(CODE_FORM, cells[CODE]):
        raise UserError(
            f"{where}, code", f"is {cells[CODE]!r}", "write it as SCHEME:CODE:MEANING, SCT:89278009:Putamen"
        )
    return Label(label_id, cells["name"], cells["colour"].lower(), cast(Side, side), partner, cells[CODE])


def _whole(text: str, where: str) -> int:
    """A label id from its text."""
    if not re.fullmatch(r"\d+", text) or not 1 <= int(text) <= MAX_ID:
        raise UserError(where, f"is {text!r}", "write a whole number of at least 1")
    return int(text)


def _shorten(ids: Sequence[int], limit: int = 12) -> str:
    """A few ids as text."""
    return ", ".join(map(str, ids[:limit])) + (", ..." if len(ids) > limit else "")
