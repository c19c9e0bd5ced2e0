"""Scans that are in memory already: arrays, images of nibabel and of SimpleITK."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.volume import Volume, _check_values, scaled
from voxseg.errors import UserError

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

__all__ = ["volume_in_memory"]

IN_PLACE = "give affine= (4 x 4, from voxel index to RAS+ mm) or spacing= (mm along the three axes)"


def volume_in_memory(
    image: Any, name: str, affine: NDArray[Any] | None = None, spacing: float | Sequence[float] | None = None
) -> Volume:
    """A scan in memory as reading a file of it would give it; the image is not changed.

    Args:
        image: an array `[X, Y, Z]`, a spatial image of nibabel, or an image of SimpleITK.
        name: what messages and files call it.
        affine: of an array, `[4, 4]`: from voxel index to world millimetres, x to the right, y to the front, z up.
        spacing: of an array in place of an affine: millimetres between voxels along its axes, which are then taken to
            run to the right, to the front and up.

    Raises:
        UserError: if the image cannot be a scan (as `read_volume` says it), or its place in space is not given or
            given twice.
        TypeError: if it is none of these images.
    """
    if isinstance(image, nib.spatialimages.SpatialImage):
        _no_place(name, affine, spacing)
        volume = _of_nibabel(image, name)
    elif type(image).__module__.partition(".")[0] == "SimpleITK":
        _no_place(name, affine, spacing)
        volume = _of_itk(image, name)
    elif hasattr(image, "__array__"):
        data = _real(np.asarray(image), name)
        volume = _volume(name, data, _affine(name, affine, spacing), None, data.shape)
    else:
        kinds = "a path, an array, or an image of nibabel or SimpleITK"
        raise TypeError(f"a scan is {kinds}, this is {type(image).__name__}")
    volume.geometry.check(name)
    _check_values(volume.path, volume.data)
    return volume


def _of_nibabel(image: Any, name: str) -> Volume:
    proxy = image.dataobj
    if hasattr(proxy, "get_unscaled") and hasattr(proxy, "slope"):  # not read yet: scaled as `read_volume` does it
        raw, slope, inter = np.asarray(proxy.get_unscaled()), float(proxy.slope), float(proxy.inter)
    else:
        raw, slope, inter = np.asarray(proxy), 1.0, 0.0
    if image.affine is None:
        raise UserError(name, "has no affine", "give the image with its place in space")
    data = _real(raw, name, slope, inter)
    header = image.header if isinstance(image, (nib.Nifti1Image, nib.Nifti2Image)) else None
    return _volume(name, data, image.affine, header, tuple(int(n) for n in image.shape))


def _of_itk(image: sitk.Image, name: str) -> Volume:
    import SimpleITK as sitk  # noqa: N813

    if image.GetNumberOfComponentsPerPixel() > 1:
        raise UserError(name, "has several values a voxel (colour or vectors)", "give the grey-scale scan")
    # ITK's arrays have the slowest axis first. A copy: the view would die with the image.
    data = _real(sitk.GetArrayFromImage(image).T, name)
    shape = _three(data.shape, name)
    axes = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (axes, axes))[:3, :3]
    geometry = Geometry.from_lps(shape, image.GetSpacing()[:3], image.GetOrigin()[:3], tuple(direction.ravel()))
    return _volume(name, data, geometry.affine, None, data.shape)


def _volume(name: str, data: NDArray[Any], affine: NDArray[Any], header: Any, shape: tuple[int, ...]) -> Volume:
    three = _three(data.shape, name)
    if not (data.flags.f_contiguous and data.flags.writeable):
        # The layout of files, so that the rounding of sums is theirs too; torch does not take what is read-only.
        data = data.copy(order="F")
    return Volume(Path(name), data.reshape(three, order="F"), Geometry(three, affine), header, shape)


def _three(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """The three lengths of a shape that may end in axes of length 1."""
    if len(shape) < 3 or math.prod(shape[3:]) != 1:
        what = " x ".join(map(str, shape))
        remedy = "give one volume of it" if len(shape) > 3 else "give a 3D scan"
        raise UserError(name, f"is {len(shape)}-D ({what}) and not a 3D volume", remedy)
    return shape[0], shape[1], shape[2]


def _real(raw: NDArray[Any], name: str, slope: float = 1.0, inter: float = 0.0) -> NDArray[Any]:
    """Numbers as `read_volume` gives them: integers as they are, float32 otherwise."""
    if raw.dtype.kind == "c":
        raise UserError(name, "holds complex numbers", "give the magnitude image")
    if raw.dtype.kind not in "iubf":
        raise UserError(name, f"holds values of the type {raw.dtype}", "give an array of real numbers")
    return scaled(raw.view(np.uint8) if raw.dtype == bool else raw, slope, inter)


def _no_place(name: str, affine: object, spacing: object) -> None:
    """Refuse a place in space for an image that has one."""
    if affine is not None or spacing is not None:
        problem = f"knows its place in space, and {'affine' if affine is not None else 'spacing'}= is given too"
        raise UserError(name, problem, "leave it out; it is for arrays")


def _affine(name: str, affine: NDArray[Any] | None, spacing: float | Sequence[float] | None) -> NDArray[np.float64]:
    """The affine of an array, which is given by the one or by the other."""
    if affine is None and spacing is None:
        raise UserError(name, "is an array, which does not say where its voxels lie", IN_PLACE)
    if affine is not None and spacing is not None:
        raise UserError(name, "is given an affine and a spacing", "leave out the spacing: the affine has it")
    if affine is not None:
        matrix = np.asarray(affine, dtype=np.float64)
        if matrix.shape != (4, 4):
            raise UserError("affine", f"has the shape {matrix.shape}", "give a 4 x 4 matrix")
        return matrix
    lengths = np.asarray(spacing, dtype=np.float64)
    if lengths.shape not in ((), (3,)) or not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise UserError("spacing", f"is {spacing}", "give three positive lengths in mm, or one for all")
    return np.diag([*np.broadcast_to(lengths, 3), 1.0])
