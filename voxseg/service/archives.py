"""Zip archives from strangers, unpacked without trust: under names of our own, counted while they grow.

Imports nothing heavy. Whoever unpacks does so in a process whose memory is limited.
"""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from voxseg.errors import UserError

__all__ = ["ArchiveLimits", "unpack"]

PIECE = 2**20  # bytes that are unpacked at a time
SMALL = 64 * 2**20  # bytes that any archive may become
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1


@dataclass(frozen=True)
class ArchiveLimits:
    """How much an archive may hold.

    Attributes:
        bytes: of all its files, unpacked.
        ratio: how many times its own size that may be, from 64 MiB on. Images shrink by 2 to 50.
        count: of its files.
    """

    bytes: int
    ratio: float = 200.0
    count: int = 20_000


def unpack(archive: Path, folder: Path, limits: ArchiveLimits) -> int:
    """Unpack a zip archive into an empty folder, under numbers in place of the names, in the order of those.

    Names are looked at only to refuse archives that are made to write elsewhere; they may also say who was scanned.
    Hidden files and DICOMDIRs are left out, as `voxseg.data.dicom.files.candidates` does.

    Args:
        archive: the file.
        folder: existing and empty; what was unpacked before an error is left there.
        limits: what it may hold. Sizes that the archive announces are not believed: what comes out is counted.

    Returns:
        The number of files.

    Raises:
        UserError: if it is damaged or encrypted, its names lead elsewhere or to links, or it is too large.
    """
    most = int(min(limits.bytes, max(archive.stat().st_size * limits.ratio, SMALL)))
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(archive, opened, limits)
            left = most
            for number, member in enumerate(members, start=1):
                left -= _unpack_one(opened, member, folder / f"{number:06d}", left)
                if left < 0:
                    problem = f"holds more than {most / 1e6:.0f} MB, which is too much for a file of its size"
                    raise UserError(archive.name, problem, "send the images of one examination alone")
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, zlib.error, RuntimeError) as error:
        raise UserError(archive.name, "is no zip file, or damaged", "pack or copy it again") from error
    return len(members)


def _members(archive: Path, opened: zipfile.ZipFile, limits: ArchiveLimits) -> list[zipfile.ZipInfo]:
    """What is to be unpacked, by name, after all names were checked."""
    infos = opened.infolist()
    if len(infos) > limits.count:
        problem = f"holds {len(infos)} files, and {limits.count} are allowed"
        raise UserError(archive.name, problem, "send the images of one examination alone")
    for info in infos:
        # orig_filename is the name as it is stored: zipfile cuts it at a zero byte.
        for name in (info.filename, info.orig_filename):
            if leads_elsewhere(name):
                raise UserError(archive.name, "holds a name that leads out of it", "pack it again, with plain names")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(archive.name, "holds a link or a device", "pack it again, with plain files alone")
        if info.flag_bits & ENCRYPTED:
            raise UserError(archive.name, "is encrypted", "unpack it and send the files")
        if info.compress_type not in METHODS:
            raise UserError(archive.name, "is packed in a way that is not read", "pack it again as a plain zip file")
    files = [info for info in infos if not info.is_dir() and not _is_left_out(info.filename)]
    return sorted(files, key=lambda info: info.filename)


def leads_elsewhere(name: str) -> bool:
    """Whether a name, read as Unix or as Windows does, is absolute, of a drive, or goes up."""
    plain = name.replace("\\", "/")
    return "\0" in name or plain.startswith("/") or ".." in plain.split("/") or re.match(r"[A-Za-z]:", name) is not None


def _is_left_out(name: str) -> bool:
    last = PurePosixPath(name).name
    return last.startswith(".") or last.upper() == "DICOMDIR" or "__MACOSX" in name


def _unpack_one(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, most: int) -> int:
    """Unpack a file, or so much of it that it is clear that it is too large; returns its bytes."""
    count = 0
    with opened.open(info) as source, open(path, "xb") as target:
        while piece := source.read(PIECE):
            count += len(piece)
            if count > most:
                break
            target.write(piece)
    return count
