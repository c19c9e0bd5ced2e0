"""Probabilities as a 4-D NIfTI file in the scan's grid, written slab by slab, so that they are never all in memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.segmentation import blank_header
from voxseg.data.staging import staged
from voxseg.data.volume import Volume

__all__ = ["STEPS", "ProbabilityFile", "fill_probabilities", "names_path", "write_probabilities"]

STEPS = 255
"""Probabilities are stored as whole numbers of this many steps from 0 to 1, with the scale in the header."""

PIECE = 2**22  # bytes that are compressed at a time
SUFFIXES = (".nii.gz", ".nii")


def names_path(path: Path) -> Path:
    """The JSON file beside a file of probabilities: its path with `.json` for `.nii.gz`."""
    stem = next((path.name.removesuffix(s) for s in SUFFIXES if path.name.endswith(s)), path.name)
    return path.with_name(f"{stem}.json")


def uncompressed_name(path: Path) -> Path:
    """Where probabilities lie uncompressed on the way to a compressed file."""
    return path.with_name(f"{path.name}.raw")


@contextmanager
def write_probabilities(path: Path, names: Sequence[str], scan: Volume) -> Iterator[ProbabilityFile]:
    """A file of probabilities, and one with their names as `LabelMap` (as BIDS has it); both when the block ends well.

    The grid is the scan's as `write_segmentation` has it; the fourth axis are the classes, background first, or the
    regions. NIfTI has no half precision: values are uint8 with a scale of 1/255, exact to 0.002. On the way to a
    compressed file as many bytes as there are voxels and classes lie uncompressed beside it.

    Args:
        path: `.nii` or `.nii.gz`.
        names: of the classes or regions, in the order of the network's outputs.
        scan: whose grid it is.

    Yields:
        what `Predictor.segment` takes as its `probabilities`.

    Raises:
        UserError: if the files cannot be written.
    """
    with staged(path, names_path(path)) as (final, beside), fill_probabilities(final, beside, names, scan) as file:
        yield file


@contextmanager
def fill_probabilities(final: Path, beside: Path, names: Sequence[str], scan: Volume) -> Iterator[ProbabilityFile]:
    """What `write_probabilities` does, under temporary names that whoever has `staged` them knows.

    Args:
        final: of the probabilities, `.nii` or `.nii.gz`.
        beside: of the names.
        names: as `write_probabilities` takes them.
        scan: likewise.

    Raises:
        OSError: if the files cannot be written.
    """
    header = _header(scan, len(names))
    packed = final.name.endswith(".gz")
    raw = uncompressed_name(final) if packed else final
    try:
        with open(raw, "w+b") as file:
            header.write_to(file)
            offset = int(header.get_data_offset())
            file.truncate(offset + int(np.prod(header.get_data_shape())))
            yield ProbabilityFile(file, offset, scan.geometry.shape, len(names))
        if packed:
            _compress(raw, final)
    finally:
        if packed:
            raw.unlink(missing_ok=True)
    beside.write_text(json.dumps({"LabelMap": list(names)}, indent=2) + "\n", encoding="utf-8")


class ProbabilityFile:
    """Takes slabs of probabilities in any order, and puts each class of them where it belongs.

    Args:
        file: open for reading and writing, as long as it will be.
        offset: where the voxels begin.
        shape: of the scan.
        classes: how many there are.
    """

    def __init__(self, file: IO[bytes], offset: int, shape: tuple[int, int, int], classes: int) -> None:
        self._file, self._offset, self._classes = file, offset, classes
        self._slice, self._volume = shape[0] * shape[1], shape[0] * shape[1] * shape[2]

    def write(self, start: int, probabilities: NDArray[np.float32]) -> None:
        """Write `[K, n, Y, X]`, the slices of the scan from `start` on."""
        stored = np.rint(np.clip(probabilities, 0, 1) * STEPS).astype(np.uint8)
        for k, values in enumerate(stored):
            self._file.seek(self._place(k, start))
            self._file.write(np.ascontiguousarray(values).data)

    def clear(self, start: int, removed: NDArray[np.bool_], background: bool = True) -> None:
        """Set voxels of slices from `start` on, marked in `[n, Y, X]`, to background; to nothing without `background`.

        Args:
            start: the first slice.
            removed: the voxels.
            background: whether the first class is the background.
        """
        for k in range(self._classes):
            self._file.seek(self._place(k, start))
            values = np.frombuffer(self._file.read(removed.size), dtype=np.uint8).copy()
            values[removed.ravel()] = STEPS if background and k == 0 else 0
            self._file.seek(self._place(k, start))
            self._file.write(values.data)

    def _place(self, k: int, start: int) -> int:
        return self._offset + k * self._volume + start * self._slice


def _header(scan: Volume, classes: int) -> Any:
    """The header of the 4-D file: the scan's geometry, whole numbers with a scale."""
    header: Any = blank_header(scan.geometry) if scan.header is None else scan.header.copy()
    pixdim, units = header["pixdim"].copy(), header["xyzt_units"].copy()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((*scan.geometry.shape, classes))
    header["pixdim"][:4], header["pixdim"][4:], header["xyzt_units"] = pixdim[:4], 1, units
    header.set_slope_inter(1 / STEPS, 0)
    header["cal_min"], header["cal_max"] = 0, 1
    header["intent_code"], header["intent_name"] = 0, b""
    header["descrip"] = b"probabilities of the classes in the JSON file"
    for text in ("aux_file", "db_name"):
        if text in header:
            header[text] = b""
    header.extensions.clear()  # they may hold names, and need room that is not left
    header["vox_offset"] = 352 if header.sizeof_hdr == 348 else 544
    header["magic"] = b"n+1" if header.sizeof_hdr == 348 else header["magic"]
    return header


def _compress(raw: Path, final: Path) -> None:
    """Pack a file, piece by piece; without a time stamp, so that equal results are equal files."""
    with (
        open(raw, "rb") as source,
        open(final, "wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as packed,
    ):
        while piece := source.read(PIECE):
            packed.write(piece)
