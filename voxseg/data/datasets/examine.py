"""What the files of one case hold, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxseg.data.datasets.case import Case, Finding, ImageFile, Level, some
from voxseg.data.datasets.contents import check_complete, could_be_labels
from voxseg.data.datasets.read import read_image, read_labels
from voxseg.data.geometry import Geometry
from voxseg.data.volume import Header, read_header
from voxseg.errors import UserError

__all__ = ["CaseFacts", "Depth", "examine", "unknown_labels"]

Depth = Literal["headers", "labels", "everything"]
"""What is read: headers only; the voxels of labels too; those of every image as well."""

SAME_MM = 0.01
"""Corners of two grids that are nearer than this lie at the same place."""

MOST_LABELS = 400
"""More labels than any atlas of the brain has, and fewer than a scan has intensities."""

FEW_VALUES = 16
COUNTED_AT_ONCE = 2**18


@dataclass
class CaseFacts:
    """What is known of a case once its files were looked at.

    Attributes:
        case: the case.
        grids: of its images, by modality; of the readable ones among those asked for.
        label_grid: of its label file, None if there is none that can be read.
        counts: voxels of each label id in it, with the background; None if it was not read.
        findings: what is wrong.
    """

    case: Case
    grids: dict[str, Geometry] = field(default_factory=dict)
    label_grid: Geometry | None = None
    counts: dict[int, int] | None = None
    findings: list[Finding] = field(default_factory=list)

    def error(self, kind: str, text: str) -> None:
        """Note what keeps the case from being trained on."""
        self.findings.append(Finding("error", self.case.id, text, kind))

    def warn(self, kind: str, text: str) -> None:
        """Note what may be a mistake."""
        self.findings.append(Finding("warning", self.case.id, text, kind))


def examine(case: Case, images: Sequence[str], folder: Path, depth: Depth, raw: bool) -> CaseFacts:
    """Look at the files of a case.

    Args:
        case: which one.
        images: the modalities wanted.
        folder: of the data set, to which the paths in messages are relative.
        depth: what is read.
        raw: whether the images of a case may have been taken with different fields of view, as in BIDS.
    """
    facts = CaseFacts(case)
    labels = _examine_label(facts, folder, depth)
    for name in images:
        if name in case.images:
            _examine_image(facts, name, case.images[name], labels, folder, depth)
    missing = [name for name in images if name not in case.images]
    if not case.images:
        facts.error("no images", "has no images; add them, or leave out the case")
    elif missing:
        what = " and no ".join(missing)
        facts.error(f"no {what}", f"has no {what}; add the file, or leave out the case or the modality")
    _compare_grids(facts, [name for name in images if name in facts.grids], raw)
    return facts


def _examine_label(facts: CaseFacts, folder: Path, depth: Depth) -> NDArray[Any] | None:
    """Note grid and counts of the label file; returns its voxels if they were read."""
    path = facts.case.label
    if path is None:
        facts.error("no label", "has no label file; add it, or leave out the case")
        return None
    header = _header(facts, path, folder, labels=True)
    if header is None:
        return None
    facts.label_grid = header.geometry
    if header.volumes != 1:
        text = f"{_short(path, folder)} holds {header.volumes} volumes; a label file has one"
        facts.error("4-D label", text)
        return None
    if depth == "headers":
        return None
    try:
        labels, _ = read_labels(path)
    except UserError as error:
        facts.error(_kind(error), _about(error, path, folder))
        return None
    facts.counts = count_labels(labels)
    if len(facts.counts) > MOST_LABELS:
        text = f"{_short(path, folder)} holds {len(facts.counts):,} different values; it is a scan and no label file"
        facts.error("scan as label", text)
    elif set(facts.counts) <= {0}:
        facts.warn("empty label", f"{_short(path, folder)} is empty: no voxel has a label")
    return labels


def count_labels(labels: NDArray[Any]) -> dict[int, int]:
    """Voxels of each id in a label array of an integer type, ids of at least 0."""
    largest = int(labels.max(initial=0))
    if largest < 2**16:  # counting is ten times as fast as the sorting of np.unique
        counts = np.zeros(largest + 1, dtype=np.int64)
        flat = labels.ravel(order="K")
        for start in range(0, flat.size, COUNTED_AT_ONCE):  # bincount makes a copy of eight bytes a voxel
            counts += np.bincount(flat[start : start + COUNTED_AT_ONCE], minlength=largest + 1)
        return {int(i): int(counts[i]) for i in np.flatnonzero(counts)}
    ids, numbers = np.unique(labels, return_counts=True)
    return dict(zip(ids.tolist(), numbers.tolist(), strict=True))


def _examine_image(
    facts: CaseFacts, name: str, image: ImageFile, labels: NDArray[Any] | None, folder: Path, depth: Depth
) -> None:
    """Note the grid of an image; read it if that was asked for, or if it may be a label file."""
    header = _header(facts, image.path, folder)
    if header is None:
        return
    short = _short(image.path, folder)
    if header.volumes <= (image.volume or 0) or (image.volume is None and header.volumes != 1):
        wanted = "one is wanted" if image.volume is None else f"number {image.volume + 1} is wanted for {name}"
        facts.error("volumes", f"{short} holds {header.volumes} volume{'s' * (header.volumes != 1)}, {wanted}")
        return
    facts.grids[name] = header.geometry
    if depth == "headers" or not (depth == "everything" or could_be_labels(image.path, header)):
        return
    try:
        data, _ = read_image(image)
    except UserError as error:
        facts.error(_kind(error), _about(error, image.path, folder))
        return
    if labels is not None and np.array_equal(data, labels):
        facts.error("label as image", f"{short} holds the labels and not {name}; give the scan")
        return
    # Few voxels tell that there are many values; only then are all of them sorted.
    few = len(np.unique(data[:: max(1, data.shape[0] // 8)])) <= FEW_VALUES
    values = np.unique(data) if few else np.empty(0)
    if few and len(values) <= FEW_VALUES and np.array_equal(values, np.rint(values)):
        listed = ", ".join(f"{value:g}" for value in values)
        facts.warn("few values", f"{short} holds the values {listed} alone; is it a segmentation and not {name}?")


def _header(facts: CaseFacts, path: Path, folder: Path, labels: bool = False) -> Header | None:
    """The header of a file that is there, complete and has a possible grid; otherwise that is noted."""
    try:
        header = read_header(path, labels)
        header.geometry.check(path)
        check_complete(path, header)
    except UserError as error:
        facts.error(_kind(error), _about(error, path, folder))
        return None
    return header


def _compare_grids(facts: CaseFacts, images: Sequence[str], raw: bool) -> None:
    """Note where the grids of a case differ: those of images from that of the label, or from the first image's."""
    if not images:
        return
    reference, what = facts.label_grid, "the label"
    if reference is not None and all(facts.grids[name].shape != reference.shape for name in images):
        shapes = f"{_voxels(reference)} voxels, {images[0]} {_voxels(facts.grids[images[0]])}"
        text = f"the grid of the label is that of no image ({shapes}); give labels drawn on an image"
        facts.error("label grid", text)
        reference = None
    if reference is None:
        reference, what = facts.grids[images[0]], images[0]
    # Raw scans may have been taken with other fields of view, as long as the label fits one of them.
    nearest = min(facts.grids[name].displacement(reference) for name in images)
    free = raw and nearest < min(reference.spacing)
    alike: dict[tuple[Level, str, str], list[str]] = {}  # images with the same to be said of them, in one message
    for name in images:
        difference = _difference(facts.grids[name], reference, what, free)
        if difference is not None:
            alike.setdefault(difference, []).append(name)
    for (level, kind, text), names in alike.items():
        facts.findings.append(Finding(level, facts.case.id, f"{', '.join(names)}: {text}", kind))


