"""Volume files: reading scans of several formats, writing segmentations as NIfTI in the scan's own grid.

Whatever the file says, arrays are `[X, Y, Z]` in the order in which the file stores its axes, and affines lead to RAS+
millimetres. ITK's LPS is converted here (`Geometry.from_lps`) and nowhere else.
"""

from __future__ import annotations

import gzip
import logging
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from voxseg.data.dicom.files import is_dicom
from voxseg.data.geometry import Geometry
from voxseg.data.paths import NIBABEL_SUFFIXES, NIFTI_SUFFIXES, check_scan_path, scan_name
from voxseg.data.quiet import quiet_libraries
from voxseg.errors import UserError

if TYPE_CHECKING:
    from voxseg.data.dicom.read import DicomSource

__all__ = ["Header", "Volume", "check_volume", "explained", "read_array", "read_header", "read_volume", "scaled"]

GZIP_BEST = 1100  # deflate cannot shrink anything by more than a factor of 1032
META_HEADER = 2**16  # bytes in which a MetaImage says how many axes it has
LABEL_INTENT = 1002  # NIFTI_INTENT_LABEL
VISIBLE_SHEAR = 0.1  # degrees; rounding makes less


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan as its file stores it.

    Attributes:
        path: where it was read from.
        data: `[X, Y, Z]` real numbers, stored axis order, file scaling applied.
        geometry: the grid of `data`, in RAS+ millimetres.
        header: the NIfTI header of a NIfTI file, None for other formats.
        file_shape: the shape in the file, which may have further axes of length 1.
        dicom: the series that it is, None for files of other formats.
        warnings: what the user should know of how it was read.
    """

    path: Path
    data: NDArray[Any]
    geometry: Geometry
    header: nib.Nifti1Header | None
    file_shape: tuple[int, ...]
    dicom: DicomSource | None = None
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file name without folder and without `.nii.gz` or the like."""
        return scan_name(self.path)


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says about its image before its voxels are read.

    Attributes:
        geometry: the grid of one volume, in RAS+ millimetres.
        file_shape: the shape in the file, which may have more than three axes.
        size: bytes of the uncompressed file, as the header announces them; None for formats of ITK.
    """

    geometry: Geometry
    file_shape: tuple[int, ...]
    size: int | None

    @property
    def volumes(self) -> int:
        """How many volumes the file holds."""
        return math.prod(self.file_shape[3:])


def read_volume(path: str | Path, index: int | None = None) -> Volume:
    """Read a 3D scan from `.nii`, `.nii.gz`, `.mgz`, `.mgh`, `.nrrd` or `.mha`, or the only DICOM series of a folder.

    Integers stay as they are; other numbers become float32. Axes of length 1 after the third are dropped.

    Args:
        path: the file; for DICOM a folder, a zip archive, a DICOMDIR or a multi-frame file.
        index: which volume of a 4-D file to take, counted from 0.

    Raises:
        UserError: if the file is missing, is no readable image, is cut short, is not 3D (or lacks that volume), holds
            complex numbers, colours, labels, one constant or values that are not finite, or has an impossible grid.
    """
    return check_volume(read_array(path, index))


def check_volume(volume: Volume) -> Volume:
    """The volume, if it may be a scan.

    Raises:
        UserError: if it holds one constant or values that are not finite, or has an impossible grid.
    """
    volume.geometry.check(volume.path)
    _check_values(volume.path, volume.data)
    return volume


def read_array(path: str | Path, index: int | None = None, labels: bool = False) -> Volume:
    """Read a file as `read_volume` does, whatever values and grid it has.

    Args:
        path: the file.
        index: which volume of a 4-D file to take.
        labels: whether a file that says that it is a segmentation is welcome.

    Raises:
        UserError: as `read_volume`, apart from what it says about values and grids.
    """
    path = Path(path)
    if index is None and is_dicom(path):
        from voxseg.data.dicom.read import read_dicom

        return read_dicom(path)
    check_scan_path(path)
    with explained(path):
        if path.name.lower().endswith(NIBABEL_SUFFIXES):
            return _read_nibabel(path, index, labels)
        return _read_itk(path, index)


def read_header(path: str | Path, labels: bool = False) -> Header:
    """Read the grid of an image without its voxels.

    Args:
        path: the file.
        labels: whether a file that says that it is a segmentation is welcome.

    Raises:
        UserError: if the file is missing, its beginning cannot be read as an image, or it holds complex numbers,
            colours or labels.
    """
    path = Path(path)
    check_scan_path(path)
    with explained(path):
        if path.name.lower().endswith(NIBABEL_SUFFIXES):
            with _quiet_nibabel(), _open(path) as stream:
                image = _image_class(path, stream.read(4)).from_stream(stream)
            _check_kind(path, image, labels)
            shape = tuple(int(n) for n in image.shape)
            size = math.prod(shape) * image.get_data_dtype().itemsize + int(image.dataobj.offset)
            return Header(Geometry(_first_three(path, shape), image.affine), shape, size)
        reader, sizes = _itk_header(path)
        return Header(_itk_geometry(reader, _first_three(path, sizes)), sizes, None)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what readers raise into a message about the file."""
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(path, "may not be read (no permission)", "ask for read access") from error
    except (EOFError, zlib.error) as error:
        raise UserError(path, "is cut short or damaged", "copy or export the scan again") from error
    except MemoryError as error:
        raise UserError(path, "does not fit into memory", "use a machine with more memory") from error
    except Exception as error:  # readers fail in as many ways as files can be broken
        raise UserError(
            path, f"cannot be read as an image ({_reason(error)})", "check that it opens elsewhere"
        ) from error


