"""Which files are repeated scans of whom: a table, folders matched by name, one folder of BIDS names, or the files.

Imports nothing heavy, so that a wrong call is told at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxseg.data.datasets.listing import walk
from voxseg.data.paths import SUFFIXES, check_scan_path, scan_name
from voxseg.data.written_table import read_written_table
from voxseg.errors import UserError

__all__ = ["VOLUMES", "RepeatedScan", "Repeats", "find_repeats"]

VOLUMES = "_volumes.tsv"
"""What the name of a table of volumes ends with."""

TABLES = (".csv", ".tsv")
DAYS_A_YEAR = 365.25
LABEL_NAME = re.compile(r"[-_.](?:[a-z0-9+]*seg|labels?)$", re.IGNORECASE)
TABLE_EXAMPLE = "write for example subject,session,file in the first line (and days or age, if change over time counts)"
BY_TABLE = "give a CSV table with the columns subject, session, file"
FORMATS = f"segmentations ({', '.join(SUFFIXES)}) or tables of volumes (*{VOLUMES})"


@dataclass(frozen=True)
class RepeatedScan:
    """One scan of somebody who was scanned more than once.

    Attributes:
        subject: who.
        session: which of the scans; unique within the subject.
        path: of the segmentation, or of the table of its volumes.
        years: when, counted from whatever is the same for all scans of the subject; None if that is not known.
    """

    subject: str
    session: str
    path: Path
    years: float | None = None

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.subject}, {self.session}"


@dataclass(frozen=True)
class Repeats:
    """The scans of subjects with at least two.

    Attributes:
        subjects: for each subject its scans in their order: by time if it is known, otherwise as they were given.
        sessions: names of all sessions in their order.
        notes: what was left out.
    """

    subjects: tuple[tuple[RepeatedScan, ...], ...]
    sessions: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def timed(self) -> bool:
        """Whether it is known when the scans were made."""
        return all(scan.years is not None for scans in self.subjects for scan in scans)


def find_repeats(given: Sequence[Path]) -> Repeats:
    """What the arguments of `voxseg agreement` mean.

    - One CSV table with the columns subject, file, session (or scan; numbered in the order of the rows without), and
      days or age (years) if there is one. Paths are relative to the table.
    - One folder with names like `sub-01_ses-1_seg.nii.gz`, at any depth.
    - Two folders or more, one for each session: files of the same name belong to one subject.
    - Two files or more: the scans of one subject.

    Files are segmentations or tables of volumes; of a folder that has both of a scan, the segmentation.

    Raises:
        UserError: if they mean nothing, or more than one thing.
    """
    for path in given:
        if not path.exists():
            raise UserError(path, "does not exist", "check the path")
    folders = [path for path in given if path.is_dir()]
    if len(given) == 1:
        only = given[0]
        if folders:
            return _grouped(only, _of_names(only))
        if only.name.lower().endswith(TABLES) and not only.name.endswith(VOLUMES):
            return _grouped(only, _of_table(only))
        raise UserError(
            only, "is one scan, and agreement is between two or more", f"give the others too, or {BY_TABLE}"
        )
    if len(folders) == len(given):
        return _of_folders(folders)
    if folders:
        raise UserError(folders[0], "is a folder, and files are given as well", "give folders alone, or files alone")
    return _of_files(given)


def _distinct(paths: Sequence[Path]) -> list[str]:
    """Short names that tell paths apart: their last parts, or one of the folders above, or all of them."""
    for depth in range(1, 1 + min(len(path.parts) for path in paths)):
        names = [path.parts[-depth] for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _grouped(source: Path, scans: list[RepeatedScan]) -> Repeats:
    """Scans, in the order of their sessions, by subject."""
    sessions = tuple(dict.fromkeys(scan.session for scan in scans))
    by_subject: dict[str, list[RepeatedScan]] = {}
    for scan in scans:
        by_subject.setdefault(scan.subject, []).append(scan)
    subjects = []
    for subject in sorted(by_subject, key=_natural):
        own = sorted(by_subject[subject], key=lambda scan: (scan.years or 0.0, sessions.index(scan.session)))
        if len(own) > 1:
            subjects.append(tuple(own))
    single = sorted((name for name, own in by_subject.items() if len(own) == 1), key=_natural)
    if not subjects:
        raise UserError(source, f"has nobody with two scans ({len(single)} with one)", BY_TABLE)
    notes = (f"left out, with one scan only: {', '.join(single)}",) if single else ()
    return Repeats(tuple(subjects), sessions, notes)


def _of_files(paths: Sequence[Path]) -> Repeats:
    for path in paths:
        if not path.name.endswith(VOLUMES):
            check_scan_path(path)
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path, real in zip(paths, resolved, strict=True) if resolved.count(real) > 1)
        raise UserError(twice, "is given twice", "give each scan once")
    sessions = _distinct([path.parent / _stem(path) for path in paths])
    scans = tuple(RepeatedScan("subject", name, path) for name, path in zip(sessions, paths, strict=True))
    return Repeats((scans,), tuple(sessions))


def _of_folders(folders: Sequence[Path]) -> Repeats:
    """Each folder a session; files are matched by name, in which the session may differ, or else by place."""
    sessions = _distinct([folder.resolve() for folder in folders])
    if len(set(sessions)) < len(sessions):
        raise UserError(folders[0], "is given twice", "give each folder once")
    found = [_label_files(folder) for folder in folders]
    by_name = [[_without_session(_stem(path)) for path in paths] for paths in found]
    if any(len(set(keys)) < len(keys) for keys in by_name):
        by_name = [
            [_without_session(str((path.parent / _stem(path)).relative_to(folder))) for path in paths]
            for folder, paths in zip(folders, found, strict=True)
        ]
    scans = []
    for folder, session, paths, keys in zip(folders, sessions, found, by_name, strict=True):
        repeated = next((key for key in keys if keys.count(key) > 1), None)
        if repeated is not None:
            both = ", ".join(path.name for path, key in zip(paths, keys, strict=True) if key == repeated)
            raise UserError(folder, f"has several files of {repeated} ({both})", f"keep one, or {BY_TABLE}")
        scans += [RepeatedScan(key, session, path) for key, path in zip(keys, paths, strict=True)]
    try:
        return _grouped(folders[0], scans)
    except UserError:
        example = " and ".join(paths[0].name for paths in found[:2])
        problem = f"no file has the same name in two folders (there are {example})"
        raise UserError(", ".join(map(str, folders)), problem, BY_TABLE) from None


def _of_names(folder: Path) -> list[RepeatedScan]:
    """Subject, session and run by the BIDS entities of names, or of the folders that the files lie in."""
    scans: list[RepeatedScan] = []
    for path in _label_files(folder):
        place = str((path.parent / _stem(path)).relative_to(folder))
        entities = {key: _entity(place, key) for key in ("sub", "ses", "run")}
        if not entities["sub"]:
            problem = f"{path.name} does not say whose scan it is (as sub-01_ses-1_seg.nii.gz does)"
            raise UserError(folder, problem, f"{BY_TABLE}, or two folders with equal names")
        session = ", ".join(f"{key}-{entities[key]}" for key in ("ses", "run") if entities[key]) or "(none)"
        scan = RepeatedScan(f"sub-{entities['sub']}", session, path)
        earlier = next((s for s in scans if (s.subject, s.session) == (scan.subject, scan.session)), None)
        if earlier is not None:
            problem = f"has two files of {scan.subject}, {session} ({earlier.path.name}, {path.name})"
            raise UserError(folder, problem, f"keep one, or {BY_TABLE}")
        scans.append(scan)
    return sorted(scans, key=lambda scan: _natural(scan.session))


def _of_table(path: Path) -> list[RepeatedScan]:
    """The scans that a table lists, in the order of its rows."""
    header, rows = read_written_table(path)
    who, what = "subject", next((name for name in ("session", "scan") if name in header), None)
    when = [name for name in ("days", "age") if name in header]
    for column in (who, "file"):
        if column not in header:
            raise UserError(path, f"has no column {column!r}", TABLE_EXAMPLE)
    if len(when) > 1 or {"session", "scan"} <= set(header):
        two = "days and age" if len(when) > 1 else "session and scan"
        raise UserError(path, f"has the columns {two}, which say the same", "leave out one of them")
    if not rows:
        raise UserError(path, "lists no scans", TABLE_EXAMPLE)
    scans: list[RepeatedScan] = []
    for number, row in rows:
        where = f"{path}, line {number}"
        if not row[who] or not row["file"] or (what and not row[what]):
            lacking = next(name for name in (who, "file", what) if name and not row[name])
            raise UserError(where, f"has no {lacking}", "fill the cell, or take the row out")
        session = row[what] if what else str(1 + sum(scan.subject == row[who] for scan in scans))
        if any((scan.subject, scan.session) == (row[who], session) for scan in scans):
            raise UserError(where, f"repeats {row[who]}, {session}", "give each scan a session of its own")
        years = _years(where, when[0], row[when[0]]) if when else None
        scans.append(RepeatedScan(row[who], session, path.parent / row["file"], years))
    return scans


def _years(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}, {column}", f"is {text!r}", "write a number in every row, or leave out the column")
    return value / DAYS_A_YEAR if column == "days" else value


def _label_files(folder: Path) -> list[Path]:
    """The segmentations and tables of volumes below a folder: what is so named, otherwise all images."""
    files = [place / name for place, names in walk(folder) for name in names]
    images = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    named = [path for path in images if LABEL_NAME.search(scan_name(path))]
    covered = {path.parent / _stem(path) for path in named}
    tables = [path for path in files if path.name.endswith(VOLUMES) and path.parent / _stem(path) not in covered]
    found = sorted([*named, *tables]) or sorted(images)
    if not found:
        raise UserError(folder, "holds no segmentations", f"give a folder with {FORMATS}")
    return found


def _stem(path: Path) -> str:
    """The name of the scan that a file is about: `a_seg.nii.gz` and `a_volumes.tsv` are about `a`."""
    if path.name.endswith(VOLUMES):
        return path.name.removesuffix(VOLUMES)
    name = scan_name(path)
    return LABEL_NAME.sub("", name) or name


def _without_session(name: str) -> str:
    return re.sub(r"[_/\\]?(?<![A-Za-z0-9])ses-[A-Za-z0-9]+", "", name) or name


def _entity(place: str, key: str) -> str | None:
    """The value of a BIDS entity in a path, the innermost if there are several."""
    found = re.findall(rf"(?<![A-Za-z0-9]){key}-([A-Za-z0-9]+)", place)
    return found[-1] if found else None


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sorts session 10 behind session 9."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
