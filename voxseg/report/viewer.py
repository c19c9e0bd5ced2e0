"""The interactive viewer of a page: NiiVue with scans and label maps inside the page, so that it needs no server.

Browsers let a page from the disk read nothing but itself. Volumes therefore travel as compressed NIfTI files in base64,
in canonical axes: scans as 8-bit grey values within the window of the pictures, label maps as class indices.
"""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.volume import LABEL_INTENT
from voxseg.report.niivue import find_niivue
from voxseg.report.page import Html, Script, asset, escape, json_text
from voxseg.report.three_planes import grey_window, where

__all__ = ["USE", "LabelMap", "Legend", "Scene", "swatch", "toggle", "viewer"]

USE = Html(
    '<p class="note use">Click or drag in the viewer to move the crosshair; after a click the wheel goes through the '
    "slices. Drag with the right button to change the brightness. Boxes show and hide structures.</p>"
)
"""A line on how the viewer is used."""

BUDGET = 8_700_000  # bytes of compressed volumes in a page; base64 makes 11.6 MB of them
MOST_VOXELS = 260**3  # of a volume: a browser takes 8 bytes of graphics memory for each
SMALLEST_BUDGET = 500_000
LEVEL = 6  # of compression
EMPTY, EMPTY_SHARE, MARGIN = 25, 0.002, 8.0  # grey value of air; share of brighter voxels in an empty plane; mm


