"""How results came about, as the JSON beside every output tells it: versions, model, inputs, settings, times.

Nothing that says who was scanned or who ran it: no free text of a header, no date of a scan, no folder, host or user
names. What the keys mean is in `docs/provenance.md`. Imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxseg import __version__

if TYPE_CHECKING:
    from voxseg.data.dicom.files import DicomFile
    from voxseg.data.geometry import Geometry
    from voxseg.data.volume import Volume

__all__ = [
    "Origin",
    "describe_files",
    "describe_image",
    "file_hash",
    "now",
    "plain",
    "record",
    "record_of_case",
    "software",
    "to_json",
]

FORMAT = 1
PACKAGES = ("torch", "numpy", "scipy", "nibabel", "SimpleITK", "safetensors", "pydicom", "highdicom", "monai")
PIECE = 2**20  # bytes of a file that are hashed at a time
NIFTI_FIELDS = (
    *("dim", "pixdim", "datatype", "bitpix", "scl_slope", "scl_inter", "xyzt_units", "intent_code"),
    *("sform_code", "qform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)
"""What is told of a NIfTI header: numbers. descrip, aux_file, db_name, intent_name and extensions may hold names."""


@dataclass(frozen=True)
class Origin:
    """What a result was made from, and how.

    Attributes:
        model: its `name`, and `sha256` of its weights (None if it was never in a file).
        inputs: of each image what `describe_image` says.
        settings: of the run, in plain types.
        started: when, as `now` gives it.
        warnings: what the user was told of the result.
    """

    model: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    started: str = ""
    warnings: Sequence[str] = ()


def record(kind: str, started: str = "", **parts: Any) -> dict[str, Any]:
    """A record of how something was made: what all records begin with, then the parts given, in plain types.

    Args:
        kind: of output: "segmentation", "generated scans", "exported model".
        started: when, as `now` gives it; left out if empty.
        parts: whatever else has to be known.
    """
    # platform.platform() would start a program to find out.
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    head = {"format": FORMAT, "kind": kind, "software": software(), "platform": system}
    when = {"started": started} if started else {}
    return plain({**head, **when, **parts})


def record_of_case(
    kind: str, origin: Origin, seconds: Mapping[str, float], files: Mapping[Path, Path], **parts: Any
) -> dict[str, Any]:
    """A record of the results of a case.

    Args:
        kind: of output.
        origin: what they were made from.
        seconds: by stage.
        files: what was written, each with where it lies while not all are complete.
        parts: what there is to tell of the result itself.
    """
    return record(
        kind,
        origin.started,
        seconds={stage: round(took, 3) for stage, took in seconds.items()},
        model=origin.model,
        inputs=origin.inputs,
        settings=origin.settings,
        **parts,
        warnings=origin.warnings,
        outputs=[
            {**about_file, "file": path.name}
            for path, about_file in zip(files, describe_files(files.values()), strict=True)
        ],
    )


def software() -> dict[str, str]:
    """The versions of voxseg, of Python and of the packages that results depend on, as far as they are installed."""
    found = {"voxseg": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time in UTC, to the second (ISO 8601)."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        return _hash(file)


def describe_files(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Name without folder, bytes and SHA-256 of each file."""
    return [{"file": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path)} for path in paths]


def describe_image(volume: Volume, name: str = "image", index: int | None = None) -> dict[str, Any]:
    """What a record tells of an image: its file and hash, its grid, and the numbers of its header.

    Args:
        volume: as it was read; its file is read once more for the hash, which is None for what never was in a file.
        name: which image of the model it is.
        index: which volume of a 4-D file it is.
    """
    about: dict[str, Any] = {"image": name, "file": volume.path.name}
    if index is not None:
        about["volume"] = index
    source = volume.dicom
    if source is not None:
        about |= {"format": "DICOM", "files": len(source.files), "sha256": _hash_all(source.files)}
        # Of the many fields of DICOM the one that identifies nobody and matters.
        about["dicom"] = {"modality": str(source.datasets[0].get("Modality", "")), "resampled": source.resampled}
    elif volume.path.is_file():
        about |= {"format": _format(volume), **describe_files([volume.path])[0]}
    else:
        about |= {"file": None, "format": "array", "sha256": None}
    about["geometry"] = _describe_geometry(volume.geometry)
    about["data_type"] = str(volume.data.dtype)
    if volume.header is not None:
        about["header"] = {key: volume.header[key].tolist() for key in NIFTI_FIELDS if key in volume.header}
    return plain(about)


def plain(value: Any) -> Any:
    """A value in what JSON has: NaN and infinity become None, paths their text, arrays lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, (Sequence, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)


def to_json(value: Any) -> str:
    """`plain` as text that ends with a line's end; names that are not Unicode are escaped."""
    return json.dumps(plain(value), indent=2, allow_nan=False) + "\n"


def _describe_geometry(geometry: Geometry) -> dict[str, Any]:
    return {
        "shape": geometry.shape,
        "spacing_mm": [round(length, 6) for length in geometry.spacing],
        "orientation": geometry.orientation,
        "handedness": geometry.handedness,
        "oblique_deg": round(geometry.obliqueness, 3),
        "shear_deg": round(geometry.shear, 3),
        "affine_ras_mm": geometry.affine,
    }


def _format(volume: Volume) -> str:
    if volume.header is not None:
        return "NIfTI-1" if volume.header.sizeof_hdr == 348 else "NIfTI-2"
    return {".nrrd": "NRRD", ".mha": "MetaImage"}.get(volume.path.suffix.lower(), "MGH")


def _hash(stream: Any) -> str:
    digest = hashlib.sha256()
    while piece := stream.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _hash_all(files: Sequence[DicomFile]) -> str:
    """One hash for the files of a series, whatever their names and order: of their sorted hashes."""
    with ExitStack() as opened:
        packed = next((file.path for file in files if file.member is not None), None)
        archive = opened.enter_context(zipfile.ZipFile(packed)) if packed is not None else None
        digests = []
        for file in files:
            with file.open(archive) as stream:
                digests.append(_hash(stream))
    return hashlib.sha256("".join(sorted(digests)).encode("ascii")).hexdigest()