def _difference(grid: Geometry, reference: Geometry, what: str, free: bool) -> tuple[Level, str, str] | None:
    """Level, kind and text of what is wrong with where a grid lies; None if it lies where the other does.

    Args:
        grid: of an image.
        reference: the grid to compare with.
        what: that is.
        free: whether the image may lie anywhere.
    """
    if grid.shape != reference.shape:
        shapes = f"{_voxels(grid)} voxels, {what} {_voxels(reference)}"
        return "warning", "other grid", f"another grid than that of {what} ({shapes}); will be resampled"
    millimetres = grid.displacement(reference)
    if millimetres < SAME_MM:
        return None
    text = f"the corners lie {_mm(millimetres)} from those of {what}"
    if millimetres < min(*grid.spacing, *reference.spacing):
        return "warning", "a little off", f"{text}, less than a voxel"
    if free:
        return "warning", "elsewhere", f"{text}; will be resampled"
    return "error", "elsewhere", f"{text}, more than a voxel; correct the affine in one of the headers"


def _voxels(grid: Geometry) -> str:
    return " x ".join(map(str, grid.shape))


def _mm(length: float) -> str:
    return f"{length:.2f} mm" if length < 10 else f"{length:.0f} mm"


def _short(path: Path, folder: Path) -> str:
    """A path as it is told apart from others: relative to the folder of the data set."""
    start = folder if folder.is_dir() else folder.parent
    return str(path.relative_to(start)) if path.is_relative_to(start) else str(path)


def _kind(error: UserError) -> str:
    """The problem without its figures."""
    return re.sub(r"\d[\d.,]*", "#", error.problem)


def _about(error: UserError, path: Path, folder: Path) -> str:
    return f"{_short(path, folder)}: {error.problem}; {error.remedy}"


def unknown_labels(facts: CaseFacts, odd: Sequence[int], known: Iterable[int], names: Mapping[int, str]) -> str:
    """That a case holds odd labels, with how many voxels, and which ones are known in their place."""
    counts = facts.counts or {}
    told = some([f"{i} ({counts[i]:,} voxel{'s' * (counts[i] != 1)})" for i in odd], 5)
    listed = some([f"{i} {names[i]}" if i in names else str(i) for i in sorted(known)], 8)
    return f"holds the label{'s' * (len(odd) > 1)} {told}; known are {listed}"
