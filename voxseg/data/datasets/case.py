"""What a data set is once it is found: cases, each with its images and its label file. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from voxseg.data.dicom.series import Series

__all__ = ["Case", "Dataset", "Finding", "ImageFile", "Level", "in_order", "left_out", "some"]

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class ImageFile:
    """Where one image of a case is.

    Attributes:
        path: the file; whether it exists is not known yet.
        volume: which volume of a 4-D file it is, counted from 0; None for a file that holds one volume.
        series: the DICOM series that it is, if it is one.
    """

    path: Path
    volume: int | None = None
    series: Series | None = None

    def __str__(self) -> str:
        return str(self.path) if self.volume is None else f"{self.path}, volume {self.volume}"


@dataclass(frozen=True)
class Case:
    """One scan session: images that lie in one space, and their labels.

    Attributes:
        id: unique in its data set.
        images: the image files by the name of their modality; modalities that were not found are left out.
        label: the label file, None if there is none.
        subject: whose scans they are. Cases of one subject stay in one fold.
    """

    id: str
    images: Mapping[str, ImageFile]
    label: Path | None
    subject: str


@dataclass(frozen=True)
class Finding:
    """Something wrong with a data set.

    Attributes:
        level: "error" if training would fail or learn from wrong labels, otherwise "warning".
        case: id of the case, "" if it concerns the whole data set.
        text: what is wrong and what to do, on one line.
        kind: the same for findings that differ in their figures only.
    """

    level: Level
    case: str
    text: str
    kind: str

    @property
    def subject(self) -> str:
        """What the finding is about, for a message."""
        return self.case or "data set"


@dataclass(frozen=True)
class Dataset:
    """The cases of a folder.

    Attributes:
        folder: where they were looked for.
        layout: the name of the layout, as in `DatasetConfig.layout`.
        cases: in the order of their ids.
        label_names: what the label ids mean, without the background, as far as the data set says so.
        regions: overlapping unions of label ids, where the data set declares such.
        findings: what is wrong with the names and places of the files.
        title: what the layout is called.
        declared: the modalities that a description of the data set lists, whether or not there are files of them.
    """

    folder: Path
    layout: str
    cases: tuple[Case, ...]
    label_names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    title: str = ""
    declared: tuple[str, ...] = ()

    @property
    def modalities(self) -> list[str]:
        """Every name that an image has or should have in any case, in the order in which the layout lists them."""
        longest = sorted(self.cases, key=lambda case: -len(case.images))
        return list(dict.fromkeys([*self.declared, *(name for case in longest for name in case.images)]))

    @property
    def label_ids(self) -> set[int]:
        """The ids that the data set declares; empty if it declares none."""
        return {*self.label_names, *(i for ids in self.regions.values() for i in ids)}


def in_order(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Cases in the order of their ids, whatever order the file system has."""
    return tuple(sorted(cases, key=lambda case: case.id))


def some(names: Sequence[object], limit: int = 3) -> str:
    """A few names, and how many more there are."""
    shown = ", ".join(map(str, names[:limit]))
    more = len(names) - limit
    return shown if more <= 0 else f"{shown} and {more} other{'s' * (more > 1)}"


def left_out(cases: Sequence[str], what: str) -> Finding:
    """That cases without something are not used."""
    have = "have no {} and are" if len(cases) > 1 else "has no {} and is"
    return Finding("warning", "", f"{some(cases)} {have.format(what)} left out", f"no {what}")