@dataclass(frozen=True)
class Legend:
    """What the class indices of label maps mean.

    Attributes:
        name: key by which switches (`toggle`) find it.
        labels: name and colour "#rrggbb" of each class index.
    """

    name: str
    labels: Mapping[int, tuple[str, str]]


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A segmentation to lay over a scan.

    Attributes:
        name: for people.
        classes: `[X, Y, Z]` uint8 class indices in stored axes.
        legend: what they mean.
    """

    name: str
    classes: NDArray[np.uint8]
    legend: Legend


@dataclass(frozen=True, eq=False)
class Scene:
    """What the viewer shows at once.

    Attributes:
        name: for people.
        images: scans `[X, Y, Z]` in stored axes by name; the first is shown at the start. Without any, label maps lie
            on black.
        maps: segmentations in the same grid, at least one; the first is shown at the start.
        geometry: of all of them.
        notes: what a reader has to know, sentences.
        focus: classes in stored axes; the crosshair starts on the planes that `where` chooses for them. By default
            those of the first map.
    """

    name: str
    images: Mapping[str, NDArray[Any]]
    maps: Sequence[LabelMap]
    geometry: Geometry
    notes: Sequence[str] = ()
    focus: NDArray[np.uint8] | None = None


def viewer(scenes: Sequence[Scene], beside: str = "") -> tuple[Html, list[Script]]:
    """The viewer as a part of a page, and the scripts that go at the end of that page.

    Args:
        scenes: one, or several to choose from.
        beside: HTML shown beside the picture, with a `toggle` for each class; elsewhere on the page they work too.

    Raises:
        UserError: if NiiVue is not installed.
    """
    script = find_niivue().read_text(encoding="utf-8")
    share = max(BUDGET // max(len(scenes), 1), SMALLEST_BUDGET)
    data = [Script(_scene_json(scene, share), id=f"scene-{k}") for k, scene in enumerate(scenes)]
    scripts = [*data, Script(script, notice=asset("NIIVUE_LICENCE.txt")), Script(asset("viewer.js"))]
    return Html(_FRAME.replace("<!-- scenes -->", _choices(scenes)).replace("<!-- beside -->", beside)), scripts


def toggle(legend: str, classes: Sequence[int], name: str) -> Html:
    """A box that shows and hides classes in the viewer; pages without a working viewer do not show it.

    Args:
        legend: `Legend.name`.
        classes: class indices.
        name: what it switches, for those who cannot see where it stands.
    """
    indices = " ".join(map(str, classes))
    return Html(
        f'<input type="checkbox" class="toggle" checked hidden data-legend="{escape(legend)}" '
        f'data-classes="{indices}" aria-label="show {escape(name)}">'
    )


def swatch(colour: str) -> Html:
    """A small field of a colour "#rrggbb"."""
    return Html(f'<span class="swatch" style="background:{escape(colour)}"></span>')


_FRAME = """<div id="viewer" class="viewer">
<p id="viewer-message" class="note" role="status">The interactive viewer needs JavaScript.</p>
<div id="viewer-controls" class="controls" hidden>
<!-- scenes -->
<label>Scan <select id="viewer-image"></select></label>
<label>Segmentation <select id="viewer-map"></select></label>
<label>View <select id="viewer-view">
<option value="all">three planes and 3D</option><option value="planes">three planes</option>
<option value="axial">axial</option>
<option value="coronal">coronal</option><option value="sagittal">sagittal</option><option value="render">3D</option>
</select></label>
<label>Opacity <input id="viewer-opacity" type="range" min="0" max="100" value="50"></label>
<label><input id="viewer-outline" type="checkbox"> outlines</label>
<label><input id="viewer-neurological" type="checkbox"> left on the left</label>
<span class="pair"><button type="button" id="viewer-all">all</button>
<button type="button" id="viewer-none">none</button></span>
</div>
<div class="stage">
<div class="picture" id="viewer-stage" hidden>
<div class="canvas"><canvas id="viewer-canvas" tabindex="0"
aria-label="Slices through the scan with the segmentation in colours"></canvas></div>
<p id="viewer-location" class="location" role="status" aria-live="polite"></p></div>
<div class="beside" tabindex="0"><!-- beside --></div>
</div>
<p id="viewer-convention" class="note" hidden></p>
<p id="viewer-notes" class="note" hidden></p>
</div>"""


def _choices(scenes: Sequence[Scene]) -> str:
    options = "".join(f'<option value="{k}">{escape(scene.name)}</option>' for k, scene in enumerate(scenes))
    return f'<label>Case <select id="viewer-scene">{options}</select></label>' if len(scenes) > 1 else ""


def _scene_json(scene: Scene, budget: int) -> str:
    """A scene as the viewer reads it, in at most about `budget` compressed bytes."""
    whole = scene.geometry.canonical
    maps = [scene.geometry.to_canonical(m.classes) for m in scene.maps]
    focus = maps[0] if scene.focus is None else scene.geometry.to_canonical(scene.focus)
    point, shown = where(focus, whole.spacing)
    images, windows = [], []
    for image in scene.images.values():
        data = scene.geometry.to_canonical(image)
        windows.append(grey_window(data, shown))
        images.append(_grey(data, windows[-1]))
    box = _content(images, maps, whole.spacing)
    images, maps, canonical = [i[box] for i in images], [m[box] for m in maps], _part(whole, box)
    grid, factor = canonical, (MOST_VOXELS / np.prod(canonical.shape)) ** (-1 / 3)
    for _ in range(4):
        grid = _coarser(canonical, factor)
        grey = [_pack(_sample(image, canonical, grid, 1), grid, w) for image, w in zip(images, windows, strict=True)]
        labels = [_pack(_sample(m, canonical, grid, 0), grid, None) for m in maps]
        size = sum(map(len, [*grey, *labels]))
        if size <= budget:
            break
        factor = max(factor, 1.0) * (1.04 * size / budget) ** (1 / 3)
    return json_text(
        {
            "name": scene.name,
            "notes": [*scene.notes, *_notes(canonical, grid, bool(images))],
            "start": [round(float(x), 3) for x in whole.to_world(np.array(point))],
            "extent": round(max(n * h for n, h in zip(canonical.shape, canonical.spacing, strict=True)), 1),
            "images": [
                {"name": name, "low": low, "high": high, "data": base64.b64encode(packed).decode("ascii")}
                for name, (low, high), packed in zip(scene.images, windows, grey, strict=True)
            ],
            "maps": [
                {
                    "name": m.name,
                    "legend": m.legend.name,
                    "labels": [[k, name, colour] for k, (name, colour) in sorted(m.legend.labels.items())],
                    "data": base64.b64encode(packed).decode("ascii"),
                }
                for m, packed in zip(scene.maps, labels, strict=True)
            ],
        }
    )


def _notes(scan: Geometry, shown: Geometry, has_image: bool) -> list[str]:
    """What a reader has to know of how a scene was embedded."""
    notes = []
    if has_image:
        window = "between the 1st and the 99.7th percentile around the structures"
        notes.append(f"Empty margins are left out. Grey values are shown in 255 steps {window}.")
    else:
        notes.append("The scan is not in this page: the segmentation lies on black.")
    if shown.shape != scan.shape:
        full, reduced = (" × ".join(f"{h:.2g}" for h in geometry.spacing) for geometry in (scan, shown))
        notes.append(
            f"To keep the page small, scan and segmentation are shown at {reduced} mm; the file has {full} mm. "
            "Volumes and pictures are those of the file."
        )
    return notes


def _grey(data: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Intensities of a window as 0 to 255, plane by plane: a float copy of a large scan would not fit everywhere."""
    low, high = window
    result = np.empty(data.shape, dtype=np.uint8)
    for z in range(data.shape[2]):
        scaled = (data[:, :, z].astype(np.float32) - low) * (255 / (high - low))
        result[:, :, z] = np.clip(np.round(scaled), 0, 255)
    return result


