"""Reading repeated scans and comparing them: what `voxseg agreement` does."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from voxseg.data.labels import LabelTable
from voxseg.data.overlap import joint_counts
from voxseg.errors import UserError
from voxseg.evaluation.agreement import Agreement, compare
from voxseg.evaluation.agreement_scans import RepeatedScan, Repeats
from voxseg.evaluation.agreement_volumes import MeasuredScan, MeasuredStructure, measured_structures, read_scan

__all__ = ["assess"]

SAME_GRID = 0.01
"""mm by which grids may differ that count as the same: headers are rounded."""

MAX_OVERLAP_LABELS = 255


def assess(
    repeats: Repeats, table: LabelTable | None = None, overlap: bool = False, progress: bool = False
) -> Agreement:
    """Read repeated scans and compare the volumes of their structures.

    A file that cannot be used is listed, and the rest goes on without it.

    Args:
        repeats: the files, by subject.
        table: names and sides of the labels; by default what the files say, or FreeSurfer's.
        overlap: whether successive scans are also laid on each other, where both are segmentations in one grid.
        progress: whether a bar is shown if standard error is a terminal.

    Raises:
        UserError: if nobody has two scans that can be used.
    """
    reader = _Reader(table, overlap)
    with _bar(sum(len(scans) for scans in repeats.subjects), progress) as advance:
        read = [reader.read_subject(scans, advance) for scans in repeats.subjects]
    left = tuple(scans for scans in read if len(scans) > 1)
    if not left:
        if reader.failures:
            raise UserError(
                "agreement", f"nobody has two scans that can be used; {reader.failures[0]}", "mend the files"
            )
        raise UserError("agreement", "nobody has two scans", "give repeated scans")
    notes = list(repeats.notes)
    single = [scans[0].subject for scans in read if len(scans) == 1]
    if single:
        notes.append(f"left out, because one scan only could be used: {', '.join(single)}")
    structures = measured_structures(reader.names, reader.found, table)
    volumes = {key: {s.name: _volume(scan, s) for s in structures} for key, scan in reader.ml.items()}
    overlaps = {key: _dice(joint, reader.overlap_ids[key], structures) for key, joint in reader.joint.items()}
    usable = Repeats(left, tuple(s for s in repeats.sessions if any(s == x.session for own in left for x in own)))
    shorter = sum(bool(listed) and len(listed) < len(reader.names) for listed in reader.listed)
    if shorter:
        notes.append(f"{shorter} files list fewer labels than others: what they do not list counts as missing in them")
    if overlap and reader.apart:
        notes.append(f"no overlap for {reader.apart} of {reader.pairs} pairs of scans: no segmentations in one grid")
    return compare(usable, structures, volumes, overlaps, tuple(reader.failures), tuple(notes))


def _volume(ml: Mapping[int, float], structure: MeasuredStructure) -> float:
    """Of a structure in a scan; 0 unless all its labels are there: one side alone is no smaller pair."""
    parts = [ml.get(label, 0.0) for label in structure.ids]
    return sum(parts) if all(parts) else 0.0


class _Reader:
    """Reads the scans of one subject after the other, and remembers what all of them have said."""

    def __init__(self, table: LabelTable | None, overlap: bool) -> None:
        self.table, self.overlap = table, overlap
        self.names: dict[int, str] = {}
        self.named_by: dict[int, Path] = {}
        self.found: set[int] = set()
        self.ml: dict[tuple[str, str], Mapping[int, float]] = {}
        self.joint: dict[tuple[str, str, str], np.ndarray] = {}
        self.overlap_ids: dict[tuple[str, str, str], list[int]] = {}
        self.pairs, self.apart = 0, 0
        self.failures: list[str] = []
        self.listed: list[set[int]] = []

    def read_subject(self, scans: Sequence[RepeatedScan], advance: Callable[[str], None]) -> tuple[RepeatedScan, ...]:
        """Returns those scans that could be used."""
        usable: list[RepeatedScan] = []
        earlier: MeasuredScan | None = None
        for scan in scans:
            advance(scan.title)
            try:
                measured = read_scan(scan.path)
                self._check_names(scan.path, measured)
            except UserError as error:
                self.failures.append(str(error))
                continue
            self.found |= measured.ml.keys()
            self.listed.append(set(measured.names))
            self.ml[scan.subject, scan.session] = measured.ml
            if self.overlap and earlier is not None:
                self._lay(scan.subject, usable[-1].session, scan.session, earlier, measured)
            earlier = measured if self.overlap else None
            usable.append(scan)
        advance("")
        return tuple(usable)

    def _check_names(self, path: Path, scan: MeasuredScan) -> None:
        """Refuse a scan in which an id has another name than before: volumes of different things do not compare."""
        if self.table is not None:
            return
        for label, name in scan.names.items():
            if self.names.get(label, name) != name:
                problem = f"calls label {label} {name}, and {self.named_by[label]} calls it {self.names[label]}"
                raise UserError(path, problem, "compare results of one model, or say what labels mean with --labels")
        for label, name in scan.names.items():
            self.names.setdefault(label, name)
            self.named_by.setdefault(label, path)

    def _lay(self, subject: str, first: str, second: str, a: MeasuredScan, b: MeasuredScan) -> None:
        """Count how two scans fall on each other, if they have one grid."""
        self.pairs += 1
        ids = sorted({*a.ml, *b.ml})
        together = (
            a.geometry is not None and b.geometry is not None and a.geometry.displacement(b.geometry) <= SAME_GRID
        )
        if a.labels is None or b.labels is None or not together or len(ids) > MAX_OVERLAP_LABELS:
            self.apart += 1
            return
        known = np.array([0, *ids])
        one, other = (np.searchsorted(known, labels).astype(np.uint8) for labels in (a.labels, b.labels))
        self.joint[subject, first, second] = joint_counts(one, other, len(known))
        self.overlap_ids[subject, first, second] = ids


def _one_grid(a: MeasuredScan, b: MeasuredScan) -> bool:
    return a.geometry is not None and b.geometry is not None and a.geometry.displacement(b.geometry) <= SAME_GRID


def _dice(joint: np.ndarray, ids: list[int], structures: Sequence[MeasuredStructure]) -> dict[str, float]:
    """Dice of each structure from the counts of how two segmentations fall on each other."""
    result = {}
    for structure in structures:
        index = [ids.index(i) + 1 for i in structure.ids if i in ids]
        both = float(joint[np.ix_(index, index)].sum())
        total = float(joint[index].sum() + joint[:, index].sum())
        result[structure.name] = 2 * both / total if total else math.nan
    return result


class _bar:  # noqa: N801 - used like a function
    """A bar over scans on standard error; nothing where that is no terminal."""

    def __init__(self, count: int, wanted: bool) -> None:
        from tqdm import tqdm

        hidden = not (wanted and sys.stderr.isatty())
        self.bar = tqdm(total=count, unit="scan", leave=False, disable=hidden)
        self.begun = False

    def __enter__(self) -> Callable[[str], None]:
        return self._advance

    def _advance(self, title: str) -> None:
        """The scan before is done; the one of this title begins, or none if it is empty."""
        self.bar.update(self.begun)
        self.begun = bool(title)
        if title:
            self.bar.set_description_str(title)

    def __exit__(self, *error: object) -> None:
        self.bar.close()
