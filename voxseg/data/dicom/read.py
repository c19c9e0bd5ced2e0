"""A DICOM series as a volume: slices sorted, numbers scaled, gantry tilt undone, LPS turned into RAS."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.dicom.files import DicomFile
from voxseg.data.dicom.pixels import decode, scaling
from voxseg.data.dicom.quiet import quiet_pydicom
from voxseg.data.dicom.series import Series, choose_series, find_series
from voxseg.data.dicom.stack import Stack, stack_frames
from voxseg.errors import UserError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from voxseg.data.volume import Volume

__all__ = ["DicomSource", "read_dicom", "read_series"]

AGAIN = "export the series again, all of it"


@dataclass(frozen=True, eq=False)
class DicomSource:
    """Where a volume comes from, for what is written beside it as DICOM.

    Attributes:
        datasets: the headers of the files, voxels removed, in the order of the first slice of each.
        slices: for each slice of the volume the file it comes from, as an index into `datasets`, and the frame there.
        resampled: whether the volume has a grid of its own, because the gantry was tilted.
        files: that `datasets` are from.
    """

    datasets: tuple[Dataset, ...]
    slices: tuple[tuple[int, int], ...]
    resampled: bool
    files: tuple[DicomFile, ...] = ()


def read_dicom(path: Path, wanted: Sequence[str] = ()) -> Volume:
    """Read the series in a folder, zip archive or DICOMDIR, or that of a multi-frame file.

    Args:
        path: whatever `is_dicom` says yes to.
        wanted: which series, as `choose_series` takes them; needed if there are several.

    Raises:
        UserError: if there is no series that is a volume, several fit, or one cannot be read.
    """
    chosen = choose_series(path, find_series(path), wanted)
    if len(chosen) > 1:
        labels = ", ".join(series.label for series in chosen)
        raise UserError(path, f"{len(chosen)} series fit ({labels})", "name one of them")
    return read_series(chosen[0])


def read_series(series: Series, progress: Callable[[float], None] = lambda done: None) -> Volume:
    """Read the voxels of a series.

    Numbers are those that the scanner means, slope and intercept applied: integers stay so where that leaves them
    whole, otherwise they become float32. Axes are those of columns, rows and slices; slices are sorted so that the
    three are right-handed. Slices that a tilted gantry has shifted are brought in line by linear interpolation.

    Args:
        series: one that is a volume.
        progress: called with the fraction that is read.

    Returns:
        The volume, with its `dicom` source and with warnings.

    Raises:
        UserError: if a file is missing or damaged, or different images lie at the same place.
    """
    from voxseg.data.volume import Volume

    if series.header.problem:
        raise UserError(series.subject, series.header.problem, "choose another series")
    stack = stack_frames(series.subject, series.header, series.frames)
    loaded = _load(series, progress)
    notes = []
    if series.unreadable:
        count = series.unreadable
        plural = "files look like DICOM but are" if count > 1 else "file looks like DICOM but is"
        notes.append(f"{count} {plural} unreadable: slices may be missing at an end")
    for kept, other in stack.duplicates:
        if not np.array_equal(loaded.slices[kept], loaded.slices[other]):
            problem = "different images lie at the same place, and nothing in them says what they are"
            raise UserError(series.subject, problem, "give one volume of it, as a folder or as NIfTI")
    if stack.duplicates:
        notes.append(f"{len(stack.duplicates)} of its images are there twice; one of each was used")
    data = _joined([loaded.slices[i] for i in stack.order], [loaded.scales[i] for i in stack.order])
    if stack.tilt:
        data, geometry = _untilted(data, stack)
        notes.append(f"the gantry was tilted by {stack.tilt:.1f}°: slices were brought in line by interpolation")
    else:
        geometry = stack.geometry(*data.shape[1:])
    source = _source(series, stack, loaded.datasets)
    array = data.transpose(2, 1, 0)
    return Volume(series.path, array, geometry, None, geometry.shape, source, tuple(notes))


@dataclass(eq=False)
class _Loaded:
    """The frames of a series: stored numbers `[rows, columns]`, slope and intercept; the headers by file."""

    slices: list[NDArray[Any]]
    scales: list[tuple[float, float]]
    datasets: dict[DicomFile, Dataset]


def _load(series: Series, progress: Callable[[float], None]) -> _Loaded:
    import pydicom

    wanted: dict[DicomFile, list[int]] = defaultdict(list)
    for index, frame in enumerate(series.frames):
        wanted[frame.file].append(index)
    slices: list[Any] = [None] * len(series.frames)
    scales = [(1.0, 0.0)] * len(series.frames)
    datasets: dict[DicomFile, Dataset] = {}
    with ExitStack() as opened, quiet_pydicom():
        packed = series.frames[0].file.member is not None
        archive = opened.enter_context(zipfile.ZipFile(series.path)) if packed else None
        for done, (file, indices) in enumerate(wanted.items(), start=1):
            try:
                with file.open(archive) as stream:
                    dataset = pydicom.dcmread(stream, force=True)
                    frames = decode(dataset)
                for index in indices:
                    number = series.frames[index].number
                    # A copy, so that the frames of other volumes in the file need not stay in memory.
                    slices[index] = frames[number] if len(indices) == len(frames) else frames[number].copy()
                    scales[index] = scaling(dataset, number)
            except MemoryError as error:
                raise UserError(series.subject, "does not fit into memory", "use a machine with more") from error
            except UserError:
                raise
            except Exception as error:  # no text of the reader's: it may quote what is in the file
                problem = f"image {done} of {len(wanted)} cannot be read ({type(error).__name__})"
                raise UserError(series.subject, problem, AGAIN) from error
            for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
                if name in dataset:
                    del dataset[name]
            dataset._pixel_array = None
            datasets[file] = dataset
            progress(done / len(wanted))
    return _Loaded(slices, scales, datasets)


def _joined(slices: list[NDArray[Any]], scales: list[tuple[float, float]]) -> NDArray[Any]:
    """Slices as one array `[slices, rows, columns]`, scaled."""
    from voxseg.data.volume import scaled

    if len(set(scales)) == 1:
        return scaled(np.stack(slices), *scales[0])
    result = np.empty((len(slices), *slices[0].shape), dtype=np.float32)
    for target, part, (slope, inter) in zip(result, slices, scales, strict=True):
        target[...] = part.astype(np.float64) * slope + inter
    return result


def _untilted(data: NDArray[Any], stack: Stack) -> tuple[NDArray[np.float32], Any]:
    """Slices `[slices, rows, columns]` brought in line on a grid that holds them all, and that grid."""
    from scipy import ndimage

    spacing = np.array(stack.spacing)  # between rows, and between columns
    shifts = stack.shifts[:, ::-1]  # along rows' direction first, as the array has it
    first, last = shifts.min(axis=0), shifts.max(axis=0)
    shape = np.array(data.shape[1:]) + np.ceil((last - first) / spacing - 1e-6).astype(int)
    result = np.empty((len(data), *shape), dtype=np.float32)
    fill = float(data.min())
    for target, plane, shift in zip(result, data, shifts, strict=True):
        ndimage.affine_transform(
            plane.astype(np.float32), [1.0, 1.0], (first - shift) / spacing, tuple(shape), target, 1, "constant", fill
        )
    rows, columns = (int(n) for n in shape)
    return result, stack.geometry(rows, columns, first[::-1])


def _source(series: Series, stack: Stack, datasets: dict[DicomFile, Dataset]) -> DicomSource:
    frames = [series.frames[i] for i in stack.order]
    files = list(dict.fromkeys(frame.file for frame in frames))
    slices = tuple((files.index(frame.file), frame.number) for frame in frames)
    return DicomSource(tuple(datasets[file] for file in files), slices, bool(stack.tilt), tuple(files))
