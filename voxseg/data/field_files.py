"""Fields as NIfTI files: vectors and symmetric matrices with their intent codes, in the grid of a scan.

What is written is 5-D, ``[X, Y, Z, 1, components]``, float32, in world axes (RAS+):

| kind | intent | components |
|---|---|---|
| scalar | NONE, and 3-D | 1 |
| vector, axis | VECTOR (1007) | x, y, z |
| tensor | SYMMATRIX (1005), `intent_p1` 3 | xx, xy, yy, xz, yz, zz: the lower triangle row by row |
| irreps | VECTOR (1007), the type as `intent_name` if it is short enough | in e3nn's basis |

Read are these, and 4-D files with the components as their volumes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from voxseg.data.field_kinds import FieldTarget
from voxseg.data.geometry import Geometry
from voxseg.data.paths import NIFTI_SUFFIXES
from voxseg.data.segmentation import GEOMETRY_FIELDS, blank_header, write_nifti
from voxseg.data.volume import Volume, explained, read_header
from voxseg.errors import UserError

__all__ = ["check_field_header", "read_field", "read_mask", "write_field"]

VECTOR, SYMMETRIC = 1007, 1005
NAME_LENGTH = 15


def check_field_header(path: Path, target: FieldTarget) -> Geometry:
    """The grid of a file that can hold such a field, its voxels unread.

    Raises:
        UserError: it is missing, no NIfTI file, or has another number of components.
    """
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise UserError(path, "is no NIfTI file", "give fields as .nii or .nii.gz")
    header = read_header(path)
    lengths = [n for n in header.file_shape[3:] if n != 1] or [1]
    if lengths != [target.components]:
        shape = " x ".join(map(str, header.file_shape))
        found = "several axes of components" if len(lengths) > 1 else f"{lengths[0]} components"
        wanted = (
            f"a {target.kind} has {target.components}"
            if target.kind != "irreps"
            else f"{target.irreps} has {target.components}"
        )
        raise UserError(path, f"has {found} a voxel ({shape}), {wanted}", "correct the file, or targets.kind")
    header.geometry.check(path)
    return header.geometry


def read_field(
    path: Path, target: FieldTarget, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], Geometry]:
    """Read a field.

    Args:
        path: NIfTI.
        target: what is in it, and in which axes.
        mask: where it is known, ``[X, Y, Z]``; elsewhere it is 0 whatever the file says.

    Returns:
        Fields ``[C, X, Y, Z]`` float32 in world axes, in units of `target.scale`, in the stored order of voxels; and
        their grid.

    Raises:
        UserError: as `check_field_header`, or values within the mask are not finite, or the mask has another shape.
    """
    geometry = check_field_header(path, target)
    with explained(path):
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj, dtype=np.float32).reshape((*geometry.shape, target.components), order="F")
        intent = int(image.header["intent_code"])
    if mask is not None and mask.shape != geometry.shape:
        shapes = " x ".join(map(str, mask.shape)), " x ".join(map(str, geometry.shape))
        raise UserError(path, f"has {shapes[1]} voxels, its mask {shapes[0]}", "give a mask on the grid of the target")
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(-1))
    wrong = int((~finite if mask is None else ~finite & mask).sum())
    if wrong:
        where = "its voxels" if mask is None else "the voxels in the mask"
        remedy = "correct them, or leave them out with a mask"
        raise UserError(path, f"has values that are not finite (NaN or infinite) in {wrong:,} of {where}", remedy)
    values = np.where((finite if mask is None else mask)[..., None], values, 0)
    fields = target.encode(values, "lower" if intent == SYMMETRIC else None)
    return target.turned(fields, target.file_axes(geometry)), geometry


def read_mask(path: Path) -> tuple[NDArray[np.bool_], Geometry]:
    """Where a field is known: not 0 in a 3D file.

    Raises:
        UserError: as `voxseg.data.datasets.read.read_labels`, or it is 0 everywhere.
    """
    from voxseg.data.datasets.read import read_labels

    values, geometry = read_labels(path)
    mask: NDArray[np.bool_] = values > 0
    if not mask.any():
        raise UserError(path, "is 0 everywhere", "give a mask that is 1 where the target is known")
    return mask, geometry


def write_field(
    path: Path, fields: NDArray[np.float32], target: FieldTarget, scan: Volume, description: str = "voxseg"
) -> None:
    """Write a field as `.nii` or `.nii.gz` in the grid of a scan, and read it back.

    Geometry fields of the header are those of the scan bit for bit, as `write_segmentation` has them; no text of the
    scan's header is kept.

    Args:
        path: a temporary name (`staged`): the file is not complete until this returns.
        fields: ``[C, X, Y, Z]`` in world axes, in units of `target.scale`, in the scan's stored order of voxels.
        target: what it is.
        scan: whose grid it is.
        description: up to 79 characters for the header.

    Raises:
        OSError: the file cannot be written, or does not read back as what was written.
    """
    if fields.shape[1:] != scan.geometry.shape:
        raise ValueError(f"the field has shape {fields.shape[1:]}, the scan {scan.geometry.shape}")
    values = target.decode(fields)
    stored = values[..., 0] if target.components == 1 else values[:, :, :, None]
    header = blank_header(scan.geometry) if scan.header is None else scan.header.copy()
    geometry = {name: header[name].copy() for name in GEOMETRY_FIELDS}
    geometry["pixdim"][4:] = 1  # what further axes of the scan were measured in
    header.set_data_dtype(np.float32)
    header["cal_min"], header["cal_max"] = 0, 0
    header["descrip"] = description.encode("ascii", "replace")[:79]
    for text in ("aux_file", "db_name"):
        if text in header:
            header[text] = b""
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = image_class(stored, None, header)
    for name, value in geometry.items():
        image.header[name] = value
    image.header.set_slope_inter(1, 0)
    image.header.extensions.clear()
    _set_intent(image.header, target)
    write_nifti(image, path)
    _verify(path, stored, geometry)


def _set_intent(header: Any, target: FieldTarget) -> None:
    code = {"scalar": 0, "tensor": SYMMETRIC}.get(target.kind, VECTOR)
    header["intent_code"] = code
    header["intent_p1"] = 3 if code == SYMMETRIC else 0
    header["intent_p2"], header["intent_p3"] = 0, 0
    name = str(target.field) if target.kind == "irreps" else ""
    header["intent_name"] = name.encode() if len(name) <= NAME_LENGTH else b""


def _verify(path: Path, stored: NDArray[np.float32], geometry: dict[str, Any]) -> None:
    """Read a field back and compare it with what was to be written."""
    try:
        image: Any = nib.load(path)
        same = image.shape == stored.shape and np.array_equal(np.asarray(image.dataobj), stored)
    except Exception as error:
        raise OSError(f"{path.name} does not read back: {error}") from error
    wrong = [name for name, value in geometry.items() if image.header[name].tobytes() != value.tobytes()]
    if not same:
        wrong.append("values")
    if wrong:
        raise OSError(f"{path.name} reads back with other {', '.join(wrong)}")
