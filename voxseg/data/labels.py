"""Label tables: which number stands for which structure, and the dense class indices that networks use.

Ids are the data set's own (FreeSurfer's for brains) and are what every file holds. A network numbers its classes 0
(background), 1, 2, ... in the order of its table; those numbers stay inside the program.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from voxseg.data.staging import write_text
from voxseg.errors import UserError

Side = Literal["left", "right", "none"]
COLUMNS = ("id", "name", "colour", "side", "partner")
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
    """

    id: int
    name: str
    colour: str
    side: Side = "none"
    partner: int | None = None


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
        """Read a `labels.csv` with the columns id, name, colour, side, partner (the last two may be missing).

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
        writer.writerow(COLUMNS)
        for label in self._labels:
            partner = "" if label.partner is None else label.partner
            writer.writerow([label.id, label.name, label.colour, label.side, partner])
        write_text(Path(path), text.getvalue())


class LabelScheme(BaseModel):
    """What a model predicts: the `labels` block of a configuration.

    Attributes:
        classes: ids predicted, in the order of the dense class indices 1, 2, ...; with `merge_sides`, those of the
            left side and of unpaired structures.
        merge_sides: whether left and right become one structure, which carries the id of the left side.
        merge: ids that count as another one, such as ``{5: 4}``: the inferior horn belongs to the lateral ventricle.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: list[int] = Field(min_length=1, max_length=255)
    merge_sides: bool = True
    merge: dict[int, int] = Field(default_factory=dict)

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        repeated = sorted({i for i in value if value.count(i) > 1})
        if repeated:
            raise ValueError(f"the id {repeated[0]} is given twice")
        if min(value) < 1:
            raise ValueError(f"ids have to be at least 1, got {min(value)} (0 is the background, and always there)")
        return value

    @classmethod
    def brain(cls) -> LabelScheme:
        """The 16 structures of FreeSurfer's segmentation with both sides merged that the brain model predicts."""
        merge = {5: 4, 31: 4, 77: 2, 78: 2, 79: 2, 251: 2, 252: 2, 253: 2, 254: 2, 255: 2}
        return cls(classes=[14, 15, 16, 2, 3, 4, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28], merge=merge)

    def table(self, base: LabelTable | None = None) -> LabelTable:
        """The label table of the predicted classes.

        Args:
            base: where names, colours and partners come from; FreeSurfer's table by default.

        Raises:
            UserError: if a class is not in `base`, or is of the right side although the sides are merged.
        """
        base = LabelTable.freesurfer() if base is None else base
        chosen = base.select(self.classes)
        if not self.merge_sides:
            return chosen
        for label in chosen:
            if label.side == "right":
                raise UserError(
                    f"labels.classes: {label.id}",
                    f"is {label.name}, but the sides are merged",
                    f"give the id of the left side ({label.partner}), or merge_sides: false",
                )
        return LabelTable(Label(label.id, _without_side(label.name), label.colour) for label in chosen)

    def lookup(self, max_id: int, base: LabelTable | None = None) -> NDArray[np.uint8]:
        """Class index for every id from 0 to `max_id` of a data set; 0 for what is not predicted.

        Args:
            max_id: the largest id to look up.
            base: where partners come from; FreeSurfer's table by default.
        """
        base = LabelTable.freesurfer() if base is None else base
        index = {label_id: k for k, label_id in enumerate(self.classes, start=1)}
        result = np.zeros(max_id + 1, dtype=np.uint8)
        for label_id in {*self.classes, *self.merge, *base.ids}:
            if 0 < label_id <= max_id:
                result[label_id] = index.get(self._target(label_id, base), 0)
        return result

    def _target(self, label_id: int, base: LabelTable) -> int:
        """The id that an id counts as."""
        target = self.merge.get(label_id, label_id)
        if self.merge_sides and target in base:
            label = base.by_id(target)
            if label.side == "right" and label.partner is not None:
                target = label.partner
        return self.merge.get(target, target)

    def to_classes(self, array: NDArray[Any], base: LabelTable | None = None) -> NDArray[np.uint8]:
        """Dense class indices of an array of a data set's ids, same shape; what is not predicted becomes 0.

        Raises:
            ValueError: if the array is not of an integer type.
        """
        base = LabelTable.freesurfer() if base is None else base
        return take(self.lookup(max([*self.classes, *self.merge, *base.ids]), base), array)


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
    cells = {key: (row.get(key) or "").strip() for key in COLUMNS}
    label_id = _whole(cells["id"], f"{where}, id")
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", cells["colour"]):
        raise UserError(f"{where}, colour", f"is {cells['colour']!r}", "write it as #rrggbb")
    side = cells["side"] or "none"
    if side not in ("left", "right", "none"):
        raise UserError(f"{where}, side", f"is {side!r}", "write left, right or none")
    if not cells["name"]:
        raise UserError(f"{where}, name", "is empty", "name the structure")
    partner = _whole(cells["partner"], f"{where}, partner") if cells["partner"] else None
    return Label(label_id, cells["name"], cells["colour"].lower(), cast(Side, side), partner)


def _whole(text: str, where: str) -> int:
    """A label id from its text."""
    if not re.fullmatch(r"\d+", text) or not 1 <= int(text) <= MAX_ID:
        raise UserError(where, f"is {text!r}", "write a whole number of at least 1")
    return int(text)


def _without_side(name: str) -> str:
    """The name without its side: Left-Putamen becomes Putamen."""
    return re.sub(r"^(left|right)[-_ ]", "", name, flags=re.IGNORECASE)


def _shorten(ids: Sequence[int], limit: int = 12) -> str:
    """A few ids as text."""
    return ", ".join(map(str, ids[:limit])) + (", ..." if len(ids) > limit else "")