def _reason(error: Exception) -> str:
    """The telling part of a reader's message, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[-1].removeprefix("ITK ERROR:").strip()
    return text if len(text) <= 160 else text[:157] + "..."


def _spatial_shape(path: Path, shape: tuple[int, ...], index: int | None) -> tuple[int, int, int]:
    """The three spatial lengths of a shape that may end in axes of length 1, or in one for several volumes."""
    if index is not None:
        volumes = math.prod(shape[3:])
        if index >= volumes:
            problem = f"holds {volumes} volume{'s' * (volumes != 1)}, and volume {index} (counted from 0) is wanted"
            raise UserError(path, problem, "give the file with all modalities, or correct their list")
    elif len(shape) < 3 or any(n != 1 for n in shape[3:]):
        what = " x ".join(map(str, shape))
        remedy = "give one volume of it" if len(shape) > 3 else "give a 3D scan"
        raise UserError(path, f"is {len(shape)}-D ({what}) and not a 3D volume", remedy)
    return _first_three(path, shape)


def _first_three(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The three spatial lengths of any shape."""
    if len(shape) < 3:
        raise UserError(path, f"is {len(shape)}-D ({' x '.join(map(str, shape))})", "give a 3D scan")
    return shape[0], shape[1], shape[2]


@contextmanager
def _quiet_nibabel() -> Iterator[None]:
    """Silence nibabel's remarks on headers: what matters becomes an error of ours."""
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _packed(path: Path) -> bool:
    """Whether a file of nibabel's formats is compressed."""
    return path.name.lower().endswith(("gz", ".mgz"))


def _open(path: Path) -> IO[bytes]:
    """The uncompressed bytes of a file."""
    return cast("IO[bytes]", gzip.open(path) if _packed(path) else open(path, "rb"))


