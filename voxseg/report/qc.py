"""A picture to check a segmentation by: three planes through it, outlines over the scan, a legend."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelTable
from voxseg.data.views import VIEWS, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_qc"]

AROUND = 20.0  # mm shown around the structures
LEAST = 150.0  # mm shown along each axis, as far as the scan goes: a lesion is looked at within its organ
LINE = 0.7  # outlines run 0.2 voxels inside of their structures, so that those of neighbours lie side by side
BACKGROUND, TEXT, LETTERS = "black", "#c8c8c8", "#ffd24a"
PANEL_INCHES = 3.6  # height of the highest panel
DPI = 130


def draw_qc(
    path: Path,
    scan: NDArray[Any],
    classes: NDArray[np.uint8],
    geometry: Geometry,
    table: LabelTable,
    counts: list[int],
    title: str,
) -> None:
    """Draw an axial, a coronal and a sagittal plane through the structures, and write a PNG.

    Planes are planes of voxels, shown in canonical axes whatever the orientation of the file, in millimetres, so that
    thick slices look thick. Radiological convention, stated on the picture with a letter at each side.

    Args:
        path: of the PNG.
        scan: `[X, Y, Z]` intensities in stored axes.
        classes: `[X, Y, Z]` dense class indices, 0 background.
        geometry: of both.
        table: names and colours; class k is row k - 1.
        counts: voxels of each label.
        title: first line of the picture.
    """
    # Building its font cache, at the first use on a machine, is nothing to bother a user with.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scan, classes = geometry.to_canonical(scan), geometry.to_canonical(classes)
    spacing = geometry.canonical.spacing
    point, shown = _where(classes, spacing)
    lengths = [(s.stop - s.start) * h for s, h in zip(shown, spacing, strict=True)]
    widths, heights = [lengths[v.across] for v in VIEWS], [lengths[v.up] for v in VIEWS]
    inches = PANEL_INCHES / max(heights)
    legend = 2.6
    size = (sum(widths) * inches + legend + 0.5, PANEL_INCHES + 1.1)
    figure = Figure(figsize=size, dpi=DPI, facecolor=BACKGROUND)
    canvas = FigureCanvasAgg(figure)

    window = _grey_window(scan, shown)
    left = 0.15
    for view, width, height in zip(VIEWS, widths, heights, strict=True):
        bottom = 0.35 + (PANEL_INCHES - height * inches) / 2
        place = (left / size[0], bottom / size[1], width * inches / size[0], height * inches / size[1])
        axes = figure.add_axes(place)
        _draw_plane(axes, view, scan, classes, point, shown, spacing, window, table)
        position = round(geometry.canonical.to_world(np.array(point))[view.cut])
        caption = f"{view.name}, {'xyz'[view.cut]} = {position} mm"
        axes.text(0.02, 1.02, caption, transform=axes.transAxes, ha="left", va="bottom", color=TEXT, size=8)
        left += width * inches + 0.1
    note = (
        f"Radiological convention: the patient's left is on the right.  Orientation of the file: {geometry.orientation}"
    )
    if geometry.obliqueness > 1:
        note += f", oblique by {geometry.obliqueness:.0f}°: planes follow its voxels"
    figure.text(0.15 / size[0], 1 - 0.3 / size[1], title, color="white", size=11, weight="bold", parse_math=False)
    figure.text(0.15 / size[0], 0.12 / size[1], note, color=TEXT, size=8)
    _draw_legend(figure, left / size[0], size, table, counts, geometry.voxel_volume)
    canvas.print_png(path)


def _where(classes: NDArray[np.uint8], spacing: tuple[float, ...]) -> tuple[list[int], list[slice]]:
    """The voxel through which the planes go, and the part of the volume shown.

    On each axis the plane is the one on which most is seen: the sum over the structures of their area there, each as a
    fraction of its largest. The middle of a brain would be the gap between its halves. The structures are sampled
    within their box alone, so that a small lesion in a large scan is not missed.
    """
    box = _box(classes)
    if box is None:
        return [n // 2 for n in classes.shape], [slice(0, n) for n in classes.shape]
    inner = classes[box]
    stride = max(1, round((inner.size / 2**20) ** (1 / 3)))
    sample = np.ascontiguousarray(inner[::stride, ::stride, ::stride])
    if not sample.any():
        stride, sample = 1, np.ascontiguousarray(inner)
    found = int(sample.max())
    point, shown = [], []
    for axis, (length, step, used) in enumerate(zip(classes.shape, spacing, box, strict=True)):
        position = np.arange(sample.shape[axis]).reshape([-1 if a == axis else 1 for a in range(3)])
        both = (position * (found + 1) + sample).ravel()
        areas = np.bincount(both, minlength=sample.shape[axis] * (found + 1)).reshape(-1, found + 1)[:, 1:]
        score = (areas / np.maximum(areas.max(axis=0), 1)).sum(axis=1)
        point.append(used.start + int(score.argmax()) * stride)
        shown.append(_shown(used, length, step))
    return point, shown


def _box(classes: NDArray[np.uint8]) -> tuple[slice, ...] | None:
    """The smallest box that holds all structures; None if there are none."""
    box: list[slice] = []
    for axis in range(3):
        within = classes[tuple(box)]
        places = np.flatnonzero(within.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(places):
            return None
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def _shown(used: slice, length: int, step: float) -> slice:
    """The part of an axis that is shown: `AROUND` the structures, and not less than `LEAST`, within the scan."""
    margin = round(AROUND / step)
    low, high = max(used.start - margin, 0), min(used.stop + margin, length)
    wanted = min(math.ceil(LEAST / step), length)
    if high - low < wanted:
        low = min(max(low - (wanted - (high - low)) // 2, 0), length - wanted)
        high = low + wanted
    return slice(low, high)


def _grey_window(scan: NDArray[Any], shown: list[slice]) -> tuple[float, float]:
    """Intensities shown as black and as white."""
    sample = np.asarray(scan[tuple(shown)][::3, ::3, ::3], dtype=np.float32)
    low, high = np.percentile(sample, [1, 99.7])
    return (float(low), float(high)) if high > low else (float(sample.min()), float(sample.max()) + 1)


def _draw_plane(
    axes: Axes,
    view: View,
    scan: NDArray[Any],
    classes: NDArray[np.uint8],
    point: list[int],
    shown: list[slice],
    spacing: tuple[float, ...],
    window: tuple[float, float],
    table: LabelTable,
) -> None:
    """One plane: the scan in grey, the outlines of the structures, letters at the sides."""
    from matplotlib.patheffects import withStroke

    index: list[Any] = list(shown)
    index[view.cut] = point[view.cut]
    # What is left has the axes (across, up), for both are in ascending order.
    grey = np.asarray(scan[tuple(index)], dtype=np.float32).T
    plane = np.asarray(classes[tuple(index)]).T
    rows, columns = plane.shape
    across, up = spacing[view.across], spacing[view.up]
    axes.imshow(
        grey,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        origin="lower",
        extent=(0, columns * across, 0, rows * up),
        aspect="equal",
    )
    x, y = (np.arange(-1, columns + 1) + 0.5) * across, (np.arange(-1, rows + 1) + 0.5) * up
    present, areas = np.unique(plane[plane > 0], return_counts=True)
    for k in present[np.argsort(-areas, kind="stable")]:  # the small last, or those around would hide their outlines
        colour = table[int(k) - 1].colour
        axes.contour(x, y, np.pad(plane == k, 1), levels=[LINE], colors=[colour], linewidths=0.9)
    axes.set_axis_off()
    axes.set_xlim((columns * across, 0) if view.mirrored else (0, columns * across))
    axes.set_ylim(0, rows * up)
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.02, "center", "bottom"))
    for letter, (u, v, ha, va) in zip(view.letters, (*places, (0.5, 0.98, "center", "top")), strict=True):
        text = axes.text(u, v, letter, transform=axes.transAxes, ha=ha, va=va, color=LETTERS, size=10, weight="bold")
        text.set_path_effects([withStroke(linewidth=2.5, foreground=BACKGROUND)])


def _draw_legend(
    figure: Figure, left: float, size: tuple[float, float], table: LabelTable, counts: list[int], voxel_volume: float
) -> None:
    """Colour, name and volume of each structure, to the right of the planes."""
    from matplotlib.patches import Rectangle

    step = min(0.21, (size[1] - 0.9) / max(len(table), 1))  # inches a line
    font = min(8.5, step * 40)
    for row, (label, count) in enumerate(zip(table, counts, strict=True)):
        y = 1 - (0.65 + row * step) / size[1]
        swatch = Rectangle((left, y), 0.13 / size[0], step * 0.62 / size[1], color=label.colour)
        swatch.set_transform(figure.transFigure)
        figure.add_artist(swatch)
        name = label.name if count else f"{label.name} (not found)"
        figure.text(left + 0.2 / size[0], y, name, color=TEXT, size=font, parse_math=False)
        if count:
            volume = f"{count * voxel_volume / 1000:.1f} ml"
            figure.text(1 - 0.12 / size[0], y, volume, color=TEXT, size=font, ha="right")
