"""What can be told of a file without reading all of it: whether it is complete, and whether two are the same."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Hashable, Iterator
from pathlib import Path

from voxseg.data.volume import Header
from voxseg.errors import UserError

__all__ = ["check_complete", "could_be_labels", "digest", "fingerprint"]

CHUNK = 2**20
SAMPLE = 2**16
LABEL_BYTES = 0.1
"""Compressed bytes a voxel under which a file may be a label map; scans of heads need 0.2 and more."""


def check_complete(path: Path, header: Header) -> None:
    """Refuse a file that is shorter than its header says, as a broken download is.

    The last four bytes of a gzip file are the length of its content (RFC 1952). Only where they are something else
    is the file read to its end, which also compares the checksum.

    Raises:
        UserError: if it is cut short or damaged.
    """
    if header.size is None:
        return
    remedy = "copy or export it again"
    length = path.stat().st_size
    if _packed(path):
        if int.from_bytes(_tail(path)[4:], "little") == header.size % 2**32:
            return
        try:
            length = sum(map(len, _content(path)))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(path, "is cut short or damaged", remedy) from error
    if length < header.size:
        problem = f"is cut short ({header.size:,} bytes announced, {length:,} are there)"
        raise UserError(path, problem, remedy)


def could_be_labels(path: Path, header: Header) -> bool:
    """Whether an image compresses as well as label maps do (or as an empty image), so that it is worth reading."""
    size = path.stat().st_size
    voxels = math.prod(header.file_shape)
    if not _packed(path) and header.size is not None:
        with path.open("rb") as file:
            file.seek(max(0, (size - CHUNK) // 2))
            piece = file.read(CHUNK)
        size = len(zlib.compress(piece, 1)) * size // len(piece)
    return size < max(SAMPLE, LABEL_BYTES * voxels)


def fingerprint(path: Path) -> Hashable:
    """Something that is the same for files of equal content and nearly always differs otherwise.

    For gzip files it is the checksum and the length of what is inside, which do not depend on how it was compressed.
    """
    if _packed(path):
        return "gzip", _tail(path)
    size = path.stat().st_size
    sample = hashlib.blake2b()
    with path.open("rb") as file:
        for start in (0, max(0, size // 2), max(0, size - SAMPLE)):
            file.seek(start)
            sample.update(file.read(SAMPLE))
    return "plain", size, sample.digest()


def digest(path: Path) -> bytes:
    """A hash of the content of a file, uncompressed; empty if it cannot be read to its end."""
    whole = hashlib.blake2b()
    try:
        for piece in _content(path):
            whole.update(piece)
    except (OSError, EOFError, zlib.error):
        return b""
    return whole.digest()


def _packed(path: Path) -> bool:
    return path.name.lower().endswith((".gz", ".mgz"))


def _tail(path: Path) -> bytes:
    """The last eight bytes: in a gzip file CRC-32 and length of the content."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        return file.read(8)


def _content(path: Path) -> Iterator[bytes]:
    """The uncompressed bytes of a file, piece by piece."""
    with gzip.open(path) if _packed(path) else path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece
