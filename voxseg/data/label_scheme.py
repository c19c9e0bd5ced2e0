"""What a model predicts from the labels of a data set: exclusive classes, or overlapping regions."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from voxseg.data.labels import CODE_FORM, MAX_ID, Label, LabelTable, Side, take
from voxseg.errors import UserError

__all__ = ["LabelEntry", "LabelScheme", "Region"]

PALETTE = (
    "#2f7ed8", "#f2b705", "#d7263d", "#4caf50", "#8e44ad", "#00a6a6", "#f46036", "#a0c334", "#e377c2", "#6d4c41",
    "#1b998b", "#b0b0b0",
)  # fmt: skip
"""Colours of labels that are given none, in their order."""

Id = Annotated[int, Field(ge=1, le=MAX_ID)]


class LabelEntry(BaseModel):
    """One row of `labels.table`: what an id of the data set means.

    Attributes:
        id: the number in the label files.
        name: for people.
        colour: "#rrggbb"; one is chosen if none is given.
        side: "left", "right" or "none".
        partner: id of the same structure on the other side.
        code: what it is in a terminology, as scheme, code and meaning: "SCT:79654002:Edema".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Id
    name: Annotated[str, Field(min_length=1)]
    colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None
    side: Side = "none"
    partner: Id | None = None
    code: Annotated[str, Field(pattern=rf"^({CODE_FORM})?$")] = ""


