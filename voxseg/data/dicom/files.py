"""Where DICOM files lie: folders, zip archives, DICOMDIRs and single files; imports nothing heavy.

A file counts as DICOM for what is in it, as exports have names of all kinds.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from voxseg.errors import UserError

__all__ = ["DicomFile", "is_dicom", "looks_like_dicom", "require_packages"]

START = 144  # bytes that tell what a file is
OTHER_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh", ".nrrd", ".mha", ".json", ".csv", ".tsv")
LOOKED_AT = 500  # files of a folder, until it is said to hold no DICOM
MOST_MEMBER = 2**32  # bytes of one file of an archive
DEFLATE_BEST = 1100  # it cannot shrink anything by more than a factor of 1032


@dataclass(frozen=True)
class DicomFile:
    """One file, on the disk or in an archive.

    Attributes:
        path: the file, or the archive that it is in.
        member: its name there; None for a file on the disk.
    """

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """Of the file, without folders."""
        return self.path.name if self.member is None else PurePosixPath(self.member).name

    def open(self, archive: zipfile.ZipFile | None = None) -> io.BufferedIOBase:
        """The bytes of the file, to be closed by the caller.

        Args:
            archive: the archive that it is in, opened.

        Raises:
            UserError: if it cannot be unpacked, or would become absurdly large.
        """
        if self.member is None:
            return open(self.path, "rb")
        assert archive is not None
        info = archive.getinfo(self.member)
        if info.file_size > min(MOST_MEMBER, max(info.compress_size, 64) * DEFLATE_BEST):
            raise UserError(self.path, "announces more data than a zip file of its size can hold", "pack it again")
        return io.BytesIO(archive.read(info))


def require_packages(subject: object) -> None:
    """Refuse DICOM where the packages for it are not installed.

    Raises:
        UserError: about `subject`.
    """
    from importlib.util import find_spec

    missing = [name for name in ("pydicom", "highdicom") if find_spec(name) is None]
    if missing:
        problem = f"is DICOM, which needs the package {missing[0]}"
        raise UserError(subject, problem, "install it with: pip install 'voxseg[dicom]'")


def is_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file, a DICOMDIR, or a folder or zip archive with DICOM files.

    A folder with files of other layouts in front of them (NIfTI, or the description of a data set) is not. Of a folder
    or archive the beginning is looked at, not all of it.
    """
    try:
        if path.is_dir():
            for count, file in enumerate(_walk(path)):
                if file.name.lower().endswith(OTHER_SUFFIXES) or count > LOOKED_AT:
                    return False
                if looks_like_dicom(_start(file)):
                    return True
            return False
        if not path.is_file():
            return False
        if path.name.lower().endswith(".zip"):
            return _archive_has_dicom(path)
        return not path.name.lower().endswith(OTHER_SUFFIXES) and looks_like_dicom(_start(path))
    except OSError:
        return False


def looks_like_dicom(start: bytes) -> bool:
    """Whether the beginning of a file is DICOM's, with or without the preamble of files."""
    if start[128:132] == b"DICM":
        return True
    # Without a preamble the first element is of the groups 2 or 8, with a value representation or a short length.
    if not re.match(rb"[\x02\x08]\x00.\x00", start, re.DOTALL) or len(start) < 8:
        return False
    return re.match(rb"[A-Z]{2}", start[4:6]) is not None or int.from_bytes(start[4:8], "little") < 256


def _start(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(START)
    except OSError:
        return b""


def _walk(folder: Path) -> Iterator[Path]:
    """All regular files below a folder, hidden ones left out, in a fixed order."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _archive_has_dicom(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            for info in infos[:LOOKED_AT]:
                if info.flag_bits & 1:  # encrypted: told when it is read
                    return True
                with archive.open(info) as file:
                    if looks_like_dicom(file.read(START)):
                        return True
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, RuntimeError, ValueError):
        return True  # a damaged archive: told when it is read
    return False


def candidates(path: Path) -> list[DicomFile]:
    """The files that may be DICOM images, of whatever `is_dicom` says yes to.

    Raises:
        UserError: if an archive cannot be read, or files that a DICOMDIR lists are not there.
    """
    if path.is_dir():
        return [DicomFile(file) for file in _walk(path) if file.name.upper() != "DICOMDIR"]
    if path.name.lower().endswith(".zip"):
        return _members(path)
    if path.name.upper() == "DICOMDIR":
        return _listed(path)
    return [DicomFile(path)]


def _members(path: Path) -> list[DicomFile]:
    """The files in an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise UserError(path, "is no zip file, or damaged", "pack or copy it again") from error
    if any(info.flag_bits & 1 for info in infos):
        raise UserError(path, "is encrypted", "unpack it and give the folder")
    names = [info.filename for info in infos if not PurePosixPath(info.filename).name.startswith(".")]
    names = [name for name in names if PurePosixPath(name).name.upper() != "DICOMDIR" and "__MACOSX" not in name]
    return [DicomFile(path, name) for name in sorted(names)]


def _listed(path: Path) -> list[DicomFile]:
    """The files that a DICOMDIR lists, below its folder and nowhere else."""
    require_packages(path)
    import pydicom

    from voxseg.data.dicom.quiet import quiet_pydicom

    try:
        with quiet_pydicom():
            records = list(pydicom.dcmread(path).get("DirectoryRecordSequence", []))
            ids = [record.ReferencedFileID for record in records if "ReferencedFileID" in record]
    except Exception as error:  # pydicom fails in as many ways as files can be broken
        raise UserError(path, "cannot be read as a DICOMDIR", "give the folder that it lies in") from error
    files, missing = [], 0
    for parts in ids:
        found = _below(path.parent, [parts] if isinstance(parts, str) else list(parts))
        missing += found is None
        if found is not None:
            files.append(DicomFile(found))
    if missing or not files:
        problem = f"lists {len(ids)} files, of which {missing} are not there" if ids else "lists no files"
        raise UserError(path, problem, "copy the whole medium, or give the folder with the files that there are")
    return files


def _below(folder: Path, parts: list[str]) -> Path | None:
    """The file of these names below a folder, in capitals or not; None if there is none."""
    for part in parts:
        if part in ("", ".", "..") or "/" in part or "\\" in part:
            return None
        plain = [folder / part, folder / part.lower()]
        found = next((p for p in plain if p.exists()), None)
        if found is None:
            return None
        folder = found
    return folder if folder.is_file() else None
