"""The page of a segmented scan: picture, interactive viewer and volumes, in one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelTable
from voxseg.data.paths import printable
from voxseg.provenance import file_hash
from voxseg.report.page import Html, escape, figure, number, page, section
from voxseg.report.viewer import USE, LabelMap, Legend, Scene, viewer
from voxseg.report.volume_table import volume_table

if TYPE_CHECKING:
    from voxseg.data.volume import Volume
    from voxseg.inference.predictor import Predictor, Segmentation

__all__ = ["ScanReport", "facts", "scan_page", "warning_box", "warnings_of", "write_scan_page"]

OBLIQUE = 5.0  # degrees from which a reader is told
ANISOTROPIC = 2.0  # ratio of the largest to the smallest spacing, likewise


_QUALITY = "Quality {:.2f}: the mean Dice over structures that the network expects of itself; not a measurement"


@dataclass(frozen=True)
class ScanReport:
    """What the page says besides the segmentation itself.

    Attributes:
        name: of the scan or case.
        files: names of the files read, by the names of the model's images.
        model: name of the model.
        description: of the model.
        weights: SHA-256 of the model's weights, if known.
        machine: what the network ran on, such as "cpu, 2 threads".
        seconds: time of each stage.
        windows: in how many windows the network ran.
        quality: one line on how far the segmentation may be trusted, if there is an estimate.
        warnings: what a reader has to know first, besides what `warnings_of` finds.
    """

    name: str
    files: Mapping[str, str]
    model: str
    description: str = ""
    weights: str | None = None
    machine: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    windows: int = 1
    quality: str | None = None
    warnings: Sequence[str] = ()


def scan_page(
    name: str, images: Sequence[Volume], segmentation: Segmentation, predictor: Predictor, folder: Path
) -> Callable[[Path, bytes], None]:
    """What writes the page of a prediction to a path, given the picture as well: for `write_outputs`.

    Args:
        name: of the scan or case.
        images: in the order of the model's images; the segmentation is in the grid of the first.
        segmentation: what was found.
        predictor: by what.
        folder: of the model.
    """
    config, first, machine = predictor.model.config, images[0], _machine(predictor)
    named = dict(zip(config.preparation.images, images, strict=True))
    report = ScanReport(
        name=name,
        files={image: printable(volume.path.name) for image, volume in named.items()},
        model=config.name,
        description=config.description,
        weights=file_hash(folder / "model.safetensors"),
        machine=machine,
        seconds=segmentation.seconds,
        windows=segmentation.windows,
        quality=None if segmentation.confidence is None else _QUALITY.format(segmentation.quality),
    )
    # The viewer lays segmentations over images of the same grid alone.
    shown = {image: volume.data for image, volume in named.items() if volume.geometry == first.geometry}
    table, counts = segmentation.table, segmentation.voxel_counts()

    def write(path: Path, picture: bytes) -> None:
        write_scan_page(path, shown, segmentation.classes, first.geometry, table, counts, picture, report)

    return write


def write_scan_page(
    path: Path,
    images: Mapping[str, NDArray[Any]],
    classes: NDArray[np.uint8],
    geometry: Geometry,
    table: LabelTable,
    counts: Sequence[int],
    picture: bytes,
    report: ScanReport,
) -> None:
    """Write the page of a segmentation.

    Args:
        path: of the `.html` file; not complete until this returns, so give a temporary name (`staged`).
        images: `[X, Y, Z]` intensities in stored axes by the names of the images, all in the grid of the segmentation.
        classes: `[X, Y, Z]` dense class indices, 0 background.
        geometry: of all of them.
        table: the labels; class k is row k - 1.
        counts: voxels of each label.
        picture: PNG that `draw_qc` has drawn.
        report: what else is said.

    Raises:
        UserError: if the script of the viewer is not installed (`voxseg.report.niivue.find_niivue`).
    """
    legend = Legend("structures", {k: (label.name, label.colour) for k, label in enumerate(table, start=1)})
    scene = Scene(report.name, images, [LabelMap("segmentation", classes, legend)], geometry)
    frame, scripts = viewer([scene], volume_table(table, counts, geometry.voxel_volume, legend.name))
    warnings = [*report.warnings, *warnings_of(classes, geometry, table, counts)]
    found = [label.name for label, count in zip(table, counts, strict=True) if count]
    alternative = (
        f"Axial, coronal and sagittal plane of {report.name} with the outlines of {len(found)} structures, "
        "radiological convention"
    )
    from voxseg import __version__

    body = [
        Html(f'<p class="quality">{escape(report.quality)}</p>') if report.quality else "",
        warning_box(warnings),
        section("Planes", figure(picture, alternative), anchor="planes"),
        section("Volumes", USE, frame, anchor="volumes"),
        section("About this segmentation", facts(_facts(geometry, report)), anchor="about"),
    ]
    lead = f"Segmented by voxseg {__version__} with the model {report.model}."
    path.write_text(page(report.name, lead, body, scripts), encoding="utf-8", newline="\n")


def warning_box(warnings: Sequence[str]) -> Html:
    """What a reader has to know first; nothing if there is nothing."""
    if not warnings:
        return Html("")
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return Html(f'<section class="warnings" id="warnings"><h2>Look out</h2><ul>{items}</ul></section>')


def facts(pairs: Sequence[tuple[str, object]]) -> Html:
    """Names and values, one below the other."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return Html(f'<dl class="facts">{lines}</dl>')