def _content(
    images: Sequence[NDArray[np.uint8]], maps: Sequence[NDArray[np.uint8]], spacing: tuple[float, ...]
) -> tuple[slice, ...]:
    """The part of a volume that is not empty margin: planes with bright voxels or labels, and some room around."""
    box = []
    for axis, step in enumerate(spacing):
        others = tuple(a for a in range(3) if a != axis)
        filled = np.zeros((images or maps)[0].shape[axis], dtype=bool)
        for image in images:
            filled |= (image > EMPTY).mean(axis=others) > EMPTY_SHARE
        for labels in maps:
            filled |= labels.any(axis=others)
        places = np.flatnonzero(filled)
        margin = math.ceil(MARGIN / step)
        low, high = (int(places[0]), int(places[-1])) if len(places) else (0, len(filled))
        box.append(slice(max(low - margin, 0), high + margin + 1))
    return tuple(box)


def _part(grid: Geometry, box: tuple[slice, ...]) -> Geometry:
    """The grid of a part of a volume."""
    x, y, z = (len(range(*one.indices(n))) for one, n in zip(box, grid.shape, strict=True))
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(np.array([one.start for one in box]))
    return Geometry((x, y, z), affine)


def _coarser(grid: Geometry, factor: float) -> Geometry:
    """A grid with the same outer faces and voxels larger by about `factor`, the finest axes first; as it is below 1."""
    if factor <= 1:
        return grid
    spacing = np.array(grid.spacing)
    # Thick slices stay as they are as long as that leaves voxels no larger than wanted.
    lengths = spacing * np.array(grid.shape)
    low, high = float(spacing.min()), float(spacing.max()) * factor * 2
    for _ in range(50):
        middle = (low + high) / 2
        volume = np.prod(lengths / np.maximum(spacing, middle))
        low, high = (middle, high) if volume > np.prod(grid.shape) / factor**3 else (low, middle)
    counts = np.maximum(np.round(lengths / np.maximum(spacing, high)), 2).astype(int)
    steps = np.array(grid.shape) / counts
    to_fine = np.diag([*steps, 1.0])
    to_fine[:3, 3] = (steps - 1) / 2
    x, y, z = (int(n) for n in counts)
    return Geometry((x, y, z), grid.affine @ to_fine)


def _sample(array: NDArray[np.uint8], source: Geometry, target: Geometry, order: int) -> NDArray[np.uint8]:
    """An array on a coarser grid of the same axes: neighbours mixed with `order` 1, the nearest taken with 0."""
    if source.shape == target.shape:
        return array
    from scipy.ndimage import affine_transform

    steps = np.array(source.shape) / np.array(target.shape)
    offset = (steps - 1) / 2
    result: NDArray[np.uint8] = affine_transform(
        array, steps, offset=offset, output_shape=target.shape, order=order, mode="nearest"
    )
    return result


def _pack(array: NDArray[np.uint8], grid: Geometry, window: tuple[float, float] | None) -> bytes:
    """A NIfTI file, compressed; of grey values if it has a window, otherwise of labels."""
    image = nib.Nifti1Image(np.asarray(array, dtype=np.uint8), grid.affine)
    image.header.set_xyzt_units("mm")
    if window is None:
        image.header["intent_code"] = LABEL_INTENT
    else:
        # The viewer tells intensities in the units of the scan.
        image.header.set_slope_inter((window[1] - window[0]) / 255, window[0])
        image.header["cal_min"], image.header["cal_max"] = window
    return gzip.compress(_bytes(image), LEVEL, mtime=0)


def _bytes(image: nib.Nifti1Image) -> bytes:
    """The file with its stored numbers as they are: nibabel would scale them by the slope set."""
    header = image.header.copy()
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header.binaryblock + b"\0" * 4 + np.asarray(image.dataobj).tobytes(order="F")