def _read_nibabel(path: Path, index: int | None, labels: bool) -> Volume:
    packed = _packed(path)
    with _quiet_nibabel(), _open(path) as stream:
        image = _image_class(path, stream.read(4)).from_stream(stream)
        # An uncompressed file is mapped rather than read, which takes its name.
        proxy: Any = (image if packed else type(image).load(path)).dataobj
        shape = _check_header(path, image, packed, index, labels)
        raw = _choose(np.asarray(proxy.get_unscaled()).reshape((*shape, -1), order="F"), index)
        if packed:
            stream.read()  # gzip compares its checksum at the end of the file, where nibabel need not come
    data = scaled(raw, float(proxy.slope), float(proxy.inter))
    header = image.header if path.name.lower().endswith(NIFTI_SUFFIXES) else None
    geometry = Geometry(shape, image.affine)
    warnings = _form_warnings(header, geometry) if header is not None else ()
    return Volume(path, data, geometry, header, tuple(image.shape), warnings=warnings)


def _form_warnings(header: Any, geometry: Geometry) -> tuple[str, ...]:
    """What other programs make of a NIfTI header whose sform is taken here, as nibabel, FreeSurfer and FSL do.

    ITK takes an sform of code 1 without shear, otherwise the qform, and refuses a file that has a sheared sform alone.
    """
    if int(header["sform_code"]) <= 0:
        return ()
    if int(header["qform_code"]) <= 0:
        if geometry.shear < VISIBLE_SHEAR:
            return ()
        return (f"the sform in its header is sheared by {geometry.shear:.1f} degrees: ITK cannot open scan and result",)
    try:
        away = geometry.displacement(Geometry(geometry.shape, header.get_qform()))
    except (nib.spatialimages.HeaderDataError, np.linalg.LinAlgError, ValueError):
        return ()  # a damaged qform, which nobody can take
    if not away > min(geometry.spacing) / 2:
        return ()
    problem = f"sform and qform in its header lie up to {away:.1f} mm apart"
    return (f"{problem}: the sform counts here, programs that take the qform show scan and result elsewhere",)


def _image_class(path: Path, start: bytes) -> Any:
    """The nibabel class for a file, by its name and its first four bytes: the length of a NIfTI header."""
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        return nib.MGHImage
    length = nib.Nifti2Header.sizeof_hdr
    return nib.Nifti2Image if start in (length.to_bytes(4, "little"), length.to_bytes(4, "big")) else nib.Nifti1Image


def _check_header(path: Path, image: Any, packed: bool, index: int | None, labels: bool) -> tuple[int, int, int]:
    """The spatial shape of an image of the right kind that is 3D and not longer than its file."""
    shape = _spatial_shape(path, image.shape, index)
    _check_kind(path, image, labels)
    # Before memory is asked for: a damaged header may promise terabytes.
    expected = math.prod(image.shape) * image.get_data_dtype().itemsize + image.dataobj.offset
    size = path.stat().st_size
    if expected > size * (GZIP_BEST if packed else 1):
        problem = f"is cut short or damaged ({expected:,} bytes announced, the file has {size:,})"
        raise UserError(path, problem, "copy or export the scan again")
    return shape


def _check_kind(path: Path, image: Any, labels: bool) -> None:
    """Refuse what is no real image, and label maps unless they are welcome."""
    dtype = image.get_data_dtype()
    if dtype.fields is not None:
        raise UserError(path, "is a colour image (RGB)", "give the grey-scale scan")
    if dtype.kind == "c":
        raise UserError(path, "holds complex numbers", "give the magnitude image")
    if not labels and "intent_code" in image.header and int(image.header["intent_code"]) == LABEL_INTENT:
        raise UserError(path, "is a segmentation, as its header says, and not a scan", "give the scan itself")


def _choose(volumes: NDArray[Any], index: int | None) -> NDArray[Any]:
    """One of the volumes `[X, Y, Z, N]`; a copy, so that the others need not stay in memory, unless it is the only."""
    return volumes[..., 0] if index is None else volumes[..., index].copy(order="K")


