"""Segmentations as NIfTI files in exactly the grid of their scan, with the names of the labels inside."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelTable
from voxseg.data.volume import LABEL_INTENT, Volume

__all__ = ["blank_header", "read_label_names", "write_nifti", "write_segmentation"]

CARET_CODE = 30  # NIFTI_ECODE_CARET, which Connectome Workbench reads
PLAIN_CODE = 0  # the same text once more for readers of TotalSegmentator's files, which look for it here
GEOMETRY_FIELDS = (
    "pixdim",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
)
READ_VOXELS = 2**21  # of a file that is compared with what was to be written, at a time
SHEAR_TOLERANCE = 1e-3  # degrees; a qform cannot hold more


def write_segmentation(
    path: Path, labels: NDArray[np.integer[Any]], table: LabelTable, scan: Volume, description: str = "voxseg"
) -> None:
    """Write label ids as `.nii` or `.nii.gz` and read them back.

    For a NIfTI scan every geometry field of the header (shape, spacing, sform, qform, their codes, units) is copied bit
    for bit; for other formats sform and qform hold the scan's affine with code 1 (a sheared affine the sform only). The
    data type is that of `labels`, unscaled; the intent is "label"; names and colours are in a header extension
    (`label_extension`). Nothing else of the scan's header is kept, so that no text in it travels on.

    Args:
        path: where to write; the file is not complete until this returns, so give a temporary name (`staged`).
        labels: `[X, Y, Z]` ids in the scan's stored axis order, of an integer type of at most 32 bits.
        table: the labels' names and colours.
        scan: whose grid it is.
        description: up to 79 characters for the header.

    Raises:
        OSError: if the file cannot be written, or does not read back as what was written.
    """
    if labels.shape != scan.geometry.shape:
        raise ValueError(f"the labels have shape {labels.shape}, the scan {scan.geometry.shape}")
    header = blank_header(scan.geometry) if scan.header is None else scan.header.copy()
    shape = labels.shape if scan.header is None else scan.file_shape
    _make_label_header(header, labels.dtype, description)
    geometry = {field: header[field].tobytes() for field in GEOMETRY_FIELDS}
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # Without an affine argument nibabel leaves sform and qform as the header has them.
    image = image_class(labels.reshape(shape, order="F"), None, header)
    image.header.set_slope_inter(1, 0)  # the constructor has reset it
    image.header.extensions.clear()
    for code in (PLAIN_CODE, CARET_CODE):
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, label_extension(table)))
    write_nifti(image, path)
    _verify(path, geometry, labels.reshape(shape, order="F"), table)


def write_nifti(image: nib.Nifti1Image | nib.Nifti2Image, path: Path) -> None:
    """Write an image as it is, packed if the name ends with `.gz`."""
    with open(path, "wb") as file:
        if path.name.endswith(".gz"):
            # Level 1: label maps shrink a hundredfold at any level. No time stamp: equal results are equal files.
            with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)


def blank_header(geometry: Geometry) -> nib.Nifti1Header:
    """A NIfTI header for the grid of another format."""
    header = nib.Nifti1Header()
    header.set_data_shape(geometry.shape)
    header.set_zooms(geometry.spacing)
    header.set_xyzt_units("mm")
    header.set_sform(geometry.affine, 1)
    if geometry.shear < SHEAR_TOLERANCE:
        header.set_qform(geometry.affine, 1)
    return header


def _make_label_header(header: nib.Nifti1Header, dtype: np.dtype[Any], description: str) -> None:
    """Turn the header of a scan into that of a label map; geometry stays."""
    header.set_data_dtype(dtype)
    header["cal_min"], header["cal_max"] = 0, 0
    header["intent_code"], header["intent_name"] = LABEL_INTENT, b""
    header["descrip"] = description.encode("ascii", "replace")[:79]
    for text in ("aux_file", "db_name"):
        if text in header:
            header[text] = b""


def label_extension(table: LabelTable) -> bytes:
    """The label table as the XML of Connectome Workbench, which TotalSegmentator uses too.

    Readers get the text from `nibabel.load(...).header.extensions[0].get_content()`; each `Label` element has the id as
    its `Key`, the colour as `Red`, `Green`, `Blue` and `Alpha` in 0..1, and the name as its text.
    """
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<CaretExtension>",
        '<VolumeInformation Index="0">',
        "<LabelTable>",
    ]
    rows = [(0, "Background", "#000000", 0)]
    rows += [(i, name, colour, 1) for i, name, colour in zip(table.ids, table.names, table.colours, strict=True)]
    for key, name, colour, alpha in rows:
        red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
        attributes = f'Key="{key}" Red="{red:.4f}" Green="{green:.4f}" Blue="{blue:.4f}" Alpha="{alpha}"'
        lines.append(f"<Label {attributes}>{escape(name)}</Label>")
    lines += ["</LabelTable>", "<VolumeType>Label</VolumeType>", "</VolumeInformation>", "</CaretExtension>"]
    text = "\n".join(lines).encode()
    # Extensions (with their 8 bytes of frame) are multiples of 16 bytes long: filled up with spaces, not with zero
    # bytes, it is valid XML to its end.
    return text + b" " * (-(len(text) + 8) % 16)


def read_label_names(header: nib.Nifti1Header) -> dict[int, str]:
    """Names of the labels of a segmentation by id, background left out; empty if the header has none."""
    for extension in header.extensions:
        if extension.get_code() != PLAIN_CODE or b"<LabelTable>" not in extension.get_content():
            continue
        text = extension.get_content().decode()
        labels = ElementTree.fromstring(text.rstrip("\0 ")).iter("Label")
        return {int(label.attrib["Key"]): label.text or "" for label in labels if label.attrib["Key"] != "0"}
    return {}


def _verify(path: Path, geometry: dict[str, bytes], labels: NDArray[Any], table: LabelTable) -> None:
    """Read a segmentation back and compare it with what was to be written."""
    try:
        image: Any = nib.load(path)
        dtype = image.get_data_dtype()
        same = image.shape == labels.shape and dtype.newbyteorder("=") == labels.dtype
        same = same and _holds(path, int(image.dataobj.offset), dtype, labels)
        names = read_label_names(image.header)
    except Exception as error:
        raise OSError(f"{path.name} does not read back: {error}") from error
    wrong = [field for field, value in geometry.items() if image.header[field].tobytes() != value]
    if not same or (image.dataobj.slope, image.dataobj.inter) != (1, 0):
        wrong.append("voxels")
    if names != dict(zip(table.ids, table.names, strict=True)):
        wrong.append("label names")
    if wrong:
        raise OSError(f"{path.name} reads back with other {', '.join(wrong)}")


def _holds(path: Path, offset: int, dtype: np.dtype[Any], labels: NDArray[Any]) -> bool:
    """Whether a file holds these voxels and nothing after them; read a few slices at a time, to its checksum."""
    slices = labels.reshape((*labels.shape[:2], -1), order="F") if labels.ndim > 3 else labels
    step = max(1, READ_VOXELS // max(slices[..., 0].size, 1))
    with gzip.open(path) if path.name.endswith(".gz") else open(path, "rb") as file:
        file.read(offset)
        for start in range(0, slices.shape[2], step):
            part = slices[..., start : start + step]
            stored = np.frombuffer(file.read(part.size * dtype.itemsize), dtype=dtype)
            if stored.size != part.size or not np.array_equal(stored.reshape(part.shape, order="F"), part):
                return False
        return not file.read(1)
