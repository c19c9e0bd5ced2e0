"""Pictures of cases of several images: every image beside the others, and the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from voxseg.data.labels import LabelTable
from voxseg.report.contact_sheet import INCH, blend, busiest_plane

SAGITTAL, CORONAL, AXIAL = 0, 1, 2
WHITE_QUANTILE = 0.995
"""Of the foreground: what is shown white."""


def case_sheet(
    cases: Sequence[tuple[str, Mapping[str, NDArray[Any]], NDArray[Any]]], table: LabelTable, columns: int = 8
) -> Figure:
    """Draw each case as one row: the axial plane of each image, then the labels over the first image in three planes.

    The planes are those that cut the most labelled voxels, or the middle ones where nothing is labelled.

    Args:
        cases: title, images by name in any unit and dense class indices, all [X, Y, Z] in RAS+ order. Every case has
            the same images.
        table: names and colours of the classes 1, 2, ...
        columns: no more than this: images beyond are left out.

    Returns:
        A figure; nothing global is touched.

    Raises:
        ValueError: if there are no cases.
    """
    if not cases:
        raise ValueError("there are no cases to draw")
    names = list(cases[0][1])[: columns - 3]
    width, rows = len(names) + 3, len(cases)
    legend, head = 0.35, 0.2
    height = rows * (INCH + 0.05) + legend + head
    figure = Figure(figsize=(width * INCH, height), facecolor="black")
    grid = figure.add_gridspec(
        rows, width, left=0, right=1, top=1 - head / height, bottom=legend / height, wspace=0.03, hspace=0.03
    )
    palette = np.array([(0.0, 0.0, 0.0), *(to_rgb(colour) for colour in table.colours)])
    for row, (title, images, classes) in enumerate(cases):
        greys = {name: _grey(images[name]) for name in names}
        pictures = [(name, greys[name], AXIAL, False) for name in names]
        pictures += [
            (plane, greys[names[0]], axis, True) for axis, plane in enumerate(("sagittal", "coronal", "axial"))
        ]
        for column, (text, grey, axis, coloured) in enumerate(pictures):
            index = busiest_plane(classes, axis)
            picture = np.repeat(np.take(grey, index, axis).T[..., None], 3, axis=2)
            if coloured:
                picture = blend(picture, np.take(classes, index, axis).T, palette)
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture, origin="lower", interpolation="nearest")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(text, fontsize=7, color="white", pad=2)
            if column == 0:
                axes.text(0.02, 0.98, title, color="white", fontsize=7, va="top", transform=axes.transAxes)
    handles = [Patch(color=c, label=name) for name, c in zip(table.names, table.colours, strict=True)]
    figure.legend(
        handles=handles, loc="lower center", ncols=min(5, len(handles)), fontsize=7, frameon=False, labelcolor="white"
    )
    return figure


def _grey(image: NDArray[Any]) -> NDArray[Any]:
    """An image of any unit as 0 to 1."""
    foreground = image[image != 0]
    white = float(np.quantile(foreground, WHITE_QUANTILE)) if foreground.size else 1.0
    return np.clip(image / max(white, 1e-6), 0, 1)
