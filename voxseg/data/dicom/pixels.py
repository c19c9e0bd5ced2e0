"""The stored numbers of DICOM files, compressed or not."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.dicom.headers import frame_value
from voxseg.data.quiet import quiet_libraries

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["decode", "scaling"]

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.3"  # of several frames of 16 bits: has no scaling that GDCM could apply
PIXEL_TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "NumberOfFrames",
)  # fmt: skip
LOSSLESS_BEST = 3000  # what codecs can shrink empty images by
SMALL = 2**26  # bytes that are decoded whatever their ratio


def decode(dataset: Dataset) -> NDArray[Any]:
    """The stored numbers of a file, without any scaling.

    Uncompressed data, RLE and what pydicom has plug-ins for are decoded by pydicom, all else by SimpleITK's GDCM.

    Args:
        dataset: with its pixel data.

    Returns:
        `[frames, rows, columns]`.

    Raises:
        ValueError: if the data are missing, cut short, or larger than they could be.
        Exception: whatever decoders raise of damaged data.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    shape = (int(dataset.get("NumberOfFrames", 1) or 1), int(dataset.Rows), int(dataset.Columns))
    names = [name for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in dataset]
    if not names:
        raise ValueError("no pixel data")
    meta = getattr(dataset, "file_meta", None)
    syntax = None if meta is None else meta.get("TransferSyntaxUID")
    if syntax is None:  # a file without preamble
        implicit = dataset.original_encoding[0]
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta = _meta(syntax)
    bits = int(dataset.get("BitsAllocated", 16))
    expected = shape[0] * shape[1] * shape[2] * bits // 8
    stored = len(dataset[names[0]].value or b"")
    if expected > stored and (not syntax.is_encapsulated or expected > max(stored * LOSSLESS_BEST, SMALL)):
        raise ValueError(f"{expected} bytes announced, {stored} there")
    if not syntax.is_encapsulated or get_decoder(syntax).is_available:
        array = dataset.pixel_array
    else:
        array = _decode_gdcm(dataset, syntax)
    return np.asarray(array).reshape(shape)


def scaling(dataset: Dataset, number: int) -> tuple[float, float]:
    """Rescale slope and intercept of a frame.

    Raises:
        ValueError: if they are no finite numbers, or the slope is 0.
    """
    slope = frame_value(dataset, number, "PixelValueTransformationSequence", "RescaleSlope")
    inter = frame_value(dataset, number, "PixelValueTransformationSequence", "RescaleIntercept")
    if slope is None:
        slope = dataset.get("RescaleSlope")  # files of several frames that are not enhanced have one for all
    if inter is None:
        inter = dataset.get("RescaleIntercept")
    pair = (1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter))
    if not np.isfinite(pair).all() or pair[0] == 0:
        raise ValueError("impossible rescale slope")
    return pair


def _meta(syntax: Any) -> Any:
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    return meta


def _decode_gdcm(dataset: Dataset, syntax: Any) -> NDArray[Any]:
    """Decode with GDCM by way of a file that holds the pixels and nothing of the patient."""
    import SimpleITK as sitk  # noqa: N813
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    plain = Dataset()
    for name in PIXEL_TAGS:
        if name in dataset:
            plain[name] = dataset[name]
    plain["PixelData"] = dataset["PixelData"]
    plain.SOPClassUID, plain.SOPInstanceUID, plain.Modality = SECONDARY_CAPTURE, generate_uid(), "OT"
    plain.file_meta = _meta(syntax)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory(prefix="voxseg-") as folder:
        path = Path(folder, "pixels.dcm")
        plain.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        with quiet_libraries():
            return sitk.GetArrayFromImage(reader.Execute())
