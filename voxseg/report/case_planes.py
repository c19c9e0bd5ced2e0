"""A picture of a prediction beside its reference: the same three planes three times."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelTable
from voxseg.data.views import VIEWS
from voxseg.report.three_planes import BACKGROUND, TEXT, draw_outlines, draw_plane, grey_window, where

__all__ = ["PREDICTION", "REFERENCE", "draw_case"]

REFERENCE, PREDICTION = "#35b5ff", "#ff9d2e"
"""Colours of the outlines where both are drawn into one plane; told apart by all kinds of colour vision."""

PANEL_INCHES = 2.7  # height of the highest panel
MARGIN = 1.15  # inches left of the planes, for what a row shows
DPI = 110


def draw_case(
    scan: NDArray[Any] | None,
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    geometry: Geometry,
    table: LabelTable,
) -> bytes:
    """Draw an axial, a coronal and a sagittal plane: the reference, the prediction, and the outlines of both.

    The first two rows have the colours of the structures. In the third all borders of the reference are in one colour
    and all of the prediction in another, thinner one on top, so that the first shows where they differ.

    Args:
        scan: `[X, Y, Z]` intensities in stored axes; None for black.
        reference: `[X, Y, Z]` dense class indices.
        prediction: likewise.
        geometry: of all of them.
        table: names and colours; class k is row k - 1.

    Returns:
        A PNG.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reference, prediction = geometry.to_canonical(reference), geometry.to_canonical(prediction)
    spacing = geometry.canonical.spacing
    point, shown = where(reference if reference.any() else prediction, spacing)
    grey = np.zeros(reference.shape, dtype=np.uint8) if scan is None else geometry.to_canonical(scan)
    window = (0.0, 1.0) if scan is None else grey_window(grey, shown)
    colours = dict(enumerate(table.colours, start=1))
    rows = [
        ("reference", [(reference, colours, 0.9)]),
        ("prediction", [(prediction, colours, 0.9)]),
        (
            "both",
            [
                (reference, dict.fromkeys(colours, REFERENCE), 1.6),
                (prediction, dict.fromkeys(colours, PREDICTION), 0.7),
            ],
        ),
    ]
    lengths = [(s.stop - s.start) * h for s, h in zip(shown, spacing, strict=True)]
    inches = PANEL_INCHES / max(lengths[v.up] for v in VIEWS)
    height = max(lengths[v.up] for v in VIEWS) * inches + 0.08
    size = (MARGIN + sum(lengths[v.across] * inches + 0.1 for v in VIEWS), len(rows) * height + 0.45)
    figure = Figure(figsize=size, dpi=DPI, facecolor=BACKGROUND)
    for row, (name, outlines) in enumerate(rows):
        left, middle = MARGIN, size[1] - 0.3 - (row + 0.5) * height
        for view in VIEWS:
            across, up = lengths[view.across] * inches, lengths[view.up] * inches
            place = (left / size[0], (middle - up / 2) / size[1], across / size[0], up / size[1])
            axes = figure.add_axes(place)
            draw_plane(axes, view, grey, point, shown, spacing, window)
            for classes, palette, width in outlines:
                draw_outlines(axes, view, classes, point, shown, spacing, palette, width)
            if row == 0:
                position = round(geometry.canonical.to_world(np.array(point))[view.cut])
                caption = f"{view.name}, {'xyz'[view.cut]} = {position} mm"
                figure.text(left / size[0], 1 - 0.2 / size[1], caption, color=TEXT, size=8)
            left += across + 0.1
        figure.text(0.12 / size[0], middle / size[1], name, color="white", size=10, va="center")
        if name == "both":
            for offset, what, colour in ((0.25, "reference", REFERENCE), (0.45, "prediction", PREDICTION)):
                figure.text(0.12 / size[0], (middle - offset) / size[1], what, color=colour, size=8.5, va="center")
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()