class Region(BaseModel):
    """A union of labels, predicted by an output of its own.

    Attributes:
        name: for people, such as "whole tumour".
        ids: of the labels that it consists of.
        label: the id that voxels in the region get when regions are turned back into exclusive labels. Regions are
            painted in the order of the config, a later one over an earlier one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    ids: Annotated[tuple[Id, ...], Field(min_length=1)]
    label: Id


class LabelScheme(BaseModel):
    """What a model predicts: the `labels` block of a configuration.

    Attributes:
        classes: ids told apart, in the order of the dense class indices 1, 2, ...; with `merge_sides`, those of the
            left side and of unpaired structures.
        regions: overlapping unions of classes. If there are any, the network has an output with a sigmoid for each;
            otherwise one with a softmax for each class and the background.
        merge_sides: whether left and right become one structure, which carries the id of the left side.
        merge: ids that count as another one, such as ``{5: 4}``: the inferior horn belongs to the lateral ventricle.
            What counts as 0 is background, and no mistake in the data.
        table: what the ids of the data set mean; FreeSurfer's table if it is empty.
        unlisted: what an id is that is neither in `classes` nor merged into one: "background", or a mistake in the
            data ("refuse").
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: list[int] = Field(min_length=1, max_length=255)
    regions: tuple[Region, ...] = ()
    merge_sides: bool = True
    merge: dict[Id, Annotated[int, Field(ge=0, le=MAX_ID)]] = Field(default_factory=dict)
    table: tuple[LabelEntry, ...] = ()
    unlisted: Literal["background", "refuse"] = "background"

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        repeated = sorted({i for i in value if value.count(i) > 1})
        if repeated:
            raise ValueError(f"the id {repeated[0]} is given twice")
        if min(value) < 1:
            raise ValueError(f"ids have to be at least 1, got {min(value)} (0 is the background, and always there)")
        return value

    @field_validator("table")
    @classmethod
    def _distinct_rows(cls, value: tuple[LabelEntry, ...]) -> tuple[LabelEntry, ...]:
        ids = [entry.id for entry in value]
        if len(set(ids)) != len(ids):
            raise ValueError(f"the id {next(i for i in ids if ids.count(i) > 1)} is given twice")
        rows = {entry.id: entry for entry in value}
        for entry in value:
            if entry.partner is None:
                continue
            partner = rows.get(entry.partner)
            if partner is None:
                raise ValueError(f"{entry.id} has the partner {entry.partner}, which has no row")
            if partner.partner != entry.id or {entry.side, partner.side} != {"left", "right"}:
                raise ValueError(
                    f"{entry.id} and its partner {partner.id} need each other as partner, and one side: left, one right"
                )
        return value

    @model_validator(mode="after")
    def _regions_make_sense(self) -> LabelScheme:
        for position, region in enumerate(self.regions):
            for label_id in (*region.ids, region.label):
                if label_id not in self.classes:
                    raise ValueError(f"the region '{region.name}' has the id {label_id}, which classes lacks")
            if region.label not in region.ids:
                raise ValueError(f"the region '{region.name}' is painted with {region.label}, which is not in its ids")
            for later in self.regions[position + 1 :]:
                if later.name == region.name:
                    raise ValueError(f"the region '{region.name}' is given twice")
                if set(region.ids) <= set(later.ids):
                    raise ValueError(
                        f"the region '{region.name}' would be painted over by '{later.name}': put it after that one"
                    )
        return self

    @classmethod
    def brain(cls) -> LabelScheme:
        """The 16 structures of FreeSurfer's segmentation with both sides merged that the brain model predicts."""
        merge = {5: 4, 31: 4, 77: 2, 78: 2, 79: 2, 251: 2, 252: 2, 253: 2, 254: 2, 255: 2}
        return cls(classes=[14, 15, 16, 2, 3, 4, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28], merge=merge)

    @cached_property
    def base(self) -> LabelTable:
        """What the ids of the data set mean."""
        if not self.table:
            return LabelTable.freesurfer()
        return LabelTable(
            Label(e.id, e.name, (e.colour or PALETTE[k % len(PALETTE)]).lower(), e.side, e.partner, e.code)
            for k, e in enumerate(self.table)
        )

    @property
    def channels(self) -> int:
        """Outputs of the network: the regions, or the classes and the background."""
        return len(self.regions) or len(self.classes) + 1

    @property
    def outputs(self) -> list[str]:
        """Names of what is scored, in the order of the network's outputs, without the background."""
        return [region.name for region in self.regions] or self.predicted().names

    def membership(self) -> NDArray[np.bool_]:
        """Whether a class, in rows 0 (background) to len(classes), belongs to each region, [len(classes) + 1, R]."""
        result = np.zeros((len(self.classes) + 1, len(self.regions)), dtype=bool)
        for column, region in enumerate(self.regions):
            result[[1 + self.classes.index(label_id) for label_id in region.ids], column] = True
        return result

    def predicted(self) -> LabelTable:
        """The label table of the classes.

        Raises:
            UserError: if a class is not in `base`, or is of the right side although the sides are merged.
        """
        chosen = self.base.select(self.classes)
        if not self.merge_sides:
            return chosen
        for label in chosen:
            if label.side == "right":
                raise UserError(
                    f"labels.classes: {label.id}",
                    f"is {label.name}, but the sides are merged",
                    f"give the id of the left side ({label.partner}), or merge_sides: false",
                )
        return LabelTable(Label(label.id, _without_side(label.name), label.colour, code=label.code) for label in chosen)

    def with_sides(self) -> LabelTable:
        """The label table of the classes, and after them the other sides of the paired ones in the same order.

        Raises:
            UserError: as `predicted` does, or if no class has another side.
        """
        chosen = self.base.select(self.predicted().ids)
        partners = [label.partner for label in chosen if label.partner is not None and label.side == "left"]
        if not self.merge_sides or not partners:
            problem = "tells sides apart, but labels has no class with both sides as one"
            raise UserError("postprocessing.sides", problem, "set it to false, or labels.merge_sides to true")
        return self.base.select([*chosen.ids, *partners])

    def apart(self) -> LabelScheme:
        """The same structures with their sides apart, in the order of `with_sides`: what is scored of such a model.

        An id without a side that is merged into a paired structure counts as its left one.

        Raises:
            UserError: as `with_sides` does.
        """
        known, pairs = self.base, {}
        for source, target in self.merge.items():
            if source in known and target in known:
                other, other_target = known.by_id(source).partner, known.by_id(target).partner
                if other is not None and other_target is not None:
                    pairs[other] = other_target
        changes = {"classes": self.with_sides().ids, "merge_sides": False, "merge": {**pairs, **self.merge}}
        return LabelScheme.model_validate(self.model_dump() | changes)

    def lookup(self, max_id: int) -> NDArray[np.uint8]:
        """Class index for every id from 0 to `max_id` of a data set; 0 for what is not predicted."""
        index = {label_id: k for k, label_id in enumerate(self.classes, start=1)}
        result = np.zeros(max_id + 1, dtype=np.uint8)
        for label_id in self._known:
            if 0 < label_id <= max_id:
                result[label_id] = index.get(self._target(label_id), 0)
        return result

    def to_classes(self, array: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Dense class indices of an array of a data set's ids, same shape; what is not predicted becomes 0.

        Raises:
            ValueError: if the array is not of an integer type.
        """
        return take(self.lookup(max(self._known)), array)

    def unknown(self, ids: set[int]) -> list[int]:
        """Those ids of a label file that are a mistake, sorted; none unless `unlisted` is "refuse"."""
        if self.unlisted == "background":
            return []
        return sorted(i for i in ids if i != 0 and self._target(i) not in (0, *self.classes))

    @property
    def _known(self) -> set[int]:
        return {*self.classes, *self.merge, *self.base.ids}

    def _target(self, label_id: int) -> int:
        """The id that an id counts as."""
        target = self.merge.get(label_id, label_id)
        if self.merge_sides and target in self.base:
            label = self.base.by_id(target)
            if label.side == "right" and label.partner is not None:
                target = label.partner
        return self.merge.get(target, target)


def _without_side(name: str) -> str:
    """The name without its side: Left-Putamen and putamen_left become Putamen and putamen."""
    return re.sub(r"^(left|right)[-_ ]|[-_ ](left|right)$", "", name, flags=re.IGNORECASE)