def scaled(raw: NDArray[Any], slope: float, inter: float) -> NDArray[Any]:
    """Stored numbers with their scaling applied: integers where it leaves them so, otherwise float32."""
    if raw.dtype.kind in "iub" and slope == 1 and inter == 0:
        return raw.astype(raw.dtype.newbyteorder("="), copy=False)
    if raw.dtype.kind in "iu" and slope == 1 and (shifted := _shifted(raw, inter)) is not None:
        return shifted
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused for it
        data = raw.astype(np.float32, copy=False)
        if slope == 1 and inter == 0:
            return data
        data = np.multiply(data, np.float32(slope), out=data if data is not raw else None)
        return np.add(data, np.float32(inter), out=data)


def _shifted(raw: NDArray[Any], inter: float) -> NDArray[Any] | None:
    """Integers plus a whole number, as CT scans have it, if 16 bits hold them; None otherwise.

    Half of what float32 would take, and exact.
    """
    if not float(inter).is_integer() or not raw.size:
        return None
    low, high = int(raw.min()) + int(inter), int(raw.max()) + int(inter)
    if raw.dtype.itemsize > 2 or low < -(2**15) or high >= 2**15:
        return None
    # The sum may leave 16 bits on the way and comes back into them: it is taken modulo 2^16.
    result = raw.astype(np.uint16 if raw.dtype.kind == "u" else np.int16).view(np.int16)
    result += np.array(int(inter) & 0xFFFF, dtype=np.uint16).view(np.int16)
    return result


def _itk_header(path: Path) -> tuple[Any, tuple[int, ...]]:
    """ITK's reader of a file, its header read, and the shape of the image."""
    import SimpleITK as sitk  # noqa: N813 - 0.3 s, and only these formats need it

    _check_dimensions(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with quiet_libraries():
        reader.ReadImageInformation()
    if reader.GetNumberOfComponents() > 1:
        if reader.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
            raise UserError(path, "holds complex numbers", "give the magnitude image")
        problem = f"has {reader.GetNumberOfComponents()} values a voxel (colour or vectors)"
        raise UserError(path, problem, "give the grey-scale scan")
    return reader, tuple(int(n) for n in reader.GetSize())


def _check_dimensions(path: Path) -> None:
    """Refuse a MetaImage that announces more axes than ITK has room for: it writes past its end."""
    if not path.name.lower().endswith(".mha"):
        return
    with open(path, "rb") as file:
        found = re.findall(rb"NDims\s*=\s*(\S*)", file.read(META_HEADER))
    if any(not re.fullmatch(rb"[1-9]", number) for number in found):
        raise UserError(path, "is damaged: it announces an impossible number of axes", "copy or export the scan again")


def _itk_geometry(reader: Any, shape: tuple[int, int, int]) -> Geometry:
    """The grid of the first three axes of an image."""
    axes = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]
    return Geometry.from_lps(shape, reader.GetSpacing()[:3], reader.GetOrigin()[:3], tuple(direction.ravel()))


def _read_itk(path: Path, index: int | None) -> Volume:
    import SimpleITK as sitk  # noqa: N813

    reader, sizes = _itk_header(path)
    shape = _spatial_shape(path, sizes, index)
    # ITK's arrays have the slowest axis first.
    with quiet_libraries():
        array = sitk.GetArrayFromImage(reader.Execute())
    data = scaled(_choose(array.reshape((-1, *shape[::-1])).transpose(3, 2, 1, 0), index), 1.0, 0.0)
    return Volume(path, data, _itk_geometry(reader, shape), None, sizes)


def _check_values(path: Path, data: NDArray[Any]) -> None:
    """Refuse scans with values that are not finite, and scans without contrast."""
    low, high = data.min(), data.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(data.size - np.isfinite(data).sum())
        problem = f"{count:,} of its voxels are not finite numbers (NaN or infinite)"
        raise UserError(path, problem, "replace them, by 0 for instance")
    if low == high:
        raise UserError(path, f"every voxel is {low:g}", "give a scan with an image in it")
