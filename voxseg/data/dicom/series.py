"""The series in a folder, archive or DICOMDIR: found by their headers, chosen by number, UID or description."""

from __future__ import annotations

import math
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from voxseg.data.dicom.files import START, DicomFile, candidates, looks_like_dicom, require_packages
from voxseg.data.dicom.headers import Frame, Header, read_frames
from voxseg.data.dicom.quiet import quiet_pydicom
from voxseg.data.dicom.stack import stack_frames
from voxseg.errors import UserError

__all__ = ["Series", "choose_series", "find_series"]

ALL = "all"
SUFFIXES = (".dcm", ".ima")  # of files that should be DICOM
DEFLATED = b"1.2.840.10008.1.2.1.99\x00"
MOST_DEFLATED = 2**20  # bytes; pydicom unpacks it whatever size it takes


@dataclass(frozen=True, eq=False)
class Series:
    """The images of a series that make up one volume, or some that do not.

    Attributes:
        path: the folder, archive or file that was given.
        header: what all images of the series have in common.
        frames: all of them, in the order of their files.
        part: which volume of a series of several it is, counted from 1; 0 if the series is one volume.
        note: how the volume differs from the others of its series.
        study: which study of those in `path` it belongs to, counted from 1; 0 if there is one.
        unreadable: how many files in `path` look like DICOM and cannot be read.
    """

    path: Path
    header: Header
    frames: tuple[Frame, ...] = field(repr=False)
    part: int = 0
    note: str = ""
    study: int = 0
    unreadable: int = 0

    @property
    def label(self) -> str:
        """The series number, such as "3", with the part behind it, such as "3.2"."""
        return f"{self.header.number}.{self.part}" if self.part else str(self.header.number)

    @property
    def subject(self) -> str:
        """What messages call it; nothing in it comes from a field that identifies a patient."""
        return f"{self.path}, series {self.label}"

    @property
    def bytes(self) -> int:
        """Of all its voxels."""
        return len(self.frames) * self.header.rows * self.header.columns * 2

    @cached_property
    def problem(self) -> str | None:
        """Why it is no volume that could be segmented; None if it is one."""
        if self.header.problem:
            return self.header.problem
        try:
            stack_frames(self.subject, self.header, self.frames)
        except UserError as error:
            return error.problem
        return None

    @cached_property
    def layout(self) -> str:
        """Its size and spacing for people, such as "256 x 256 x 176, 1 x 1 x 1 mm"."""
        size = f"{self.header.columns} x {self.header.rows} x {len(self.frames)}"
        if self.problem:
            return size
        stack = stack_frames(self.subject, self.header, self.frames)
        spacing = " x ".join(f"{length:.3g}" for length in (*stack.spacing[::-1], stack.step))
        return f"{self.header.columns} x {self.header.rows} x {len(stack.order)}, {spacing} mm"


def find_series(
    path: Path, progress: Callable[[int, int], None] = lambda done, total: None, every: bool = True
) -> list[Series]:
    """Find the series in a folder, zip archive, DICOMDIR or file, without reading voxels.

    Args:
        path: whatever `is_dicom` says yes to.
        progress: called with the number of files looked at, and of all.
        every: whether series that are no volumes are wanted too.

    Returns:
        The series in the order of study and number. Volumes that lie at the same place in one series (echoes, time
        points) are told apart as its parts.

    Raises:
        UserError: if an archive or DICOMDIR is damaged, or there is no image in it.
    """
    require_packages(path)
    groups: dict[tuple[str, str], list[tuple[Header, list[Frame]]]] = defaultdict(list)
    seen: set[tuple[str, int]] = set()
    unreadable = 0
    files = candidates(path)
    with ExitStack() as opened, quiet_pydicom():
        archive = opened.enter_context(zipfile.ZipFile(path)) if files and files[0].member is not None else None
        for done, file in enumerate(files, start=1):
            progress(done, len(files))
            found = _examine(file, archive)
            if found is None:
                continue
            if isinstance(found, Exception):
                unreadable += 1
                continue
            header, frames = found
            # A file that was copied is one image.
            fresh = [frame for frame in frames if (frame.sop, frame.number) not in seen]
            seen.update((frame.sop, frame.number) for frame in fresh)
            if fresh:
                groups[header.study, header.uid].append((header, fresh))
    if not groups:
        problem = f"{unreadable} files in it look like DICOM and cannot be read" if unreadable else "has no DICOM image"
        raise UserError(path, problem, "copy or export the scan again")
    studies = sorted({study for study, _ in groups}) if len({study for study, _ in groups}) > 1 else []
    result = []
    for (study, _), members in groups.items():
        place = studies.index(study) + 1 if studies else 0
        result += [replace(s, study=place, unreadable=unreadable) for s in _volumes(path, members)]
    result.sort(key=lambda series: (series.study, series.header.number, series.header.uid, series.part))
    return result if every else [series for series in result if not series.problem]