def warnings_of(classes: NDArray[np.uint8], geometry: Geometry, table: LabelTable, counts: Sequence[int]) -> list[str]:
    """What about a scan and its segmentation asks for caution, one sentence each.

    Args:
        classes: `[X, Y, Z]` dense class indices.
        geometry: of the scan.
        table: the labels.
        counts: voxels of each label.
    """
    result = []
    missing = [label.name for label, count in zip(table, counts, strict=True) if not count]
    if len(missing) == len(table):
        result.append("Nothing was found in this scan.")
    elif missing:
        result.append(f"Not found: {', '.join(missing)}.")
    cut = [table[k - 1].name for k in _at_border(classes)]
    if cut:
        result.append(f"Reaching the edge of the scan, so that volumes may be cut off: {', '.join(cut)}.")
    if max(geometry.spacing) >= ANISOTROPIC * min(geometry.spacing):
        ratio = max(geometry.spacing) / min(geometry.spacing)
        result.append(
            f"Voxels are {ratio:.1f} times as long in one direction as in another ({_spacing(geometry)}): "
            "borders between slices are less certain."
        )
    if geometry.obliqueness > OBLIQUE:
        result.append(
            f"The scan is oblique by {geometry.obliqueness:.0f}°: the planes shown follow its voxels, not the patient."
        )
    return result


def _machine(predictor: Predictor) -> str:
    """What the network ran on; no name of the machine itself."""
    import torch

    if predictor.device.type == "cuda":
        return torch.cuda.get_device_name(predictor.device)
    threads = torch.get_num_threads()
    return f"{predictor.device.type}, {threads} thread{'s' * (threads != 1)}"


def _at_border(classes: NDArray[np.uint8]) -> list[int]:
    """Classes with voxels in the outermost planes of the volume, sorted."""
    faces = [np.take(classes, end, axis=axis).ravel() for axis in range(3) for end in (0, -1)]
    return [int(k) for k in np.unique(np.concatenate(faces)) if k]


def _spacing(geometry: Geometry) -> str:
    return " × ".join(f"{h:.3g}" for h in geometry.spacing) + " mm"


def _facts(geometry: Geometry, report: ScanReport) -> list[tuple[str, object]]:
    """What the page ends with: the scan, the model, the run."""
    from voxseg import __version__

    files = list(report.files.items())
    named = files[0][1] if len(files) == 1 else Html("<br>".join(f"{escape(n)}: {escape(f)}" for n, f in files))
    field_of_view = " × ".join(f"{n * h:.0f}" for n, h in zip(geometry.shape, geometry.spacing, strict=True))
    grid = f"{' × '.join(map(str, geometry.shape))} voxels of {_spacing(geometry)} (field of view {field_of_view} mm)"
    pose = f"{geometry.orientation}, {geometry.handedness}-handed"
    if geometry.obliqueness > 0.05:
        pose += f", oblique by {geometry.obliqueness:.1f}°"
    if geometry.shear > 0.05:
        pose += f", sheared by {geometry.shear:.1f}°"
    result: list[tuple[str, object]] = [("Scan", named), ("Grid", grid), ("Stored axes point to", pose)]
    result.append(("Model", f"{report.model}: {report.description}" if report.description else report.model))
    if report.weights:
        result.append(("Weights, SHA-256", Html(f"<code>{escape(report.weights)}</code>")))
    result.append(("Program", f"voxseg {__version__}"))
    if report.machine:
        windows = f", in {report.windows} windows" if report.windows > 1 else ""
        result.append(("Ran on", report.machine + windows))
    if report.seconds:
        parts = [f"{stage} {number(seconds, 1)} s" for stage, seconds in report.seconds.items()]
        result.append(("Times", f"{', '.join(parts)}; together {number(sum(report.seconds.values()), 1)} s"))
    return result
