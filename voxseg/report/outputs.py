"""The files of a segmentation: labels, volumes, picture, how it came about.

They are written together, by the command line and from Python alike. Nothing heavy is imported before something is
written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxseg import __version__
from voxseg.errors import UserError
from voxseg.provenance import Origin, describe_image, now, record_of_case, to_json

if TYPE_CHECKING:
    from voxseg.data.volume import Volume
    from voxseg.inference.predictor import Segmentation

__all__ = [
    "DICOM_OUTPUTS",
    "OUTPUTS",
    "PAGE",
    "PROBABILITIES",
    "about",
    "fill_outputs",
    "make_folder",
    "segmentation_record",
    "write_outputs",
]

OUTPUTS = ("_seg.nii.gz", "_volumes.tsv", "_qc.png", "_seg.json")
"""What is written of each segmentation, behind its target."""

DICOM_OUTPUTS = ("_seg.dcm", "_qc.dcm")
"""What is written besides of a DICOM scan: DICOM-SEG, and the picture as a secondary capture."""

PAGE = "_report.html"
"""The page that is written with it if that is wanted."""

PROBABILITIES = ("_probabilities.nii.gz", "_probabilities.json")
"""Probabilities and the names of their classes, if they are wanted."""


def about(model: str) -> str:
    """What files and pictures say of their origin.

    Args:
        model: its name.
    """
    return f"voxseg {__version__}, model {model}"


def write_outputs(
    volume: Volume,
    segmentation: Segmentation,
    model: str,
    target: Path,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
    page: Callable[[Path, bytes], None] | None = None,
    origin: Origin | None = None,
    probabilities: bool = False,
) -> list[Path]:
    """Write the files of a segmentation, all or none; the folder is made if need be.

    Args:
        volume: the scan, in whose grid the segmentation is.
        segmentation: what was found in it.
        model: the name of the model that found it.
        target: what the paths begin with, such as `FOLDER/NAME`.
        progress: called with the stages `writing`, `drawing` and `page`, and the fraction of each that is done.
        page: writes a page about it to a path; it is given the bytes of the picture too.
        origin: what it was made from; by default what `volume` tells.
        probabilities: whether there are such: they and the names of their classes already lie under the temporary
            names (`temporary_name`) of their files, because they come while the network runs.

    Returns:
        The paths, in the order of `OUTPUTS`, that of the page behind them, those of `PROBABILITIES` if wanted, those of
        `DICOM_OUTPUTS` of a DICOM scan.

    Raises:
        UserError: if the folder cannot be made or written to.
    """
    from voxseg.data.staging import staged

    started = time.perf_counter()
    suffixes = OUTPUTS if page is None else (*OUTPUTS, PAGE)
    count = len(suffixes)
    if probabilities:
        suffixes = (*suffixes, *PROBABILITIES)
    if volume.dicom is not None:
        suffixes = (*suffixes, *DICOM_OUTPUTS)
    paths = [target.with_name(target.name + suffix) for suffix in suffixes]
    make_folder(target.parent)
    if origin is None:
        origin = Origin({"name": model}, [describe_image(volume)], {}, now(), volume.warnings)
    with staged(*paths) as places:
        labels, volumes, picture, beside, *more = places[:count]
        fill_outputs([labels, volumes, picture, *more], target.name, volume, segmentation, model, progress, page)
        if volume.dicom is not None:
            _fill_dicom(places[-len(DICOM_OUTPUTS) :], picture, volume, segmentation, model)
        seconds = segmentation.seconds | {"writing": time.perf_counter() - started}
        written = {path: place for path, place in zip(paths, places, strict=True) if place != beside}
        about_it = segmentation_record(segmentation, origin, seconds, written)
        beside.write_text(to_json(about_it), encoding="utf-8", newline="\n")
    return paths


def segmentation_record(
    segmentation: Segmentation, origin: Origin, seconds: Mapping[str, float], files: Mapping[Path, Path]
) -> dict[str, Any]:
    """How a segmentation came about, in plain types; `docs/provenance.md` says what the keys mean.

    Args:
        segmentation: what was found.
        origin: what it was made from.
        seconds: by stage, from reading to writing.
        files: what was written, each with where it lies while not all are complete.
    """
    plan, found = segmentation.plan, segmentation.confidence is not None
    planned = (
        {
            "grid": plan.grid,
            "spacing_mm": plan.spacing,
            "window": plan.run.window or plan.grid,
            "windows": plan.run.count,
            "expected_bytes": plan.expected,
            "allowed_bytes": plan.allowed,
        }
        if plan is not None
        else None
    )
    return record_of_case(
        "segmentation",
        origin,
        seconds,
        files,
        plan=planned,
        sides=segmentation.sides,
        quality=round(segmentation.quality, 4) if found else None,
    )


def fill_outputs(
    places: Sequence[Path],
    name: str,
    volume: Volume,
    segmentation: Segmentation,
    model: str,
    progress: Callable[[str, float], None],
    page: Callable[[Path, bytes], None] | None,
) -> None:
    """Make the files of a segmentation under temporary names.

    Args:
        places: of the labels, the volumes, the picture, and of the page if there is one.
        name: of the scan, for the picture.
        volume: and all that follows as `write_outputs` takes them.
        segmentation: what was found in it.
        model: the name of the model.
        progress: called with the stages and the fraction of each that is done.
        page: what writes a page.
    """
    from voxseg.data.paths import printable
    from voxseg.data.segmentation import write_segmentation
    from voxseg.report.qc import draw_qc
    from voxseg.report.volumes import write_volumes

    table, counts = segmentation.table, segmentation.voxel_counts()
    labels, volumes, picture, *more = places
    progress("writing", 0.0)
    write_segmentation(labels, segmentation.labels, table, volume, about(model))
    write_volumes(volumes, table, counts, volume.geometry.voxel_volume, segmentation.confidence)
    progress("drawing", 0.0)
    title = f"{printable(name)}  ({about(model)})"
    if segmentation.confidence is not None:
        title += f"  quality {segmentation.quality:.2f}"
    draw_qc(picture, volume.data, segmentation.classes, volume.geometry, table, counts, title)
    progress("drawing", 1.0)
    if page is not None:
        progress("page", 0.0)
        page(more[0], picture.read_bytes())
        progress("page", 1.0)


def _fill_dicom(places: Sequence[Path], picture: Path, volume: Volume, segmentation: Segmentation, model: str) -> None:
    from voxseg.data.dicom.segmentation import write_dicom_picture, write_dicom_segmentation

    labels, capture = places
    write_dicom_segmentation(labels, segmentation.classes, segmentation.table, volume, about(model))
    write_dicom_picture(capture, picture, volume, about(model))


def make_folder(folder: Path) -> None:
    """Make a folder for results, with those above it.

    Raises:
        UserError: if that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"the folder cannot be made ({error.strerror})"
        raise UserError(folder, problem, "choose another folder with -o") from error
