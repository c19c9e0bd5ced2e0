"""What the header of a DICOM file says of its images: one of a classic file, many of a multi-frame one."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voxseg.data.dicom.files import DicomFile

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Frame", "Header", "frame_value", "read_frames"]

TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality",
    "SeriesDescription", "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoNumbers",
    "EchoTime", "InversionTime", "TemporalPositionIdentifier", "DiffusionBValue", "TriggerTime", "AcquisitionNumber",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
KINDS = (
    "ImageType", "EchoNumbers", "EchoTime", "InversionTime", "TemporalPositionIdentifier", "DiffusionBValue",
    "TriggerTime", "AcquisitionNumber",
)  # fmt: skip
"""What tells volumes at the same place in one series apart, in classic files."""

FRAME_KINDS = (
    ("MRImageFrameTypeSequence", "FrameType"), ("CTImageFrameTypeSequence", "FrameType"),
    ("MREchoSequence", "EffectiveEchoTime"), ("MRDiffusionSequence", "DiffusionBValue"),
    ("FrameContentSequence", "TemporalPositionIndex"), ("FrameContentSequence", "StackID"),
)  # fmt: skip
"""The same in multi-frame files: sequence and element of a functional group."""

VOLUMES = ("MR", "CT", "PT", "NM", "OT")
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
MOST_FRAMES = 20_000
UNIT = 0.02  # by which a direction's length, or the cosine between two, may be off


@dataclass(frozen=True)
class Frame:
    """One image of a series.

    Attributes:
        file: where it is.
        number: which frame of the file, counted from 0.
        sop: SOPInstanceUID of the file.
        position: ImagePositionPatient, LPS mm.
        orientation: ImageOrientationPatient: where columns are counted to, and rows; LPS.
        spacing: mm between rows, and between columns.
        kind: what may tell it from other images at the same place, by the name of the element.
    """

    file: DicomFile
    number: int
    sop: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    kind: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Header:
    """What the images of a series have in common.

    Attributes:
        study: StudyInstanceUID.
        uid: SeriesInstanceUID.
        number: SeriesNumber, 0 if there is none.
        modality: such as "MR".
        description: SeriesDescription; free text, which is shown to who asks for it and written nowhere.
        rows: of an image.
        columns: of an image.
        problem: why its images are no slices of a volume; None if they may be.
    """

    study: str
    uid: str
    number: int
    modality: str
    description: str
    rows: int
    columns: int
    problem: str | None = None


def read_frames(file: DicomFile, stream: io.BufferedIOBase) -> tuple[Header, list[Frame]]:
    """Read the header of a file, up to its voxels.

    Raises:
        Exception: whatever pydicom raises of a file that is damaged.
    """
    import pydicom

    dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=TAGS)
    if not dataset:
        raise ValueError("nothing in it")
    sop = str(dataset.get("SOPInstanceUID", "") or f"{file.path}/{file.member}")
    problem = _problem(dataset)
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    frames: list[Frame] = []
    if problem is None and not 1 <= count <= MOST_FRAMES:
        problem = f"it has {count} frames"
    for number in range(count if problem is None else 1):
        places = [_numbers(frame_value(dataset, number, *names), length) for names, length in _PLACES]
        if problem is None and not all(places):
            problem = "its images say nothing of their place in space"
        position, orientation, spacing = (place or () for place in places)
        frames.append(Frame(file, number, sop, position, orientation, spacing, tuple(_kind(dataset, number))))
    header = Header(
        study=str(dataset.get("StudyInstanceUID", "")),
        uid=str(dataset.get("SeriesInstanceUID", "")),
        number=int(dataset.get("SeriesNumber", 0) or 0),
        modality=str(dataset.get("Modality", "") or ""),
        description=str(dataset.get("SeriesDescription", "") or ""),
        rows=int(dataset.get("Rows", 0) or 0),
        columns=int(dataset.get("Columns", 0) or 0),
        problem=problem,
    )
    return header, frames


_PLACES = (
    (("PlanePositionSequence", "ImagePositionPatient"), 3),
    (("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
    (("PixelMeasuresSequence", "PixelSpacing"), 2),
)


def _problem(dataset: Dataset) -> str | None:
    """Why the images of a file are no slices of a volume."""
    modality = str(dataset.get("Modality", "") or "")
    if str(dataset.get("SOPClassUID", "")) in SEGMENTATIONS or modality == "SEG":
        return "it is a segmentation"
    if not dataset.get("Rows") or not dataset.get("Columns"):
        return "it has no images"
    if modality and modality not in VOLUMES:
        return f"its modality is {modality[:2]}"
    if int(dataset.get("SamplesPerPixel", 1) or 1) != 1 or "MONOCHROME" not in str(
        dataset.get("PhotometricInterpretation", "MONOCHROME2")
    ):
        return "its images are in colour"
    kinds = [str(kind).upper() for kind in _many(dataset.get("ImageType"))]
    if "MOSAIC" in kinds:
        return "its images are mosaics of slices (give it as NIfTI, made with dcm2niix)"
    if "LOCALIZER" in kinds:
        return "it is a localizer"
    return None


def frame_value(dataset: Dataset, number: int, sequence: str, element: str) -> Any:
    """An element of one frame: its own, the one shared by all frames, or that of a classic file; None without any."""
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    for groups, index in ((own, number), (shared, 0)):
        if groups is not None and index < len(groups):
            inner = groups[index].get(sequence)
            if inner and element in inner[0]:
                return inner[0].get(element)
    # A file of several frames has one place for all of them in its root: that is no place.
    return dataset.get(element) if own is None and int(dataset.get("NumberOfFrames", 1) or 1) == 1 else None


def _numbers(value: Any, length: int) -> tuple[float, ...] | None:
    """Finite numbers; None if the value is not so many of them."""
    values = tuple(float(v) for v in _many(value))
    return values if len(values) == length and all(math.isfinite(v) for v in values) else None


def _many(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def _kind(dataset: Dataset, number: int) -> Iterator[tuple[str, str]]:
    if "PerFrameFunctionalGroupsSequence" in dataset:
        for sequence, element in FRAME_KINDS:
            value = frame_value(dataset, number, sequence, element)
            if value is not None:
                yield element, "/".join(map(str, _many(value)))
        return
    for element in KINDS:
        yield element, "/".join(map(str, _many(dataset.get(element))))
