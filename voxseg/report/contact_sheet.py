"""Pictures of scans and their labels side by side, to see at a glance what a network is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from voxseg.data.labels import LabelTable

PLANES = ("sagittal", "coronal", "axial")
INCH = 1.5
"""Size of one picture."""

OPACITY = 0.6


def contact_sheet(
    scans: Sequence[NDArray[Any]],
    classes: Sequence[NDArray[Any]],
    table: LabelTable,
    titles: Sequence[str],
) -> Figure:
    """Draw each pair as one row: three planes of the scan, each beside the same plane with the labels in colour.

    The planes are those that cut the most labelled voxels, or the middle ones where nothing is labelled.

    Args:
        scans: normalised scans (0 empty space, 1 bright tissue), each [X, Y, Z] in RAS+ order.
        classes: dense class indices, each of its scan's shape.
        table: names and colours of the classes 1, 2, ...
        titles: one for each row.

    Returns:
        A figure; nothing global is touched. Write it with `save_figure`.

    Raises:
        ValueError: if there are no scans, or the sequences or shapes differ.
    """
    if not scans or not len(scans) == len(classes) == len(titles):
        raise ValueError(f"got {len(scans)} scans, {len(classes)} label maps and {len(titles)} titles")
    rows = len(scans)
    columns = 2 * len(PLANES)
    legend = 0.22 * -(-len(table) // 5) + 0.3
    height = rows * (INCH + 0.2) + legend
    figure = Figure(figsize=(columns * INCH, height), facecolor="black")
    grid = figure.add_gridspec(
        rows, columns, left=0, right=1, top=1 - 0.2 / height, bottom=legend / height, wspace=0.03, hspace=0.2 / INCH
    )
    palette = np.array([(0.0, 0.0, 0.0), *(to_rgb(colour) for colour in table.colours)])
    for row, (scan, target, title) in enumerate(zip(scans, classes, titles, strict=True)):
        if scan.shape != target.shape:
            raise ValueError(f"{title}: the scan has the shape {scan.shape}, its labels {target.shape}")
        for axis, plane in enumerate(PLANES):
            index = busiest_plane(target, axis)
            grey = np.repeat(_upright(np.clip(scan, 0, 1.2) / 1.2, axis, index)[..., None], 3, axis=2)
            labels = _upright(target, axis, index)
            for column, picture in ((2 * axis, grey), (2 * axis + 1, blend(grey, labels, palette))):
                axes = figure.add_subplot(grid[row, column])
                axes.imshow(picture, origin="lower", interpolation="nearest")
                axes.set_axis_off()
                if column % 2 == 0:
                    text = f"{title}   {plane}" if column == 0 else plane
                    axes.set_title(text, fontsize=7, color="white", pad=2, loc="left")
    handles = [Patch(color=c, label=name) for name, c in zip(table.names, table.colours, strict=True)]
    figure.legend(
        handles=handles, loc="lower center", ncols=min(5, len(handles)), fontsize=7, frameon=False, labelcolor="white"
    )
    return figure


def save_figure(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, dpi=dpi, format="png", facecolor=figure.get_facecolor(), metadata={"Software": "voxseg"})


def busiest_plane(target: NDArray[Any], axis: int) -> int:
    """Index of the plane across `axis` with the most labelled voxels; the middle one if nothing is labelled."""
    others = tuple(k for k in range(3) if k != axis)
    counts = (target > 0).sum(axis=others)
    return int(counts.argmax()) if counts.any() else target.shape[axis] // 2


def blend(grey: NDArray[Any], labels: NDArray[Any], palette: NDArray[Any]) -> NDArray[Any]:
    """Colour a grey picture [H, W, 3] by its labels [H, W], opaque along their borders; same shape as `grey`."""
    colour = palette[labels]
    border = np.zeros(labels.shape, dtype=bool)
    for axis in range(2):
        step = np.diff(labels, axis=axis) != 0
        near, far = [slice(None)] * 2, [slice(None)] * 2
        near[axis], far[axis] = slice(None, -1), slice(1, None)
        border[tuple(near)] |= step
        border[tuple(far)] |= step
    opacity = np.where(border, 1.0, OPACITY)[..., None] * (labels > 0)[..., None]
    return (1 - opacity) * grey + opacity * colour


def _upright(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """One plane of [X, Y, Z], turned so that up is up and front is up or to the right, for a lower origin."""
    return np.take(volume, index, axis=axis).T
