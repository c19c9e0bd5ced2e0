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
from voxseg.data.views import VIEWS
from voxseg.report.three_planes import BACKGROUND, TEXT, draw_outlines, draw_plane, grey_window, where

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_qc", "qc_figure"]

PANEL_INCHES = 3.6  # height of the highest panel
LEGEND_INCHES, MOST_ROWS = 2.6, 24  # of a column of the legend
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
    """Write the picture of `qc_figure` as a PNG.

    Args:
        path: of the PNG.
        scan: and all that follows as `qc_figure` takes them.
        classes: of the scan's shape.
        geometry: of both.
        table: names and colours.
        counts: voxels of each label.
        title: first line of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(qc_figure(scan, classes, geometry, table, counts, title)).print_png(path)


def qc_figure(
    scan: NDArray[Any],
    classes: NDArray[np.uint8],
    geometry: Geometry,
    table: LabelTable,
    counts: list[int],
    title: str,
) -> Figure:
    """Draw an axial, a coronal and a sagittal plane through the structures.

    Planes are planes of voxels, shown in canonical axes whatever the orientation of the file, in millimetres, so that
    thick slices look thick. Radiological convention, stated on the picture with a letter at each side.

    Args:
        scan: `[X, Y, Z]` intensities in stored axes.
        classes: `[X, Y, Z]` dense class indices, 0 background.
        geometry: of both.
        table: names and colours; class k is row k - 1.
        counts: voxels of each label.
        title: first line of the picture.

    Returns:
        A figure that pyplot does not know of; nothing global is touched.
    """
    # Building its font cache, at the first use on a machine, is nothing to bother a user with.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    scan, classes = geometry.to_canonical(scan), geometry.to_canonical(classes)
    spacing = geometry.canonical.spacing
    point, shown = where(classes, spacing)
    lengths = [(s.stop - s.start) * h for s, h in zip(shown, spacing, strict=True)]
    widths, heights = [lengths[v.across] for v in VIEWS], [lengths[v.up] for v in VIEWS]
    inches = PANEL_INCHES / max(heights)
    columns = math.ceil(len(table) / MOST_ROWS) or 1
    size = (sum(widths) * inches + columns * LEGEND_INCHES + 0.5, PANEL_INCHES + 1.1)
    figure = Figure(figsize=size, dpi=DPI, facecolor=BACKGROUND)

    window, colours = grey_window(scan, shown), dict(enumerate(table.colours, start=1))
    left = 0.15
    for view, width, height in zip(VIEWS, widths, heights, strict=True):
        bottom = 0.35 + (PANEL_INCHES - height * inches) / 2
        place = (left / size[0], bottom / size[1], width * inches / size[0], height * inches / size[1])
        axes = figure.add_axes(place)
        draw_plane(axes, view, scan, point, shown, spacing, window)
        draw_outlines(axes, view, classes, point, shown, spacing, colours)
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
    return figure


def _draw_legend(
    figure: Figure, left: float, size: tuple[float, float], table: LabelTable, counts: list[int], voxel_volume: float
) -> None:
    """Colour, name and volume of each structure, to the right of the planes."""
    from matplotlib.patches import Rectangle

    columns = math.ceil(len(table) / MOST_ROWS) or 1
    rows = max(math.ceil(len(table) / columns), 1)
    width = (size[0] * (1 - left) - 0.12) / columns  # inches
    step = min(0.21, (size[1] - 0.9) / rows)  # inches a line
    font = min(8.5, step * 40)
    for place, (label, count) in enumerate(zip(table, counts, strict=True)):
        column, row = divmod(place, rows)
        x, y = left + column * width / size[0], 1 - (0.65 + row * step) / size[1]
        swatch = Rectangle((x, y), 0.13 / size[0], step * 0.62 / size[1], color=label.colour)
        swatch.set_transform(figure.transFigure)
        figure.add_artist(swatch)
        name = label.name if count else f"{label.name} (not found)"
        figure.text(x + 0.2 / size[0], y, name, color=TEXT, size=font, parse_math=False)
        if count:
            volume = f"{count * voxel_volume / 1000:.1f} ml"
            end = x + (width - (0.15 if column < columns - 1 else 0)) / size[0]
            figure.text(end, y, volume, color=TEXT, size=font, ha="right")
