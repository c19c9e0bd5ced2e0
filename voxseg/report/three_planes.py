"""Three planes through a segmentation, with outlines over the scan: what the pictures have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.views import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BACKGROUND", "TEXT", "draw_outlines", "draw_plane", "grey_window", "plane_of", "where"]

AROUND = 20.0  # mm shown around the structures
LEAST = 150.0  # mm shown along each axis, as far as the scan goes: a lesion is looked at within its organ
LINE = 0.7  # outlines run 0.2 voxels inside of their structures, so that those of neighbours lie side by side
BACKGROUND, TEXT, LETTERS = "black", "#c8c8c8", "#ffd24a"


def where(classes: NDArray[np.uint8], spacing: tuple[float, ...]) -> tuple[list[int], list[slice]]:
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


def grey_window(scan: NDArray[Any], shown: list[slice]) -> tuple[float, float]:
    """Intensities shown as black and as white."""
    sample = np.asarray(scan[tuple(shown)][::3, ::3, ::3], dtype=np.float32)
    low, high = np.percentile(sample, [1, 99.7])
    return (float(low), float(high)) if high > low else (float(sample.min()), float(sample.max()) + 1)


def plane_of(array: NDArray[Any], view: View, point: list[int], shown: list[slice]) -> NDArray[Any]:
    """The plane of a canonical volume that a view shows, `[up, across]`."""
    index: list[Any] = list(shown)
    index[view.cut] = point[view.cut]
    # What is left has the axes (across, up), for both are in ascending order.
    return np.asarray(array[tuple(index)]).T


def draw_plane(
    axes: Axes,
    view: View,
    scan: NDArray[Any],
    point: list[int],
    shown: list[slice],
    spacing: tuple[float, ...],
    window: tuple[float, float],
) -> None:
    """Draw a plane of the scan in grey, in millimetres, with letters at its sides.

    Args:
        axes: to draw into.
        view: which plane.
        scan: `[X, Y, Z]` in canonical axes.
        point: the voxel through which the planes go.
        shown: the part of each axis that is shown.
        spacing: mm.
        window: intensities shown as black and as white.
    """
    grey = plane_of(scan, view, point, shown).astype(np.float32)
    rows, columns = grey.shape
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
    axes.set_axis_off()
    axes.set_xlim((columns * across, 0) if view.mirrored else (0, columns * across))
    axes.set_ylim(0, rows * up)
    _draw_letters(axes, view)


def draw_outlines(
    axes: Axes,
    view: View,
    classes: NDArray[np.uint8],
    point: list[int],
    shown: list[slice],
    spacing: tuple[float, ...],
    colours: Mapping[int, str],
    width: float = 0.9,
) -> None:
    """Draw the outlines of the structures in a plane that `draw_plane` has drawn.

    Args:
        axes: and `view`, `point`, `shown`, `spacing` as `draw_plane` takes them.
        view: which plane.
        classes: `[X, Y, Z]` dense class indices in canonical axes.
        point: the voxel through which the planes go.
        shown: the part of each axis that is shown.
        spacing: mm.
        colours: of each class.
        width: of the lines, points.
    """
    plane = plane_of(classes, view, point, shown)
    rows, columns = plane.shape
    x = (np.arange(-1, columns + 1) + 0.5) * spacing[view.across]
    y = (np.arange(-1, rows + 1) + 0.5) * spacing[view.up]
    present, areas = np.unique(plane[plane > 0], return_counts=True)
    for k in present[np.argsort(-areas, kind="stable")]:  # the small last, or those around would hide their outlines
        axes.contour(x, y, np.pad(plane == k, 1), levels=[LINE], colors=[colours[int(k)]], linewidths=width)


def _draw_letters(axes: Axes, view: View) -> None:
    """The letters of a view at the sides of its plane."""
    from matplotlib.patheffects import withStroke

    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.02, "center", "bottom"))
    for letter, (u, v, ha, va) in zip(view.letters, (*places, (0.5, 0.98, "center", "top")), strict=True):
        text = axes.text(u, v, letter, transform=axes.transAxes, ha=ha, va=va, color=LETTERS, size=10, weight="bold")
        text.set_path_effects([withStroke(linewidth=2.5, foreground=BACKGROUND)])
