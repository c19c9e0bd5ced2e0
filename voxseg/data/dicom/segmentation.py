"""Segmentations and their pictures as DICOM, for the study that the scan belongs to.

A DICOM-SEG holds the names and codes of the labels, refers to the images of the scan, and says of each of its planes
where it lies, so that it is right in space whatever the order of slices.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxseg import __version__
from voxseg.data.dicom.quiet import quiet_pydicom
from voxseg.data.labels import Label, LabelTable
from voxseg.errors import UserError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from voxseg.data.volume import Volume

__all__ = ["label_code", "write_dicom_picture", "write_dicom_segmentation"]

MANUFACTURER, DEVICE = "voxseg", "0"
SEGMENTATION_SERIES, PICTURE_SERIES = 1000, 2000  # added to the number of the scan's series
MEANING = 64  # characters of a code's meaning or a segment's label
BODY_SUBSTANCES = ("65216001",)  # cerebrospinal fluid
TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip

DATE, TIME = r"\d{8}", r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"
FORMS = {"PatientSex": "[MFO]", "PatientBirthDate": DATE, "StudyDate": DATE, "StudyTime": TIME}
"""What highdicom takes."""


def write_dicom_segmentation(
    path: Path, classes: NDArray[np.uint8], table: LabelTable, scan: Volume, description: str = "voxseg"
) -> None:
    """Write a DICOM-SEG (binary, one segment a label) and read it back.

    Segment k is row k of the table. Its type is the label's code (`label_code`), or a private one (scheme 99VOXSEG,
    the label's id); sides are modifiers of it. A scan without frame of reference gets one made from its series' UID.

    Args:
        path: where to write; the file is not complete until this returns, so give a temporary name (`staged`).
        classes: `[X, Y, Z]` dense class indices in the scan's stored axes, 0 background.
        table: the labels.
        scan: a DICOM scan, in whose grid the classes are.
        description: of the series, up to 64 characters.

    Raises:
        UserError: if the scan's headers lack what every DICOM image has.
        OSError: if the file cannot be written, or does not read back as what was written.
    """
    with _explained(scan):
        import highdicom as hd
        from pydicom.uid import generate_uid

        assert scan.dicom is not None
        sources = [_complete(dataset) for dataset in scan.dicom.datasets]
        pixels, used = _pixels(classes, scan, sources)
        segmentation = hd.seg.Segmentation(
            source_images=used,
            pixel_array=pixels,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_describe(k, label) for k, label in enumerate(table, start=1)],
            series_instance_uid=generate_uid(),
            series_number=SEGMENTATION_SERIES + _number(sources[0]),
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name="voxseg",
            software_versions=__version__,
            device_serial_number=DEVICE,
            content_label="VOXSEG",
            content_description=description[:MEANING],
            series_description=description[:MEANING],
        )
        segmentation.save_as(path, enforce_file_format=True)
    counts = np.bincount(classes.ravel(order="K"), minlength=len(table) + 1)[1:]
    with quiet_pydicom():
        _verify(path, [int(n) for n in counts])


def write_dicom_picture(path: Path, picture: Path, scan: Volume, description: str = "voxseg") -> None:
    """Write a picture as a secondary capture of the scan's study.

    Args:
        path: where to write; under a temporary name, as the segmentation.
        picture: a PNG.
        scan: a DICOM scan.
        description: of the series, up to 64 characters.

    Raises:
        UserError: if the scan's headers lack what every DICOM image has.
        OSError: if the file cannot be written.
    """
    with _explained(scan):
        import highdicom as hd
        from matplotlib.image import imread
        from pydicom.uid import ExplicitVRLittleEndian, generate_uid

        assert scan.dicom is not None
        source = _complete(scan.dicom.datasets[0])
        pixels = np.round(imread(picture)[..., :3] * 255).astype(np.uint8)
        capture = hd.sc.SCImage.from_ref_dataset(
            source,
            pixels,
            "RGB",
            8,
            "PATIENT",
            series_instance_uid=generate_uid(),
            series_number=PICTURE_SERIES + _number(source),
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            patient_orientation=("L", "P"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        capture.PatientOrientation = []  # there are three planes in it
        capture.SeriesDescription = description[:MEANING]
        capture.save_as(path, enforce_file_format=True)


def label_code(label: Label) -> str:
    """The code of a label, "" without one: its own, or FreeSurfer's if id and name are FreeSurfer's."""
    known = LabelTable.freesurfer()
    if label.code or label.id not in known:
        return label.code
    usual = known.by_id(label.id)
    return str(usual.code) if label.name in (usual.name, re.sub(r"^(Left|Right)-", "", usual.name)) else ""


@contextmanager
def _explained(scan: Volume) -> Iterator[None]:
    """Turn what highdicom raises of odd headers into a message; its text may quote them, and is left out."""
    import pydicom

    settings = pydicom.config.settings
    mode = settings.writing_validation_mode
    try:
        settings.writing_validation_mode = pydicom.config.IGNORE  # scanners write what standards forbid
        with quiet_pydicom():
            yield
    except OSError:
        raise
    except Exception as error:
        problem = f"no DICOM can be made with its headers ({type(error).__name__})"
        raise UserError(scan.path, problem, "convert the series to NIfTI and segment that") from error
    finally:
        settings.writing_validation_mode = mode


def _complete(dataset: Dataset) -> Dataset:
    """A header with the elements that may be empty but not missing."""
    from pydicom.uid import generate_uid

    result = copy.copy(dataset)
    for name in TYPE_2:
        if name not in result:
            setattr(result, name, None)
    for name, form in FORMS.items():  # what scanners have written otherwise is left out
        if result.get(name) and not re.fullmatch(form, str(result.get(name))):
            result[name].value = None
    series = str(dataset.get("SeriesInstanceUID", ""))
    if not result.get("FrameOfReferenceUID"):
        result.FrameOfReferenceUID = generate_uid(entropy_srcs=[series, "frame of reference"])
    return result


def _number(dataset: Dataset) -> int:
    return int(dataset.get("SeriesNumber", 0) or 0)


def _pixels(classes: NDArray[np.uint8], scan: Volume, sources: list[Dataset]) -> tuple[Any, Sequence[Dataset]]:
    """The frames of the segmentation, and the images that they refer to.

    Where each slice is one image of the scan, frames follow the images, and each refers to its own; otherwise they
    have planes of their own and refer to the series.
    """
    import highdicom as hd

    assert scan.dicom is not None
    frames = np.ascontiguousarray(classes.transpose(2, 1, 0))
    count = len(frames)
    if not scan.dicom.resampled:
        if len(sources) == count and all(int(source.get("NumberOfFrames", 1) or 1) == 1 for source in sources):
            return frames, sources
        if len(sources) == 1 and int(sources[0].get("NumberOfFrames", 1) or 1) == count:
            order = np.argsort([number for _, number in scan.dicom.slices])
            return np.ascontiguousarray(frames[order]), sources
    # From (slice, row, column) to LPS.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.geometry.affine
    affine = affine[:, [2, 1, 0, 3]]
    volume = hd.Volume(frames, affine, "PATIENT", frame_of_reference_uid=str(sources[0].FrameOfReferenceUID))
    return volume, sources


def _describe(number: int, label: Label) -> Any:
    """What a segment is."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    kind, category = _kind(label)
    family = codes.DCM.ArtificialIntelligence
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label.name[:MEANING],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence("voxseg", family, __version__),
        tracking_id=f"{label.id} {label.name}"[:MEANING],
        tracking_uid=hd.UID(),
        display_color=hd.color.CIELabColor.from_string(label.colour),
    )
    if label.side != "none":
        side = codes.SCT.Left if label.side == "left" else codes.SCT.Right
        item = hd.sr.CodedConcept.from_code(side)
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [item]
    return description


def _kind(label: Label) -> tuple[Any, Any]:
    """Type and category of a label, as coded concepts."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    code = label_code(label)
    if not code:
        return hd.sr.CodedConcept(str(label.id), "99VOXSEG", label.name[:MEANING]), codes.SCT.Tissue
    scheme, value, meaning = code.split(":")
    concept = hd.sr.CodedConcept(value, scheme, meaning)
    lesions = codes.cid7159
    if value in BODY_SUBSTANCES:
        return concept, codes.cid7150.BodySubstance
    if any(getattr(lesions, name).value == value for name in lesions.dir()):
        return concept, codes.cid7150.MorphologicallyAbnormalStructure
    return concept, codes.cid7150.AnatomicalStructure


def _verify(path: Path, counts: list[int]) -> None:
    """Read a segmentation back and compare the voxels of each segment with what was to be written."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        frames = dataset.pixel_array.reshape(-1, dataset.Rows * dataset.Columns)
        found = [0] * len(counts)
        for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            found[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1] += int(frame.sum())
    except Exception as error:
        raise OSError(f"{path.name} does not read back ({type(error).__name__})") from error
    if found != counts:
        raise OSError(f"{path.name} reads back with other voxels")