def _examine(file: DicomFile, archive: zipfile.ZipFile | None) -> tuple[Header, list[Frame]] | Exception | None:
    """What a file says of its images; None if it is no DICOM, the error if it cannot be read."""
    from pydicom.errors import InvalidDicomError

    try:
        with file.open(archive) as stream:
            start = stream.read(2048)
            if not looks_like_dicom(start[:START]):
                # An empty file is a copy that failed.
                return ValueError("no DICOM") if not start or file.name.lower().endswith(SUFFIXES) else None
            if DEFLATED in start and stream.seek(0, 2) > MOST_DEFLATED:
                raise ValueError("deflated")
            stream.seek(0)
            return read_frames(file, stream)
    except UserError:
        raise
    except InvalidDicomError:
        return None
    except Exception as error:  # pydicom fails in as many ways as files can be broken
        return error


def _volumes(path: Path, members: Sequence[tuple[Header, list[Frame]]]) -> Iterator[Series]:
    """The volumes of one series."""
    header = members[0][0]
    for other, _ in members:
        if (other.rows, other.columns) != (header.rows, header.columns):
            header = replace(header, problem="its images are of different sizes")
        header = replace(header, problem=header.problem or other.problem)
    frames = [frame for _, some in members for frame in some]
    parts = None if header.problem else _parts(frames)
    if parts is None:
        yield Series(path, header, tuple(frames))
        return
    for part, (note, some) in enumerate(parts, start=1):
        yield Series(path, header, tuple(some), part, note)


def _parts(frames: Sequence[Frame]) -> list[tuple[str, list[Frame]]] | None:
    """Frames that lie at the same places, told apart by what they say of themselves; None if that is not so."""
    places = {_place(frame) for frame in frames}
    if len(places) == len(frames):
        return None
    groups: dict[tuple[tuple[str, str], ...], list[Frame]] = defaultdict(list)
    names = [name for name, _ in frames[0].kind]
    for frame in frames:
        groups[frame.kind].append(frame)
    whole = all(len({_place(f) for f in group}) == len(group) for group in groups.values())
    if len(groups) < 2 or not whole or min(len(group) for group in groups.values()) < 2:
        return None
    varying = [name for name in names if len({dict(kind).get(name) for kind in groups}) > 1]
    return [(_note(kind, varying), groups[kind]) for kind in sorted(groups, key=_order)]


def _order(kind: tuple[tuple[str, str], ...]) -> list[tuple[float, str]]:
    """Numbers by their size, all else by its letters."""
    return [(float(v), "") if v.replace(".", "", 1).isdigit() else (math.inf, v) for _, v in kind]


def _note(kind: tuple[tuple[str, str], ...], varying: Iterable[str]) -> str:
    values = dict(kind)
    return ", ".join(f"{name} {values.get(name) or '-'}" for name in varying)


def _place(frame: Frame) -> tuple[Any, ...]:
    return (*(round(v, 2) for v in frame.position), *(round(v, 3) for v in frame.orientation))


def choose_series(path: Path, found: Sequence[Series], wanted: Sequence[str] = ()) -> list[Series]:
    """The series that are asked for, or the only one that is a volume.

    Args:
        path: where they were found.
        found: all of them.
        wanted: numbers ("3", or "3.2" for one of several volumes), SeriesInstanceUIDs, patterns of descriptions
            ("*mprage*", in capitals or not), or "all" for all volumes.

    Raises:
        UserError: if a name fits no series, one that is no volume, or nothing is asked for and there are several.
    """
    usable = [series for series in found if not series.problem]
    if not wanted:
        if len(usable) == 1:
            return usable
        if not usable:
            one = found[0]
            if len(found) == 1:
                raise UserError(one.subject, one.problem or "", _remedy(one))
            reasons = "; ".join(f"series {s.label}: {s.problem}" for s in found[:4]) + "; ..." * (len(found) > 4)
            raise UserError(path, f"none of its {len(found)} series is a volume ({reasons})", "export the scan again")
        labels = ", ".join(series.label for series in usable[:12]) + ", ..." * (len(usable) > 12)
        remedy = f"choose with --series ({labels}, or {ALL}); --list-series tells what they are"
        raise UserError(path, f"has {len(usable)} series that are volumes", remedy)
    chosen: list[Series] = []
    for name in wanted:
        fitting = [series for series in found if _fits(series, name)]
        if name == ALL:
            fitting = usable
        elif fitting and not any(series in usable for series in fitting):
            raise UserError(fitting[0].subject, fitting[0].problem or "", _remedy(fitting[0]))
        if not fitting:
            raise UserError(path, f"has no series {name!r}", "--list-series tells which there are")
        chosen += [series for series in fitting if not series.problem and series not in chosen]
    return chosen


def _fits(series: Series, name: str) -> bool:
    if name in (series.label, str(series.header.number), series.header.uid):
        return True
    return not name.replace(".", "").isdigit() and fnmatch(series.header.description.casefold(), name.casefold())


def _remedy(series: Series) -> str:
    if series.header.problem:
        return "choose another series; --list-series tells which there are"
    return "export the series again, or choose another one"
